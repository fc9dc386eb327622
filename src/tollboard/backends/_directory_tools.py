"""The built-in tools of a `model` session: its working directory, and nothing outside it.

Every path is resolved, symbolic links too, and refused when it leaves the directory, or when it leads to what is the
daemon's own (`_private.py`). Reading and writing happen on threads; what a tool gives back is bounded, and says when
something was left out.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import stat
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from tollboard.backends._commands import Commands, Result
from tollboard.backends._private import Private
from tollboard.backends._process import Marker
from tollboard.backends._sandbox import Sandbox
from tollboard.runtime.backend import ProcessReport

READ_ONLY = frozenset({"list_files", "read_file", "search_files"})
"""Tools that change nothing."""
PRIVATE = "is the daemon's own, or leads to it; no tool opens that"
MAX_ENTRIES = 1_000
MAX_LINES, MAX_LINE = 2_000, 2_000
MAX_FILE = 10_000_000
"""Bytes of the largest file that is read, searched or edited."""
MAX_MATCHES, MAX_MATCH = 200, 300
SEARCH_S = 10.0
MAX_DEPTH = 8
MAX_COMMAND_S = 3_600
SKIPPED = frozenset({".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", ".tox", ".mypy_cache"})
"""Directories that hold nothing anybody wrote."""

DirectoryTool = Callable[..., Coroutine[Any, Any, str]]


class ToolProblem(Exception):
    """A call that could not be done, in words for a model."""


class DirectoryTools:
    """Tools for one directory."""

    def __init__(
        self, root: str | os.PathLike[str], *, marker: Marker | None = None, private: Sequence[str] = (),
        pass_env: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._root = Path(os.path.realpath(root))
        self._private = Private(private)
        self._commands = Commands(self._root, marker, pass_env)

    def run_in(self, sandbox: Sandbox | None) -> None:
        """Run the commands from now on in a sandbox, or in none."""
        self._commands.sandbox = sandbox

    def tools(self) -> tuple[DirectoryTool, ...]:
        """Return all of them."""
        return (
            self.list_files, self.read_file, self.write_file, self.edit_file, self.search_files, self.run_command,
        )  # fmt: skip

    async def close(self) -> ProcessReport:
        """End the commands that still run. Idempotent."""
        return await self._commands.close()

    async def list_files(self, path: str = ".", depth: int = 1) -> str:
        """List files and directories; directories end with a slash, files come with their size in bytes.

        Args:
            path: The directory, relative to the working directory.
            depth: How many levels down to go, from 1 to 8.
        """
        return await asyncio.to_thread(self._list, path, depth)

    async def read_file(self, path: str, offset: int = 1, limit: int = MAX_LINES) -> str:
        """Read a text file.

        Args:
            path: The file, relative to the working directory.
            offset: The line to begin with; the first is 1.
            limit: How many lines to read, at most 2000.
        """
        return await asyncio.to_thread(self._read, path, offset, limit)

    async def write_file(self, path: str, content: str) -> str:
        """Write a file, whole. What it held before is replaced; directories are made as needed.

        Args:
            path: The file, relative to the working directory.
            content: Everything the file shall hold, exactly.
        """
        return await asyncio.to_thread(self._write, path, content)

    async def edit_file(self, path: str, old: str, new: str, replace_all: bool = False) -> str:
        """Replace a piece of a text file.

        Args:
            path: The file, relative to the working directory.
            old: The text to replace, exactly as it stands in the file, and enough of it to be found only once.
            new: The text to put in its place.
            replace_all: Replace every place where it stands.
        """
        return await asyncio.to_thread(self._edit, path, old, new, replace_all)

    async def search_files(
        self, text: str, path: str = ".", files: str = "*", ignore_case: bool = False
    ) -> str:
        """Search text files for a piece of text, which is taken as it is (no regular expression).

        Args:
            text: The text to look for, within one line.
            path: The directory or file to search, relative to the working directory.
            files: Which file names to search, such as `*.py`.
            ignore_case: Whether capital and small letters count as the same.
        """
        return await asyncio.to_thread(self._search, text, path, files, ignore_case)

    async def run_command(self, command: str, timeout_s: int = 120) -> str:
        """Run a shell command in the working directory; its output and exit code come back when it has ended.

        It has no input. What it left running in the background is ended with it.

        Args:
            command: The command line, for /bin/sh.
            timeout_s: Seconds after which it is ended, at most 3600.
        """
        if not command.strip() or "\0" in command:
            raise ToolProblem("the command is empty or holds a NUL character")
        if not 1 <= timeout_s <= MAX_COMMAND_S:
            raise ToolProblem(f"timeout_s is {timeout_s}; it must be from 1 to {MAX_COMMAND_S}")
        try:
            result = await self._commands.run(command, timeout_s)
        except OSError as wrong:
            raise ToolProblem(f"the command could not be started in {self._root}: {wrong.strerror}") from None
        return _told(result, timeout_s)

    # -- what runs on a thread

    def _within(self, path: str) -> Path:
        """Return the real path. Raises ToolProblem when it is outside."""
        if "\0" in path or not path:
            raise ToolProblem("the path is empty or holds a NUL character")
        real = Path(os.path.realpath(self._root / path))
        if real != self._root and self._root not in real.parents:
            raise ToolProblem(f"{path!r} is outside the working directory; only what is inside can be used")
        if self._private.holds(real):
            raise ToolProblem(f"{path!r} {PRIVATE}")
        return real

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self._root))

    def _bytes(self, path: str) -> bytes:
        """Return what a regular file holds; anything else is refused without waiting for it."""
        real = self._within(path)
        try:
            # A FIFO would make the open wait for a writer, for ever.
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as wrong:
            raise ToolProblem(f"{path!r} cannot be read: {wrong.strerror}") from None
        try:
            found = os.fstat(descriptor)
            if self._private.has_open(descriptor):
                raise ToolProblem(f"{path!r} {PRIVATE}")
            if not stat.S_ISREG(found.st_mode):
                kind = "a directory; use list_files" if stat.S_ISDIR(found.st_mode) else "no regular file"
                raise ToolProblem(f"{path!r} is {kind}")
            if found.st_size > MAX_FILE:
                raise ToolProblem(f"{path!r} has {found.st_size:,} bytes; {MAX_FILE:,} are the limit")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_FILE)
        finally:
            os.close(descriptor)

    def _list(self, path: str, depth: int) -> str:
        root = self._within(path)
        if not root.is_dir():
            raise ToolProblem(
                f"{path!r} is no directory" if root.exists() else f"there is no directory {path!r}"
            )
        lines: list[str] = []
        for found in self._walk(root, max(1, min(depth, MAX_DEPTH))):
            if len(lines) == MAX_ENTRIES:
                lines.append(f"... and more: only the first {MAX_ENTRIES} are listed")
                break
            name = self._shown(Path(found.path))
            if found.is_dir(follow_symlinks=False):
                lines.append(f"{name}/")
            elif found.is_symlink():
                lines.append(f"{name} -> {os.readlink(found.path)}")
            else:
                lines.append(f"{name}  {found.stat(follow_symlinks=False).st_size}")
        return "\n".join(lines) or f"{path!r} is empty"

    def _walk(self, root: Path, depth: int) -> Iterator[os.DirEntry[str]]:
        """Yield what lies below, never through a symbolic link."""
        try:
            with os.scandir(root) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            if self._private.is_entry(entry):
                continue
            yield entry
            if depth > 1 and entry.is_dir(follow_symlinks=False) and entry.name not in SKIPPED:
                yield from self._walk(Path(entry.path), depth - 1)

    def _read(self, path: str, offset: int, limit: int) -> str:
        content = self._bytes(path)
        if b"\0" in content[:8192]:
            raise ToolProblem(f"{path!r} is no text: {len(content):,} bytes")
        lines = content.decode("utf-8", "replace").splitlines(keepends=True)
        first, count = max(1, offset), max(1, min(limit, MAX_LINES))
        if first > max(1, len(lines)):
            raise ToolProblem(f"{path!r} has {len(lines)} lines; line {first} is after its end")
        chosen = lines[first - 1 : first - 1 + count]
        text = "".join(line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}[cut]\n" for line in chosen)
        left = len(lines) - (first - 1 + len(chosen))
        return f"{text}\n[{left} more lines: go on with offset={first + len(chosen)}]" if left else text

    def _write(self, path: str, content: str) -> str:
        real = self._within(path)
        if real.is_dir():
            raise ToolProblem(f"{path!r} is a directory")
        self._replace(path, real, _encoded(path, content))
        return f"Wrote {len(content):,} characters to {self._shown(real)}."

    def _replace(self, path: str, real: Path, content: bytes) -> None:
        """Put a whole file in place: nobody ever sees half of it, and a crash leaves the old one."""
        if real.exists() and not real.is_file():
            raise ToolProblem(f"{path!r} is no regular file")
        try:
            real.parent.mkdir(parents=True, exist_ok=True)
            mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else 0o666 & ~_umask()
            descriptor, name = tempfile.mkstemp(prefix=f".{real.name[:100]}.", dir=real.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fchmod(file.fileno(), mode)
                    os.fsync(file.fileno())
                os.replace(name, real)
            finally:
                Path(name).unlink(missing_ok=True)
        except OSError as wrong:
            raise ToolProblem(f"{path!r} cannot be written: {wrong.strerror}") from None

    def _edit(self, path: str, old: str, new: str, replace_all: bool) -> str:
        if not old:
            raise ToolProblem("old is empty; to write a whole file use write_file")
        try:
            text = self._bytes(path).decode("utf-8")
        except UnicodeDecodeError:
            raise ToolProblem(f"{path!r} is not UTF-8 text") from None
        count = text.count(old)
        if count == 0:
            raise ToolProblem(f"{path!r} does not hold that text; read it again, white space counts")
        if count > 1 and not replace_all:
            raise ToolProblem(f"{path!r} holds that text {count} times; give more of it, or replace_all=true")
        self._replace(path, self._within(path), _encoded(path, text.replace(old, new)))
        return f"Replaced {count} {'place' if count == 1 else 'places'} in {self._shown(self._within(path))}."

    def _search(self, text: str, path: str, files: str, ignore_case: bool) -> str:
        if not text or "\n" in text:
            raise ToolProblem("the text to look for must be one line, and not empty")
        root, until = self._within(path), time.monotonic() + SEARCH_S
        if not root.exists():
            raise ToolProblem(f"there is nothing at {path!r}")
        wanted = text.casefold() if ignore_case else text
        found: list[str] = []
        for file in self._files(root, files):
            for number, line in self._lines(file):
                if wanted in (line.casefold() if ignore_case else line):
                    found.append(f"{self._shown(file)}:{number}: {line[:MAX_MATCH]}")
            if len(found) >= MAX_MATCHES:
                return "\n".join([*found[:MAX_MATCHES], f"... only the first {MAX_MATCHES} are shown"])
            if time.monotonic() > until:
                return "\n".join([*found, f"... ended after {SEARCH_S:.0f} s; search a smaller part"])
        return "\n".join(found) or "nothing found"

    def _files(self, root: Path, pattern: str) -> Iterator[Path]:
        if root.is_file():
            yield root
            return
        for entry in self._walk(root, 64):
            if entry.is_file(follow_symlinks=False) and fnmatch.fnmatch(entry.name, pattern):
                yield Path(entry.path)

    def _lines(self, file: Path) -> Iterator[tuple[int, str]]:
        try:
            content = self._bytes(self._shown(file))
        except ToolProblem:
            return
        if b"\0" not in content[:8192]:
            yield from enumerate(content.decode("utf-8", "replace").splitlines(), 1)


def _encoded(path: str, text: str) -> bytes:
    try:
        content = text.encode()
    except UnicodeEncodeError:
        raise ToolProblem(f"what should be in {path!r} cannot be written as UTF-8") from None
    if len(content) > MAX_FILE:
        raise ToolProblem(f"{path!r} would have {len(content):,} bytes; {MAX_FILE:,} are the limit")
    return content


def _umask() -> int:
    """Return the mask; it can only be read by setting it, which other threads would notice, so from /proc."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("Umask:")[1].split()[0], 8)
    except (OSError, IndexError, ValueError):
        return 0o077


def _told(result: Result, timeout_s: int) -> str:
    ended = (
        f"It was ended after {timeout_s} s." if result.exit_code is None else f"Exit code {result.exit_code}."
    )
    return f"{result.output.rstrip()}\n\n{ended}".lstrip("\n")
