"""The pool's verbs, line by line of PARITY part 3 (P01-P07, P09, P13)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.pool.fakes import GateBackend, settle
from tollboard import backends
from tollboard.backends.echo import EchoBackend
from tollboard.errors import (
    BackendError,
    InvalidName,
    InvalidOption,
    InvalidPrompt,
    NotCancellable,
    Overloaded,
    PoolStopped,
    RequestNotFound,
    TimedOut,
    UnknownBackend,
)
from tollboard.pool.pool import Pool
from tollboard.pool.records import Progress, Task, TaskStatus, WorkerState
from tollboard.runtime.results import Reason
from tollboard.runtime.runtime import Runtime
from tollboard.testing.clock import FakeClock

ALL = ("round_robin", "least_loaded", "shared_queue", "longest_first")


async def test_p01_all_workers_have_started_when_start_returns() -> None:
    backend = GateBackend()
    async with Pool.start(3, backend=backend, name="trivia") as pool:
        assert backend.starts == 3
        assert pool.workers == ("trivia-0", "trivia-1", "trivia-2")
        assert [w.state for w in pool.status().workers] == [WorkerState.IDLE] * 3
    assert sorted(backend.ended) == ["session-0", "session-1", "session-2"]


async def test_p01_start_can_be_awaited_and_stopped_by_hand() -> None:
    pool = await Pool.start(2, backend=EchoBackend())
    await pool.stop()
    assert pool.status().stopped


async def test_p01_one_that_cannot_start_stops_the_others_and_is_named() -> None:
    backend = GateBackend(fail_start=frozenset({1}))
    runtime = Runtime()
    with pytest.raises(BackendError, match=r"'p-1' could not be started, the others were stopped: OSError"):
        await Pool.start(3, backend=backend, name="p", runtime=runtime)
    assert sorted(backend.ended) == ["session-0", "session-2"]
    assert runtime.list() == []
    await runtime.close()


async def test_p01_a_bad_backend_option_keeps_its_type() -> None:
    with pytest.raises(InvalidOption, match=r"'p-0' could not be started.*'dealy'"):
        await Pool.start(2, backend=EchoBackend(), name="p", dealy=1)


async def test_p01_cancelling_the_start_leaves_nothing() -> None:
    backend = GateBackend()
    backend.hold_starts = asyncio.Event()
    runtime = Runtime()
    start = asyncio.ensure_future(asyncio.wait_for(Pool.start(2, backend=backend, runtime=runtime), 0.01))
    with pytest.raises(TimeoutError):
        await start
    assert runtime.list() == []
    await runtime.close()


async def test_p02_a_result_has_everything() -> None:
    backend, clock = GateBackend(), FakeClock()
    runtime = Runtime(clock=clock)
    async with Pool.start(1, backend=backend, name="p", role="expert", runtime=runtime) as pool:
        worker, ref = await pool.submit("why?")
        await backend.wait_begun(1)
        clock.advance(7)
        backend.let("why?")
        result = await pool.wait(ref)
        assert (result.worker, result.ref, result.prompt, result.role) == (worker, ref, "why?", "expert")
        assert result.text == "re: why?"
        assert result.status is TaskStatus.OK
        assert result.ok
        assert result.error is None
        assert result.usage is not None
        assert result.usage.output_tokens == 2
        assert result.attempt == 1
        assert result.index == 0
        assert result.started_at is not None
        assert result.submitted_at <= result.started_at
        assert result.completed_at - result.started_at == 7
        assert result.duration_s == 7
        assert "why" not in repr(result)


async def test_p03_submit_returns_worker_and_ref_at_once() -> None:
    backend = GateBackend()
    async with Pool.start(2, backend=backend, name="p") as pool:
        submissions = await pool.submit_many(["a", "b", "c"])
        assert [s.worker for s in submissions] == ["p-0", "p-1", "p-0"]
        assert len({s.ref for s in submissions}) == 3
        assert submissions[0] == (submissions[0].worker, submissions[0].ref)
        assert submissions[1:] == list(submissions)[1:]
        assert pool.status().running == 2
        assert pool.status().queued == 1


async def test_p03_under_shared_queue_the_worker_is_known_once_it_has_pulled() -> None:
    backend = GateBackend()
    async with Pool.start(1, backend=backend, name="p", strategy="shared_queue") as pool:
        assert (await pool.submit("a")).worker == "p-0"
        later = await pool.submit_many(["b"])
        assert later[0].worker is None
        await backend.wait_begun(1)
        backend.let("a")
        await backend.wait_begun(2)
        assert later[0].worker == "p-0"


async def test_p05_wait_for_all_returns_at_once_and_waits_for_what_comes_meanwhile() -> None:
    backend = GateBackend()
    async with Pool.start(2, backend=backend) as pool:
        await asyncio.wait_for(pool.wait_for_all(), 1)
        await pool.submit("a")
        waiting = asyncio.ensure_future(pool.wait_for_all())
        await backend.wait_begun(1)
        await pool.submit("b")
        backend.let("a")
        await backend.wait_begun(2)
        await settle()
        assert not waiting.done()
        backend.let("b")
        await asyncio.wait_for(waiting, 1)
        status = pool.status()
        assert (status.running, status.queued, status.ok) == (0, 0, 2)


async def test_p05_a_timeout_leaves_the_work_running() -> None:
    backend = GateBackend()
    async with Pool.start(1, backend=backend) as pool:
        await pool.submit_many(["a", "b"])
        with pytest.raises(TimedOut, match="2 tasks"):
            await pool.wait_for_all(timeout=0.001)
        await backend.wait_begun(1)
        backend.let("a")
        await backend.wait_begun(2)
        backend.let("b")
        await pool.wait_for_all()
        assert pool.results().ok == 2


async def test_e39_one_counter_is_never_fooled_by_work_that_moves() -> None:
    backend = GateBackend()
    async with Pool.start(2, backend=backend, retries=1) as pool:
        await pool.submit_many(["a", "b", "c"])
        waiting = asyncio.ensure_future(pool.wait_for_all())
        await backend.wait_begun(2)
        backend.let("a", "crash")
        backend.let("b")
        await backend.wait_begun(4)
        await settle()
        assert not waiting.done()
        backend.open = True
        for text in backend.running():
            backend.let(text)
        await asyncio.wait_for(waiting, 2)
        assert pool.results().ok == 3


async def test_p06_results_in_submission_order_by_worker_and_with_counts() -> None:
    async with Pool.start(3, backend=EchoBackend(), name="p", fail_on="bad") as pool:
        await pool.submit_many(["a", "bad", "c", "d"])
        await pool.wait_for_all()
        results = pool.results()
        assert [r.prompt for r in results] == ["a", "bad", "c", "d"]
        assert (len(results), results.ok, results.failed) == (4, 3, 1)
        mine = results.by_worker["p-0"]
        assert ([r.prompt for r in mine.results], mine.ok, mine.failed) == (["a", "d"], 2, 0)
        assert results.by_worker["p-1"].failed == 1


async def test_p06_e38_failed_tasks_are_results() -> None:
    async with Pool.start(1, backend=EchoBackend(), fail="no luck") as pool:
        _, ref = await pool.submit("a")
        result = await pool.wait(ref)
        assert (result.status, result.reason) == (TaskStatus.FAILED, Reason.BACKEND_ERROR)
        assert result.error == "backend_error: no luck"
        assert pool.results()[0] == result
        assert pool.status().failed == 1


async def test_p06_as_completed_streams_what_was_and_what_comes() -> None:
    backend = GateBackend()
    async with Pool.start(2, backend=backend) as pool:
        await pool.submit_many(["a", "b", "c"])
        await backend.wait_begun(2)
        backend.let("b")
        await backend.wait_begun(2)
        stream = pool.as_completed()
        assert (await anext(stream)).prompt == "b"
        backend.let("a")
        assert (await anext(stream)).prompt == "a"
        await backend.wait_begun(3)
        backend.let("c")
        assert [r.prompt async for r in stream] == ["c"]
        assert [r.prompt async for r in pool.as_completed()] == ["b", "a", "c"]


async def test_p06_a_reader_that_is_too_slow_is_told() -> None:
    async with Pool.start(1, backend=EchoBackend(), max_results=2) as pool:
        await pool.submit("a")
        stream = pool.as_completed()
        assert (await anext(stream)).prompt == "a"
        await pool.submit_many(["b", "c", "d"])
        await pool.wait_for_all()
        assert [(await anext(stream)).prompt, (await anext(stream)).prompt] == ["b", "c"]
        with pytest.raises(Overloaded, match="stream of results"):
            await anext(stream)


async def test_p07_stop_is_idempotent_and_queued_tasks_get_stopped() -> None:
    backend = GateBackend()
    pool = await Pool.start(1, backend=backend)
    await pool.submit_many(["a", "b", "c"])
    await backend.wait_begun(1)
    waiting = asyncio.ensure_future(pool.wait_for_all())
    await asyncio.gather(pool.stop(), pool.stop())
    await pool.stop()
    await asyncio.wait_for(waiting, 1)
    assert [r.status for r in pool.results()] == [TaskStatus.STOPPED] * 3
    assert [r.worker is None for r in pool.results()] == [False, True, True]
    assert backend.prompts == ["a"]
    assert backend.ended == ["session-0"]
    assert pool.workers == ()


@pytest.mark.parametrize("strategy", ALL)
async def test_p07_submit_to_a_stopped_pool(strategy: str) -> None:
    pool = await Pool.start(1, backend=EchoBackend(), strategy=strategy)
    await pool.stop()
    with pytest.raises(PoolStopped, match="was stopped"):
        await pool.submit("a")
    with pytest.raises(PoolStopped):
        await pool.submit_many(["a"])
    with pytest.raises(PoolStopped):
        await pool.scale(2)


async def test_p07_those_who_wait_to_submit_are_turned_away() -> None:
    backend = GateBackend()
    pool = await Pool.start(1, backend=backend, max_queued=1)
    await pool.submit_many(["a", "b"])
    waiting = asyncio.ensure_future(pool.submit("c"))
    await settle()
    await pool.stop()
    with pytest.raises(PoolStopped, match="before this task was accepted"):
        await waiting


@pytest.mark.parametrize("strategy", ALL)
async def test_p09_typed_workers_run_their_own_tasks(strategy: str) -> None:
    sizes = {"reader": 1, "writer": 2}
    async with Pool.start(sizes, backend=EchoBackend(), name="p", strategy=strategy) as pool:
        await pool.submit_many([Task("r1", role="reader"), Task("w1", role="writer"), Task("w2", "writer")])
        await pool.submit("r2", role="reader")
        await pool.wait_for_all()
        roles = {w.name: w.role for w in pool.status().workers}
        assert sorted(roles.values()) == ["reader", "writer", "writer"]
        for result in pool.results():
            assert result.worker is not None
            assert roles[result.worker] == result.role == {"r": "reader", "w": "writer"}[result.prompt[0]]


async def test_p09_an_unknown_or_missing_role_lists_the_roles() -> None:
    async with Pool.start({"reader": 1, "writer": 1}, backend=EchoBackend()) as pool:
        with pytest.raises(InvalidOption, match="no role 'cook'; its roles are 'reader', 'writer'"):
            await pool.submit("a", role="cook")
        with pytest.raises(InvalidOption, match="several roles: name one of 'reader', 'writer'"):
            await pool.submit("a")
        assert pool.status().submitted == 0


async def test_p09_the_role_can_be_part_of_the_backend_options() -> None:
    backend = GateBackend()
    options = {"system_prompt": "You are a {role}, {worker}.", "depth": 3}
    async with Pool.start({"cook": 1, "waiter": 1}, backend=backend, name="p", **options):
        prompts = {str(o["system_prompt"]) for o in backend.options}
        assert prompts == {"You are a cook, p-0.", "You are a waiter, p-1."}
        assert backend.options[0]["depth"] == 3


async def test_p13_a_full_pool_refuses_or_waits() -> None:
    backend = GateBackend()
    async with Pool.start(1, backend=backend, max_queued=1) as pool:
        await pool.submit_many(["a", "b"])
        with pytest.raises(Overloaded, match="pool is full: 2 of 1 tasks"):
            await pool.submit("c", wait=False)
        with pytest.raises(Overloaded):
            pool.submit_nowait("c")
        waiting = [asyncio.ensure_future(pool.submit(text)) for text in ("c", "d")]
        await settle()
        assert not any(task.done() for task in waiting)
        assert pool.status().waiting_submitters == 2
        for text in ("a", "b", "c", "d"):
            await backend.wait_begun(len(backend.prompts) or 1)
            await settle()
            backend.let(text)
            await settle()
        await asyncio.gather(*waiting)
        await pool.wait_for_all()
        assert backend.prompts == ["a", "b", "c", "d"]


@pytest.mark.parametrize("strategy", ALL)
async def test_p13_what_idle_workers_take_needs_no_room(strategy: str) -> None:
    backend = GateBackend(open=True)
    async with Pool.start(3, backend=backend, max_queued=1, strategy=strategy) as pool:
        for n in range(4):
            pool.submit_nowait(str(n))
        with pytest.raises(Overloaded, match="pool is full: 2 of 1 tasks"):
            pool.submit_nowait("no")
        await pool.wait_for_all()
        assert len(await pool.submit_some([str(n) for n in range(9)])) == 4
        await pool.submit_many([str(n) for n in range(9)])
        await pool.wait_for_all()
        assert (pool.status().ok, pool.status().failed) == (17, 0)


async def test_p13_bytes_are_bounded_too() -> None:
    backend = GateBackend()
    async with Pool.start(1, backend=backend, max_queued_bytes=10) as pool:
        await pool.submit_many(["a", "12345678"])
        with pytest.raises(Overloaded, match="bytes"):
            await pool.submit("123", wait=False)
        with pytest.raises(Overloaded, match="bytes"):
            await pool.submit("é" * 6)
        assert pool.status().submitted == 2


async def test_p13_a_submitter_that_gives_up_leaves_the_line() -> None:
    backend = GateBackend()
    async with Pool.start(1, backend=backend, max_queued=1) as pool:
        await pool.submit_many(["a", "b"])
        first, second = (asyncio.ensure_future(pool.submit(text)) for text in ("c", "d"))
        waiting = asyncio.ensure_future(pool.wait_for_all())
        await settle()
        first.cancel()
        await settle()
        await backend.wait_begun(1)
        backend.let("a")
        await settle()
        second.cancel()  # it was let in or not: either way nothing is left behind
        await settle()
        backend.open = True
        for text in backend.running():
            backend.let(text)
        await asyncio.wait_for(waiting, 1)
        assert "c" not in backend.prompts
        assert pool.status().waiting_submitters == 0


async def test_p13_map_keeps_order_bounds_and_reports() -> None:
    seen: list[Progress] = []
    async with Pool.start(3, backend=EchoBackend(), fail_on="7", strategy="shared_queue") as pool:
        results = await pool.map([str(n) for n in range(20)], concurrency=4, progress=seen.append)
        assert [r.prompt for r in results] == [str(n) for n in range(20)]
        assert [r.ok for r in results].count(False) == 2
        assert [p.done for p in seen] == list(range(1, 21))
        assert seen[-1] == Progress(20, 20, 2, 0, 0)
        assert all(p.queued + p.running <= 4 for p in seen)


async def test_p13_map_reads_its_tasks_as_it_goes() -> None:
    backend = GateBackend()
    read: list[str] = []

    def endless() -> Iterator[str]:
        n = 0
        while True:
            read.append(f"t{n}")
            yield f"t{n}"
            n += 1

    async with Pool.start(2, backend=backend) as pool:
        stream = pool.as_completed(endless(), concurrency=3)
        first = asyncio.ensure_future(anext(stream))
        await backend.wait_begun(2)
        await settle()
        assert len(read) == 4  # three in the pool, one in hand
        backend.let("t0")
        assert (await first).prompt == "t0"
        await stream.aclose()
        await settle()
        # What waited was withdrawn, what runs goes on.
        assert {r.prompt: r.status for r in pool.results()} == {
            "t0": TaskStatus.OK,
            "t3": TaskStatus.CANCELLED,
        }
        assert sorted(backend.running()) == ["t1", "t2"]


async def test_p13_a_bad_task_ends_map_with_its_error() -> None:
    async with Pool.start(1, backend=EchoBackend()) as pool:
        with pytest.raises(InvalidPrompt):
            await pool.map(["a", "", "b"])
        assert await pool.map([]) == []
        with pytest.raises(InvalidOption, match="concurrency"):
            await pool.map(["a"], concurrency=0)


async def test_p13_a_progress_callback_that_raises_reaches_the_caller() -> None:
    def angry(progress: Progress) -> None:
        raise ValueError("angry")

    async with Pool.start(1, backend=EchoBackend()) as pool:
        with pytest.raises(ValueError, match="angry"):
            await pool.map(["a", "b", "c"], progress=angry)
        await pool.wait_for_all()


async def test_a_long_iterable_needs_bounded_memory() -> None:
    async with Pool.start(4, backend=GateBackend(open=True), max_queued=50, max_results=10) as pool:
        deepest = 0

        def lines() -> Iterator[str]:
            nonlocal deepest
            for n in range(2_000):
                deepest = max(deepest, len(pool._desk.keeper.tasks))
                yield f"line {n}"

        assert len(await pool.submit_many(lines())) == 2_000
        await pool.wait_for_all()
        assert deepest <= 50 + 4 + 10 + 1
        assert len(pool.results()) == 10
        assert pool.results().evicted == 1_990
        assert pool.status().ok == 2_000


async def test_cancel_withdraws_what_waits_and_nothing_else() -> None:
    backend = GateBackend()
    async with Pool.start(1, backend=backend) as pool:
        refs = [s.ref for s in await pool.submit_many(["a", "b", "c"])]
        await backend.wait_begun(1)
        pool.cancel(refs[1])
        assert (await pool.wait(refs[1])).status is TaskStatus.CANCELLED
        with pytest.raises(NotCancellable, match="running"):
            pool.cancel(refs[0])
        with pytest.raises(NotCancellable, match="done"):
            pool.cancel(refs[1])
        with pytest.raises(RequestNotFound):
            pool.cancel("no-such-ref")
        backend.let("a")
        await backend.wait_begun(2)
        backend.let("c")
        await pool.wait_for_all()
        assert backend.prompts == ["a", "c"]


async def test_poll_and_wait_by_ref() -> None:
    backend = GateBackend()
    async with Pool.start(1, backend=backend, max_results=1) as pool:
        _, first = await pool.submit("a")
        _, second = await pool.submit("b")
        assert pool.poll(first) is None
        with pytest.raises(TimedOut):
            await pool.wait(first, timeout=0.001)
        both = asyncio.gather(pool.wait(first), pool.wait(first), pool.wait(second))
        await backend.wait_begun(1)
        backend.let("a")
        await backend.wait_begun(2)
        backend.let("b")
        # E48: the first one's result is evicted by the second's, and whoever waited has it all the same.
        assert [r.prompt for r in await both] == ["a", "a", "b"]
        with pytest.raises(RequestNotFound):
            pool.poll(first)
        assert (await pool.wait(second)).prompt == "b"


async def test_e46_two_pools_on_one_runtime_do_not_meet() -> None:
    async with Runtime() as runtime:
        async with Pool.start(2, backend=EchoBackend(), runtime=runtime) as one:
            async with Pool.start(2, backend=EchoBackend(), runtime=runtime) as other:
                assert not set(one.workers) & set(other.workers)
                await asyncio.gather(one.map(["a"]), other.map(["b"]))
            assert [r.text for r in await one.map(["c"])] == ["echo: c"]
        assert runtime.list() == []


async def test_p08_scale_by_hand() -> None:
    backend = GateBackend()
    async with Pool.start(2, backend=backend, name="p") as pool:
        await pool.scale(3)
        assert pool.workers == ("p-0", "p-1", "p-2")
        await pool.submit_many(["a", "b", "c", "d"])
        await backend.wait_begun(3)
        await pool.scale(1)
        assert [w.state for w in pool.status().workers].count(WorkerState.RETIRING) == 2
        for text in ("a", "b", "c"):
            backend.let(text)
        await backend.wait_begun(4)
        backend.let("d")
        await pool.wait_for_all()
        await settle()
        assert pool.workers == ("p-0",)
        assert pool.results().ok == 4


BAD_STARTS = [
    ({"size": 0}, "size is 0"),
    ({"size": -1}, "size is -1"),
    ({"size": True}, "size is True"),
    ({"size": 2.0}, "size is 2.0"),
    ({"size": 10**9}, "size is 1000000000"),
    ({"size": {}}, "names no role"),
    ({"size": {"a": 0}}, "the size of role 'a' is 0"),
    ({"size": {"": 1}}, "role is ''"),
    ({"size": {"a": 1}, "role": "b"}, "size names roles too"),
    ({"strategy": "fastest"}, "use one of round_robin, least_loaded, shared_queue, longest_first"),
    ({"strategy": 3}, "no strategy 3"),
    ({"rate": 0}, "rate is 0"),
    ({"rate": -1}, "rate is -1"),
    ({"rate": True}, "rate is True"),
    ({"rate": float("nan")}, "rate is nan"),
    ({"rate": "fast"}, "rate is 'fast'"),
    ({"rate": "5/fortnight"}, "rate is '5/fortnight'"),
    ({"burst": 3}, "burst is 3 without a rate"),
    ({"rate": 1, "burst": 0}, "burst is 0"),
    ({"min": 3, "max": 2}, "min is 3 and max is 2"),
    ({"min": 3}, "min is 3 and max is 2"),
    ({"max": 1}, "min is 2 and max is 1"),
    ({"min": 3, "max": 4}, "size is 2: it must lie between min"),
    ({"min": 0}, "min is 0"),
    ({"max": {"cook": 2}}, "max names role 'cook'; the roles are 'worker'"),
    ({"retries": -1}, "retries is -1"),
    ({"retries": True}, "retries is True"),
    ({"max_queued": 0}, "max_queued is 0"),
    ({"cooldown_s": -1}, "cooldown_s is -1"),
    ({"worker": object}, "subclass of PoolWorker"),
]


@pytest.mark.parametrize(("given", "said"), BAD_STARTS)
def test_bad_settings_are_typed_errors_before_anything_exists(given: dict[str, object], said: str) -> None:
    settings: dict[str, object] = {"size": 2, "backend": EchoBackend(), **given}
    with pytest.raises(InvalidOption) as caught:
        Pool.start(**settings)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_names_and_backends_are_checked_first() -> None:
    with pytest.raises(InvalidName):
        Pool.start(1, backend=EchoBackend(), name="no spaces")
    with pytest.raises(InvalidOption, match="too long"):
        Pool.start(1, backend=EchoBackend(), name="n" * 60)
    with pytest.raises(UnknownBackend, match=r"known are: .*echo"):
        Pool.start(1, backend="eco", backends=backends)
    with pytest.raises(UnknownBackend, match=r"known are: .*echo"):
        Pool.start(1, backend="eco")


async def test_a_backend_by_name() -> None:
    async with Pool.start(1, backend="echo", backends=backends) as pool:
        assert (await pool.map(["a"]))[0].text == "echo: a"
    async with Pool.start(1, backend="echo") as pool:
        assert (await pool.map(["a"]))[0].text == "echo: a"


@pytest.mark.parametrize("task", ["", "  \n", 3, None, b"a", Task("")])
async def test_bad_prompts(task: object) -> None:
    async with Pool.start(1, backend=EchoBackend()) as pool:
        with pytest.raises(InvalidPrompt):
            await pool.submit(task)  # type: ignore[arg-type]
        with pytest.raises(InvalidOption, match="hint_s"):
            await pool.submit("a", hint_s=-1)
        assert pool.status().submitted == 0
