"""A process with a fleet is killed with SIGKILL in mid-work: what it promised is there, and nothing runs twice."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tollboard.backends as backends
from tollboard.fleet.records import RequestState
from tollboard.fleet.switchboard import Switchboard
from tollboard.store.store import Store

MANAGER = """
    import asyncio, os, sys
    from pathlib import Path
    import tollboard.backends as backends
    from tollboard.fleet.switchboard import Switchboard
    from tollboard.store.store import Store

    NAMES = ["a", "b", "c", "frozen"]

    async def client(board, name):
        n = 0
        while True:
            n += 1
            key = f"{os.getpid()}-{n}"
            ref = await board.send(name, f"{name} {key}", queue=True, key=key)
            print("ref", name, ref, flush=True)
            if n % 5 == 0 and name != "frozen":
                await board.wait([ref])

    async def main(path, work):
        board = await Switchboard.open(await Store.open(path), backends=backends)
        known = {s.name for s in await board.list_sessions()}
        for name in NAMES:
            if name not in known:
                await board.start_session(name, path=work, backend="echo", delay=0.001, max_queued=100_000)
        await board.halt("frozen")
        await asyncio.gather(*(client(board, name) for name in NAMES))

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_s12_every_ref_that_was_given_has_one_outcome_after_kill_9(home: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    path = home / "tollboard.db"
    given: dict[str, str] = {}
    for lines in (4, 60, 150):
        process = subprocess.Popen(  # noqa: ASYNC220 - there is nothing else to do meanwhile
            [sys.executable, "-c", textwrap.dedent(MANAGER), str(path), str(home)],
            stdout=subprocess.PIPE, text=True, env=environment, cwd=root,
        )  # fmt: skip
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.read().splitlines(keepends=True)
        process.stdout.close()
        process.wait()
        for line in told:
            if line.endswith("\n"):
                _, name, ref = line.split()
                given[ref] = name
    store = await Store.open(path)
    board = await Switchboard.open(store, backends=backends)
    assert (await board.status("frozen")).halted
    await board.resume("frozen")
    refs = list(given)
    assert len(refs) > 200
    report = await board.wait(refs, timeout=60)
    assert not report.pending
    for status in await board.list_sessions():
        history = await store.history(status.id, limit=100_000)
        assert [e.seq for e in history] == list(range(1, len(history) + 1))
        prompts = [e.prompt for e in history]
        assert len(prompts) == len(set(prompts))
        mine = [ref for ref, name in given.items() if name == status.name]
        assert [e.ref for e in history if e.ref in given] == mine, "first in, first out"
    for ref, name in given.items():
        poll = await board.poll(name, ref)
        assert poll.receipt.state is RequestState.ENDED
        assert poll.receipt.outcome in ("completed", "interrupted")
    await board.close()
    await store.close()
