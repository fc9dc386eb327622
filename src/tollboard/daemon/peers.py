"""Who is at the other end of a connection: a person's process, or one that an agent of this daemon has started.

The daemon is a child subreaper on Linux (`hardening`): whatever a session's process starts stays below the daemon,
however it detaches itself, as long as the daemon lives. So a connection is an agent's when its process descends from
the daemon, and a person's otherwise: a client that starts the daemon is never below it, because the daemon detaches.
Elsewhere descent is lost with the parent; then only the marker in the environment tells, which a process can clear.

Processes are known by pid and start time. On Linux a pidfd of the peer says whether the process that was looked at is
still the one that connected; where it has ended already, nobody knows whose it was, and it may do nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import platform
import select
import socket
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tollboard.operations.access import PERSON, Asker, Standing

LINUX = sys.platform == "linux"
PROC = Path("/proc")
LOOKS = 20
"""How often a line of descent is looked at that changes meanwhile, before it counts as unknown."""
MAX_REMEMBERED = 4_096
_SO_PEERPIDFD = 77
"""Since Linux 6.5; the number is another on a few old architectures, where it is not asked for."""
_GENERIC = platform.machine() in {"x86_64", "aarch64", "riscv64", "armv7l", "i686", "ppc64le", "s390x"}
_SOL_LOCAL, _LOCAL_PEERPID = 0, 2
"""macOS: who is at the other end of a unix socket."""
_TIME_WAIT = "06"
_STAT_BYTES = 4_096

GONE = Asker(
    Standing.UNKNOWN, why="the process that opened this connection has ended, so nobody knows whose it was"
)
UNCLEAR = Asker(
    Standing.UNKNOWN, why="the processes above the one that asks changed too fast to be looked at"
)
HIDDEN = Asker(Standing.UNKNOWN, why="the process that opened this connection cannot be seen from here")


@dataclass(frozen=True, slots=True)
class Link:
    """A process in a line of descent; `started` in ticks of the kernel's clock."""

    pid: int
    parent: int
    started: float


class _Changed(Exception):
    """The line changed while it was looked at."""


class Peers:
    """Says who asks, once for each connection."""

    def __init__(self, marker: str, home_id: str, *, root: int | None = None) -> None:
        self._marker = marker
        self._home = f"{home_id}:"
        self._root = os.getpid() if root is None else root
        self._seen: OrderedDict[tuple[int, float], str] = OrderedDict()

    def at_socket(self, connection: socket.socket) -> Asker:
        """Return who opened a connection over the unix socket. It costs a few reads of /proc, so it may block."""
        try:
            pid, pidfd = _peer(connection)
        except OSError:
            return GONE
        try:
            if pid <= 0:
                return HIDDEN  # in a namespace that is not visible from ours
            asker = self.of_process(pid)
            return GONE if pidfd is not None and _has_ended(pidfd) else asker
        finally:
            if pidfd is not None:
                os.close(pidfd)

    async def at_port(self, connection: socket.socket) -> Asker:
        """Return who opened a connection over TCP; a peer on another machine is judged by its token alone."""
        try:
            ours, theirs = connection.getsockname()[:2], connection.getpeername()[:2]
        except OSError:
            return GONE
        return await asyncio.to_thread(self._at_port, ours, theirs)

    def _at_port(self, ours: tuple[str, int], theirs: tuple[str, int]) -> Asker:
        holds = _holders(self._root, ours, theirs)
        if isinstance(holds, Asker):
            return holds
        return self.of_process(holds)

    def of_process(self, pid: int) -> Asker:
        """Return whose process this is."""
        if pid == self._root:
            # A session's tool that runs in the daemon itself, such as an MCP client that was given our own address.
            return Asker(Standing.AGENT, pid=pid)
        for _ in range(LOOKS):
            try:
                line = list(_line(pid, self._root))
            except _Changed:
                continue
            return self._judge(line) if line else GONE
        return UNCLEAR

    def _judge(self, line: list[Link]) -> Asker:
        """Return whose a line of descent is: the asking process first, what is directly below the daemon last."""
        below = line[-1].parent == self._root
        if not below and LINUX:
            return PERSON
        # From the top: what is below may have written itself another environment.
        session = next(filter(None, (self._session_of(link) for link in reversed(line))), None)
        if session is None:
            return Asker(Standing.AGENT, pid=line[0].pid) if below else PERSON
        for link in line:
            self._remember(link, session)
        return Asker(Standing.AGENT, session=session, pid=line[0].pid)

    def _session_of(self, link: Link) -> str | None:
        known = self._seen.get((link.pid, link.started))
        if known is not None:
            return known
        value = environment(link.pid).get(self._marker, "")
        return value.removeprefix(self._home) if value.startswith(self._home) else None

    def _remember(self, link: Link, session: str) -> None:
        """Keep whose a process is: once its parent is gone and its environment cleared, nothing else says so."""
        self._seen[link.pid, link.started] = session
        self._seen.move_to_end((link.pid, link.started))
        while len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)


def started_by_agent(marker: str, home_id: str, pid: int | None = None) -> bool:
    """Whether this process, or one above it, is marked as a session's of that state directory."""
    for _ in range(LOOKS):
        try:
            line = list(_line(os.getpid() if pid is None else pid, 0))
        except _Changed:
            continue
        return any(environment(link.pid).get(marker, "").startswith(f"{home_id}:") for link in line)
    return True


# -- the other end of a unix socket


def _peer(connection: socket.socket) -> tuple[int, int | None]:
    """Return the peer's pid and, where the system has it, a descriptor of that very process. Raises OSError."""
    if not LINUX:
        return struct.unpack("i", connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4))[0], None
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if not _GENERIC:
        return pid, None
    try:
        return pid, struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4))[0]
    except OSError as wrong:
        if wrong.errno == errno.ENOPROTOOPT:
            return pid, None
        raise  # the process is gone


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


# -- lines of descent


def _line(pid: int, root: int) -> Iterator[Link]:
    """Yield a process and those above it, up to but without `root`; nothing if it is gone. Raises _Changed."""
    line: list[Link] = []
    while pid not in (0, root):
        link = _look(pid)
        if link is None:
            if line and not _is_hidden(pid):
                raise _Changed  # it ended: what it left has another parent now
            break
        if line and link.started > line[-1].started:
            raise _Changed  # another process with the pid of a parent that has ended
        line.append(link)
        pid = link.parent
    if any(_look(link.pid) != link for link in line):
        raise _Changed
    yield from line


def _look(pid: int) -> Link | None:
    """Return a process with its parent, `None` if there is none that can be seen."""
    if not LINUX:
        return _look_with_psutil(pid)
    found = _stat(pid)
    return None if found is None else found[0]


def _stat(pid: int) -> tuple[Link, bool] | None:
    """Return a process, and whether it is a zombie. Read from behind its name, which may hold spaces and brackets."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        rest = os.read(file, _STAT_BYTES).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(file)
    return Link(pid, int(rest[1]), int(rest[19])), rest[0] == b"Z"


def _look_with_psutil(pid: int) -> Link | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return Link(pid, process.ppid(), process.create_time())
    except psutil.Error:
        return None


def _is_hidden(pid: int) -> bool:
    """Whether the process is there all the same: another user's, where /proc shows only one's own (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def environment(pid: int) -> dict[str, str]:
    """Return the environment that a process began with; empty where it cannot be read."""
    if not LINUX:
        import psutil

        try:
            return dict(psutil.Process(pid).environ())
        except (psutil.Error, OSError):
            return {}
    try:
        raw = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def descendants(root: int) -> list[int]:
    """Return the pids below a process. Blocks: it reads the whole process table."""
    if not LINUX:
        import psutil

        try:
            return [process.pid for process in psutil.Process(root).children(recursive=True)]
        except psutil.Error:
            return []
    below: dict[int, list[int]] = {}
    for pid in _pids():
        if (link := _look(pid)) is not None:
            below.setdefault(link.parent, []).append(pid)
    found, todo = [], [root]
    while todo:
        children = below.get(todo.pop(), [])
        found += children
        todo += children
    return found


def zombies(parent: int) -> list[Link]:
    """Return the children of a process that have ended and that nobody has waited for. Linux only."""
    found = filter(None, map(_stat, _pids()))
    return [link for link, ended in found if ended and link.parent == parent]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]


# -- the other end of a TCP connection


def _holders(root: int, ours: tuple[str, int], theirs: tuple[str, int]) -> int | Asker:
    """Return the pid of the daemon's descendant that holds the other end, or who it is if none of them does."""
    if not LINUX:
        return _holder_by_psutil(root, theirs)
    inode = _inode(local=theirs, remote=ours)
    if inode is None:
        return GONE if _is_loopback(theirs[0]) else PERSON
    if inode == "0":
        return GONE
    held, unseen = _first_holder(descendants(root), inode)
    if held is not None:
        return held
    if not unseen:
        return PERSON
    # A descendant that does not show what it holds (not dumpable): then somebody else must be seen to hold it.
    return PERSON if _first_holder(_pids(), inode)[0] is not None else HIDDEN


def _first_holder(pids: Iterable[int], inode: str) -> tuple[int | None, bool]:
    """Return the first of the processes that has the socket open, and whether one of them does not say."""
    wanted, unseen = f"socket:[{inode}]", False
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)
        except PermissionError:
            unseen = True
            continue
        except OSError:
            continue
        for name in names:
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}") == wanted:
                    return pid, unseen
    return None, unseen


def _inode(*, local: tuple[str, int], remote: tuple[str, int]) -> str | None:
    """Return the inode of a socket of this machine by its two addresses, "0" if nobody has it open any more."""
    found: str | None = None
    for table, mapped in (("tcp", False), ("tcp6", True)):
        wanted = _hexed(local, mapped=mapped), _hexed(remote, mapped=mapped)
        with contextlib.suppress(OSError), open(f"/proc/net/{table}") as lines:
            for line in lines:
                words = line.split()
                if (words[1], words[2]) == wanted:
                    if words[9] != "0" and words[3] != _TIME_WAIT:
                        return words[9]
                    found = "0"
    return found


def _hexed(address: tuple[str, int], *, mapped: bool) -> str:
    """Return an address as /proc/net writes it: words of the machine's own byte order."""
    host, port = address[0].partition("%")[0], address[1]
    if "." in host:
        host = host.removeprefix("::ffff:")
    if ":" in host:
        if not mapped:
            return ""
        raw = socket.inet_pton(socket.AF_INET6, host)
    else:
        raw = socket.inet_aton(host)
        if mapped:
            raw = b"\0" * 10 + b"\xff\xff" + raw
    words = struct.unpack(f"={len(raw) // 4}I", raw)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def _is_loopback(host: str) -> bool:
    return host == "::1" or host.removeprefix("::ffff:").startswith("127.")


def _holder_by_psutil(root: int, theirs: tuple[str, int]) -> int | Asker:
    """Ask each descendant; on macOS no table of all connections can be read."""
    import psutil

    for pid in descendants(root):
        with contextlib.suppress(psutil.Error):
            for held in psutil.Process(pid).net_connections("tcp"):
                if held.laddr and (held.laddr.ip, held.laddr.port) == theirs:
                    return pid
    return PERSON
