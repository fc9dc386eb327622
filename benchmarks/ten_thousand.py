"""Ten thousand Echo sessions in one daemon: start them, prompt each, restart, find all of them.

    .venv-bench/bin/python -m benchmarks.ten_thousand [sessions]

A real daemon in a directory of its own, a real client over its socket. Prints the time of each step and the daemon's
memory after it, as Markdown; fails if anything is missing.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.peers.floor_durable import scratch
from tollboard.daemon.client import Client

SESSIONS = 10_000
AT_ONCE = 32
"""How many calls the client has under way."""
SIZE = 2**20


def memory_mb(pid: int) -> float:
    """Return the daemon's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024 / SIZE
    return 0.0


async def for_each(names: Sequence[str], act: Callable[[str], Awaitable[str]]) -> list[str]:
    """Do something with every name, `AT_ONCE` at a time; return the results in order."""
    waiting = iter(enumerate(names))
    results = [""] * len(names)

    async def work() -> None:
        for index, name in waiting:
            results[index] = await act(name)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return results


class Steps:
    """Times steps and prints them as they end."""

    def __init__(self, sessions: int) -> None:
        self.sessions = sessions
        self.began = time.perf_counter()
        print("| step | seconds | per session | daemon's memory |\n|---|---|---|---|", flush=True)

    def done(self, name: str, pid: int) -> None:
        took = time.perf_counter() - self.began
        each = took / self.sessions
        print(f"| {name} | {took:.2f} | {each * 1e3:.2f} ms | {memory_mb(pid):.0f} MB |", flush=True)
        self.began = time.perf_counter()


async def main(sessions: int) -> None:
    """Run all steps in a scratch directory."""
    home = scratch()
    work = home / "work"
    work.mkdir()
    names = [f"session-{i:05}" for i in range(sessions)]
    steps = Steps(sessions)
    try:
        async with Client.connect(home / "state") as board:
            pid = (await board.health()).pid
            steps.done("the daemon is up", pid)
            try:
                await fill(board, pid, names, work, steps)
            finally:
                steps.began = time.perf_counter()
                await board.shutdown()
        async with Client.connect(home / "state") as board:
            pid = (await board.health()).pid
            steps.done("shut down and up again", pid)
            try:
                await check(board, pid, names, steps)
            finally:
                await board.shutdown()
    finally:
        shutil.rmtree(home)


async def fill(board: Client, pid: int, names: Sequence[str], work: Path, steps: Steps) -> None:
    """Start every session and run one prompt in each."""

    async def start(name: str) -> str:
        return (await board.start_session(name, path=work, backend="echo")).name

    async def send(name: str) -> str:
        return await board.send(name, f"hello {name}")

    await for_each(names, start)
    steps.done(f"{len(names):,} sessions started", pid)
    refs = await for_each(names, send)
    steps.done("one prompt sent to each, accepted durably", pid)
    await board.wait(refs)
    steps.done("all answered", pid)


async def check(board: Client, pid: int, names: Sequence[str], steps: Steps) -> None:
    """Find every session, every answer, and a session that still works."""
    found = await board.list_sessions()
    assert {status.name for status in found} == set(names), "sessions are missing"
    assert all(status.turns == 1 for status in found), "turns are missing"
    steps.done("listed, each with its turn", pid)

    async def read(name: str) -> str:
        return (await board.transcript(name)).entries[0].text or ""

    texts = await for_each(names, read)
    assert texts == [f"echo: hello {name}" for name in names], "answers are missing"
    steps.done("every transcript read", pid)
    ref = await board.send(names[-1], "still there?")
    await board.wait([ref])
    steps.done("one more turn", pid)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else SESSIONS))
