"""The turns of a `model` session: a loop that runs, its questions put to people, its events streamed.

turn()   a task runs the loop and puts events into a short queue; the stream reads it. Closing the stream cancels the
         task, and with it the model call, the tools and every sub-agent below. The next turn reads from the memory
         how it stands, so what is left of a turn that was cut off can do nothing to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from pydantic_ai import UsageLimits
from pydantic_ai.messages import ModelResponse, TextPart

from tollboard.backends._directory_tools import DirectoryTools
from tollboard.backends._model_agent import Todo, Toolbox, definition_of, todos_text
from tollboard.backends._model_failures import error_cause, retry_after_s
from tollboard.backends._model_news import news_of, public_id
from tollboard.backends._model_options import ModelOptions
from tollboard.backends._process import end_processes
from tollboard.backends._sandbox import Wish, settle
from tollboard.clock import SystemClock
from tollboard.errors import InvalidDecision
from tollboard.runtime.approval import ApprovalKind, ApprovalRequest, Edit, Reject
from tollboard.runtime.backend import ProcessReport, Turn
from tollboard.runtime.event import ErrorCause, ErrorEvent, Event, NoticeEvent, ResultEvent, UsageEvent
from tollboard.runtime.memory import Memory
from tollboard.subagents.events import SubAgentEvent
from tollboard.subagents.failures import cause_of, reason_of
from tollboard.subagents.journal import RunJournal
from tollboard.subagents.loop import Loop
from tollboard.subagents.outcome import ENDED, ActionRequest, Cause, Completed, Failed, Interrupted, Outcome
from tollboard.subagents.run import Run
from tollboard.subagents.subagent import Definition
from tollboard.subagents.tree import Tree

QUEUED_EVENTS = 64
MARKER = "TOLLBOARD_CONVERSATION"
CANCEL_S = 2.0
LAZY = (
    ("client", "beta", "messages"),
    ("client", "chat", "completions"),
    ("client", "responses"),
    ("client", "aio", "models"),
)
"""What the clients of the providers import only when it is asked for: up to a second, on the loop at a first prompt."""
TOLD = {
    "subagent_started": "has begun",
    "subagent_completed": "is done",
    "subagent_failed": "failed",
    "subagent_cancelled": "was cancelled",
}
GONE = (
    "the conversation {id} is gone: nothing is remembered of it. Nothing was started in its place; start a new "
    "session, or reset this one, to go on without what was said"
)


class Conversation:
    """What a session holds while its process lives."""

    def __init__(self, id: str, options: ModelOptions, *, answered: bool) -> None:
        self.id = id
        self._options = options
        self._answered = answered
        marker = options.marker or (MARKER, id)
        self._directory = DirectoryTools(
            options.cwd or ".", marker=marker, private=options.private, pass_env=options.pass_env
        )
        self._toolbox = Toolbox(options, self._directory, marker, self._note_todos)
        self._definition = definition_of(options, self._toolbox)
        self._clients = AsyncExitStack()
        self._opened = False
        self._loop: Loop | None = None
        self._left: set[asyncio.Task[ResultEvent | ErrorEvent]] = set()
        """Turns whose tools swallowed their cancellation."""
        self._tree = Tree()
        """The sub-agents that have not ended."""
        self._asking: dict[str, asyncio.Task[None]] = {}
        """The questions that wait for people, by id."""
        self._turn: Turn | None = None
        self._ready_to_go = asyncio.Event()
        """Whether the turn in flight has taken up what is remembered."""
        self._memory: Memory | None = None
        self._events: asyncio.Queue[Event] | None = None

    async def settle_sandbox(self) -> dict[str, str]:
        """Find the sandbox of the commands; return what `status` is to show. Raises BackendUnavailable if it must."""
        wish = Wish(self._options.sandbox or self._options.sandbox_default)
        if wish is Wish.OFF:
            return {}
        network = self._options.sandbox_network
        sandbox = await settle(wish, private=self._options.private, network=network)
        self._directory.run_in(sandbox)
        return {"sandbox": "none" if sandbox is None else sandbox.name}

    def warm(self) -> None:
        """Import what the clients import at their first request; called on a thread, before there is one."""
        importlib.import_module("jsonschema")
        for model in self._toolbox.models.values():
            for path in LAZY:
                found: object = model
                for name in path:
                    found = getattr(found, name, None)

    async def close(self) -> ProcessReport:
        """End commands that still run and MCP servers, and close the connections."""
        await asyncio.gather(*(self._end(working) for working in self._left))
        report = await self._directory.close()
        if self._toolbox.servers:
            closing = [asyncio.create_task(server.close()) for server in self._toolbox.servers]
            _, slow = await asyncio.wait(closing, timeout=CANCEL_S)
            for task in slow:
                task.cancel()
            await asyncio.gather(*closing, return_exceptions=True)
            servers = await end_processes(marker=self._toolbox.marker)
            report = ProcessReport(report.killed + servers.killed, report.unverified + servers.unverified)
        await self._clients.aclose()
        return report

    async def cancel_sub_agent(self, id: str) -> bool:
        """End one sub-agent and all below it; return whether it was there. The one above is told and goes on."""
        if self._turn is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_S):
                await self._ready_to_go.wait()
        run = next((run for key, run in self._tree.runs.items() if public_id(key) == id), None)
        if run is None or run.status in ENDED:
            return False
        run.cancel()
        if self._loop is not None:
            left = {request.id for request in self._loop.questions()}
            for question, asking in tuple(self._asking.items()):
                if question not in left:
                    asking.cancel()  # nobody needs the answer any more
        await run.ended()
        return True

    async def renew(self, id: str) -> None:
        """Begin a new conversation under another id: what was said is forgotten, connections and servers stay."""
        self.id = id
        self._answered = False
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()
        await asyncio.gather(*(self._end(working) for working in self._left))
        await self._directory.close()

    @asynccontextmanager
    async def turn(self, text: str, turn: Turn, memory: Memory) -> AsyncIterator[AsyncGenerator[Event, None]]:
        """Run a turn; the stream ends after its terminal event. Leaving the block early ends everything it started."""
        events: asyncio.Queue[Event] = asyncio.Queue(QUEUED_EVENTS)
        self._events, self._turn = events, turn
        self._ready_to_go.clear()
        working = asyncio.create_task(self._work(text, turn, memory, events))
        try:
            yield self._stream(events, working)
        finally:
            self._ready_to_go.set()
            if not working.done():
                loop, self._loop = self._loop, None
                if loop is not None:
                    loop.close()
                await self._end(working)
                if loop is not None:
                    # With what the responses had used that were cut off: their beginnings were paid for.
                    turn.report_usage(loop.newly())
            elif not working.cancelled():
                working.exception()

    async def _end(self, working: asyncio.Task[ResultEvent | ErrorEvent]) -> None:
        """Cancel a turn and wait for its end, but not for ever: a tool may swallow the cancellation."""
        self._left.add(working)
        working.add_done_callback(self._left.discard)
        working.cancel()
        await asyncio.wait({working}, timeout=CANCEL_S)

    async def _stream(
        self, events: asyncio.Queue[Event], working: asyncio.Task[ResultEvent | ErrorEvent]
    ) -> AsyncGenerator[Event, None]:
        while True:
            reading = asyncio.ensure_future(events.get())
            try:
                await asyncio.wait({reading, working}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not reading.done():
                    reading.cancel()
            if reading.done() and not reading.cancelled():
                yield reading.result()
                continue
            while not events.empty():
                yield events.get_nowait()
            yield working.result()
            return

    async def _work(
        self, text: str, turn: Turn, memory: Memory, events: asyncio.Queue[Event]
    ) -> ResultEvent | ErrorEvent:
        """Run the loop to its end, asking people on the way."""
        loop = await self._ready(memory)
        self._ready_to_go.set()
        cause: ErrorCause | None = None
        wait_s: float | None = None
        if loop is None:
            return ErrorEvent(GONE.format(id=self.id))
        for server in self._toolbox.servers:
            server.begin_turn(lambda message: self._notice("mcp_server", message))
        loop.on_usage = lambda: turn.report_usage(loop.newly())
        try:
            if loop.head.ref == turn.ref:
                outcome = await self._go_on(loop)
            else:
                outcome = await loop.go(text, ref=turn.ref)
            while isinstance(outcome, Interrupted):
                await self._ask(loop, turn, outcome.interrupt.requests)
                outcome = await loop.go()
        except Exception as failure:
            # A model's client may raise anything; what the provider says is what a person needs to read.
            outcome = Failed(reason_of(failure), cause_of(failure))
            cause, wait_s = error_cause(failure), retry_after_s(failure)
        usage = loop.newly()
        await events.put(UsageEvent(usage))
        if isinstance(outcome, Completed):
            self._answered = True
            return ResultEvent(outcome.result, usage, note=outcome.note)
        return ErrorEvent(_why(outcome), usage, cause, wait_s)

    async def _ready(self, memory: Memory) -> Loop | None:
        """Return the loop, with what is remembered; `None` when that is gone."""
        if self._loop is not None:
            return self._loop
        if not self._opened:
            self._opened = True
            for model in self._toolbox.models.values():
                # Its connections stay open from turn to turn; each run would close them otherwise.
                await self._clients.enter_async_context(model)
        given: dict[str, Any] = {"request_limit": None, **self._options.limits}
        loop = Loop(
            self._definition, id=self.id, path=(self._definition.name,), journal=RunJournal(memory, self.id),
            make_child=self._make_child, show=self._show, limits=UsageLimits(**given),
        )  # fmt: skip
        self._memory = memory
        if not await loop.load() and self._answered:
            return None
        self._loop = loop
        return loop

    async def _go_on(self, loop: Loop) -> Outcome:
        """Take the turn up that a restart cut off; perhaps it had just said its last word."""
        newest = loop.messages[-1]
        if loop.unfinished or not isinstance(newest, ModelResponse):
            return await loop.go()
        return Completed("".join(part.content for part in newest.parts if isinstance(part, TextPart)))

    async def _ask(self, loop: Loop, turn: Turn, requests: tuple[ActionRequest, ...]) -> None:
        """Put every question to people at once, and keep each answer as it comes."""
        async with asyncio.TaskGroup() as group:
            for request in requests:
                self._asking[request.id] = group.create_task(self._ask_one(loop, turn, request))
                self._asking[request.id].add_done_callback(partial(self._asked, request.id))

    def _asked(self, question: str, asking: asyncio.Task[None]) -> None:
        self._asking.pop(question, None)

    async def _ask_one(self, loop: Loop, turn: Turn, request: ActionRequest) -> None:
        kind = ApprovalKind.QUESTION if request.questions else ApprovalKind.CALL
        decision = await turn.request_approval(
            ApprovalRequest(
                request.tool, request.arguments, request.tool_call_id, request.display, request.allowed,
                id=request.id, path=request.path[1:],
                check=lambda arguments: loop.check(request.id, Edit(arguments)),
                kind=kind, questions=request.questions,
            )
        )  # fmt: skip
        try:
            if isinstance(decision, Edit):
                loop.check(request.id, decision)
        except InvalidDecision as wrong:
            # Given while the daemon was away, when nobody could check it.
            decision = Reject(f"a person changed the arguments, but they do not fit: {wrong}")
        await loop.decide(request.id, decision)

    def _make_child(self, loop: Loop, definition: Definition, id: str, instructions: str) -> Run:
        return Run(
            definition, instructions, id=id, path=loop.path, parent=loop.id, memory=self._memory, deps=loop.deps,
            model=loop.model, limits=loop.limits, clock=SystemClock(), observer=self._heard, tree=self._tree,
            nested=True,
        )  # fmt: skip

    # -- what is shown

    async def _show(self, event: Event) -> None:
        if self._events is not None:
            await self._events.put(event)

    def _heard(self, event: SubAgentEvent) -> None:
        """Tell it past the stream, which is closed already when the turn is being ended (A30)."""
        news = news_of(event, self._tree.runs.get(event.id), self.id)
        if news is not None and self._turn is not None:
            self._turn.sub_agent(news)
        if event.kind in TOLD:
            detail = getattr(event, "error", "") or getattr(event, "result", "")
            self._notice("sub-agent", f"{event.name} {TOLD[event.kind]}" + (f": {detail}" if detail else ""))

    def _note_todos(self, todos: Any) -> None:
        listed: list[Todo] = list(todos)
        if self._loop is not None:
            self._loop.head.notes["todos"] = todos_text(listed)
        self._notice("todos", todos_text(listed))

    def _notice(self, name: str, message: str) -> None:
        """Tell it if there is room: what is told here is for looking on, and nobody may be held up by it."""
        with contextlib.suppress(asyncio.QueueFull):
            if self._events is not None:
                self._events.put_nowait(NoticeEvent(name, message))


def _why(outcome: Outcome) -> str:
    match outcome:
        case Failed(reason, Cause.HALTED, by):
            return f"halted by {by}: {reason}"
        case Failed(reason):
            return reason
    return "it did not end"
