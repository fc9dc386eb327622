"""What is tried again and when (P17), and which workers are replaced (P18)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

import pytest

from tests.pool.fakes import settle
from tollboard.errors import BackendUnavailable
from tollboard.pool import telemetry as events
from tollboard.pool.pool import Pool
from tollboard.pool.retrying import FAILURES_IN_A_ROW, LONGEST_PAUSE_S, pause_s
from tollboard.runtime.backend import NO_PROCESSES, Backend, ProcessReport, Turn
from tollboard.runtime.event import ErrorCause, ErrorEvent, Event, ResultEvent
from tollboard.runtime.results import Failed, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.testing.clock import FakeClock

OVERLOADED = ErrorEvent("busy", cause=ErrorCause.OVERLOADED)
REFUSED = ErrorEvent("wrong key", cause=ErrorCause.REFUSED)
UNKNOWN = ErrorEvent("no luck")
FINE = ResultEvent("fine")


class Played(Backend[int]):
    """Plays what each worker does, by its number: an event, or an exception to raise; the last one again and again."""

    name = "played"

    def __init__(self, *workers: list[Event | Exception]) -> None:
        self.workers = workers
        self.started = 0
        self.played: list[int] = []

    async def start_session(self, options: Mapping[str, object]) -> int:
        self.started += 1
        return self.started - 1

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> int:
        return await self.start_session(options)

    async def prompt(self, session: int, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        script = self.workers[min(session, len(self.workers) - 1)]
        event = script.pop(0) if len(script) > 1 else script[0]
        self.played.append(session)
        if isinstance(event, Exception):
            raise event
        yield event

    async def terminate_session(self, session: int) -> ProcessReport:
        return NO_PROCESSES

    async def reset_session(self, session: int) -> int:
        return session


@pytest.mark.parametrize(
    "failure",
    [REFUSED, ErrorEvent("too long", cause=ErrorCause.OVERFLOW), BackendUnavailable("no key is set")],
    ids=["a refusal", "an overflow of its own", "nothing to run it with"],
)
async def test_p17_what_cannot_succeed_is_tried_once(failure: Event | Exception) -> None:
    backend = Played([failure])
    async with Pool.start(1, backend=backend, retries=3) as pool:
        results = await pool.map(["a"])
    assert (results[0].ok, results[0].attempt, len(backend.played)) == (False, 1, 1)


@pytest.mark.parametrize(
    "failure",
    [UNKNOWN, ErrorEvent("gone", cause=ErrorCause.BROKEN), RuntimeError("stream")],
    ids=["unknown", "broken", "crashed stream"],
)
async def test_p17_what_may_succeed_is_tried_again_at_once(failure: Event | Exception) -> None:
    backend = Played([failure, FINE])
    async with Pool.start(1, backend=backend, retries=1) as pool:
        results = await pool.map(["a"])
    assert (results[0].text, results[0].attempt) == ("fine", 2)


async def test_p17_an_overload_is_tried_again_after_a_pause_that_grows() -> None:
    clock = FakeClock()
    runtime = Runtime(clock=clock)
    backend = Played([OVERLOADED])
    pauses: list[float] = []
    runtime.telemetry.attach("t", [events.TASK_RETRIED], lambda e, m, meta: pauses.append(m["pause_s"]))
    async with Pool.start(1, backend=backend, runtime=runtime, retries=3) as pool:
        await pool.submit("a")
        for tries in range(1, 5):
            await settle()
            assert len(backend.played) == tries
            assert pool.status().queued == (tries < 4), "it waits like any other"
            clock.advance(30)
        await pool.wait_for_all(1)
        assert pool.results().results[0].attempt == 4
    assert [0.375 <= pauses[0] <= 0.5, 0.75 <= pauses[1] <= 1, 1.5 <= pauses[2] <= 2] == [True] * 3
    await runtime.close()


async def test_p17_others_run_while_a_task_pauses_and_it_can_be_withdrawn_or_stopped() -> None:
    clock = FakeClock()
    runtime = Runtime(clock=clock)
    backend = Played([OVERLOADED, OVERLOADED, FINE])
    async with Pool.start(1, backend=backend, runtime=runtime, retries=9) as pool:
        first, second = [(await pool.submit(text)).ref for text in ("a", "b")]
        await settle()
        third = await pool.submit("c")
        await settle()
        assert pool.poll(third.ref) is not None
        pool.cancel(first)
        clock.advance(100)
        await settle()
        found = pool.poll(second)
        assert found is not None
        assert found.text == "fine"
        assert backend.played == [0] * 4
        assert pool.status().queued == 0
    await runtime.close()


async def test_p17_a_pool_that_is_stopped_ends_what_pauses() -> None:
    clock = FakeClock()
    runtime = Runtime(clock=clock)
    async with Pool.start(1, backend=Played([OVERLOADED]), runtime=runtime, retries=9) as pool:
        ref = (await pool.submit("a")).ref
        await settle()
    result = pool.poll(ref)
    assert result is not None
    assert result.status == "stopped"
    clock.advance(1_000)
    await settle()
    await runtime.close()


def test_p17_the_pause_is_as_long_as_the_provider_asks_within_bounds() -> None:
    def after(attempt: int, asked: float | None = None) -> float:
        return pause_s(
            Failed(Reason.BACKEND_ERROR, cause=ErrorCause.OVERLOADED, retry_after_s=asked), attempt
        )

    assert after(1, 20) == 20
    assert after(1, 1e9) == 300
    assert LONGEST_PAUSE_S * 0.75 <= after(50) <= LONGEST_PAUSE_S
    assert pause_s(Failed(Reason.TIMEOUT), 3) == 0


async def test_p18_a_worker_that_fails_again_and_again_is_replaced_and_said_so() -> None:
    runtime = Runtime()
    told: list[tuple[object, object]] = []
    runtime.telemetry.attach(
        "t", [events.WORKER_REPLACED], lambda e, m, meta: told.append((meta["worker"], meta["reason"]))
    )
    backend = Played([UNKNOWN], [FINE])
    async with Pool.start(1, backend=backend, runtime=runtime, name="p") as pool:
        results = await pool.map(["a", "b", "c", "d", "e"])
        assert [result.ok for result in results] == [False] * FAILURES_IN_A_ROW + [True, True]
        status = pool.status()
        assert pool.workers == ("p-0.1",)
        assert (status.replaced, status.problem) == (1, None)
        assert status.notice == "worker 'p-0' was replaced: it failed 3 times in a row, last with: no luck"
    assert told == [("p-0", "no luck")]
    await runtime.close()


async def test_p18_with_retries_no_task_is_lost_to_a_worker_that_fails_for_its_own_reason() -> None:
    backend = Played([UNKNOWN], [FINE])
    async with Pool.start(2, backend=backend, strategy="shared_queue", retries=FAILURES_IN_A_ROW) as pool:
        results = await pool.map(str(n) for n in range(10))
    assert [result.ok for result in results] == [True] * 10


@pytest.mark.parametrize("failure", [REFUSED, OVERLOADED], ids=["refused", "overloaded"])
async def test_p18_what_is_the_providers_reason_replaces_nobody(failure: Event) -> None:
    backend = Played([failure])
    async with Pool.start(1, backend=backend) as pool:
        _ = await pool.map(str(n) for n in range(10))
        assert pool.status().replaced == 0
    assert backend.started == 1


async def test_p18_an_answer_between_failures_begins_the_count_anew() -> None:
    backend = Played([UNKNOWN, UNKNOWN, FINE, UNKNOWN, UNKNOWN, FINE])
    async with Pool.start(1, backend=backend) as pool:
        _ = await pool.map(str(n) for n in range(6))
        assert pool.status().replaced == 0


async def test_p18_a_pool_whose_every_task_fails_stays_at_work() -> None:
    backend = Played([UNKNOWN])
    async with Pool.start(1, backend=backend, max_restarts=1) as pool:
        results = await pool.map(str(n) for n in range(30))
        assert {result.error for result in results} == {"backend_error: no luck"}
        assert pool.status().problem is None
