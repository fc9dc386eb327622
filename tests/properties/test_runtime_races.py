"""One agent under every verb at every moment: no prediction, only what must hold whatever happens in whatever order.

The verbs come without waiting for one another, with a drawn number of passes of the loop between them, while
callbacks, the backend and the journal answer at once, later, or when a gate opens. `test_runtime_machine.py` says
exactly what must happen when one thing happens at a time; here they meet.

Time stands still, nothing comes from another thread, and garbage is collected only at the end: what is drawn says all.
Nothing is waited for by number or time: `Quiet` says when nothing is left that can move by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import selectors
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tollboard.errors import Crash, StoreUnavailable, TollboardError, TurnFailed
from tollboard.runtime.agent import GenAgent, Halt, Prompt, Skip
from tollboard.runtime.approval import ApprovalRequest, Approve
from tollboard.runtime.backend import NO_PROCESSES, Backend, Host, ProcessReport, Turn
from tollboard.runtime.event import ErrorEvent, Event, ResultEvent, TextEvent
from tollboard.runtime.results import Failed, Outcome, Pending, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.telemetry import AGENT_CRASHED
from tollboard.testing.clock import FakeClock
from tollboard.testing.recorder import RecordingJournal

EXAMPLES = 150
ON_PURPOSE = "on purpose"
GATE = 99
"""In place of a number of passes: wait until the gates open."""
passes = st.sampled_from([0, 0, 0, 1, 2, 5, GATE])


@dataclass(frozen=True)
class Plan:
    """What happens to one prompt. The numbers say after how many passes; 0 is a plain callback."""

    pre: str = "same"
    pre_wait: int = 0
    stream: str = "result"
    stream_wait: int = 0
    cleanup_wait: int = 0
    watch: str = "see"
    decide: str = "nothing"
    decide_wait: int = 0
    post: str = "nothing"
    post_wait: int = 0
    journal: str = "keep"


plans = st.builds(
    Plan,
    pre=st.sampled_from(["same"] * 5 + ["rewrite", "skip", "halt", "raise", "malformed", "crash"]),
    pre_wait=passes,
    stream=st.sampled_from(
        ["result"] * 5
        + [
            "error",
            "silent",
            "raise",
            "cancelled",
            "deaf",
            "approval",
            "approval elsewhere",
            "checkpoint",
            "crash",
        ]
    ),
    stream_wait=passes,
    cleanup_wait=st.sampled_from([0, 0, 0, 2]),
    watch=st.sampled_from(["see"] * 8 + ["raise", "crash", "interrupt"]),
    decide=st.sampled_from(
        ["nothing"] * 4 + ["prompt", "prompt", "halt", "raise", "malformed", "cancelled", "deaf", "crash"]
    ),
    decide_wait=passes,
    post=st.sampled_from(["nothing"] * 6 + ["raise", "crash", "cancelled"]),
    post_wait=passes,
    journal=st.sampled_from(["keep"] * 8 + ["refuse", "lose acceptance", "lose start", "lose end"]),
)
events = st.tuples(
    st.sampled_from(["nothing", "nothing", "prompt", "halt", "raise", "malformed", "cancelled", "crash"]),
    passes,
)


class Quiet(selectors.DefaultSelector):
    """Tells when the loop has nothing to do: it looks at the outside world only to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Future[None]] = []

    def select(self, timeout: float | None = None) -> Any:
        """Wake who waits for the quiet, rather than wait."""
        if self.waiting and timeout != 0:
            waiting, self.waiting = self.waiting, []
            for future in waiting:
                future.set_result(None)
            timeout = 0
        return super().select(timeout)

    async def wait(self) -> None:
        """Wait until nothing moves any more by itself."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future


class World:
    """The runtime under test, what it is made of, and what was seen."""

    def __init__(self, quiet: Quiet, late_commits: bool) -> None:
        self.quiet = quiet
        self.clock = FakeClock()
        self.runtime = Runtime(clock=self.clock, runnable=2)
        self.runtime.telemetry.attach("world", [AGENT_CRASHED], self._crashed)
        self.journal = LateJournal(self, late_commits)
        self.backend = Chaotic(self)
        self.plans: dict[str, Plan] = {}
        self.numbers = itertools.count()
        self.opened = asyncio.Event()
        self.wrong: list[str] = []
        self.accepted: dict[str, str] = {}
        """Prompts of asks and tells that were accepted, in order, by ref."""
        self.pending: set[str] = set()
        self.outcomes: dict[str, list[Outcome]] = {}
        self.asks: list[asyncio.Task[Any]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.begun: list[str] = []
        self.interrupted: set[str] = set()
        """Prompts that an interrupt may have ended."""
        self.depth = 0
        self.advanced = False

    def text(self, plan: Plan) -> str:
        """Return a new prompt that does what the plan says."""
        text = f"p{next(self.numbers)}"
        self.plans[text] = plan
        return text

    def _crashed(self, name: object, measurements: object, metadata: Mapping[str, object]) -> None:
        if metadata["reason"] != ON_PURPOSE:
            self.wrong.append(f"the agent crashed: {metadata['reason']}")

    def interrupt(self, ref: str | None) -> None:
        """Interrupt, and note who may be hit: the one in flight, if it is the one meant."""
        machine = self.runtime.whereis("a")
        if machine is not None and (flying := machine.in_flight()) is not None and ref in (None, flying):
            request = machine.pending(flying)
            assert request is not None
            self.interrupted.add(request.prompt)
        self.runtime.interrupt("a", ref=ref)

    async def wait(self, count: int) -> None:
        """Wait for some passes of the loop, or for the gates."""
        if count == GATE:
            await self.opened.wait()
            return
        for _ in range(count):
            await asyncio.sleep(0)

    def answer(self, kind: str, count: int, do: Callable[[str], Any]) -> Any:
        """Return what a callback returns: a value at once or an awaitable of it."""
        if count == 0 and kind not in {"cancelled", "deaf"}:
            return do(kind)
        return self._later(kind, count, do)

    async def _later(self, kind: str, count: int, do: Callable[[str], Any]) -> Any:
        if kind == "cancelled":
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        try:
            await self.wait(count)
        except asyncio.CancelledError:
            if kind != "deaf":
                raise
        return do(kind)

    def follow_up(self) -> Prompt:
        """Return a prompt of the agent's own; they come to an end."""
        self.depth += 1
        return Prompt(self.text(Plan(decide="nothing" if self.depth > 20 else "prompt", stream="error")))


class LateJournal(RecordingJournal):
    """Commits at once or some passes later, in order, and loses what the plan of the prompt says."""

    def __init__(self, world: World, late: bool) -> None:
        super().__init__()
        self.world = world
        self.late = late
        self.lost: set[str] = set()

    def _commit(self, kind: str, request: Any) -> asyncio.Future[None]:
        plan = self.world.plans[request.prompt]
        commit = super()._note(kind, request.ref)
        loses = {"accepted": "lose acceptance", "started": "lose start", "finished": "lose end"}[kind]
        if plan.journal == loses or request.ref in self.lost:
            if kind == "accepted":
                self.lost.add(request.ref)
            if kind != "finished" or plan.journal == loses:
                commit = asyncio.get_running_loop().create_future()
                commit.add_done_callback(lambda done: done.cancelled() or done.exception())
                commit.set_exception(StoreUnavailable("disk full"))
        return self._late(commit)

    def _late(self, commit: asyncio.Future[None]) -> asyncio.Future[None]:
        if not self.late:
            return commit
        later: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        later.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._after(3, commit, later)
        return later

    def _after(self, count: int, commit: asyncio.Future[None], later: asyncio.Future[None]) -> None:
        if count:
            asyncio.get_running_loop().call_soon(self._after, count - 1, commit, later)
        elif not later.done():
            if commit.exception() is not None:
                later.set_exception(StoreUnavailable("disk full"))
            else:
                later.set_result(None)

    def accepted(self, request: Any) -> asyncio.Future[None]:
        if self.world.plans[request.prompt].journal == "refuse" and request.origin in ("ask", "tell"):
            raise StoreUnavailable("disk full")
        return self._commit("accepted", request)

    def started(self, request: Any) -> asyncio.Future[None]:
        return self._commit("started", request)

    def finished(self, request: Any, outcome: Outcome, duration_s: float) -> asyncio.Future[None]:
        if request.ref in self.outcomes:
            self.world.wrong.append(f"{request.prompt} ended twice in the journal")
        self.outcomes[request.ref] = outcome
        hit = outcome == Failed(Reason.INTERRUPTED)
        if hit and request.prompt not in self.world.interrupted:
            self.world.wrong.append(f"{request.prompt} was hit by an interrupt that was meant for another")
        return self._commit("finished", request)


class Chaotic(Backend[dict[str, Any]]):
    """Does with a prompt what its plan says."""

    name: ClassVar[str] = "chaotic"

    def __init__(self, world: World) -> None:
        self.world = world
        self.running = 0
        self.open_sessions = 0
        self.host: Host | None = None
        self.announced: list[str] = []

    async def start_session(self, options: Mapping[str, object]) -> dict[str, Any]:
        self.open_sessions += 1
        return {"open": True}

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> dict[str, Any]:
        return await self.start_session(options)

    async def reset_session(self, session: dict[str, Any]) -> dict[str, Any]:
        await self.world.wait(2)
        return session

    async def terminate_session(self, session: dict[str, Any]) -> ProcessReport:
        await self.world.wait(1)
        if session["open"]:
            session["open"] = False
            self.open_sessions -= 1
        return NO_PROCESSES

    def listen(self, session: dict[str, Any], host: Host) -> None:
        self.host = host
        self.announced.clear()

    def own_turn(self, session: dict[str, Any], turn: Turn) -> AsyncGenerator[Event, None]:
        self.world.agent.text = text = self.announced.pop(0)
        return self.prompt(session, text, turn)

    async def prompt(self, session: dict[str, Any], text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        world, plan = self.world, self.world.plans[text.removeprefix("rewritten ")]
        if self.running or not session["open"]:
            world.wrong.append(f"{text} ran beside another turn or in a closed session")
        self.running += 1
        try:
            yield TextEvent(text)
            try:
                await world.wait(plan.stream_wait)
            except asyncio.CancelledError:
                if plan.stream != "deaf":
                    raise
            async for event in self._end(plan.stream, text, turn):
                yield event
        finally:
            # One that ends by itself, not because the turn is over, cannot be told from one that still works.
            ended = turn.over  # type: ignore[attr-defined] # it is the runtime's own Turn
            try:
                await world.wait(plan.cleanup_wait)
            except asyncio.CancelledError:
                if ended and not world.advanced:
                    world.wrong.append(f"the cleaning up of {text} was cut")
                raise
            finally:
                self.running -= 1

    async def _end(self, kind: str, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        match kind:
            case "error":
                yield ErrorEvent("no")
                return
            case "silent":
                return
            case "raise":
                raise RuntimeError("broken")
            case "crash":
                raise Crash(ON_PURPOSE)
            case "cancelled":
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future
            case "approval":
                await turn.request_approval(ApprovalRequest("rm", {}))
            case "approval elsewhere":
                asking = asyncio.ensure_future(turn.request_approval(ApprovalRequest("rm", {})))
                try:
                    await asyncio.shield(asking)
                finally:
                    asking.cancel()
            case "checkpoint":
                await turn.checkpoint(f"conversation {text}")
        yield ResultEvent(text)


class Agent(GenAgent):
    """Does in each callback what the plan of the prompt says."""

    def init_agent(self, *, world: World) -> Mapping[str, object]:  # type: ignore[override]
        self.world = world
        world.agent = self
        self.text = ""
        return {}

    @property
    def plan(self) -> Plan:
        return self.world.plans[self.text]

    def pre_turn(self, prompt: str) -> Any:
        self.text = prompt
        self.world.begun.append(prompt)

        def do(kind: str) -> Any:
            _misbehave(kind)
            answers = {"rewrite": f"rewritten {prompt}", "skip": Skip(), "halt": Halt(), "malformed": 7}
            return answers.get(kind, prompt)

        return self.world.answer(self.plan.pre, self.plan.pre_wait, do)

    def handle_stream_event(self, event: Event) -> None:
        if self.plan.watch == "interrupt":
            self.world.interrupt(None)
        _misbehave(self.plan.watch)

    def _decide(self) -> Any:
        def do(kind: str) -> Any:
            _misbehave(kind)
            answers = {"prompt": self.world.follow_up, "halt": Halt, "malformed": int}
            return answers.get(kind, lambda: None)()

        return self.world.answer(self.plan.decide, self.plan.decide_wait, do)

    def handle_response(self, ref: str, response: Any) -> Any:
        return self._decide()

    def handle_error(self, ref: str, reason: Reason, detail: str) -> Any:
        return self._decide()

    def post_turn(self, outcome: Outcome, ref: str) -> Any:
        return self.world.answer(self.plan.post, self.plan.post_wait, _misbehave)

    def handle_event(self, event: Any) -> Any:
        def do(kind: str) -> Any:
            _misbehave(kind)
            answers = {"prompt": self.world.follow_up, "halt": Halt, "malformed": int}
            return answers.get(kind, lambda: None)()

        return self.world.answer(*event, do)

    def post_run(self) -> Any:
        return self.world.answer("nothing", 1, _misbehave)

    def terminate_agent(self, reason: str) -> Any:
        return self.world.answer("nothing", 1, _misbehave)


def _misbehave(kind: str) -> None:
    if kind == "raise":
        raise ValueError("hunter2")
    if kind == "crash":
        raise Crash(ON_PURPOSE)


# -- the verbs --------------------------------------------------------------------------------------------------------


@dataclass
class Driver:
    """Carries the drawn steps out."""

    world: World
    options: dict[str, Any] = field(default_factory=dict)

    async def start(self) -> None:
        world = self.world
        await world.runtime.start_agent(
            Agent, "a", backend=world.backend, journal=world.journal, world=world, **self.options
        )

    async def do(self, verb: str, plan: Plan, event: tuple[str, int], number: int) -> None:
        """Carry one step out; what the runtime refuses is refused."""
        with contextlib.suppress(TollboardError):
            await getattr(self, f"do_{verb}")(plan, event, number)

    def spawn(self, work: Awaitable[Any]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(TollboardError):
                await work

        self.world.tasks.append(asyncio.ensure_future(quietly()))

    def ref(self, number: int) -> str:
        refs = list(self.world.accepted)
        return refs[-1 - number % len(refs)] if refs else "none"

    async def do_tell(self, plan: Plan, event: object, number: int) -> None:
        world = self.world
        text = world.text(plan)
        machine = world.runtime.whereis("a")
        if machine is None:
            return
        ended: list[Outcome] = []
        request = world.runtime.accept(
            machine, text, "fail" if number % 4 == 0 else "wait", lambda ref, outcome: ended.append(outcome)
        )
        world.accepted[request.ref] = text
        world.outcomes[request.ref] = ended
        if request.commit is not None and plan.journal == "lose acceptance":
            self.spawn(self._kept(request))

    async def _kept(self, request: Any) -> None:
        try:
            await request.commit
        except StoreUnavailable:
            self.world.runtime.withdraw(request.ref, Reason.STORE_FAILED)

    async def do_ask(self, plan: Plan, event: object, number: int) -> None:
        world = self.world
        text = world.text(plan)

        async def asking() -> str:
            try:
                return (
                    await world.runtime.ask("a", text, on_cancel="interrupt" if number % 2 else "continue")
                ).text
            except TurnFailed as exc:
                return exc.reason
            except TollboardError as exc:
                return exc.code

        world.asks.append(asyncio.create_task(asking(), name=text))

    async def do_hang_up(self, plan: Plan, event: object, number: int) -> None:
        if self.world.asks:
            task = self.world.asks[number % len(self.world.asks)]
            self.world.interrupted.add(task.get_name())
            task.cancel()

    async def do_notify(self, plan: Plan, event: tuple[str, int], number: int) -> None:
        self.world.runtime.notify("a", event)

    async def do_begin_by_itself(self, plan: Plan, event: object, number: int) -> None:
        backend = self.world.backend
        if backend.host is not None:
            text = self.world.text(plan)
            backend.announced.append(text)
            if not backend.host.begin_turn(text):
                backend.announced.remove(text)

    async def do_interrupt(self, plan: Plan, event: object, number: int) -> None:
        self.world.interrupt(self.ref(number) if number % 2 else None)

    async def do_cancel(self, plan: Plan, event: object, number: int) -> None:
        self.world.runtime.cancel(self.ref(number))

    async def do_withdraw(self, plan: Plan, event: object, number: int) -> None:
        self.world.runtime.withdraw(self.ref(number), Reason.ABANDONED)

    async def do_halt(self, plan: Plan, event: object, number: int) -> None:
        self.world.runtime.halt("a")

    async def do_resume(self, plan: Plan, event: object, number: int) -> None:
        self.world.runtime.resume("a")

    async def do_drain(self, plan: Plan, event: object, number: int) -> None:
        self.spawn(self.world.runtime.drain("a"))

    async def do_stop(self, plan: Plan, event: object, number: int) -> None:
        self.spawn(self.world.runtime.stop("a"))

    async def do_start(self, plan: Plan, event: object, number: int) -> None:
        await self.start()

    async def do_reset(self, plan: Plan, event: object, number: int) -> None:
        self.spawn(self.world.runtime.reset_session("a"))

    async def do_advance(self, plan: Plan, event: object, number: int) -> None:
        self.world.advanced = True
        self.world.clock.advance(float(number))

    async def do_decide(self, plan: Plan, event: object, number: int) -> None:
        for approval in tuple(self.world.runtime.approvals)[:1]:
            self.spawn(self.world.runtime.decide(approval, Approve()))
            self.spawn(self.world.runtime.decide(approval, Approve()))

    async def do_open(self, plan: Plan, event: object, number: int) -> None:
        self.world.opened.set()
        self.world.opened = asyncio.Event()

    async def do_wait(self, plan: Plan, event: object, number: int) -> None:
        self.spawn(self.world.runtime.wait(self.ref(number)))


VERBS = [name.removeprefix("do_") for name in vars(Driver) if name.startswith("do_")]
COMMON = ["tell"] * 6 + ["ask"] * 3 + ["open"] * 3 + ["interrupt", "start"] * 2
step = st.tuples(
    st.sampled_from(VERBS + COMMON), plans, events, st.integers(0, 12), st.sampled_from([0, 0, 1, 2, 3, 8])
)
steps = st.lists(step, max_size=10) | st.lists(step, min_size=15, max_size=40)
options = st.fixed_dictionaries(
    {
        "watchdog_s": st.sampled_from([10.0, 600.0]),
        "silence_s": st.sampled_from([None, 4.0]),
        "approval_timeout_s": st.sampled_from([None, 5.0]),
        "max_results": st.sampled_from([2, 100]),
        "max_queued": st.sampled_from([3, 100]),
        "restart": st.sampled_from(["temporary", "permanent"]),
        "max_restarts": st.just(2),
    }
)


# -- what must hold ---------------------------------------------------------------------------------------------------


def check_now(world: World) -> None:
    """Check what holds at every moment."""
    assert not world.wrong
    assert world.backend.running <= 1
    assert world.backend.open_sessions <= 1
    assert all(len(ended) <= 1 for ended in world.outcomes.values())
    machine = world.runtime.whereis("a")
    if machine is not None:
        world.runtime.status("a")
        world.runtime.snapshot("a")


def check_order(world: World) -> None:
    """Check that what came from outside began in the order of its acceptance, each at most once per attempt."""
    numbers = [int(text[1:]) for text in world.begun if text in set(world.accepted.values())]
    assert numbers == sorted(set(numbers))


def check_journal(world: World) -> None:
    """Check that each request was accepted, then perhaps started, then finished once."""
    stories: dict[str, list[str]] = {}
    for kind, what in world.journal.log:
        if kind in {"accepted", "started", "finished"}:
            stories.setdefault(what, []).append(kind)
    for ref, story in stories.items():
        assert story[0] == "accepted", (ref, story)
        assert story[-1] == "finished", (ref, story)
        assert set(story[1:-1]) <= {"started"}, (ref, story)


async def calm_down(world: World) -> None:
    """Open every gate, answer every question, and let the agent work off what it has."""
    world.opened.set()
    await world.quiet.wait()
    runtime, moving = world.runtime, True
    while moving:
        questions = tuple(runtime.approvals)
        for question in questions:
            await runtime.decide(question, Approve())
        machine = runtime.whereis("a")
        moving = bool(questions) or (machine is not None and machine.halted and runtime.resume("a"))
        await world.quiet.wait()


async def run(quiet: Quiet, drawn: list[Any], late: bool, given_options: dict[str, Any]) -> None:
    """Carry the steps out, let everything come to an end, and check."""
    before = asyncio.all_tasks()
    world = World(quiet, late)
    driver = Driver(world, given_options)
    await driver.start()
    for verb, plan, event, number, count in drawn:
        await driver.do(verb, plan, event, number)
        await world.wait(count)
        check_now(world)
    await calm_down(world)
    check_now(world)
    assert all(len(ended) == 1 for ended in world.outcomes.values()), "somebody was left waiting"
    assert all(task.done() for task in world.asks), "a caller was left waiting"
    assert all(task.done() for task in world.tasks), "a verb never returned"
    for ref in world.accepted:
        if ref in world.runtime.refs:
            assert not isinstance(world.runtime.poll(ref), Pending)
    check_order(world)
    check_journal(world)
    assert await world.runtime.close(deadline_s=5.0) == ()
    check_left(world, before)


def check_left(world: World, before: set[asyncio.Task[Any]]) -> None:
    """Check that nothing is left of anything."""
    runtime = world.runtime
    assert world.backend.running == world.backend.open_sessions == 0
    assert asyncio.all_tasks() == before
    assert world.clock.waiting == 0
    assert not runtime.refs
    assert not runtime.approvals
    assert not runtime.list()
    assert (runtime.scheduler._runnable, len(runtime.scheduler._waiting)) == (0, 0)


def run_alone(*drawn: Any) -> None:
    """Run one example on a loop of its own. The garbage it leaves is collected here, not whenever it suits."""
    unheard: list[dict[str, Any]] = []
    quiet = Quiet()
    gc.freeze()  # what was there before is not looked at
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(quiet)) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: unheard.append(context))
            runner.run(run(quiet, *drawn))
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    assert not unheard


@pytest.fixture(autouse=True, scope="module")
def silent() -> Iterator[None]:
    """Keep thousands of reports of what goes wrong on purpose out of the log."""
    logger = logging.getLogger("tollboard.runtime")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


USUAL = {
    "watchdog_s": 600.0, "silence_s": None, "approval_timeout_s": None, "max_results": 100, "max_queued": 100,
    "restart": "temporary", "max_restarts": 2,
}  # fmt: skip
QUICK, AT_ONCE = Plan(), ("nothing", 0)


# What was found once: a stop in the middle of an event, and one before it.
@example(
    drawn=[
        ("notify", QUICK, ("raise", GATE), 0, 0),
        ("stop", QUICK, AT_ONCE, 0, 2),
        ("tell", QUICK, AT_ONCE, 1, 0),
    ],
    late=False,
    given_options=USUAL,
)
@example(
    drawn=[("stop", QUICK, AT_ONCE, 0, 0), ("notify", QUICK, ("prompt", GATE), 0, 0)],
    late=False,
    given_options=USUAL,
)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(drawn=steps, late=st.booleans(), given_options=options)
def test_whatever_meets_every_request_ends_once_and_nothing_is_left(
    drawn: list[Any], late: bool, given_options: dict[str, Any]
) -> None:
    run_alone(drawn, late, given_options)
