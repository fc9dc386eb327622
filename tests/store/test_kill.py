"""A writing process is killed with SIGKILL: every ref it had acknowledged is there, and the file is sound."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.store.samples import value
from tollboard.fleet.records import RequestState
from tollboard.store.store import Store

WRITER = """
    import asyncio, os, sys
    from tests.store.samples import begin, completed, item, request, started_session
    from tollboard.store.store import Store

    async def client(store, record, journal):
        while True:
            made = request("p" * 500)
            begin(journal, made)
            await made.commit
            print("accepted", made.ref, flush=True)
            store.feed(item(record, ref=made.ref))
            commit = journal.finished(made, completed("t" * 500), 1.0)
            await commit
            print("finished", made.ref, flush=True)

    async def main():
        store = await Store.open(sys.argv[1])
        sessions = [await started_session(store, f"s-{os.getpid()}-{n}") for n in range(5)]
        await asyncio.gather(*(client(store, *session) for session in sessions))

    asyncio.run(main())
"""


@pytest.mark.slow
async def test_s11_what_was_acknowledged_survives_sigkill(path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    accepted: set[str] = set()
    finished: set[str] = set()
    for lines in (3, 60, 400):
        process = subprocess.Popen(  # noqa: ASYNC220 - there is nothing else to do meanwhile
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path)],
            stdout=subprocess.PIPE, text=True, env=environment, cwd=root,
        )  # fmt: skip
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.read().splitlines(keepends=True)
        process.stdout.close()
        process.wait()
        for word, ref in (line.split() for line in told if line.endswith("\n")):
            (accepted if word == "accepted" else finished).add(ref)

        store = await Store.open(path)
        found = {r.ref: r for r in await store.requests(sorted(accepted))}
        assert found.keys() == accepted
        assert all(found[ref].receipt.state is RequestState.ENDED for ref in finished)
        for made in await store.sessions():
            history = await store.history(made.id, limit=100_000)
            assert [e.seq for e in history] == list(range(1, made.turns + 1))
        for left in await store.unfinished():
            assert left.receipt.state is RequestState.STARTED
            turns = await store.history_size(left.session_id)
            await store.mark_interrupted(left, seq=turns + 1, at=1.0, detail="killed")
        assert await store.unfinished() == []
        await store.close()
        assert value(path, "PRAGMA integrity_check") == "ok"
    assert len(finished) > 100
