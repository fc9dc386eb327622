"""Where the daemon lives and how it is set: the state directory, its files, and `tollboard.toml` in it."""

from __future__ import annotations

import math
import os
import sys
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from tollboard.errors import DaemonError, InvalidOption, InvalidPath
from tollboard.fleet.board import MAX_PROMPT_BYTES, MAX_SUMMARY_BYTES

HOME_VARIABLE = "TOLLBOARD_HOME"
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""Bytes that a unix socket's path may have, without the final zero."""
AGENTS_MAY = ("read", "send")
"""What `agents_may` may hold."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """The files of a daemon."""

    path: Path

    @property
    def database(self) -> Path:
        """Return the database file."""
        return self.path / "tollboard.db"

    @property
    def socket(self) -> Path:
        """Return the unix socket."""
        return self.path / "daemon.sock"

    @property
    def token(self) -> Path:
        """Return the file with the admin token."""
        return self.path / "token"

    @property
    def log(self) -> Path:
        """Return the log file."""
        return self.path / "daemon.log"

    @property
    def lock(self) -> Path:
        """Return the lock file: whoever holds its lock owns the directory."""
        return self.path / "daemon.lock"

    @property
    def identity(self) -> Path:
        """Return the file with the directory's id, which marks its processes."""
        return self.path / "id"

    @property
    def config(self) -> Path:
        """Return the configuration file."""
        return self.path / "tollboard.toml"

    def check_socket_path(self) -> None:
        """Raise DaemonError if the system cannot bind a socket at this path."""
        length = len(os.fsencode(self.socket))
        if length > MAX_SOCKET_PATH:
            raise DaemonError(
                f"the socket path {str(self.socket)!r} has {length} bytes, the system allows {MAX_SOCKET_PATH}; "
                f"set {HOME_VARIABLE} to a shorter directory"
            )

    def prepare(self) -> None:
        """Make the directory, private. Raises DaemonError when it cannot be, or when others can read it."""
        self.check_socket_path()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.stat()
        except FileExistsError:
            raise DaemonError(
                f"the state directory {str(self.path)!r} is not a directory; set {HOME_VARIABLE} to another place"
            ) from None
        except OSError as exc:
            raise DaemonError(
                f"the state directory {str(self.path)!r} cannot be made: {exc.strerror}; "
                f"set {HOME_VARIABLE} to a place where you may write"
            ) from None
        if found.st_uid != os.geteuid():
            raise DaemonError(
                f"the state directory {str(self.path)!r} belongs to another user (uid {found.st_uid}); set "
                f"{HOME_VARIABLE} to one of your own"
            )
        if found.st_mode & 0o077:
            raise DaemonError(
                f"the state directory {str(self.path)!r} can be read by others; run `chmod 700 {self.path}`"
            )
        if not os.access(self.path, os.W_OK | os.X_OK, effective_ids=True):
            why = "its disk is read-only" if _is_read_only(self.path) else "you may not"
            raise DaemonError(
                f"the state directory {str(self.path)!r} cannot be written: {why}; make it writable, or set "
                f"{HOME_VARIABLE} to another place"
            )


def _is_read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def state_directory(home: str | os.PathLike[str] | None = None) -> StateDirectory:
    """Return the state directory: `home`, else $TOLLBOARD_HOME, else the platform's place for state."""
    chosen = home if home is not None else os.environ.get(HOME_VARIABLE)
    if not chosen:
        from platformdirs import user_state_path

        chosen = user_state_path("tollboard")
    return StateDirectory(Path(absolute(chosen)))


def absolute(path: str | os.PathLike[str]) -> str:
    """Return a path as this process means it, for the daemon, which works elsewhere.

    An empty one is left to whoever takes paths to refuse: it is a variable that was not set, not the working directory.
    Raises InvalidPath when it cannot be told which directory is meant.
    """
    text = os.path.expanduser(os.fspath(path))
    if text.startswith("~"):
        raise InvalidPath(f"{text!r} names the home of a user who does not exist; give another path")
    try:
        # `..` is left in it: behind a symbolic link only the system knows where it leads.
        return str(Path(text).absolute()) if text else text
    except FileNotFoundError:
        raise InvalidPath(
            "the directory you are in is not there any more; change to another one, or give an absolute path"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What `tollboard.toml` may say. Unknown keys are refused."""

    grace_s: float = 5.0
    """How long turns in flight may go on when the daemon is shut down."""
    feed_rows_per_session: int = 2_000
    feed_days: float = 14.0
    roots: tuple[str, ...] = ()
    """The only directories sessions may work in; empty means all."""
    backends: tuple[str, ...] = ()
    """The only backends sessions may use; empty means all."""
    max_prompt_bytes: int = MAX_PROMPT_BYTES
    max_summary_bytes: int = MAX_SUMMARY_BYTES
    pass_env: tuple[str, ...] = ()
    """Variables of the daemon's environment that its programs see beside the usual ones, such as `SSH_AUTH_SOCK`."""
    sandbox: str = "off"
    """Whether commands of `model` sessions run in a sandbox where a session does not say: off, auto or required."""
    send_options: tuple[str, ...] = ()
    """Options that whoever may send may give beside the plain ones, such as `mcp_servers`; empty means none."""
    tcp_host: str | None = None
    tcp_port: int = 0
    """0: the system chooses; `tollboard doctor` shows it."""
    tcp_hosts: tuple[str, ...] = ()
    """Further Host headers to answer to, for a proxy in front."""
    tcp_exposed: bool = False
    """Say yes to a bind that is not loopback: put TLS in front."""
    log_level: str = "INFO"
    agents_may: tuple[str, ...] = ()
    """What the processes that sessions have started may do here: `read`, `send`, or nothing. Only a person approves."""

    def __post_init__(self) -> None:
        if self.tcp_host is not None and self.tcp_host not in LOOPBACK and not self.tcp_exposed:
            raise InvalidOption(
                f"tcp_host {self.tcp_host!r} is not loopback: put a proxy with TLS in front and set tcp_exposed = true"
            )
        if not 0 <= self.tcp_port <= 65535:
            raise InvalidOption(f"tcp_port is {self.tcp_port}: it must be between 0 and 65535")
        if (
            not 0 <= self.grace_s < math.inf
            or not 0 < self.feed_days < math.inf
            or self.feed_rows_per_session < 1
        ):
            raise InvalidOption("grace_s, feed_rows_per_session and feed_days must be positive")
        for name, limit in (("max_prompt_bytes", MAX_PROMPT_BYTES), ("max_summary_bytes", MAX_SUMMARY_BYTES)):
            if not 1 <= getattr(self, name) <= limit:
                raise InvalidOption(f"{name} is {getattr(self, name)}: it must be between 1 and {limit:,}")
        if wrong := [root for root in self.roots if not os.path.isabs(os.path.expanduser(root))]:
            raise InvalidOption(f"roots has {wrong[0]!r}: each must be an absolute path")
        if self.sandbox not in {"off", "auto", "required"}:
            raise InvalidOption(f"sandbox is {self.sandbox!r}: use off, auto or required")
        if wrong := [word for word in self.agents_may if word not in AGENTS_MAY]:
            raise InvalidOption(
                f"agents_may has {wrong[0]!r}: agents may {' and '.join(AGENTS_MAY)} at most; only a person approves "
                "and administers"
            )
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise InvalidOption(f"log_level is {self.log_level!r}: use DEBUG, INFO, WARNING or ERROR")


_TYPES: dict[str, type | tuple[type, ...]] = {
    "float": (int, float),
    "int": int,
    "bool": bool,
    "str": str,
    "str | None": str,
    "tuple[str, ...]": list,
}


def read_config(path: Path) -> Config:
    """Return the configuration. Raises InvalidOption that names the key, and lists the known ones."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError) as exc:
        raise InvalidOption(f"{str(path)!r} cannot be read: {exc}") from None
    known = {f.name: str(f.type) for f in fields(Config)}
    if unknown := sorted(given.keys() - known):
        raise InvalidOption(
            f"{str(path)!r}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
    for key, value in given.items():
        wanted = _TYPES[known[key]]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise InvalidOption(f"{str(path)!r}: {key} is {value!r}, which is not a {known[key]}")
        if isinstance(value, list):
            given[key] = _texts(path, key, value)
    try:
        return Config(**given)
    except InvalidOption as exc:
        raise InvalidOption(f"{str(path)!r}: {exc}") from None


def _texts(path: Path, key: str, values: list[object]) -> tuple[str, ...]:
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise InvalidOption(f"{str(path)!r}: {key} has {wrong[0]!r}, which is not text")
    return tuple(os.path.expanduser(str(value)) if key == "roots" else str(value) for value in values)
