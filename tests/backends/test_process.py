"""Ending process trees: what moved away is found, what is not ours is spared, a reused pid is never signalled."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import gone
from tollboard.backends import _process
from tollboard.backends._process import end_processes, find_processes, identify, reap
from tollboard.ids import new_ref
from tollboard.runtime.backend import NO_PROCESSES

EXECS_FOR_EVER = """
import os, sys
print("up", flush=True)
os.execv("/bin/sh", ["sh", "-c", 'exec sh -c "$0" "$0"', 'exec sh -c "$0" "$0"'])
"""
# A tool as agent programs start it: in a session of its own, here left behind by a parent that has ended.
MOVED_AWAY = "setsid sleep 3600 & echo $!"
STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        with process:  # closes the pipes and waits
            pass


def start(started: list[subprocess.Popen[str]], *argv: str, **env: str) -> tuple[psutil.Process, str]:
    """Start a program and return it with its first line, so that it is known to be up."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, env={**os.environ, **env}, stdin=pipe, stdout=pipe, text=True)
    started.append(process)
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    return psutil.Process(process.pid), line


async def test_a_command_in_a_session_of_its_own_is_found_by_descent(
    started: list[subprocess.Popen[str]],
) -> None:
    root, moved = start(started, "bash", "-c", f"{MOVED_AWAY}; wait")
    report = await end_processes(roots=[root])
    assert set(report.killed) >= {root.pid, int(moved)}
    assert not report.unverified
    assert gone(int(moved))


async def test_an_orphan_is_found_by_its_marker(started: list[subprocess.Popen[str]]) -> None:
    value = new_ref()
    _, moved = start(started, "bash", "-c", MOVED_AWAY, TB_MARK=value)
    assert started[0].wait() == 0
    assert [p.pid for p in await find_processes(marker=("TB_MARK", value))] == [int(moved)]
    report = await end_processes(marker=("TB_MARK", value))
    assert report.killed == (int(moved),)
    assert gone(int(moved))
    assert await end_processes(marker=("TB_MARK", value)) == NO_PROCESSES


async def test_a_process_in_the_middle_of_an_exec_is_not_overlooked(
    started: list[subprocess.Popen[str]],
) -> None:
    value = new_ref()
    root, line = start(started, sys.executable, "-c", EXECS_FOR_EVER, TB_MARK=value)
    assert line == "up"
    for _ in range(20):
        assert [p.pid for p in await find_processes(marker=("TB_MARK", value))] == [root.pid]


async def test_what_ignores_a_polite_request_is_killed(started: list[subprocess.Popen[str]]) -> None:
    process, line = start(started, sys.executable, "-c", STUBBORN)
    assert line == "up"
    report = await end_processes(roots=[process], term_wait_s=0.05)
    assert report.killed == (process.pid,)
    assert gone(process.pid)


async def test_what_is_started_between_two_kills_is_ended_too(
    started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = new_ref()
    stubborn, _ = start(started, sys.executable, "-c", STUBBORN, TB_MARK=value)
    kill, born = psutil.Process.kill, list[psutil.Process]()

    def kill_late(process: psutil.Process) -> None:
        # As a shell that ignores SIGTERM does when its command is killed before it.
        if len(born) < 3:
            born.append(start(started, sys.executable, "-c", STUBBORN, TB_MARK=value)[0])
        kill(process)

    monkeypatch.setattr(psutil.Process, "kill", kill_late)
    report = await end_processes(marker=("TB_MARK", value), term_wait_s=0.01)
    assert not report.unverified
    assert set(report.killed) == {stubborn.pid, *(process.pid for process in born)}
    assert len(born) == 3


async def test_a_parent_is_ended_before_its_children(started: list[subprocess.Popen[str]]) -> None:
    value = new_ref()
    nested = "echo up; read"
    for _ in range(5):
        nested = f"bash -c {shlex.quote(nested)}; :"
    root, _ = start(started, "bash", "-c", nested, TB_MARK=value)
    line = [root, *root.children(recursive=True)]
    assert len(line) == 6
    assert await find_processes(roots=[root]) == line
    assert await find_processes(marker=("TB_MARK", value)) == line


async def test_strangers_and_the_kept_are_spared(started: list[subprocess.Popen[str]]) -> None:
    value = new_ref()
    stranger, _ = start(started, "bash", "-c", "echo up; read", TB_MARK="another")
    kept, _ = start(started, "bash", "-c", "echo up; read", TB_MARK=value)
    ended, _ = start(started, "bash", "-c", "echo up; read", TB_MARK=value)
    report = await end_processes(marker=("TB_MARK", value), keep=[kept])
    assert report.killed == (ended.pid,)
    assert not gone(stranger.pid)
    assert not gone(kept.pid)


async def test_a_reused_pid_is_not_signalled(
    started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, _ = start(started, "bash", "-c", "echo up; read")
    remembered = psutil.Process(process.pid)
    # As if the remembered process had ended and another had been given its pid.
    remembered._create_time = 1.0  # type: ignore[attr-defined]
    remembered._ident = (remembered.pid, 1.0)  # type: ignore[attr-defined]
    assert await end_processes(roots=[remembered]) == NO_PROCESSES
    assert not gone(process.pid)


async def test_a_reused_pid_does_not_hide_a_process(started: list[subprocess.Popen[str]]) -> None:
    value = new_ref()
    process, _ = start(started, "bash", "-c", "echo up; read", TB_MARK=value)
    remembered = next(each for each in psutil.process_iter() if each.pid == process.pid)
    # As if psutil had looked last when another had this pid: it keeps what it has seen from one look to the next.
    remembered._ident = (process.pid, 1.0)  # type: ignore[attr-defined]
    assert (await end_processes(marker=("TB_MARK", value))).killed == (process.pid,)


async def test_reaping_by_a_predicate_over_the_value(started: list[subprocess.Popen[str]]) -> None:
    mine, other = new_ref(), new_ref()
    _, first = start(started, "bash", "-c", MOVED_AWAY, TB_MARK=f"{mine}:a")
    _, second = start(started, "bash", "-c", MOVED_AWAY, TB_MARK=f"{mine}:b")
    assert [process.wait() for process in started] == [0, 0]
    spared, _ = start(started, "bash", "-c", "echo up; read", TB_MARK=f"{other}:a")
    report = await reap("TB_MARK", lambda value: value.startswith(f"{mine}:"))
    assert report.killed == tuple(sorted((int(first), int(second))))
    assert not gone(spared.pid)


async def test_the_exit_code_of_a_child_is_left_to_asyncio() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "3600")
    found = identify(process.pid)
    assert found is not None
    await end_processes(roots=[found])
    assert await process.wait() == -15


async def test_what_cannot_be_ended_is_reported(
    started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, _ = start(started, "bash", "-c", "echo up; read")
    monkeypatch.setattr(_process, "KILL_WAIT_S", 0.01)

    def refuse(self: psutil.Process) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "terminate", refuse)
    monkeypatch.setattr(psutil.Process, "kill", refuse)
    report = await end_processes(roots=[process], term_wait_s=0.01)
    assert report.killed == ()
    assert f"pid {process.pid} (bash)" in report.unverified[0]


async def test_this_process_is_never_ended(tmp_path: Path) -> None:
    me = identify(os.getpid())
    assert me is not None
    assert me not in await find_processes(roots=[me])
    assert identify(2**22 + 1) is None
