"""The strategies (P04, P08), with real pools whose turns the test opens."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pool.fakes import GateBackend, RecordingJournal, settle
from tollboard.backends.echo import EchoBackend
from tollboard.errors import InvalidOption
from tollboard.ids import new_ref
from tollboard.pool.dispatch import STRATEGIES, Assigned, Strategy
from tollboard.pool.pool import Pool
from tollboard.pool.records import Backlog, Task, TaskStatus, WorkerState
from tollboard.pool.task import PoolTask
from tollboard.pool.worker import Worker


async def test_p04_round_robin_is_exact_whatever_the_workers_do() -> None:
    backend = GateBackend()
    async with Pool.start(3, backend=backend, name="p") as pool:
        await pool.submit_many([str(n) for n in range(4)])
        await backend.wait_begun(3)
        backend.let("1")  # a worker that is free is not preferred
        await settle()
        more = await pool.submit_many([str(n) for n in range(4, 9)])
        assert [s.worker for s in more] == [f"p-{n % 3}" for n in range(4, 9)]
        assert [w.queued for w in pool.status().workers] == [2, 1, 2]
        backend.open = True
        for text in backend.running():
            backend.let(text)
        await pool.wait_for_all()
        for result in pool.results():
            assert result.worker == f"p-{int(result.prompt) % 3}"
        for worker in pool.results().by_worker.values():
            started = [r.started_at for r in worker.results]
            assert started == sorted(started)


async def test_e37_concurrent_submitters_never_get_the_same_turn() -> None:
    async with Pool.start(4, backend=EchoBackend(), name="p") as pool:
        submissions = await asyncio.gather(*(pool.submit(str(n)) for n in range(40)))
        workers = [s.worker for s in submissions]
        assert all(workers.count(name) == 10 for name in pool.workers)


async def test_p08_least_loaded_goes_where_least_waits() -> None:
    backend = GateBackend()
    async with Pool.start(3, backend=backend, name="p", strategy="least_loaded") as pool:
        first = await pool.submit_many(["a", "b", "c", "d"])
        assert [s.worker for s in first] == ["p-0", "p-1", "p-2", "p-0"]
        await backend.wait_begun(3)
        backend.let("b")
        await settle()
        assert (await pool.submit("e")).worker == "p-1"
        assert (await pool.submit("f")).worker == "p-2"


@pytest.mark.parametrize("strategy", ["least_loaded", "shared_queue", "longest_first"])
async def test_e40_sequential_tasks_go_round(strategy: str) -> None:
    async with Pool.start(3, backend=EchoBackend(), name="p", strategy=strategy) as pool:
        used = []
        for n in range(6):
            _, ref = await pool.submit(str(n))
            used.append((await pool.wait(ref)).worker)
        assert sorted(used[:3]) == sorted(used[3:]) == ["p-0", "p-1", "p-2"]


async def test_p08_shared_queue_gives_the_next_to_whoever_is_free() -> None:
    backend = GateBackend()
    async with Pool.start(2, backend=backend, name="p", strategy="shared_queue") as pool:
        await pool.submit_many(["long", "b", "c", "d"])
        for n, text in enumerate(["b", "c", "d"]):
            await backend.wait_begun(2 + n)
            backend.let(text)
            await settle()
        assert backend.prompts == ["long", "b", "c", "d"]
        assert [r.worker for r in pool.results()] == ["p-1", "p-1", "p-1"]


async def test_p08_longest_first_by_hint_then_in_order_without_hint_last() -> None:
    backend = GateBackend()
    async with Pool.start(1, backend=backend, strategy="longest_first") as pool:
        tasks = [Task("none"), Task("3", hint_s=3), Task("5", hint_s=5), Task("3b", hint_s=3)]
        await pool.submit_many([*tasks, Task("0", hint_s=0)])
        await backend.wait_begun(1)
        await pool.submit("4", hint_s=4)
        for n in range(6):
            await backend.wait_begun(n + 1)
            backend.let(backend.prompts[-1])
        await pool.wait_for_all()
        assert backend.prompts == ["5", "4", "3", "3b", "0", "none"]


async def accept_by_submit(pool: Pool, tasks: list[Task]) -> None:
    for task in tasks:
        await pool.submit(task)


async def accept_by_submit_some(pool: Pool, tasks: list[Task]) -> None:
    assert len(await pool.submit_some(tasks)) == len(tasks)


async def accept_by_submit_many(pool: Pool, tasks: list[Task]) -> None:
    await pool.submit_many(iter(tasks))


async def accept_by_map(pool: Pool, tasks: list[Task]) -> None:
    await pool.map(tasks)


@pytest.mark.parametrize(
    "accept", [accept_by_submit, accept_by_submit_some, accept_by_submit_many, accept_by_map]
)
async def test_p08_longest_first_sees_a_batch_before_it_begins(
    accept: Callable[[Pool, list[Task]], Awaitable[None]],
) -> None:
    backend = GateBackend(open=True)
    async with Pool.start(2, backend=backend, strategy="longest_first") as pool:
        await accept(pool, [Task(str(n), hint_s=n) for n in range(6)])
        await pool.wait_for_all()
        assert backend.prompts == ["5", "4", "3", "2", "1", "0"]


async def test_p08_longest_first_sees_a_backlog_before_it_begins() -> None:
    backend = GateBackend(open=True)
    old = [
        Backlog(ref=new_ref(), prompt=str(n), role="worker", index=n, submitted_at=0.0, hint_s=n)
        for n in range(5)
    ]
    async with Pool.start(2, backend=backend, strategy="longest_first", backlog=old) as pool:
        await pool.wait_for_all()
        assert backend.prompts == ["4", "3", "2", "1", "0"]


async def test_p08_what_is_gathered_can_be_withdrawn_stopped_or_left() -> None:
    backend = GateBackend(open=True)
    journal = RecordingJournal()
    pool = await Pool.start(2, backend=backend, strategy="longest_first", journal=journal)
    refs = [pool.submit_nowait(str(n), hint_s=n).ref for n in range(3)]
    pool.cancel(refs[2])
    await pool.wait_for_all()
    assert (backend.prompts, pool.results()[2].status) == (["1", "0"], TaskStatus.CANCELLED)
    last = pool.submit_nowait("last").ref
    await pool.stop()
    assert (await pool.wait(last)).status is TaskStatus.STOPPED
    assert [entry for entry in journal.entries if entry[1] == "last"] == [
        ("accepted", "last"), ("finished", "last", "stopped"),
    ]  # fmt: skip
    pool = await Pool.start(2, backend=backend, strategy="longest_first", journal=journal)
    pool.submit_nowait("later")
    await pool.suspend()
    assert [entry for entry in journal.entries if entry[1] == "later"] == [("accepted", "later")]


async def test_e40_longest_first_goes_round_while_workers_are_idle() -> None:
    backend = GateBackend()
    async with Pool.start(3, backend=backend, name="p", strategy="longest_first") as pool:
        await pool.submit_many(["a", "b"])
        await backend.wait_begun(2)
        await pool.submit("c")
        await backend.wait_begun(3)
        assert sorted(w.state for w in pool.status().workers) == [WorkerState.PROCESSING] * 3


class ByLength(Assigned):
    name = "by_length"

    def choose(self, task: PoolTask, workers: Sequence[Worker]) -> Worker:
        if task.prompt == "nobody":
            return None  # type: ignore[return-value]
        return workers[len(task.prompt) % len(workers)]


async def test_p08_a_strategy_of_your_own() -> None:
    async with Pool.start(2, backend=EchoBackend(), name="p", strategy=ByLength) as pool:
        workers = [s.worker for s in await pool.submit_many(["a", "bb", "ccc", "dddd"])]
        assert workers == ["p-1", "p-0", "p-1", "p-0"]
        assert pool.status().strategy == "by_length"
        with pytest.raises(InvalidOption, match="chose None, which is not one of the workers"):
            await pool.submit("nobody")
        await pool.wait_for_all()
        assert pool.status().submitted == 4


async def test_p08_a_factory_makes_one_strategy_for_each_role() -> None:
    made: list[Strategy] = []

    def factory() -> Strategy:
        made.append(STRATEGIES["shared_queue"]())
        return made[-1]

    async with Pool.start({"a": 1, "b": 1}, backend=EchoBackend(), strategy=factory) as pool:
        await pool.submit("x", role="a")
        await pool.wait_for_all()
    assert len(made) == 2


# -- W5 in simulated time: a pool on a backend whose turns end in the order of a simulated clock ----------------------


async def makespan(strategy: str, durations: Sequence[float], workers: int) -> float:
    """Run tasks of these durations in simulated time and return when the last one ends."""
    backend = GateBackend()
    async with Pool.start(workers, backend=backend, strategy=strategy) as pool:
        await pool.submit_many(
            [Task(str(n), hint_s=duration) for n, duration in enumerate(durations)],
        )
        now, seen, ends = 0.0, 0, list[tuple[float, str]]()
        while True:
            await settle(6)
            for text in backend.prompts[seen:]:
                heapq.heappush(ends, (now + durations[int(text)], text))
            seen = len(backend.prompts)
            if not ends:
                break
            now, text = heapq.heappop(ends)
            backend.let(text)
        assert pool.results().ok == len(durations)
        return now


def list_scheduling(durations: Sequence[float], workers: int) -> float:
    free = [0.0] * workers
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


async def test_p08_shared_queue_is_list_scheduling_and_longest_first_meets_the_bound() -> None:
    random_ = random.Random(7)
    durations = [random_.lognormvariate(0, 1) for _ in range(120)]
    bound = max(*durations, sum(durations) / 8)
    shared = await makespan("shared_queue", durations, 8)
    round_robin = await makespan("round_robin", durations, 8)
    assert shared == pytest.approx(list_scheduling(durations, 8))
    assert shared < round_robin
    # For a batch, least loaded is round robin: all queues tie when the tasks are submitted.
    assert await makespan("least_loaded", durations, 8) == pytest.approx(round_robin)
    longest_first = await makespan("longest_first", durations, 8)
    assert longest_first == pytest.approx(list_scheduling(sorted(durations, reverse=True), 8))
    assert longest_first <= 1.02 * bound


@given(st.lists(st.floats(0.001, 1_000), min_size=1, max_size=40), st.integers(1, 6))
def test_p08_longest_first_is_list_scheduling_of_the_sorted_batch(
    durations: list[float], workers: int
) -> None:
    longest_first = asyncio.run(makespan("longest_first", durations, workers))
    assert longest_first == pytest.approx(list_scheduling(sorted(durations, reverse=True), workers))
