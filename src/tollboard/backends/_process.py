"""Process trees: finding every process of a session and ending all of them. Used by the backends that start programs
and by the daemon, which reaps what a killed daemon left behind.

A kill of the process group is not enough: agent programs start each command with `setsid`, in a group and a session of
its own, and when the program is killed the command is adopted by init. So a session's processes are found in two ways
at once: by descent from the program, looked up BEFORE anything is killed, and by the `NAME=VALUE` marker in their
environment, which a child inherits however far it moves away.

A process is known by its pid and its start time (psutil compares both before each signal), so a pid that was reused
meanwhile is never signalled. Whatever blocks (reading /proc, waiting for an exit) runs on a thread.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator

import psutil

from tollboard.runtime.backend import NO_PROCESSES, ProcessReport

Marker = tuple[str, str]

TERM_WAIT_S = 3.0
KILL_WAIT_S = 5.0
KILL_WAVES = 50
"""What starts processes faster than they can be found is given up on, and reported."""
EXEC_WAIT_S, LOOKS, EXEC_LOOKS = 0.005, 3, 100
ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
KTHREADD = 2


def identify(pid: int) -> psutil.Process | None:
    """Return the process that has this pid now, remembered by its start time too; `None` if there is none."""
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


async def find_processes(
    *, roots: Iterable[psutil.Process] = (), marker: Marker | None = None
) -> list[psutil.Process]:
    """Return the roots, all their descendants, and all processes that carry the marker; never this process."""
    return await asyncio.to_thread(_find, list(roots), _equals(marker))


async def end_processes(
    *,
    roots: Iterable[psutil.Process] = (),
    marker: Marker | None = None,
    keep: Iterable[psutil.Process] = (),
    term_wait_s: float = TERM_WAIT_S,
) -> ProcessReport:
    """End what `find_processes` finds, sparing `keep`; roots may be a snapshot taken earlier, some of it gone by now.

    Each is asked with SIGTERM, given `term_wait_s` seconds, then killed, and so is what was started meanwhile; what is
    still there afterwards is reported. Idempotent.
    """
    return await asyncio.to_thread(_end, list(roots), _equals(marker), frozenset(keep), term_wait_s)


async def reap(name: str, predicate: Callable[[str], bool]) -> ProcessReport:
    """End every process whose environment has the variable `name` with a value that the predicate accepts.

    The daemon calls it at start-up with its own state directory's prefix, for what a killed daemon left behind.
    """

    def matches(env: dict[str, str]) -> bool:
        return name in env and predicate(env[name])

    return await asyncio.to_thread(_end, [], matches, frozenset(), TERM_WAIT_S)


Matches = Callable[[dict[str, str]], bool]


def _equals(marker: Marker | None) -> Matches | None:
    if marker is None:
        return None
    name, value = marker
    return lambda env: env.get(name) == value


def _find(roots: Iterable[psutil.Process], matches: Matches | None) -> list[psutil.Process]:
    # In order, parents first: a signal finds a shell before the command it waits for, and it starts no other.
    found = dict.fromkeys(process for root in roots for process in _family(root))
    if matches is not None:
        # The marker first, then descent again: a marked process may have cleaned its child's environment.
        for process in _marked(_everyone(), matches):
            found |= dict.fromkeys(_family(process))
    return [process for process in found if process.pid != os.getpid()]


def _everyone() -> Iterator[psutil.Process]:
    """Return all processes. psutil's own iterator keeps what it has seen, and so hides one whose pid was another's."""
    for pid in psutil.pids():
        if (process := identify(pid)) is not None:
            yield process


def _family(root: psutil.Process) -> list[psutil.Process]:
    """Return the process and its descendants, or nothing if it is gone; a stranger with its pid counts as gone."""
    try:
        return [root, *root.children(recursive=True)] if root.is_running() else []
    except psutil.Error:
        return []


def _marked(processes: Iterable[psutil.Process], matches: Matches) -> list[psutil.Process]:
    """Return the processes whose environment matches, looking again at those in the middle of an exec.

    Such a process has no environment for a moment, on a busy machine a long one, and would be overlooked for good.
    """
    found, blank = _look(processes, matches)
    for look in range(EXEC_LOOKS):
        if look >= LOOKS:
            blank = [process for process in blank if _in_exec(process)]
        if not blank:
            break
        wait_gone(blank, EXEC_WAIT_S)
        late, blank = _look(blank, matches)
        found += late
    return found


def _look(
    processes: Iterable[psutil.Process], matches: Matches
) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """Return the processes whose environment matches, and those that do not show it just now."""
    found, blank = [], []
    for process in processes:
        env = _environment(process)
        if env:
            if matches(env):
                found.append(process)
        elif env is not None:
            blank.append(process)
    return found, blank


def _environment(process: psutil.Process) -> dict[str, str] | None:
    """Return the environment, `None` where it cannot be read: another user's process, a zombie, or gone."""
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return None


def _in_exec(process: psutil.Process) -> bool:
    """Return whether it has no command line either. A thread of the kernel never has one; it is none of ours."""
    try:
        return not process.cmdline() and KTHREADD not in (process.pid, process.ppid())
    except (psutil.Error, OSError):
        return False


def _end(
    roots: list[psutil.Process], matches: Matches | None, keep: frozenset[psutil.Process], term_wait_s: float
) -> ProcessReport:
    """Ask, wait, then kill and wait until nothing new is found; what refuses to end is not waited for twice."""
    targets = _ours(_find(roots, matches), keep)
    if not targets:
        return NO_PROCESSES
    left = _signal_and_wait(targets, psutil.Process.terminate, term_wait_s)
    killed: list[psutil.Process] = []
    # A shell starts the next command in the moment between the end of the last one and its own.
    for _ in range(KILL_WAVES):
        late = _ours(_find(left, matches), keep)
        if all(process in killed for process in late):
            break
        killed += late
        left = _signal_and_wait(late, psutil.Process.kill, KILL_WAIT_S)
    left = list({*left, *_ours(_find([], matches), keep)})
    return ProcessReport(
        killed=tuple(sorted({p.pid for p in (*targets, *killed)} - {p.pid for p in left})),
        unverified=tuple(_describe(process) for process in left),
    )


def _ours(processes: Iterable[psutil.Process], keep: frozenset[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process not in keep and _alive(process)]


def _alive(process: psutil.Process) -> bool:
    """Return whether it is this very process and still does something; a zombie only waits for its parent."""
    try:
        return process.is_running() and process.status() not in ENDED
    except psutil.Error:
        return False


def _signal_and_wait(
    processes: list[psutil.Process], send: Callable[[psutil.Process], None], wait_s: float
) -> list[psutil.Process]:
    """Signal the processes and return those that are still alive after at most `wait_s` seconds."""
    for process in processes:
        try:
            send(process)
        except psutil.Error:
            continue  # gone, or not ours to signal: the wait below tells which
    wait_gone(processes, wait_s)
    return [process for process in processes if _alive(process)]


def wait_gone(processes: Iterable[psutil.Process], wait_s: float) -> None:
    """Block until all the processes have ended or `wait_s` seconds are over; for a thread, never for the loop."""
    if not hasattr(os, "pidfd_open"):
        psutil.wait_procs([p for p in processes if _alive(p)], timeout=wait_s)
        return
    # psutil would reap a child of ours and so take its exit code away from asyncio; a pidfd only watches.
    poll, fds = select.poll(), {fd for process in processes if (fd := _watch(process)) is not None}
    try:
        for fd in fds:
            poll.register(fd, select.POLLIN)
        until, left = time.monotonic() + wait_s, set(fds)
        while left and (rest_s := until - time.monotonic()) > 0:
            for fd, _ in poll.poll(rest_s * 1000):
                poll.unregister(fd)
                left.discard(fd)
    finally:
        for fd in fds:
            os.close(fd)


def _watch(process: psutil.Process) -> int | None:
    """Return a descriptor that becomes readable when the process ends, `None` when it has ended."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return None
    if _alive(
        process
    ):  # looked at after the open, so that the descriptor is of this process and no successor
        return fd
    os.close(fd)
    return None


def _describe(process: psutil.Process) -> str:
    try:
        return f"pid {process.pid} ({process.name()}) is still {process.status()}"
    except psutil.Error:
        return f"pid {process.pid} could not be looked at"
