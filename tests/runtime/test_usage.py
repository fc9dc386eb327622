"""What turns have used is known however they end: it was paid for (L08)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tests.runtime.puppet import Puppet, Scripted
from tollboard.runtime.agent import Prompt
from tollboard.runtime.backend import Turn
from tollboard.runtime.event import ErrorEvent, Event, ResultEvent, TextEvent, Usage, UsageEvent
from tollboard.runtime.results import Completed, Failed, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.testing.recorder import RecordingJournal


async def failing(turn: Turn) -> AsyncIterator[Event]:
    yield UsageEvent(Usage(100, 10))
    yield UsageEvent(Usage(220, 22, cost_usd=0.5))
    yield ErrorEvent("no")


async def crashing(turn: Turn) -> AsyncIterator[Event]:
    yield UsageEvent(Usage(7, 1))
    raise RuntimeError("boom")


async def test_l08_a_failed_turn_has_a_usage(runtime: Runtime, backend: Puppet) -> None:
    backend.script("fails", failing)
    backend.script("crashes", crashing)
    backend.script("says", lambda turn: saying_at_the_end())
    journal = RecordingJournal()
    await runtime.start_agent(Scripted, "a", backend=backend, journal=journal)
    for text, usage in (
        ("fails", Usage(220, 22, cost_usd=0.5)),
        ("crashes", Usage(7, 1)),
        ("says", Usage(3, 4)),
    ):
        ref = runtime.tell("a", text)
        outcome = await runtime.wait(ref)
        assert isinstance(outcome, Failed)
        assert outcome.usage == usage
        recorded = journal.outcomes[ref]
        assert isinstance(recorded, Failed)
        assert recorded.usage == usage


async def saying_at_the_end() -> AsyncIterator[Event]:
    yield UsageEvent(Usage(1, 1))
    yield ErrorEvent("no", Usage(3, 4))


async def test_l08_every_attempt_of_a_request_is_counted(runtime: Runtime, backend: Puppet) -> None:
    attempts = iter([failing, failing, answering])

    def attempt(turn: Turn) -> AsyncIterator[Event]:
        return next(attempts)(turn)

    backend.script("work", attempt)
    journal = RecordingJournal()
    await runtime.start_agent(
        Scripted, "a", backend=backend, journal=journal, handle_error=lambda *_: Prompt("work")
    )
    ref = runtime.tell("a", "work")
    outcome = await runtime.wait(ref)
    assert isinstance(outcome, Completed)
    assert outcome.response.usage == Usage(445, 49, cost_usd=1.0)
    assert journal.usages[ref] == Usage(440 + 1, 44 + 1, cost_usd=1.0)


async def answering(turn: Turn) -> AsyncIterator[Event]:
    yield UsageEvent(Usage(1, 1))
    yield ResultEvent("done", Usage(5, 5))


async def test_l08_an_interrupted_turn_has_what_it_used_and_what_it_reports_while_it_closes(
    runtime: Runtime, backend: Puppet
) -> None:
    gate = backend.hold("never")

    async def hanging(turn: Turn) -> AsyncIterator[Event]:
        try:
            yield UsageEvent(Usage(50, 5))
            yield TextEvent("so far")
            await gate.pass_through()
        finally:
            turn.report_usage(Usage(60, 6))

    backend.script("hang", hanging)
    journal = RecordingJournal()
    await runtime.start_agent(Scripted, "a", backend=backend, journal=journal)
    ref = runtime.tell("a", "hang")
    await gate.entered.wait()
    assert journal.usages[ref] == Usage(50, 5)
    runtime.interrupt("a")
    outcome = await runtime.wait(ref)
    assert outcome == Failed(Reason.INTERRUPTED)
    assert isinstance(outcome, Failed)
    assert outcome.usage == Usage(60, 6)


async def test_l08_what_is_reported_after_the_end_is_remembered(runtime: Runtime, backend: Puppet) -> None:
    journal = RecordingJournal()
    await runtime.start_agent(Scripted, "a", backend=backend, journal=journal)
    ref = runtime.tell("a", "hello")
    await runtime.wait(ref)
    backend.turns["hello"].report_usage(Usage(1, 2))
    assert journal.usages[ref] == Usage(1, 2)
    assert journal.log[-1] == ("used", ref)


def test_l08_sums_of_usages_count_what_is_known() -> None:
    assert Usage(1, None, 3).plus(Usage(10, 20, None, 40, 0.5)) == Usage(11, 20, 3, 40, 0.5)
    assert Usage(1).plus(None) == Usage(1)
    assert Usage().plus(Usage()) == Usage()
