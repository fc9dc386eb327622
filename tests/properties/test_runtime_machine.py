"""One agent, driven through random sequences of every verb and every callback outcome, against a plain model.

After each step: one turn at a time, what ran is in the order of acceptance, every accepted request is pending or has
exactly one outcome, its journal saw accepted, started and finished in that order, and the flags are the model's. After
the end: no task, no timer, nobody waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.runtime.puppet import Puppet, Scripted
from tollboard.errors import (
    AgentNotFound,
    ApprovalNotFound,
    Conflict,
    Crash,
    RequestNotFound,
    SessionHalted,
    StoreUnavailable,
)
from tollboard.runtime.agent import Halt, Prompt, Skip
from tollboard.runtime.approval import ApprovalRequest, Approve, Reject
from tollboard.runtime.backend import Turn
from tollboard.runtime.event import ErrorEvent, Event, ResultEvent, TextEvent
from tollboard.runtime.results import Outcome, Pending
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase
from tollboard.testing.clock import FakeClock
from tollboard.testing.recorder import RecordingJournal

NAME = "agent"
WATCHDOG_S = 60
SETTLE_PASSES = 60
# Mostly the plain way, or a halt or a crash would end every example before anything has happened.
STREAMS = ("ok", "hang", "ok", "error", "hang", "no_end", "crash", "ask")
DECISIONS = ("nothing", "nothing", "nothing", "prompt", "nothing", "halt", "raise", "nonsense")
BEFORE = ("as it is", "as it is", "as it is", "as it is", "rewrite", "skip", "as it is", "halt", "raise")


class AgentMachine(RuleBasedStateMachine):
    """See the module. A prompt's text says what its turn is to do: `number stream decision before slow`."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.count = 0
        self.ended: dict[str, list[Outcome]] = {}
        self.refs: list[str] = []
        self.asks: list[asyncio.Task[Any]] = []
        self.accepted: list[str] = []
        self.run(self._begin())

    def run(self, work: Any) -> Any:
        """Run something on the loop, then let everything happen that can happen."""
        result = self.loop.run_until_complete(work)
        self.loop.run_until_complete(self._settle())
        return result

    async def _settle(self) -> None:
        for _ in range(SETTLE_PASSES):
            await asyncio.sleep(0)

    async def _begin(self) -> None:
        self.runtime = Runtime(clock=self.clock, runnable=1)
        await self._start()

    async def _start(self) -> None:
        self.backend = Puppet()
        self.backend.prompt = self._prompt  # type: ignore[method-assign]
        self.backend.own_turn = self._own_turn  # type: ignore[method-assign]
        self.own: list[str] = []
        self.gates: list[asyncio.Event] = []
        self.ran: list[str] = []
        self.dispatched: list[str] = []
        self.running = self.most = 0
        self.journal = RecordingJournal()
        self.halted = False
        self.order: list[str] = []
        await self.runtime.start_agent(
            Scripted, NAME, backend=self.backend, journal=self.journal, watchdog_s=WATCHDOG_S, max_results=10_000,
            max_queued=10_000, pre_turn=self._pre_turn, handle_response=self._decide("response"),
            handle_error=self._decide("error"), handle_event=self._event, post_run=lambda: None,
        )  # fmt: skip

    # -- what the agent and its backend do ----------------------------------------------------------------------------

    async def _prompt(self, session: Any, text: str, turn: Turn) -> AsyncIterator[Event]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.ran.append(text)
        try:
            yield TextEvent("working")
            match text.split()[1]:
                case "error":
                    yield ErrorEvent("no")
                case "crash":
                    raise RuntimeError("broken")
                case "hang":
                    gate = asyncio.Event()
                    self.gates.append(gate)
                    await gate.wait()
                    yield ResultEvent("at last")
                case "ask":
                    decision = await turn.request_approval(ApprovalRequest("rm", {}))
                    yield ResultEvent(decision.type)
                case "ok":
                    yield ResultEvent("done")
        finally:
            self.running -= 1

    def _own_turn(self, session: Any, turn: Turn) -> AsyncIterator[Event]:
        text = self.backend.announced.pop(0)
        self.dispatched.append(text)
        return self._prompt(session, text, turn)

    def _pre_turn(self, prompt: str) -> Any:
        self.dispatched.append(prompt)
        match prompt.split()[3]:
            case "rewrite":
                return prompt + "!"
            case "skip":
                return Skip("no")
            case "halt":
                self.halted = True
                return Halt()
            case "raise":
                raise ValueError("oh")
            case "crash":
                raise Crash("broken state")
        return prompt

    def _decide(self, what: str) -> Callable[..., Any]:
        def now(decision: str) -> Any:
            match decision:
                case "prompt":
                    self.count += 1
                    return Prompt(f"{self.count} ok nothing chained plain")
                case "halt":
                    self.halted = True
                    return Halt()
                case "raise":
                    raise ValueError("oh")
                case "nonsense":
                    return 42
                case "crash":
                    raise Crash("broken state")
            return None

        async def later(decision: str) -> Any:
            await asyncio.sleep(0)
            return now(decision)

        def deciding(ref: str, *_: Any) -> Any:
            words = self.dispatched[-1].split()
            return later(words[2]) if words[4].startswith("slow") else now(words[2])

        return deciding

    def _event(self, event: Any) -> Any:
        match event:
            case "prompt":
                self.count += 1
                return Prompt(f"{self.count} ok nothing event plain")
            case "halt":
                self.halted = True
                return Halt()
            case "raise":
                raise ValueError("oh")
            case "crash":
                raise Crash("broken state")
        return None

    # -- rules --------------------------------------------------------------------------------------------------------

    def _alive(self) -> bool:
        return self.runtime.whereis(NAME) is not None

    @rule(
        stream=st.sampled_from(STREAMS), decision=st.sampled_from(DECISIONS), before=st.sampled_from(BEFORE),
        slow=st.booleans(), on_halt=st.sampled_from(["wait", "fail"]), ask=st.booleans(),
    )  # fmt: skip
    def prompt(self, stream: str, decision: str, before: str, slow: bool, on_halt: str, ask: bool) -> None:
        self._send(
            f"{stream} {decision} {before.replace(' ', '_')} {'slow' if slow else 'plain'}", on_halt, ask=ask
        )

    @rule(count=st.integers(2, 6), first=st.sampled_from(["ok", "hang"]))
    def several_prompts(self, count: int, first: str) -> None:
        self._send(f"{first} nothing as_it_is plain", "wait", ask=False)
        for _ in range(count):
            self._send("ok nothing as_it_is plain", "wait", ask=False)

    @rule(
        sure=st.integers(0, 5),
        where=st.sampled_from(
            ["ok nothing crash plain", "ok crash as_it_is plain", "error crash as_it_is slow"]
        ),
    )
    def prompt_that_crashes_the_agent(self, sure: int, where: str) -> None:
        if sure == 5:
            self._send(where, "wait", ask=False)

    @precondition(lambda self: not self._alive())
    @rule()
    def start_again_after_a_crash(self) -> None:
        self._all_ended(self.refs)
        self.refs.clear()
        self.run(self._start())

    @precondition(lambda self: self.halted and self._alive())
    @rule()
    def resume_when_halted(self) -> None:
        self.halted = False
        self.run(self._call(self.runtime.resume, NAME))

    def _send(self, what: str, on_halt: str, *, ask: bool) -> None:
        self.count += 1
        text = f"{self.count} {what}"
        halted = self.halted

        async def tell() -> None:
            if ask:
                self.asks.append(asyncio.ensure_future(self._ask(text)))
                return
            ref = self.runtime.tell(
                NAME, text, on_halt=on_halt,  # type: ignore[arg-type]
                on_complete=lambda ref, outcome: self.ended.setdefault(ref, []).append(outcome),
            )  # fmt: skip
            self.refs.append(ref)
            self.order.append(text)

        try:
            self.run(tell())
        except AgentNotFound:
            assert not self._alive()
        except SessionHalted:
            assert halted
            assert on_halt == "fail"

    async def _ask(self, text: str) -> Any:
        return await self.runtime.ask(NAME, text)

    @rule(event=st.sampled_from(["nothing", "prompt", "nothing", "prompt", "raise", "halt", "crash"]))
    def notify(self, event: str) -> None:
        if not self._alive():
            return

        async def notifying() -> None:
            # A plain handler runs in the caller when the agent is idle, and so does a crash on purpose.
            try:
                self.runtime.notify(NAME, event)
            except Crash:
                machine = self.runtime.whereis(NAME)
                assert machine is not None
                await self.runtime.stop(NAME)

        self.run(notifying())

    @rule(
        stream=st.sampled_from(STREAMS), decision=st.sampled_from(DECISIONS), slow=st.booleans(),
        count=st.integers(1, 3), interrupt=st.sampled_from([False, False, True]),
    )  # fmt: skip
    def begin_by_itself(self, stream: str, decision: str, slow: bool, count: int, interrupt: bool) -> None:
        if not self._alive():
            return

        async def beginning() -> None:
            for _ in range(count):
                self.count += 1
                text = f"{self.count} {stream} {decision} as_it_is {'slow' if slow else 'plain'}"
                assert self.backend.begin(text), "an agent that lives takes up what has begun"
                self.own.append(text)
            if interrupt:
                assert self.runtime.interrupt(NAME), "there is a turn, and this ends it"

        self.run(beginning())

    @rule(asked=st.sampled_from(["approve", "give up"]))
    def a_background_question(self, asked: str) -> None:
        if not self._alive() or self.runtime.approvals:
            return

        async def asking() -> None:
            assert self.backend.host is not None
            answer = asyncio.ensure_future(self.backend.host.ask(ApprovalRequest("rm", {}, path=("child",))))
            await self._settle()
            (approval_id,) = self.runtime.approvals
            if asked == "approve":
                await self.runtime.decide(approval_id, Approve())
                assert await answer == Approve()
            else:
                answer.cancel()
                await asyncio.gather(answer, return_exceptions=True)
            assert not self.runtime.approvals

        self.run(asking())

    @rule(data=st.data(), right=st.sampled_from(["none", "right", "wrong"]))
    def interrupt(self, data: st.DataObject, right: str) -> None:
        if not self._alive():
            return

        async def interrupting() -> None:
            in_flight = self.runtime.status(NAME).in_flight
            ref = {"none": None, "right": in_flight, "wrong": "another"}[right]
            acted = self.runtime.interrupt(NAME, ref=ref)
            assert not (right == "wrong" and acted)
            assert not (acted and in_flight is None)

        self.run(interrupting())

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.refs:
            return
        ref = data.draw(st.sampled_from(self.refs))

        async def cancelling() -> None:
            queued = self._alive() and self._is_queued(ref)
            try:
                self.runtime.cancel(ref)
                assert queued
            except (Conflict, RequestNotFound, AgentNotFound):
                assert not queued

        self.run(cancelling())

    def _is_queued(self, ref: str) -> bool:
        machine = self.runtime.whereis(NAME)
        return machine is not None and machine.in_flight() != ref and machine.pending(ref) is not None

    @rule()
    def halt(self) -> None:
        if self._alive():
            self.halted = True
            self.run(self._call(self.runtime.halt, NAME))

    @rule()
    def resume(self) -> None:
        if self._alive():
            self.halted = False
            self.run(self._call(self.runtime.resume, NAME))

    async def _call(self, verb: Callable[..., Any], *args: Any) -> Any:
        return verb(*args)

    @rule()
    def let_a_turn_go_on(self) -> None:
        if self.gates:
            self.gates[-1].set()
            self.run(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([1, WATCHDOG_S, 10 * WATCHDOG_S]))
    def time_passes(self, seconds: int) -> None:
        self.run(self._call(self.clock.advance, seconds))

    @rule(approve=st.booleans())
    def decide(self, approve: bool) -> None:
        for approval_id in list(self.runtime.approvals):
            try:
                self.run(self.runtime.decide(approval_id, Approve() if approve else Reject("no")))
            except (ApprovalNotFound, Conflict):
                raise AssertionError("a question on the board could not be answered") from None

    @rule()
    def reset_session(self) -> None:
        if not self._alive():
            return
        idle = self.runtime.status(NAME).phase is Phase.IDLE

        async def resetting() -> None:
            try:
                await self.runtime.reset_session(NAME)
                assert idle
            except Conflict:
                assert not idle

        self.run(resetting())

    @rule(full=st.integers(0, 3))
    def the_disk(self, full: int) -> None:
        self.journal.failing = {"started": StoreUnavailable("full")} if full == 3 else {}

    @rule(drain=st.booleans())
    def stop_and_start_again(self, drain: bool) -> None:
        async def again() -> None:
            if self._alive():
                ending = asyncio.ensure_future(self.runtime.drain(NAME) if drain else self.runtime.stop(NAME))
                while not ending.done():
                    await self._settle()
                    for gate in self.gates:
                        gate.set()
                    for approval_id in list(self.runtime.approvals):
                        await self.runtime.decide(approval_id, Approve())
                await ending
            self._all_ended(self.refs)
            self.refs.clear()
            await self._start()

        self.run(again())

    # -- what must hold ------------------------------------------------------------------------------

    @invariant()
    def one_turn_at_a_time_in_order(self) -> None:
        assert self.most <= 1
        told = [text for text in self.dispatched if text in self.order]
        first_times = list(dict.fromkeys(told))
        assert first_times == [text for text in self.order if text in set(first_times)]

    @invariant()
    def what_has_begun_by_itself_is_followed_once_in_order(self) -> None:
        followed = [text for text in self.dispatched if text in self.own]
        assert followed == self.own[: len(followed)]
        if self._alive() and self.runtime.status(NAME).phase is Phase.IDLE:
            assert followed == self.own

    @invariant()
    def every_request_is_pending_or_has_one_outcome(self) -> None:
        for ref in self.refs:
            outcomes = self.ended.get(ref, [])
            assert len(outcomes) <= 1
            if self._alive():
                result = self.runtime.poll(ref)
                assert isinstance(result, Pending) is (not outcomes)
                assert not outcomes or result == outcomes[0]
            else:
                assert len(outcomes) == 1

    @invariant()
    def the_journal_saw_each_in_order(self) -> None:
        kinds: dict[str, list[str]] = {}
        for kind, ref in self.journal.log:
            if kind in {"accepted", "started", "finished"}:
                kinds.setdefault(ref, []).append(kind)
        for ref, seen in kinds.items():
            assert seen[0] == "accepted", (ref, seen)
            assert seen.count("accepted") == 1
            assert "finished" not in seen[:-1], (ref, seen)

    @invariant()
    def the_flags_are_the_models(self) -> None:
        if self._alive():
            status = self.runtime.status(NAME)
            assert status.halted is self.halted
            assert status.needs_decision is bool(self.runtime.approvals)

    def _all_ended(self, refs: list[str]) -> None:
        for ref in refs:
            assert len(self.ended.get(ref, [])) == 1, "somebody is left waiting"

    def teardown(self) -> None:
        async def ending() -> set[asyncio.Task[Any]]:
            await self.runtime.close(deadline_s=5)
            await self._settle()
            await asyncio.gather(*self.asks, return_exceptions=True)
            return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

        left = self.loop.run_until_complete(ending())
        self.loop.close()
        self._all_ended(self.refs)
        assert not left
        assert self.clock.waiting == 0


TestAgentMachine = AgentMachine.TestCase
TestAgentMachine.settings = settings(stateful_step_count=40)
