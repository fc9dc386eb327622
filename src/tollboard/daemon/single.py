"""One daemon for a state directory: the lock, the socket file, signals, and the word to whoever started us."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import select
import signal
import socket
import struct
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tollboard.daemon.config import StateDirectory
from tollboard.errors import DaemonError, DaemonRunning

START_TIMEOUT_S = 120.0
"""How long a daemon may take to bring its fleet back."""


@dataclass(slots=True)
class Ownership:
    """The lock on a state directory; lost when another daemon takes over, gone when the process ends."""

    home: StateDirectory
    fd: int
    former: int | None = None
    """The process that the directory was taken from, if it still runs."""

    @classmethod
    def claim(cls, home: StateDirectory, *, take_over: bool = False) -> Ownership:
        """Take the lock. Raises DaemonRunning, naming the process that has it.

        With `take_over` the lock file is replaced: whoever held the old one no longer owns the directory, and finds
        that out at its next write (the store's owner epoch) or when it looks (`still_ours`).
        """
        former = owner_pid(home) if take_over else None
        fd = _replace_lock(home) if take_over else _take_lock(home)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {time.time():.3f}\n".encode(), 0)
        except OSError as exc:
            os.close(fd)
            raise DaemonError(
                f"the lock {str(home.lock)!r} cannot be written: {exc.strerror}{mend(exc)}"
            ) from None
        return cls(home, fd, former)

    def still_ours(self) -> bool:
        """Whether the lock file is still the one that we hold."""
        try:
            return os.fstat(self.fd).st_ino == self.home.lock.stat().st_ino
        except OSError:
            return False

    def renew(self) -> None:
        """Hold a new lock file in place of one that was removed. Raises DaemonRunning if another daemon has made it."""
        fresh = Ownership.claim(self.home)
        os.close(self.fd)
        self.fd = fresh.fd

    def release(self) -> None:
        """Give the directory up. The file stays: removing it would let two processes hold two different locks."""
        os.close(self.fd)


def _take_lock(home: StateDirectory) -> int:
    fd = _open(home.lock)
    if not _lock(fd):
        pid = _read_pid(fd) or "unknown"
        os.close(fd)
        raise DaemonRunning(
            f"another daemon (pid {pid}) owns {str(home.path)!r}; use it, or end it with `tollboard shutdown`"
        ) from None
    if not Ownership(home, fd).still_ours():
        # Whoever takes over puts a new file in place; between our open and our lock it just did.
        os.close(fd)
        return _take_lock(home)
    return fd


def _replace_lock(home: StateDirectory) -> int:
    fresh = home.lock.with_suffix(f".{os.getpid()}")
    fd = _open(fresh)
    _lock(fd)
    try:
        fresh.replace(home.lock)
    except OSError as exc:
        os.close(fd)
        raise DaemonError(
            f"the lock {str(home.lock)!r} cannot be replaced: {exc.strerror}{mend(exc)}"
        ) from None
    return fd


def mend(exc: OSError) -> str:
    """Return what to do about a file that cannot be written, as the end of a message."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "; free some space, then try again"
    return "; make its directory writable for this user, then try again"


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise DaemonError(f"the lock {str(path)!r} cannot be opened: {exc.strerror}{mend(exc)}") from None


# Locks of the open file, not of the process: they go with the descriptor, and one can ask for them without taking
# them. (Asking by a shared flock made a daemon that was just starting believe that another was there.)
_OFD = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
_FLOCK = "hhqqi"
"""`struct flock`: type, whence, start, length, pid."""


def _lock(fd: int) -> bool:
    """Take the lock if nobody has it; return whether it is ours."""
    try:
        if _OFD:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_locked(fd: int) -> bool:
    if _OFD:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_ = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
        return bool(kind != fcntl.F_UNLCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _read_pid(fd: int) -> int | None:
    word, _, _ = os.pread(fd, 64, 0).decode(errors="replace").partition(" ")
    return int(word) if word.strip().isdigit() else None


def owner_pid(home: StateDirectory) -> int | None:
    """Return the pid of the daemon that owns the directory, `None` if nobody does. Takes no lock."""
    try:
        fd = os.open(home.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read_pid(fd) if _is_locked(fd) else None
    finally:
        os.close(fd)


def end_owner(home: StateDirectory, timeout_s: float) -> int | None:
    """End the daemon that owns the directory by a signal, for when it cannot be asked; return its pid if it has ended.

    Blocks. Raises DaemonError if it has not ended in time.
    """
    pid = owner_pid(home)
    if pid is None:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if not wait_for_exit(pid, timeout_s):
        raise DaemonError(
            f"the daemon (pid {pid}) has not ended within {timeout_s:g} s; see its log {str(home.log)!r}, or end it "
            f"with `kill -KILL {pid}`"
        )
    return pid


def may_be_starting(home: StateDirectory) -> bool:
    """Whether the owner is so young that it may still be bringing its fleet back; `True` if that cannot be told."""
    try:
        _, _, since = home.lock.read_text().partition(" ")
        return time.time() - float(since) < START_TIMEOUT_S
    except (OSError, ValueError):
        return True


def start_lock(home: StateDirectory) -> int:
    """Wait for, and return, the lock that clients hold while they start a daemon; close it to give it back."""
    fd = _open(home.path / "start.lock")
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def wait_for_exit(pid: int, timeout_s: float) -> bool:
    """Wait until a process has ended; return whether it has. Blocks."""
    if not hasattr(os, "pidfd_open"):
        return _poll_for_exit(pid, timeout_s)
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(fd)


def _poll_for_exit(pid: int, timeout_s: float) -> bool:
    import psutil

    try:
        psutil.Process(pid).wait(timeout_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def bind_socket(home: StateDirectory) -> socket.socket:
    """Return the listening unix socket, mode 0600. Call it only while holding the lock: an old file is removed.

    Bound here because uvicorn would open it to everyone (mode 0666).
    """
    home.check_socket_path()
    try:
        home.socket.unlink(missing_ok=True)
    except OSError as exc:
        raise DaemonError(
            f"what stands at the place of the socket, {str(home.socket)!r}, cannot be removed: {exc.strerror}; move it "
            "away"
        ) from None
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        bound.bind(str(home.socket))
    except OSError as exc:
        bound.close()
        raise DaemonError(
            f"the socket {str(home.socket)!r} cannot be made: {exc.strerror}{mend(exc)}"
        ) from None
    finally:
        os.umask(before)
    bound.listen(1024)
    bound.setblocking(False)
    return bound


def bind_tcp(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket. Raises DaemonError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it. asyncio sets it only on sockets that name their protocol; without it a stream's
    # small pieces wait 40 ms for the other side's acknowledgement.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        bound.bind((host, port))
    except OSError as exc:
        bound.close()
        raise DaemonError(
            f"{host}:{port} cannot be bound: {exc.strerror}; change tcp_host or tcp_port in tollboard.toml"
        ) from None
    bound.listen(1024)
    bound.setblocking(False)
    return bound


def private_text(path: Path, make: Callable[[], str]) -> str:
    """Return the text of a private file, written once (mode 0600) with what `make` returns."""
    try:
        with contextlib.suppress(FileNotFoundError):
            path.chmod(0o600)
            if text := path.read_text().strip():
                return text
        text = make()
        # Written whole or not at all: a token cut short by a full disk would be taken for the real one.
        fresh = path.with_name(path.name + ".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, text.encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        fresh.replace(path)
    except OSError as exc:
        raise DaemonError(f"{str(path)!r} cannot be written: {exc.strerror}{mend(exc)}") from None
    except ValueError:
        raise DaemonError(f"{str(path)!r} is not text; remove it to get a new one") from None
    return text


def new_secret() -> str:
    """Return a new admin token."""
    return secrets.token_urlsafe(32)


def new_id() -> str:
    """Return a new id for a state directory."""
    return uuid.uuid4().hex


class Signals:
    """SIGTERM and SIGINT ask for a graceful end; the second one for an immediate one."""

    def __init__(self, stop: Callable[[], None], now: Callable[[], None]) -> None:
        self._stop = stop
        self._now = now
        self._asked = False

    def install(self) -> None:
        """Listen on the running loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._heard)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _heard(self) -> None:
        if self._asked:
            self._now()
        self._asked = True
        self._stop()


class Starter:
    """The pipe to whoever started this daemon and waits to hear how it went; told once."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)

    def tell(self, word: str) -> None:
        """Say `ready`, or the error as JSON, and close the pipe; the second time do nothing.

        Not twice: the number of the closed pipe may be the database's by then.
        """
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.write(fd, word.encode() + b"\n")
                os.close(fd)
