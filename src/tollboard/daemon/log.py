"""The daemon's log: a private file that is rotated, without what people and agents said to each other."""

from __future__ import annotations

import logging
import os
import traceback
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType

from tollboard.daemon.single import mend
from tollboard.errors import DaemonError, TollboardError

LOG_BYTES = 5 * 1024 * 1024
LOG_FILES = 3
_TALKATIVE = ("alembic", "uvicorn")
"""What others say about each step of theirs; it is heard when the level is DEBUG."""
_TELLTALE = (
    "anthropic",
    "openai",
    "google_genai",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "mcp",
    "fastmcp",
)
"""Clients that write down whole requests at DEBUG, and each call at INFO: only their warnings are heard."""
_FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def log_to(path: Path, level: str, *, terminal: bool) -> None:
    """Send all log records to the file, and to the terminal too if wanted. Raises DaemonError."""
    try:
        handlers: list[logging.Handler] = [_PrivateFile(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES)]
    except OSError as exc:
        raise DaemonError(f"the log {str(path)!r} cannot be written: {exc.strerror}{mend(exc)}") from None
    if terminal:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(_Discreet(_FORM))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "DEBUG" else logging.WARNING)
    for name in _TELLTALE:
        logging.getLogger(name).setLevel(logging.WARNING)
    # A full disk must not end in a traceback for each line that could not be logged.
    logging.raiseExceptions = False


class _PrivateFile(RotatingFileHandler):
    """Opens each new file with mode 0600, whatever the umask; the umask is the agents', who work in other places."""

    def _open(self) -> TextIOWrapper:
        def private(name: str, flags: int) -> int:
            return os.open(name, flags | os.O_CLOEXEC, 0o600)

        opened = open(  # noqa: SIM115 - the handler closes it
            self.baseFilename, self.mode, encoding="utf-8", errors="backslashreplace", opener=private
        )
        assert isinstance(opened, TextIOWrapper)
        return opened


class _Discreet(logging.Formatter):
    """Says where an exception came from, but its message only if it is ours: others quote what they choked on (E30)."""

    def formatException(self, ei: _ExcInfo) -> str:
        """Return the traceback without foreign messages."""
        exc = ei[1]
        lines: list[str] = []
        while exc is not None:
            message = f": {exc}" if isinstance(exc, TollboardError | OSError) else ""
            frames = "".join(traceback.format_tb(exc.__traceback__)).rstrip()
            lines[:0] = [frames, f"{type(exc).__name__}{message}"]
            exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
        return "\n".join(line for line in lines if line)
