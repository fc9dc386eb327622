"""One conversation with a model, step by step, over Pydantic AI: the only file here that knows it, with `building.py`.

Pydantic AI asks the model, checks arguments and runs tools side by side. What it lacks is here: every response is
written down before its tools run, every outcome of a tool call before the model sees it. So there is one way to go on,
after a pause as after a crash: take the newest response again, and hand each of its calls to `Loop._call`, which

    has an outcome       gives it again, without running anything
    is guarded           asks a person, unless there is a decision
    was started          says that nobody knows whether it ran; it is not run again
    else                 runs it, and writes the outcome down

A `task` call runs another loop in the same way (`_task`), so decisions need no way down: each loop finds its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_ai import (
    Agent,
    ApprovalRequired,
    DeferredToolRequests,
    ModelMessagesTypeAdapter,
    ModelRetry,
    RunContext,
    ToolDefinition,
    ToolFailed,
    ToolReturn,
    UsageLimits,
)
from pydantic_ai.exceptions import CallDeferred, ToolFailedError, ToolRetryError
from pydantic_ai.messages import (
    FunctionToolResultEvent,
    ModelMessage,
    ModelRequest,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.usage import RunUsage

from tollboard.errors import ApprovalNotFound, InvalidDecision, StoreError, TollboardError
from tollboard.ids import new_ref
from tollboard.runtime.approval import ApprovalRequest, Approve, Decision, Edit, Reject, check_decision
from tollboard.runtime.event import Event, NoticeEvent, TextEvent, ToolResultEvent, ToolUseEvent, Usage
from tollboard.subagents.building import (
    GUARDED,
    Guard,
    agent_of,
    jsonable,
    misfit,
    model_of,
    to_text,
)
from tollboard.subagents.journal import Call, CallOutcome, Head, RunJournal, child_key
from tollboard.subagents.messages import (
    arguments_of,
    as_usage,
    name_apart,
    summary_message,
    summary_of,
    tokens_of,
    tool_calls,
    usage_fields,
    usage_from,
)
from tollboard.subagents.outcome import (
    ActionRequest,
    Cause,
    Completed,
    Failed,
    Halted,
    Interrupt,
    Interrupted,
    Outcome,
)
from tollboard.subagents.subagent import CompiledSubAgent, Definition, SubAgentConfig, guards
from tollboard.subagents.task_tool import TASK, TASK_INSTRUCTIONS, task_schema, use_instructions

if TYPE_CHECKING:
    from tollboard.subagents.run import Run

UNKNOWN = (
    "It is not known whether this call ran: the program ended in the middle of it. It was not run again. "
    "Look at what it may have done before you repeat it."
)
UNDECIDED = "This call was not run: the turn ended before a person decided."
NOT_RUN = "This call was not run: the turn was ended."
EDITED = (
    "\n\n(A person changed the arguments of this call before it ran, to {arguments}. Do not correct that.)"
)
SUMMARISED = "the conversation was long; a summary stands in its place"
MAX_RUNS = "it called the model {runs} times without coming to an end, which is its limit (max_runs)"

Show = Callable[[Event], Awaitable[None]]
ChildMaker = Callable[["Loop", Definition, str, str], "Run"]


class Loop:
    """The conversation of one agent, and where it stands."""

    def __init__(
        self,
        definition: SubAgentConfig | CompiledSubAgent,
        *,
        id: str,
        path: tuple[str, ...],
        journal: RunJournal,
        make_child: ChildMaker,
        deps: Any = None,
        model: Any = None,
        show: Show | None = None,
        heard: Callable[[ModelMessage], None] | None = None,
        limits: UsageLimits | None = None,
    ) -> None:
        self.definition = definition
        self.id = id
        self.path = path
        self.deps = deps
        self._guard = Guard(self)
        self.model = model_of(definition, model)
        self.agent: Agent[Any, Any] = agent_of(definition, self.model, self._guard)
        self.head = Head()
        self.usage = RunUsage()
        self._below = RunUsage()
        """What the sub-agents used that have ended."""
        self.messages: list[ModelMessage] = []
        self.children: dict[str, Run] = {}
        self._calls: dict[str, Call] = {}
        self._guards = guards(definition)
        self._journal = journal
        self._make_child = make_child
        self._show = show
        self._heard = heard
        self._limits = limits or UsageLimits(request_limit=None)
        self._kept = 0
        """How many of the messages are written down."""
        self._ref = ""

    # -- where it stands ---------------------------------------------------------------------------

    async def load(self) -> bool:
        """Take up what an earlier process wrote down; return whether there was anything."""
        found = await self._journal.load()
        if found is None:
            return False
        self.head, texts, calls = found
        self.messages = list(ModelMessagesTypeAdapter.validate_json(f"[{','.join(texts)}]"))
        self._kept, self._ref = len(self.messages), self.head.ref
        self.usage = usage_from(self.head.usage)
        self._below = usage_from(self.head.below)
        self._calls = {call.id: call for call in calls}
        for call in calls:
            if call.tool == TASK and call.outcome is None:
                child = self._child(call)
                if not await child.load():
                    del self.children[call.id]
        return True

    async def save(self, ended: Sequence[Call] = ()) -> None:
        """Write down how it stands, and the messages that are new; calls of an earlier step are not needed again."""
        new = self.messages[self._kept :]
        self._kept = len(self.messages)
        self.head.count += len(new)
        self.head.usage, self.head.below = usage_fields(self.usage), usage_fields(self._below)
        texts = (
            [ModelMessagesTypeAdapter.dump_json([m])[1:-1].decode() for m in new]
            if self._journal.kept
            else []
        )
        try:
            await self._journal.save(self.head, texts, ended)
        except StoreError:
            # It may be that later ones are written: the next time all are, so that none is missing between them.
            self._kept, self.head.count = 0, self.head.first
            raise

    @property
    def unfinished(self) -> bool:
        """Return whether the newest response has calls whose results the model has not seen."""
        return bool(self.messages) and bool(tool_calls(self.messages[-1]))

    def questions(self) -> tuple[ActionRequest, ...]:
        """Return what waits for people, here and below, in the order of the calls."""
        if not self.unfinished:
            return ()
        found: list[ActionRequest] = []
        for part in tool_calls(self.messages[-1]):
            call = self._calls.get(part.tool_call_id)
            if call is not None and call.waits:
                found.append(self._question(call))
            elif part.tool_call_id in self.children:
                found.extend(self.children[part.tool_call_id].loop.questions())
        return tuple(found)

    def _question(self, call: Call) -> ActionRequest:
        display = f"{' › '.join(self.path)}: {call.tool}" if len(self.path) > 1 else ""
        return ActionRequest(
            call.question,
            call.id,
            call.tool,
            call.arguments,
            display,
            call.allowed,
            self.path,
            self.id,
            call.schema,
        )

    def check(self, question: str, decision: Decision) -> None:
        """Raise ApprovalNotFound or InvalidDecision unless this decision fits this question."""
        _, call = self._find(question)
        request = ApprovalRequest(call.tool, call.arguments, allowed=call.allowed)
        check_decision(decision, request)
        if isinstance(decision, Edit) and (why := misfit(decision.arguments, call.schema)):
            raise InvalidDecision(f"edit: the arguments do not fit {call.tool!r}: {why}")

    async def decide(self, question: str, decision: Decision) -> None:
        """Keep a decision; nothing runs yet. The first one stays: a second is ignored."""
        loop, call = self._find(question)
        if call.decision is None:
            call.decision = decision
            await loop._journal.note(call)

    def _find(self, question: str) -> tuple[Loop, Call]:
        for call in self._calls.values():
            if call.question == question:
                return self, call
        for child in self.children.values():
            try:
                return child.loop._find(question)
            except ApprovalNotFound:
                continue
        raise ApprovalNotFound(f"no call waits under the id {question!r}")

    def total(self, since: RunUsage | None = None) -> Usage:
        """Return the usage of this run and of all below it; with `since` only what came after."""
        total = self.sum_usage()
        return as_usage(total if since is None else total - since)

    def sum_usage(self) -> RunUsage:
        """Return the same, as Pydantic AI counts."""
        total = self.usage + self._below
        for child in self.children.values():
            total = total + child.loop.sum_usage()
        return total

    # -- going on ----------------------------------------------------------------------------------

    async def go(self, prompt: str | None = None, *, ref: str = "") -> Outcome:
        """Run to the end or to the next pause. With a prompt a new round begins; without, the newest response goes on.

        `ref` names the prompt; the head has it as soon as there is a response to it. Cancelling ends everything below.
        Exceptions of the model's client go through; what tools raise does not.
        """
        if prompt is not None:
            self._ref = ref
            await self._settle()
            self.head.runs = 0
            if self._long:
                await self._compact()
        try:
            return await self._go(prompt)
        except Halted as halted:
            return Failed(
                str(halted.args[0] if halted.args else ""), Cause.HALTED, _halted_by(halted, self.path)
            )

    async def _go(self, prompt: str | None) -> Outcome:
        while (outcome := await self._until_long(prompt)) is None:
            prompt = None
            await self._compact()
        return outcome

    async def _until_long(self, prompt: str | None) -> Outcome | None:
        """Run; return `None` where the conversation has to be summarised first."""
        async with self.agent.iter(
            prompt,
            message_history=list(self.messages) or None,
            deps=self.deps,
            usage=self.usage,
            usage_limits=self._limits,
            **self._guard.at_run(),
        ) as run:
            node: Any = run.next_node
            while not Agent.is_end_node(node):
                if Agent.is_model_request_node(node):
                    if self._done() is not None:
                        break
                    if self.head.runs >= self.definition.max_runs:
                        return Failed(MAX_RUNS.format(runs=self.head.runs), Cause.MAX_RUNS)
                    if self._long and self.unfinished:
                        self.messages.append(
                            node.request
                        )  # every call with its result: none is parted from it
                        return None
                    self.head.runs += 1
                    if self._show is not None:
                        await _watch(node.stream(run.ctx), self._streamed)
                elif Agent.is_call_tools_node(node):
                    await self._take(run.all_messages())
                    if self._show is not None:
                        await _watch(node.stream(run.ctx), self._refused)
                node = await run.next(node)
            return self._outcome(run.result)

    async def _take(self, messages: Sequence[ModelMessage]) -> None:
        """Write a new response down, with what led to it, before any of its calls runs."""
        fresh = list(messages[len(self.messages) :])
        if not fresh:
            return  # it goes on with the response it had
        name_apart(tool_calls(fresh[-1]))
        self.messages.extend(fresh)
        ended, self._calls = tuple(self._calls.values()), {}
        self.head.step += 1
        self.head.ref = self._ref
        await self.save(ended)
        if self._heard is not None:
            for message in fresh:
                self._heard(message)
        if self._show is not None:
            for part in tool_calls(fresh[-1]):
                await self._show(ToolUseEvent(part.tool_call_id, part.tool_name, arguments_of(part)))

    def _done(self) -> Outcome | None:
        """Return the outcome if the completion tool has run in this step: as it is, or only without an error (A11)."""
        until = self.definition.until
        for call in self._calls.values():
            if call.tool != until or call.outcome is None:
                continue
            if call.outcome.kind == "ok":
                return Completed(to_text(call.outcome.value), call.outcome.value)
            if self.definition.until_tool is not None:
                return Failed(f"its completion tool {until!r} failed: {call.outcome.value}", Cause.UNTIL_TOOL)
        return None

    def _outcome(self, result: Any) -> Outcome:
        output = result.output if result is not None else None
        if isinstance(output, DeferredToolRequests):
            if output.calls:
                names = ", ".join(sorted({call.tool_name for call in output.calls}))
                return Failed(f"{names}: tools that are answered elsewhere are not supported", Cause.CRASHED)
            return Interrupted(Interrupt(self.id, self.definition.name, self.questions()))
        if (done := self._done()) is not None:
            return done
        if self.definition.until is not None:
            return Failed(
                f"it stopped without calling its completion tool {self.definition.until!r}", Cause.UNTIL_TOOL
            )
        return Completed(to_text(output), None if isinstance(output, str) else jsonable(output))

    @property
    def _long(self) -> bool:
        """Whether the conversation came near the model's limit."""
        limit = self.definition.summarise_at
        return limit is not None and bool(self.messages) and tokens_of(self.messages[-1]) >= limit

    async def _compact(self) -> None:
        """Put a summary in the place of the conversation."""
        text, used = await summary_of(self.model, self.messages)
        self.usage.incr(used)
        old, ended = range(self.head.first, self.head.count), tuple(self._calls.values())
        self.head.first = self.head.count
        self.messages, self._kept = [summary_message(text, self.head.notes.get("todos"))], 0
        self._calls = {}
        await self.save(ended)
        await self._journal.forget(old)
        if self._show is not None:
            await self._show(NoticeEvent("summarised", SUMMARISED))

    async def _settle(self) -> None:
        """Give every call of an unfinished response a result, so that a new prompt may follow."""
        if not self.unfinished:
            return
        parts = [
            ToolReturnPart(part.tool_name, self._settled(part.tool_call_id), part.tool_call_id)
            for part in tool_calls(self.messages[-1])
        ]
        self.messages.append(ModelRequest(parts=parts))
        self._calls = {}
        given_up = tuple(self.children)
        self.children.clear()
        for id in given_up:
            await self._journal.drop(f"{self.id}/{self.head.step}.{id}")

    def _settled(self, call_id: str) -> str:
        call = self._calls.get(call_id)
        if call is None:
            return NOT_RUN
        if call.outcome is not None:
            return to_text(call.outcome.value)
        if call.started:
            return UNKNOWN
        return UNDECIDED if call.waits else NOT_RUN

    # -- one tool call -----------------------------------------------------------------------------

    async def handle(
        self,
        ctx: RunContext[Any],
        part: ToolCallPart,
        tool: ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Any],
    ) -> Any:
        """Bring one call to its outcome, or raise ApprovalRequired. Every call that is run comes here."""
        call = self._calls.get(part.tool_call_id)
        if call is None:
            call = Call(self.head.step, part.tool_call_id, part.tool_name, arguments_of(part))
            self._calls[call.id] = call
        if call.outcome is None:
            call.outcome = await self._bring(ctx, call, tool, args, handler)
            await self._journal.note(call)
            if call.tool == TASK:
                await self.save()
                await self._journal.drop(child_key(self.id, call))
            if self._show is not None:
                await self._show(
                    ToolResultEvent(call.id, to_text(call.outcome.value), call.outcome.kind != "ok")
                )
        return _give(call.outcome)

    async def _bring(
        self,
        ctx: RunContext[Any],
        call: Call,
        tool: ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Any],
    ) -> CallOutcome:
        if call.tool == TASK and self.definition.sub_agents:
            return await self._task(call)
        if call.tool == TASK_INSTRUCTIONS and self.definition.sub_agents:
            return CallOutcome("ok", use_instructions(self.definition.sub_agents, str(args["task_name"])))
        if call.started and call.tool not in getattr(self.definition, "repeatable", ()):
            return CallOutcome("failed", UNKNOWN)
        if (allowed := self._allowed(call.tool, tool)) and call.decision is None:
            await self._ask(call, tool, allowed)
        match call.decision:
            case Reject(message):
                why = f": {message}" if message else ""
                return CallOutcome("failed", f"A person rejected this call; it was not run{why}")
            case Edit(arguments):
                try:
                    args = _validated(ctx, call.tool, arguments)
                except ValueError as wrong:
                    return CallOutcome(
                        "failed", f"A person edited this call, but the arguments do not fit: {wrong}"
                    )
        call.started = True
        await self._journal.note(call)
        outcome = await self._run(ctx, call, tool, args, handler)
        if isinstance(call.decision, Edit) and outcome.kind == "ok":
            note = EDITED.format(arguments=to_text(dict(call.decision.arguments)))
            outcome = CallOutcome("ok", to_text(outcome.value) + note, outcome.content)
        return outcome

    async def _run(
        self,
        ctx: RunContext[Any],
        call: Call,
        tool: ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Any],
    ) -> CallOutcome:
        """Run the tool. Whatever it raises becomes something the model can read, but for halts and cancellation."""
        try:
            if call.decision is not None and not self._allowed(call.tool, tool):
                result = await _run_approved(
                    ctx, call.tool, args
                )  # it asked by itself, and looks whether it may
            else:
                result = await handler(args)
        except (ToolFailedError, ToolFailed) as failed:
            return CallOutcome("failed", str(failed))
        except ToolRetryError as retry:
            return CallOutcome("retry", to_text(retry.tool_retry.content))
        except ModelRetry as retry:
            return CallOutcome("retry", retry.message)
        except ApprovalRequired:
            call.started = False
            if isinstance(call.decision, Approve | Edit):
                return CallOutcome(
                    "failed", "It was approved, but the tool asked for approval again; it was not run"
                )
            await self._ask(call, tool, ("approve", "reject"))
            raise
        except (CallDeferred, Halted):
            raise
        except Exception as crashed:
            return CallOutcome("failed", f"{type(crashed).__name__}: {crashed}")
        if isinstance(result, ToolReturn):
            return CallOutcome("ok", jsonable(result.return_value), jsonable(result.content))
        return CallOutcome("ok", jsonable(result))

    def _allowed(self, name: str, tool: ToolDefinition) -> tuple[str, ...]:
        """Return which decisions the tool waits for, none if it is not guarded; the definition has the last word."""
        if name in self.definition.interrupt_on:
            return self._guards.get(name, ())
        return tuple((tool.metadata or {}).get(GUARDED, ()))

    async def _ask(self, call: Call, tool: ToolDefinition, allowed: Sequence[str]) -> None:
        if not call.question:
            call.question, call.allowed = new_ref(), tuple(allowed)
            call.schema = tool.parameters_json_schema
            await self._journal.note(call)
        raise ApprovalRequired

    async def _task(self, call: Call) -> CallOutcome:
        """Run the sub-agent of this call as far as it goes."""
        if wrong := misfit(call.arguments, task_schema(self.definition.sub_agents)):
            return CallOutcome("retry", wrong)
        if call.id not in self.children:
            await self._journal.note(call)
        try:
            child = self._child(call)
        except TollboardError as wrong_model:
            return CallOutcome("failed", f"The sub-agent cannot be started: {wrong_model}")
        outcome = await child.go()
        if not isinstance(outcome, Interrupted):
            del self.children[call.id]
            self._below = self._below + child.loop.sum_usage()
        match outcome:
            case Completed(result):
                return CallOutcome("ok", result)
            case Interrupted():
                raise ApprovalRequired
            case Failed(reason, Cause.HALTED, by):
                raise Halted(reason, by)
            case Failed(reason):
                return CallOutcome("failed", f"The sub-agent failed: {reason}")

    def _child(self, call: Call) -> Run:
        child = self.children.get(call.id)
        if child is None:
            name, instructions = str(call.arguments["task_name"]), str(call.arguments["instructions"])
            definition = next(d for d in self.definition.sub_agents if d.name == name)
            child = self._make_child(self, definition, child_key(self.id, call), instructions)
            self.children[call.id] = child
        return child

    # -- what is shown -----------------------------------------------------------------------------

    async def _streamed(self, event: object) -> None:
        match event:
            case PartStartEvent(part=TextPart(content=text)) if text:
                await self._say(text)
            case PartDeltaEvent(delta=TextPartDelta(content_delta=text)) if text:
                await self._say(text)

    async def _say(self, text: str) -> None:
        if self._show is not None:
            await self._show(TextEvent(text, message=str(self.head.step)))

    async def _refused(self, event: object) -> None:
        """Show a call that never came to `handle`: an unknown tool, arguments that do not fit."""
        if isinstance(event, FunctionToolResultEvent) and self._show is not None:
            id = event.part.tool_call_id
            if id not in self._calls:
                content = to_text(jsonable(getattr(event.part, "content", "")))
                await self._show(ToolResultEvent(id, content, is_error=True))


async def _watch(stream: Any, see: Callable[[object], Awaitable[None]]) -> None:
    async with stream as events:
        async for event in events:
            await see(event)


def _give(outcome: CallOutcome) -> Any:
    match outcome.kind:
        case "failed":
            raise ToolFailed(to_text(outcome.value))
        case "retry":
            raise ModelRetry(to_text(outcome.value))
    if outcome.content is not None:
        content: Any = outcome.content
        return ToolReturn(outcome.value, content=content)
    return outcome.value


def _validated(ctx: RunContext[Any], tool: str, arguments: Mapping[str, object]) -> dict[str, Any]:
    tools = ctx.tool_manager.tools if ctx.tool_manager is not None else None
    if tools is None or tool not in tools:
        return dict(arguments)
    validated: dict[str, Any] = tools[tool].args_validator.validate_python(dict(arguments))
    return validated


async def _run_approved(ctx: RunContext[Any], tool: str, args: dict[str, Any]) -> Any:
    from dataclasses import replace

    manager = ctx.tool_manager
    if manager is None or manager.tools is None:
        raise ToolFailed(f"{tool} is not there any more")
    return await manager.toolset.call_tool(
        tool, args, replace(ctx, tool_call_approved=True), manager.tools[tool]
    )


def _halted_by(halted: Halted, path: tuple[str, ...]) -> str:
    return str(halted.args[1]) if len(halted.args) > 1 and halted.args[1] else path[-1]
