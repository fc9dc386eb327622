"""The rate limit (P10) and the autoscaler (P11), on a clock that only the test moves."""

from __future__ import annotations

import asyncio

import pytest

from tests.pool.fakes import GateBackend, settle
from tollboard.backends.echo import EchoBackend
from tollboard.errors import InvalidOption, RateLimited
from tollboard.pool.pool import Pool
from tollboard.pool.rate import TokenBucket, parse_rate
from tollboard.pool.records import Task
from tollboard.runtime.runtime import Runtime
from tollboard.testing.clock import FakeClock

ALL = ("round_robin", "least_loaded", "shared_queue", "longest_first")


async def pass_time(clock: FakeClock, seconds: float) -> None:
    clock.advance(seconds)
    await settle()


def test_p10_the_bucket() -> None:
    clock = FakeClock()
    bucket = TokenBucket(rate=2, burst=3, clock=clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    assert bucket.delay_s() == pytest.approx(0.5)
    clock.advance(0.5)
    assert bucket.take()
    assert not bucket.take()
    clock.advance(1000)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "rate"), [("5/s", 5), ("300/min", 5), (" 1.5 / s", 1.5), ("36/h", 0.01), (7, 7)]
)
def test_p10_rates_can_be_written(text: object, rate: float) -> None:
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("strategy", ALL)
async def test_p10_submit_waits_for_a_token_in_order(strategy: str) -> None:
    clock = FakeClock()
    async with (
        Runtime(clock=clock) as runtime,
        Pool.start(2, backend=EchoBackend(), rate=2, burst=2, runtime=runtime, strategy=strategy) as pool,
    ):
        waiting = [asyncio.ensure_future(pool.submit(str(n))) for n in range(6)]
        await settle()
        assert [task.done() for task in waiting] == [True, True, False, False, False, False]
        await pass_time(clock, 0.5)
        assert [task.done() for task in waiting] == [True, True, True, False, False, False]
        await pass_time(clock, 0.49)
        assert pool.status().submitted == 3
        await pass_time(clock, 1.01)
        assert pool.status().submitted == 6
        await asyncio.gather(*waiting)
        await pool.wait_for_all()
        assert [r.prompt for r in pool.results()] == [str(n) for n in range(6)]


async def test_p10_without_waiting_it_says_when_to_come_again() -> None:
    clock = FakeClock()
    async with (
        Runtime(clock=clock) as runtime,
        Pool.start(1, backend=EchoBackend(), rate="30/min", burst=1, runtime=runtime) as pool,
    ):
        await pool.submit("a", wait=False)
        with pytest.raises(RateLimited) as caught:
            await pool.submit("b", wait=False)
        assert caught.value.retry_after == pytest.approx(2.0)
        waiting = asyncio.ensure_future(pool.submit("c"))
        await settle()
        with pytest.raises(RateLimited) as caught:
            pool.submit_nowait("d")
        assert caught.value.retry_after == pytest.approx(4.0)
        await pass_time(clock, 2)
        await waiting
        await pass_time(clock, 2)
        pool.submit_nowait("d")
        assert pool.status().submitted == 3


async def test_p10_wait_for_all_waits_for_those_in_line() -> None:
    clock = FakeClock()
    async with (
        Runtime(clock=clock) as runtime,
        Pool.start(1, backend=EchoBackend(), rate=1, burst=1, runtime=runtime) as pool,
    ):
        many = asyncio.ensure_future(pool.submit_many(["a", "b"]))
        await settle()
        waiting = asyncio.ensure_future(pool.wait_for_all())
        await settle()
        assert (pool.status().ok, waiting.done()) == (1, False)
        await pass_time(clock, 1)
        await many
        await waiting
        other = asyncio.ensure_future(pool.submit("c"))
        waiting = asyncio.ensure_future(pool.wait_for_all())
        await settle()
        assert not waiting.done()
        other.cancel()
        await asyncio.wait_for(waiting, 1)


async def test_p10_nothing_rings_when_nobody_waits() -> None:
    clock = FakeClock()
    async with (
        Runtime(clock=clock) as runtime,
        Pool.start(1, backend=EchoBackend(), rate=1, runtime=runtime, min=1, max=3),
    ):
        assert clock.waiting == 0


@pytest.mark.parametrize("strategy", ALL)
async def test_p11_e50_grows_with_the_queue_and_shrinks_when_idle(strategy: str) -> None:
    clock, backend = FakeClock(), GateBackend()
    async with (
        Runtime(clock=clock) as runtime,
        Pool.start(
            1, backend=backend, min=1, max=4, cooldown_s=10, runtime=runtime, strategy=strategy
        ) as pool,
    ):
        await pool.submit_many([str(n) for n in range(6)])
        await settle()
        assert len(pool.workers) == 3  # six tasks: one running and one waiting for each
        assert len(backend.running()) == 3  # the new ones have work, whatever the strategy
        await pool.submit_many([str(n) for n in range(6, 12)])
        await settle()
        assert len(pool.workers) == 3  # cool-down
        await pass_time(clock, 10)
        assert len(pool.workers) == 4
        while backend.running():
            for text in backend.running():
                backend.let(text)
            await settle()
        await pool.wait_for_all()
        assert len(pool.workers) == 4
        await pass_time(clock, 10)
        assert len(pool.workers) == 3  # E50: it sees that the queue has shrunk
        await pass_time(clock, 30)
        assert len(pool.workers) == 1
        assert pool.results().ok == 12


async def test_p11_a_worker_is_never_stopped_with_work_in_it() -> None:
    clock, backend = FakeClock(), GateBackend()
    async with (
        Runtime(clock=clock) as runtime,
        Pool.start(3, backend=backend, min=1, max=3, cooldown_s=1, runtime=runtime, name="p") as pool,
    ):
        await pool.submit_many(["a", "b", "c"])
        await backend.wait_begun(3)
        backend.let("a")
        await settle()
        await pass_time(clock, 100)
        assert pool.workers == ("p-1", "p-2")
        await pass_time(clock, 100)
        assert pool.workers == ("p-1", "p-2")
        backend.let("b")
        backend.let("c")
        await settle()
        await pass_time(clock, 1)
        assert len(pool.workers) == 1
        assert pool.results().ok == 3


async def test_p11_each_role_scales_for_itself() -> None:
    clock, backend = FakeClock(), GateBackend()
    async with (
        Runtime(clock=clock) as runtime,
        Pool.start(
            {"a": 1, "b": 1}, backend=backend, max={"a": 3}, runtime=runtime, strategy="shared_queue"
        ) as pool,
    ):
        await pool.submit_many([Task(f"{role}{n}", role=role) for role in "ab" for n in range(6)])
        await settle()
        roles = [w.role for w in pool.status().workers]
        assert (roles.count("a"), roles.count("b")) == (3, 1)
        with pytest.raises(InvalidOption, match="between 1 and 3"):
            await pool.scale(4, role="a")


async def test_p11_one_that_cannot_start_leaves_the_others_working() -> None:
    clock, backend = FakeClock(), GateBackend(fail_start=frozenset({1, 2}), open=True)
    async with (
        Runtime(clock=clock) as runtime,
        Pool.start(1, backend=backend, max=3, runtime=runtime) as pool,
    ):
        results = await pool.map([str(n) for n in range(8)])
        assert all(r.ok for r in results)
        assert len(pool.workers) == 1
        assert pool.status().problem is None
