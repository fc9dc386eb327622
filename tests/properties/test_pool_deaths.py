"""Workers killed at random moments, under every strategy: every task ends exactly once, and nothing runs unasked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.pool.fakes import GateBackend, RecordingJournal
from tollboard.errors import AgentNotFound, NotCancellable, PoolStopped, TollboardError
from tollboard.pool.pool import Pool
from tollboard.pool.records import Task, TaskStatus

STRATEGIES = st.sampled_from(["round_robin", "least_loaded", "shared_queue", "longest_first"])
ROLES = ("reader", "writer")

# What a test does next: the number picks among what there is to act on.
STEP = st.tuples(
    st.sampled_from(
        ["submit", "submit", "submit", "answer", "answer", "fail", "crash", "stop", "cut", "halt", "resume", "cancel",
         "pass", "pass", "scale"]
    ),
    st.integers(0, 30),
)  # fmt: skip


class Model:
    """Drives one pool step by step, and remembers what it asked for."""

    def __init__(self, pool: Pool, backend: GateBackend) -> None:
        self.pool = pool
        self.backend = backend
        self.submitted: list[tuple[str, str]] = []

    async def step(self, kind: str, number: int) -> None:
        match kind:
            case "submit":
                text = f"t{len(self.submitted)}"
                task = Task(text, role=ROLES[number % 2], hint_s=float(number))
                self.submitted.append((self.pool.submit_nowait(task).ref, text))
            case "answer" | "fail" | "crash":
                running = self.backend.running()
                if running:
                    self.backend.let(running[number % len(running)], kind)
            case "stop" | "cut" | "halt" | "resume":
                self._act_on_worker(kind, number)
            case "cancel":
                if self.submitted:
                    with suppress(NotCancellable):
                        self.pool.cancel(self.submitted[number % len(self.submitted)][0])
            case "scale":
                self._spawn(self.pool.scale(1 + number % 4, role=ROLES[number % 2]))
            case "pass":
                for _ in range(number % 7):
                    await asyncio.sleep(0)

    def _act_on_worker(self, kind: str, number: int) -> None:
        workers = self.pool.workers
        if not workers:
            return
        name = workers[number % len(workers)]
        runtime = self.pool.runtime
        machine = runtime.whereis(name)
        if machine is None or machine.phase.value not in ("idle", "processing"):
            return
        if kind == "stop":
            self._spawn(runtime.stop(name))
        elif kind == "cut" and machine.task is not None and machine.turn is not None:
            # From outside, in the middle of a turn: the crash that no callback sees.
            machine.task.cancel()
        elif kind == "halt":
            runtime.halt(name)
        elif kind == "resume":
            runtime.resume(name)

    def _spawn(self, work: Awaitable[object]) -> None:
        self.pool.runtime.spawn(_unless_ending(work))

    async def finish(self) -> None:
        """Let everything end: what is halted goes on, what runs is answered."""
        self.backend.open = True
        done = asyncio.ensure_future(self.pool.wait_for_all())
        for _ in range(2_000):
            for name in self.pool.workers:
                with suppress(AgentNotFound):  # it is ending
                    self.pool.runtime.resume(name)
            for text in self.backend.running():
                self.backend.let(text)
            await asyncio.sleep(0)
            if done.done():
                break
        await asyncio.wait_for(done, 1)


async def _unless_ending(work: Awaitable[object]) -> None:
    with suppress(TollboardError):
        await work


def check(model: Model, retries: int, journal: RecordingJournal | None) -> None:
    results = list(model.pool.results())
    assert [(r.ref, r.prompt) for r in results] == model.submitted  # each exactly once, in submission order
    runs = Counter(model.backend.prompts)
    for result in results:
        assert runs[result.prompt] <= 1 + retries
        assert runs[result.prompt] >= (result.status is TaskStatus.OK)
        assert result.attempt <= 1 + retries
        if result.status is TaskStatus.OK:
            assert result.text == f"re: {result.prompt}"
    status = model.pool.status()
    assert (status.queued, status.running, status.submitted) == (0, 0, len(results))
    assert status.ok + status.failed == len(results)
    assert model.pool._desk.admission.waiting_bytes == 0
    assert all(crew.waiting == 0 for crew in model.pool._desk.crews.values())
    if journal is not None:
        ends = Counter(entry[1] for entry in journal.entries if entry[0] == "finished")
        assert ends == Counter(text for _, text in model.submitted)
        starts = Counter(entry[1] for entry in journal.entries if entry[0] == "started")
        assert all(starts[text] >= runs[text] for text in runs)


@given(
    strategy=STRATEGIES,
    steps=st.lists(STEP, max_size=60),
    retries=st.integers(0, 2),
    with_journal=st.booleans(),
    max_restarts=st.sampled_from([0, 1, 50]),
)
def test_p12_every_task_ends_exactly_once(
    strategy: str, steps: list[tuple[str, int]], retries: int, with_journal: bool, max_restarts: int
) -> None:
    async def run() -> None:
        backend = GateBackend()
        journal = RecordingJournal() if with_journal else None
        given_journal = {} if journal is None else {"journal": journal}
        async with Pool.start(
            {"reader": 2, "writer": 2}, backend=backend, strategy=strategy, retries=retries,
            max_restarts=max_restarts, **given_journal,
        ) as pool:  # fmt: skip
            model = Model(pool, backend)
            for kind, number in steps:
                with suppress(PoolStopped):  # a role has lost its last worker
                    await model.step(kind, number)
            await model.finish()
            check(model, retries, journal)

    asyncio.run(run())


@given(strategy=STRATEGIES, count=st.integers(1, 40), kills=st.lists(st.integers(0, 40), max_size=8))
def test_p12_a_pool_that_is_stopped_in_the_middle_ends_every_task(
    strategy: str, count: int, kills: list[int]
) -> None:
    async def run() -> None:
        backend = GateBackend()
        pool = await Pool.start(3, backend=backend, strategy=strategy, retries=1)
        submitted = await pool.submit_many([f"t{n}" for n in range(count)])
        for kill in kills:
            running = backend.running()
            if running:
                backend.let(running[kill % len(running)], "crash" if kill % 2 else "answer")
            for _ in range(kill % 5):
                await asyncio.sleep(0)
        await pool.stop()
        assert [r.ref for r in pool.results()] == [s.ref for s in submitted]
        assert max(Counter(backend.prompts).values(), default=0) <= 2

    asyncio.run(run())


@given(workers=st.integers(1, 7), count=st.integers(0, 60), order=st.randoms(use_true_random=False))
def test_p04_round_robin_is_exact_in_whatever_order_turns_end(
    workers: int, count: int, order: Random
) -> None:
    async def run() -> None:
        backend = GateBackend()
        async with Pool.start(workers, backend=backend, name="p") as pool:
            submitted = await pool.submit_many([str(n) for n in range(count)])
            assert [s.worker for s in submitted] == [f"p-{n % workers}" for n in range(count)]
            done = asyncio.ensure_future(pool.wait_for_all())
            while not done.done():
                running = backend.running()
                if running:
                    backend.let(order.choice(running))
                await asyncio.sleep(0)
            for worker in range(workers):
                mine = [int(text) for text in backend.prompts if int(text) % workers == worker]
                assert mine == sorted(mine)

    asyncio.run(run())
