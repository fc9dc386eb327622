"""The conformance suite of a backend: what the runtime relies on, as tests that any backend can run.

In your own test file (pytest with pytest-asyncio in auto mode):

    class TestMine(BackendContract):
        @pytest.fixture
        def case(self) -> BackendCase:
            return BackendCase(backend=MyBackend(), plain="say hello", slow="think for an hour", fail="break")

`BackendCase` says which prompts do what. `RecordingTurn` is also a good stand-in for a turn in tests of your own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from tollboard.backends._process import find_processes
from tollboard.errors import InvalidOption, Unsupported
from tollboard.ids import new_ref
from tollboard.runtime.approval import ApprovalRequest, Approve, Decision, Edit, Reject
from tollboard.runtime.backend import Backend, Health, ProcessReport
from tollboard.runtime.event import TERMINAL, ErrorEvent, Event, ResultEvent, TextEvent, Usage
from tollboard.runtime.memory import DictMemory, Memory
from tollboard.runtime.sub_agents import SubAgentNews

MARKER_NAME = "TOLLBOARD_CONTRACT"
_WAIT_S = 30.0


class RecordingTurn:
    """A turn that remembers what the backend asked of it and answers approvals as told.

    `decide` maps a request to a decision; without it an approval waits until the turn is closed. Three events to wait
    for: `begun` (a checkpoint or an event came), `spoke` (an event came), `asked` (an approval was requested).
    """

    def __init__(self, decide: Callable[[ApprovalRequest], Decision] | None = None) -> None:
        self.ref = new_ref()
        self.attempt = 1
        self.memory: Memory | None = None
        self.decide = decide
        self.requests: list[ApprovalRequest] = []
        self.sub_agents: list[SubAgentNews] = []
        self.checkpoints: list[tuple[str, Mapping[str, str] | None]] = []
        self.events: list[Event] = []
        self.usage: Usage | None = None
        self.usages: list[Usage] = []
        self.asked = asyncio.Event()
        self.begun = asyncio.Event()
        self.spoke = asyncio.Event()

    def sub_agent(self, news: SubAgentNews) -> None:
        """Record what is told of an agent below."""
        self.sub_agents.append(news)

    async def request_approval(self, request: ApprovalRequest) -> Decision:
        """Record the request; return the decision, or wait for ever."""
        self.requests.append(request)
        self.asked.set()
        if self.decide is None:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("unreachable")
        return self.decide(request)

    async def checkpoint(self, provider_session_id: str, effective: Mapping[str, str] | None = None) -> None:
        """Record the id and what the provider says it runs with."""
        self.checkpoints.append((provider_session_id, effective))
        self.begun.set()

    def report_usage(self, usage: Usage) -> None:
        """Record what the turn has used so far."""
        self.usage = usage
        self.usages.append(usage)

    def saw(self, event: Event) -> None:
        """Record an event of the stream."""
        self.events.append(event)
        self.begun.set()
        self.spoke.set()

    @property
    def text(self) -> str:
        """Return the answer so far: the terminal text, else the joined pieces."""
        last = self.events[-1] if self.events else None
        if isinstance(last, ResultEvent) and last.text is not None:
            return last.text
        return "".join(event.text for event in self.events if isinstance(event, TextEvent))


async def _begun(turn: RecordingTurn) -> None:
    await turn.begun.wait()


@dataclass(frozen=True)
class BackendCase:
    """A backend and the prompts that make it do things; `None` leaves out the tests of what it cannot do.

    `under_way` waits until the slow prompt is really being worked on. `slow_options` are added for slow turns.
    `approval` must ask about one call; `edited` are other arguments it could run with. `recall` answers with what the
    user has said in the conversation so far.
    """

    backend: Backend[Any]
    options: Mapping[str, object] = field(default_factory=dict)
    plain: str = "hello"
    slow: str | None = None
    slow_options: Mapping[str, object] = field(default_factory=dict)
    under_way: Callable[[RecordingTurn], Awaitable[None]] = _begun
    fail: str | None = None
    fail_options: Mapping[str, object] = field(default_factory=dict)
    approval: str | None = None
    edited: Mapping[str, object] = field(default_factory=dict)
    recall: str | None = None
    fresh: Callable[[], Backend[Any]] | None = None
    """Makes another backend object, as a restarted daemon would; without it the same one resumes."""


async def run_turn(backend: Backend[Any], session: Any, text: str, turn: RecordingTurn) -> list[Event]:
    """Run one turn as the runtime does, always closing the stream; return its events, checked for their form."""
    stream = backend.prompt(session, text, turn)
    try:
        async for event in stream:
            assert isinstance(event, Event), f"not an event: {event!r}"
            turn.saw(event)
    finally:
        await stream.aclose()
    terminal = [event for event in turn.events if isinstance(event, TERMINAL)]
    assert len(terminal) == 1, f"exactly one terminal event, not {len(terminal)}"
    assert turn.events[-1] is terminal[0], "the terminal event comes last"
    return turn.events


class BackendContract:
    """Subclass it and provide a `case` fixture that returns a BackendCase."""

    # --- a turn -------------------------------------------------------------------------------------------------

    async def test_a_plain_prompt_is_answered(self, case: BackendCase) -> None:
        """A turn yields typed events and exactly one terminal event, last."""
        async with _session(case) as session:
            turn = await _plain(case, session)
            assert turn.text

    async def test_the_conversation_id_is_checkpointed_before_anything_is_said(
        self, case: BackendCase
    ) -> None:
        """A failure after the first event must not lose the conversation (E19)."""
        async with _session(case) as session:
            turn = RecordingTurn()
            stream = case.backend.prompt(session, case.plain, turn)
            await anext(stream)
            assert turn.checkpoints
            await stream.aclose()

    async def test_turns_share_one_conversation(self, case: BackendCase) -> None:
        """The next turn goes on in the same session, under the same id."""
        async with _session(case) as session:
            ids = {
                await _id_after(case, session, []),
                *[i for i, _ in (await _plain(case, session)).checkpoints],
            }
            assert len(ids) == 1

    async def test_a_failure_is_one_error_and_the_session_goes_on(self, case: BackendCase) -> None:
        """A failed turn ends with an error event or raises; the next one works."""
        if case.fail is None:
            return
        async with _session(case, case.fail_options) as session:
            events = await run_turn(case.backend, session, case.fail, RecordingTurn())
            last = events[-1]
            assert isinstance(last, ErrorEvent)
            assert last.message
            if not case.fail_options:
                await _plain(case, session)

    # --- closing early ------------------------------------------------------------------------------------------

    async def test_a_cancelled_turn_ends_and_the_session_goes_on(self, case: BackendCase) -> None:
        """Interrupt and watchdog cancel the task that reads the stream."""
        if case.slow is None:
            return
        async with _session(case, case.slow_options) as session:
            turn = RecordingTurn()
            task = asyncio.create_task(run_turn(case.backend, session, case.slow, turn))
            await case.under_way(turn)
            await _cancel(task)
            assert not any(isinstance(event, TERMINAL) for event in turn.events)
            if not case.slow_options:
                await _plain(case, session)

    async def test_a_stream_closed_between_two_events_ends(self, case: BackendCase) -> None:
        """Closing at a yield, where nothing is awaited, ends the turn too."""
        async with _session(case) as session:
            stream = case.backend.prompt(session, case.plain, RecordingTurn())
            await anext(stream)
            await stream.aclose()
            await _plain(case, session)

    async def test_a_stream_that_was_never_read_can_be_closed(self, case: BackendCase) -> None:
        """A turn may be ended before its first step."""
        async with _session(case) as session:
            await case.backend.prompt(session, case.plain, RecordingTurn()).aclose()
            await _plain(case, session)

    # --- approvals ----------------------------------------------------------------------------------------------

    async def test_an_approved_call_runs(self, case: BackendCase) -> None:
        """The request names the tool and its arguments, and reads well."""
        if (turn := await _decided(case, lambda _: Approve())) is not None:
            assert turn.requests[0].tool
            assert isinstance(turn.events[-1], ResultEvent)

    async def test_an_edited_call_runs(self, case: BackendCase) -> None:
        """The call runs with the changed arguments."""
        if (turn := await _decided(case, lambda _: Edit(case.edited))) is not None:
            assert isinstance(turn.events[-1], ResultEvent)

    async def test_a_rejected_call_does_not_end_the_turn_without_a_word(self, case: BackendCase) -> None:
        """The turn ends by itself after a rejection."""
        await _decided(case, lambda _: Reject("not today"))

    async def test_a_turn_cancelled_while_it_waits_for_a_person_ends(self, case: BackendCase) -> None:
        """The question dies with its turn, and the session goes on."""
        if case.approval is None:
            return
        async with _session(case) as session:
            turn = RecordingTurn()
            task = asyncio.create_task(run_turn(case.backend, session, case.approval, turn))
            await turn.asked.wait()
            await _cancel(task)
            await _plain(case, session)

    # --- sessions -----------------------------------------------------------------------------------------------

    async def test_a_session_that_was_never_prompted_can_be_terminated(self, case: BackendCase) -> None:
        """Nothing was started, so nothing is killed."""
        session = await case.backend.start_session({**case.options, "env_marker": _marker()})
        report = await case.backend.terminate_session(session)
        assert report == ProcessReport()

    async def test_terminating_is_idempotent(self, case: BackendCase) -> None:
        """A second time ends nothing and raises nothing."""
        async with _session(case) as session:
            await _plain(case, session)
            assert not (await case.backend.terminate_session(session)).unverified
            assert not (await case.backend.terminate_session(session)).unverified

    async def test_a_conversation_is_resumed_under_its_id(self, case: BackendCase) -> None:
        """A restarted daemon goes on with the id that was checkpointed."""
        checkpoints: list[str] = []
        memory = DictMemory()
        async with _session(case) as session:
            known = await _id_after(case, session, checkpoints, memory)
        again = case.fresh() if case.fresh is not None else case.backend
        marker = _marker()
        session = await again.resume_session(known, {**case.options, "env_marker": marker})
        turn = RecordingTurn()
        turn.memory = memory
        await run_turn(again, session, case.plain, turn)
        assert isinstance(turn.events[-1], ResultEvent), turn.events[-1]
        assert {session_id for session_id, _ in turn.checkpoints} <= {known}
        await again.terminate_session(session)
        await _nothing_left(marker)

    async def test_a_reset_session_has_a_fresh_conversation(self, case: BackendCase) -> None:
        """Nothing that was said before reaches the model again, and the conversation has another id (P15)."""
        async with _session(case) as session:
            before = (await _plain(case, session)).checkpoints[-1][0]
            try:
                session = await case.backend.reset_session(session)
            except Unsupported:
                return
            try:
                if case.backend.remembers:
                    assert before not in [id for id, _ in (await _plain(case, session)).checkpoints]
                    session = await case.backend.reset_session(session)
                if case.recall is not None:
                    turn = RecordingTurn()
                    await run_turn(case.backend, session, case.recall, turn)
                    assert case.plain not in turn.text, "what was said in the old conversation is still known"
                    await run_turn(case.backend, session, case.plain, RecordingTurn())
                    turn = RecordingTurn()
                    await run_turn(case.backend, session, case.recall, turn)
                    assert case.plain in turn.text, "the prompt to recall does not show what was said"
            finally:
                await case.backend.terminate_session(session)

    async def test_a_reset_that_is_cancelled_leaves_a_session_that_can_be_reset(
        self, case: BackendCase
    ) -> None:
        """An interrupt may come while a pool gives the next task its conversation."""
        async with _session(case) as session:
            await _plain(case, session)
            resetting = asyncio.ensure_future(case.backend.reset_session(session))
            await asyncio.sleep(0)
            resetting.cancel()
            try:
                await resetting
            except Unsupported:
                return
            except asyncio.CancelledError:
                pass
            session = await case.backend.reset_session(session)
            try:
                await _plain(case, session)
            finally:
                await case.backend.terminate_session(session)

    async def test_a_workers_options_are_options(self, case: BackendCase) -> None:
        """What a pool makes of the options of a worker can start a session."""
        given = case.backend.worker_options(
            {**case.options, "env_marker": _marker()}, opening="You are a tester.", retried=True
        )
        await case.backend.terminate_session(await case.backend.start_session(given))

    async def test_unknown_options_are_refused(self, case: BackendCase) -> None:
        """The error names the option; nothing was started."""
        options = {**case.options, "no_such_option": 1}
        calls: Sequence[Awaitable[Any]] = (
            case.backend.start_session(options),
            case.backend.resume_session(new_ref(), options),
        )
        for call in calls:
            message = ""
            try:
                await call
            except InvalidOption as refused:
                message = str(refused)
            assert "no_such_option" in message, "an unknown option was accepted"

    async def test_every_process_carries_the_marker(self, case: BackendCase) -> None:
        """So that a restarted daemon finds what a killed one left behind."""
        if case.slow is None:
            return
        before = set(psutil.Process().children(recursive=True))
        name, value = (marker := _marker()).split("=")
        session = await case.backend.start_session(
            {**case.options, **case.slow_options, "env_marker": marker}
        )
        turn = RecordingTurn()
        task = asyncio.create_task(run_turn(case.backend, session, case.slow, turn))
        await case.under_way(turn)
        started = set(psutil.Process().children(recursive=True)) - before
        # One in the middle of an exec shows no environment at all for a moment.
        shown = [(process, process.environ()) for process in started]
        bare = [process for process, env in shown if env and env.get(name) != value]
        await _cancel(task)
        await case.backend.terminate_session(session)
        assert not bare
        await _nothing_left(marker)

    async def test_the_backend_can_say_how_it_is(self, case: BackendCase) -> None:
        """What `tollboard doctor` shows: a detail, and what to do when something is missing."""
        health = await case.backend.check()
        assert isinstance(health, Health)
        assert health.detail
        assert health.ok or health.mend


def _marker() -> str:
    return f"{MARKER_NAME}={new_ref()}"


@asynccontextmanager
async def _session(case: BackendCase, more: Mapping[str, object] | None = None) -> AsyncIterator[Any]:
    """Start a session; afterwards terminate it and check that none of its processes is left."""
    marker = _marker()
    session = await case.backend.start_session({**case.options, **(more or {}), "env_marker": marker})
    try:
        async with asyncio.timeout(_WAIT_S):
            yield session
    finally:
        report = await case.backend.terminate_session(session)
    assert not report.unverified
    await _nothing_left(marker)


async def _nothing_left(marker: str) -> None:
    name, value = marker.split("=")
    left = await find_processes(marker=(name, value))
    assert not left, f"still running: {left}"


async def _plain(case: BackendCase, session: Any, memory: Memory | None = None) -> RecordingTurn:
    turn = RecordingTurn()
    turn.memory = memory
    await run_turn(case.backend, session, case.plain, turn)
    assert isinstance(turn.events[-1], ResultEvent), turn.events[-1]
    return turn


async def _id_after(case: BackendCase, session: Any, seen: list[str], memory: Memory | None = None) -> str:
    """Run a plain turn and return the conversation's id as last checkpointed."""
    seen += [session_id for session_id, _ in (await _plain(case, session, memory)).checkpoints]
    return seen[-1]


async def _decided(case: BackendCase, decide: Callable[[ApprovalRequest], Decision]) -> RecordingTurn | None:
    if case.approval is None:
        return None
    async with _session(case) as session:
        turn = RecordingTurn(decide)
        await run_turn(case.backend, session, case.approval, turn)
        assert len(turn.requests) == 1
        return turn


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel the task and wait until it has ended by that."""
    task.cancel()
    await asyncio.wait({task}, timeout=_WAIT_S)
    assert task.cancelled(), "a cancelled turn must end, and must not swallow the cancellation"
