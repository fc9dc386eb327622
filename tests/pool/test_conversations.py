"""Which conversation a task runs in (P15), on a backend that says what it remembers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

import pytest

from tollboard.errors import BackendError, InvalidOption, Unsupported
from tollboard.pool import telemetry as events
from tollboard.pool.pool import Pool
from tollboard.runtime.backend import NO_PROCESSES, Backend, ProcessReport, Turn
from tollboard.runtime.event import ErrorCause, ErrorEvent, Event, ResultEvent, ToolUseEvent, Usage
from tollboard.runtime.runtime import Runtime


@dataclass
class Talk:
    """A conversation: what was said in it, and whether it was ended."""

    options: Mapping[str, object]
    said: list[str] = field(default_factory=list)
    ended: bool = False


class Rememberer(Backend[Talk]):
    """Answers with everything that was said so far. `room`: how many prompts fit before it overflows.

    A prompt that holds "huge" never fits; one that holds "act" calls a tool before anything else; "hang" never ends.
    """

    name = "rememberer"

    def __init__(self, *, room: int = 1_000, resets: bool = True) -> None:
        self.room = room
        self.resets = resets
        self.talks: list[Talk] = []
        self.seen: list[list[str]] = []
        self.reset_fails = 0
        self.hanging = asyncio.Event()

    async def start_session(self, options: Mapping[str, object]) -> Talk:
        talk = Talk(options)
        self.talks.append(talk)
        return talk

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> Talk:
        return await self.start_session(options)

    async def prompt(self, session: Talk, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        assert not session.ended, "a prompt in a conversation that was ended"
        session.said.append(text)
        self.seen.append(list(session.said))
        if "act" in text:
            yield ToolUseEvent("1", "write_file")
        if "hang" in text:
            self.hanging.set()
            await asyncio.get_running_loop().create_future()
        if "huge" in text or len(session.said) > self.room:
            yield ErrorEvent("it is too long", cause=ErrorCause.OVERFLOW)
            return
        yield ResultEvent("|".join(session.said), Usage(input_tokens=10 * len(session.said), output_tokens=1))

    async def terminate_session(self, session: Talk) -> ProcessReport:
        session.ended = True
        return NO_PROCESSES

    async def reset_session(self, session: Talk) -> Talk:
        if not self.resets:
            raise Unsupported("it cannot")
        if self.reset_fails:
            self.reset_fails -= 1
            raise BackendError("not now")
        session.ended = True
        return await self.start_session(session.options)


@pytest.mark.parametrize("resets", [True, False], ids=["with a reset", "by ending and starting"])
async def test_p15_no_task_knows_of_another(resets: bool) -> None:
    backend = Rememberer(resets=resets)
    async with Pool.start(2, backend=backend, colour="blue") as pool:
        results = await pool.map(f"task {n}" for n in range(6))
        assert [result.text for result in results] == [f"task {n}" for n in range(6)]
        assert len(pool.workers) == 2
    assert all(talk.ended for talk in backend.talks)
    assert {talk.options["colour"] for talk in backend.talks} == {"blue"}


async def test_p15_what_a_failed_or_interrupted_task_said_is_forgotten_too() -> None:
    backend = Rememberer()
    runtime = Runtime()
    async with Pool.start(1, backend=backend, runtime=runtime) as pool:
        await pool.submit("huge")
        await pool.submit("hang")
        await backend.hanging.wait()
        runtime.interrupt(pool.workers[0])
        await pool.submit("last")
        await pool.wait_for_all(5)
    assert backend.seen == [["huge"], ["hang"], ["last"]]
    await runtime.close()


async def test_p15_a_conversation_that_cannot_be_started_fails_its_task_and_is_tried_again_for_the_next() -> (
    None
):
    backend = Rememberer()
    async with Pool.start(1, backend=backend) as pool:
        backend.reset_fails = 1
        results = await pool.map(["one", "two", "three"])
    assert [result.error for result in results] == [None, "backend_error: not now", None]
    assert backend.seen == [["one"], ["three"]]


async def test_p15_a_retry_does_not_know_of_the_attempt_before_it() -> None:
    class Flaky(Rememberer):
        async def prompt(self, session: Talk, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
            async for event in super().prompt(session, text, turn):
                yield event if len(self.seen) > 1 else ErrorEvent("once")
                return

    backend = Flaky()
    async with Pool.start(1, backend=backend, retries=1) as pool:
        results = await pool.map(["a"])
    assert (results[0].text, results[0].attempt) == ("a", 2)


async def test_p15_a_kept_conversation_goes_on_from_task_to_task() -> None:
    backend = Rememberer()
    async with Pool.start(1, backend=backend, conversation="kept") as pool:
        results = await pool.map(["a", "b", "c"])
    assert [result.text for result in results] == ["a", "a|b", "a|b|c"]
    assert len(backend.talks) == 1


@pytest.mark.parametrize(
    ("limit", "why"),
    [({"recycle_turns": 2}, "had 2 turns"), ({"recycle_tokens": 32}, "had used 32 tokens")],
    ids=["turns", "tokens"],
)
async def test_p15_a_kept_conversation_is_recycled_at_its_limit(limit: dict[str, int], why: str) -> None:
    backend, runtime = Rememberer(), Runtime()
    told: list[object] = []
    runtime.telemetry.attach("t", [events.WORKER_RECYCLED], lambda e, m, meta: told.append(meta["reason"]))
    async with Pool.start(1, backend=backend, runtime=runtime, conversation="kept", **limit) as pool:  # type: ignore[arg-type]
        results = await pool.map(["a", "b", "c", "d", "e"])
    assert [result.text for result in results] == ["a", "a|b", "c", "c|d", "e"]
    assert len(told) == 2
    assert all(why in str(reason) for reason in told)
    await runtime.close()


async def test_p15_a_kept_conversation_that_overflows_loses_no_task() -> None:
    backend = Rememberer(room=3)
    async with Pool.start(2, backend=backend, conversation="kept") as pool:
        results = await pool.map(f"t{n}" for n in range(20))
    assert [result.ok for result in results] == [True] * 20
    assert max(len(said) for said in backend.seen) == 4


async def test_p15_a_task_that_overflows_by_itself_fails_once_and_takes_no_other_with_it() -> None:
    backend = Rememberer(room=3)
    async with Pool.start(1, backend=backend, conversation="kept", retries=5) as pool:
        results = await pool.map(["a", "huge", "b"])
    assert [result.ok for result in results] == [True, False, True]
    assert sum(said[-1] == "huge" for said in backend.seen) == 2, "with the others, then alone"


async def test_p15_an_overflow_after_the_task_has_acted_does_not_run_it_twice() -> None:
    backend = Rememberer(room=1)
    async with Pool.start(1, backend=backend, conversation="kept") as pool:
        results = await pool.map(["a", "act", "b"])
    assert [result.ok for result in results] == [True, False, True]
    assert sum(said[-1] == "act" for said in backend.seen) == 1


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"conversation": "new"}, "use 'fresh' or 'kept'"),
        ({"recycle_turns": 5}, "give conversation='kept' too"),
        ({"conversation": "kept", "recycle_tokens": 0}, "recycle_tokens is 0"),
        ({"conversation": "kept", "recycle_turns": True}, "recycle_turns is True"),
    ],
)
def test_p15_settings_that_make_no_sense_are_refused(given: dict[str, object], match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        Pool.start(1, backend=Rememberer(), **given)  # type: ignore[arg-type]
