"""The tool calls of one conversation's newest response, each brought to its outcome exactly once.

Whatever becomes of a call is written down first: that a person is asked, that it starts, how it ended. So it does not
matter whether a call comes here for the first time, after a pause, or after a crash:

    has an outcome       gives it again, without running anything
    is guarded           asks a person, unless there is a decision
    was started          says that nobody knows whether it ran; it is not run again
    else                 runs it, and writes the outcome down

A `task` call runs another conversation in the same way, so decisions need no way down: each one finds its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic_ai import (
    ApprovalRequired,
    ModelRetry,
    ToolDefinition,
    ToolFailed,
    ToolReturn,
)
from pydantic_ai.exceptions import CallDeferred, ToolFailedError, ToolRetryError
from pydantic_ai.messages import ToolCallPart, ToolReturnPart

from tollboard.errors import ApprovalNotFound, TollboardError
from tollboard.ids import new_ref
from tollboard.runtime.approval import Approve, Edit, Reject
from tollboard.runtime.event import ToolResultEvent
from tollboard.runtime.question import Answer
from tollboard.subagents.ask_tool import questions_of, told
from tollboard.subagents.building import GUARDED, Execution, jsonable, misfit, to_text
from tollboard.subagents.deeds import account_of, did_something
from tollboard.subagents.hygiene import encodable
from tollboard.subagents.journal import Call, CallOutcome, RunJournal, child_key
from tollboard.subagents.messages import arguments_of
from tollboard.subagents.outcome import (
    ENDED,
    ActionRequest,
    Cause,
    Completed,
    Failed,
    Halted,
    Interrupted,
    Outcome,
)
from tollboard.subagents.subagent import Definition, guards
from tollboard.subagents.task_tool import (
    TASK,
    TASK_INSTRUCTIONS,
    instructions_schema,
    task_schema,
    use_instructions,
)

if TYPE_CHECKING:
    from tollboard.subagents.loop import Loop
    from tollboard.subagents.run import Run

UNKNOWN = (
    "It is not known whether this call ran to its end: it was cut off in the middle. It was not run again. "
    "Look at what it may have done before you repeat it."
)
UNDECIDED = "This call was not run: the turn ended before a person decided."
CANCELLED = "The sub-agent was cancelled by a person before it had a result."
NOT_RUN = "This call was not run: the turn was ended."
EDITED = (
    "\n\n(A person changed the arguments of this call before it ran, to {arguments}. Do not correct that.)"
)


ChildMaker = Callable[["Loop", Definition, str, str], "Run"]


class Calls:
    """The calls of the newest response, by id, and the sub-agents they started."""

    def __init__(self, loop: Loop, journal: RunJournal, make_child: ChildMaker) -> None:
        self.children: dict[str, Run] = {}
        self._calls: dict[str, Call] = {}
        self._settled: tuple[Call, ...] = ()
        self._loop = loop
        self._definition = loop.definition
        self._guards = guards(loop.definition)
        self._journal = journal
        self._make_child = make_child

    async def load(self, calls: Iterable[Call]) -> None:
        """Take up what an earlier process wrote down."""
        self._calls = {call.id: call for call in calls}
        for call in self._calls.values():
            if call.tool == TASK and call.outcome is None:
                child = self._child(call)
                if not await child.load():
                    del self.children[call.id]

    def begin(self) -> tuple[Call, ...]:
        """Begin a new step; return the calls of the one that has ended."""
        ended, self._calls = (*self._settled, *self._calls.values()), {}
        self._settled = ()
        return ended

    def get(self, call_id: str) -> Call | None:
        """Return a call of the newest response, `None` for one that has not come here."""
        return self._calls.get(call_id)

    def questions(self, parts: Iterable[ToolCallPart]) -> tuple[ActionRequest, ...]:
        """Return what waits for people, here and below, in the order of the calls."""
        found: list[ActionRequest] = []
        for part in parts:
            call = self._calls.get(part.tool_call_id)
            if call is not None and call.waits:
                found.append(self._question(call))
            elif (child := self.children.get(part.tool_call_id)) is not None and child.status not in ENDED:
                found.extend(child.loop.questions())
        return tuple(found)

    def _question(self, call: Call) -> ActionRequest:
        tool = self._loop.full_name(call.tool)
        display = f"{' › '.join(self._loop.path)}: {tool}" if len(self._loop.path) > 1 else ""
        return ActionRequest(
            call.question,
            call.id,
            tool,
            call.arguments,
            display,
            call.allowed,
            self._loop.path,
            self._loop.id,
            call.schema,
            questions_of(call.tool, call.arguments, call.allowed),
        )

    def find(self, question: str) -> tuple[RunJournal, Call]:
        """Return the call that this question is about, and where it is written down. Raises ApprovalNotFound."""
        for call in self._calls.values():
            if call.question == question:
                return self._journal, call
        for child in self.children.values():
            try:
                return child.loop.calls.find(question)
            except ApprovalNotFound:
                continue
        raise ApprovalNotFound(f"no call waits under the id {question!r}")

    async def settle(self, parts: Sequence[ToolCallPart]) -> list[ToolReturnPart]:
        """End every call as it is, so that a new prompt may follow; return what the model is told of each."""
        await self._give_up()
        results = [ToolReturnPart(p.tool_name, self._as_it_is(p.tool_call_id), p.tool_call_id) for p in parts]
        self._settled, self._calls = tuple(self._calls.values()), {}
        return results

    async def _give_up(self) -> None:
        """End the sub-agents that have not ended: what they did is their calls' outcome, their usage is ours.

        The outcome is written down before what they remember is dropped: in between it would be forgotten (L09).
        """
        given_up = [call for call in self._calls.values() if call.id in self.children]
        for call in given_up:
            child = self.children[call.id]
            call.outcome = CallOutcome("failed", encodable(account_of(child.loop)))
            await self._journal.note(call)
            self._let_go(call, child)
            child.cancelled()
        if given_up:
            await self._loop.save()
        for call in given_up:
            await self._journal.drop(child_key(self._loop.id, call))

    def _let_go(self, call: Call, child: Run) -> None:
        """Take over what a sub-agent used: whatever was paid for is counted once, however it ended (L08)."""
        del self.children[call.id]
        self._loop.below = self._loop.below + child.loop.sum_usage()

    def _as_it_is(self, call_id: str) -> str:
        call = self._calls.get(call_id)
        if call is None:
            return NOT_RUN
        if call.outcome is not None:
            return to_text(call.outcome.value)
        if call.started:
            return UNKNOWN
        return UNDECIDED if call.waits else NOT_RUN

    async def handle(self, execution: Execution) -> Any:
        """Bring one call to its outcome, or raise ApprovalRequired. Every call that is run comes here."""
        part = execution.part
        call = self._calls.get(part.tool_call_id)
        if call is None:
            call = Call(self._loop.head.step, part.tool_call_id, part.tool_name, arguments_of(part))
            self._calls[call.id] = call
        if call.outcome is None:
            outcome = await self._bring(call, execution)
            call.outcome = replace(
                outcome, value=encodable(outcome.value), content=encodable(outcome.content)
            )
            await self._journal.note(call)
            if call.tool == TASK:
                await self._loop.save()
                await self._journal.drop(child_key(self._loop.id, call))
            if self._loop.show is not None:
                told = ToolResultEvent(call.id, to_text(call.outcome.value), call.outcome.kind != "ok")
                await self._loop.show(told)
        return _given(call, call.outcome)

    async def _bring(self, call: Call, execution: Execution) -> CallOutcome:
        if call.tool == TASK and self._definition.sub_agents:
            return await self._task(call)
        if call.tool == TASK_INSTRUCTIONS and self._definition.sub_agents:
            return self._instructions(call)
        if call.started and call.tool not in getattr(self._definition, "repeatable", ()):
            return CallOutcome("failed", UNKNOWN)
        if (allowed := self._allowed(execution.tool)) and call.decision is None:
            await self._ask(call, execution.tool, allowed)
        match call.decision:
            case Answer() as answer:
                return CallOutcome("ok", told(answer, self._question(call).questions))
            case Reject(message) if self._question(call).questions:
                return CallOutcome(
                    "failed", "The person did not answer" + (f": {message}" if message else "")
                )
            case Reject(message):
                why = f": {message}" if message else ""
                return CallOutcome("failed", f"A person rejected this call; it was not run{why}")
            case Edit(arguments):
                try:
                    execution = replace(execution, args=_validated(execution, arguments))
                except ValueError as wrong:
                    return CallOutcome(
                        "failed", f"A person edited this call, but the arguments do not fit: {wrong}"
                    )
        call.started = True
        await self._journal.note(call)
        return await self._run(call, execution)

    async def _run(self, call: Call, execution: Execution) -> CallOutcome:
        """Run the tool. Whatever it raises becomes something the model can read, but for halts and cancellation."""
        try:
            if call.decision is not None and not self._allowed(execution.tool):
                # It asked by itself, and looks whether it may.
                result = await _run_approved(execution)
            else:
                result = await execution.handler(execution.args)
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
            await self._ask(call, execution.tool, ("approve", "reject"))
            raise
        except (CallDeferred, Halted):
            raise
        except Exception as crashed:
            return CallOutcome("failed", f"{type(crashed).__name__}: {crashed}")
        if isinstance(result, ToolReturn):
            return CallOutcome("ok", jsonable(result.return_value), jsonable(result.content))
        return CallOutcome("ok", jsonable(result))

    def _allowed(self, tool: ToolDefinition) -> tuple[str, ...]:
        """Return which decisions the tool waits for, none if it is not guarded; the definition has the last word."""
        for name in (tool.name, self._loop.full_name(tool.name)):
            if name in self._definition.interrupt_on:
                return self._guards.get(name, ())
        return tuple((tool.metadata or {}).get(GUARDED, ()))

    async def _ask(self, call: Call, tool: ToolDefinition, allowed: Sequence[str]) -> None:
        if not call.question:
            call.question, call.allowed = new_ref(), tuple(allowed)
            call.schema = tool.parameters_json_schema
            await self._journal.note(call)
        raise ApprovalRequired

    def _instructions(self, call: Call) -> CallOutcome:
        sub_agents = self._definition.sub_agents
        if wrong := misfit(call.arguments, instructions_schema(sub_agents)):
            return CallOutcome("retry", wrong)
        return CallOutcome("ok", use_instructions(sub_agents, str(call.arguments["task_name"])))

    async def _task(self, call: Call) -> CallOutcome:
        """Run the sub-agent of this call as far as it goes."""
        if wrong := misfit(call.arguments, task_schema(self._definition.sub_agents)):
            return CallOutcome("retry", wrong)
        if call.id not in self.children:
            await self._journal.note(call)
        try:
            child = self._child(call)
        except TollboardError as wrong_model:
            return CallOutcome("failed", f"The sub-agent cannot be started: {wrong_model}")
        self._journal.check_open()  # nothing begins below a turn that is over, whatever swallowed its cancellation
        outcome = await child.go()
        if not isinstance(outcome, Interrupted):
            self._let_go(call, child)
        match outcome:
            case Completed(result, note=note):
                return CallOutcome("ok", f"{result}\n\n({note})" if note else result)
            case Interrupted():
                raise ApprovalRequired
            case Failed(reason, Cause.HALTED, by):
                raise Halted(reason, by)
            case Failed(_, Cause.CANCELLED):
                return CallOutcome("failed", _account(child, CANCELLED))
            case Failed(reason):
                return CallOutcome("failed", _failure(child, reason))

    def _child(self, call: Call) -> Run:
        child = self.children.get(call.id)
        if child is None:
            name, instructions = str(call.arguments["task_name"]), str(call.arguments["instructions"])
            definition = next(d for d in self._definition.sub_agents if d.name == name)
            child = self._make_child(self._loop, definition, child_key(self._loop.id, call), instructions)
            child.loop.on_usage = self._loop.on_usage
            self.children[call.id] = child
        return child

    def done(self) -> Outcome | None:
        """Return the outcome if the completion tool has run in this step: as it is, or only without an error (A11)."""
        until = self._definition.until
        for call in self._calls.values():
            if until not in (call.tool, self._loop.full_name(call.tool)) or call.outcome is None:
                continue
            if call.outcome.kind == "ok":
                return Completed(to_text(call.outcome.value), call.outcome.value)
            if self._definition.until_tool is not None:
                return Failed(f"its completion tool {until!r} failed: {call.outcome.value}", Cause.UNTIL_TOOL)
        return None


def _failure(child: Run, reason: str) -> str:
    return _account(child, f"The sub-agent failed: {reason}")


def _account(child: Run, why: str) -> str:
    """Return why there is no result, and what it did nevertheless (L09)."""
    return account_of(child.loop, why=f"{why.rstrip('.')}.") if did_something(child.loop) else why


def _given(call: Call, outcome: CallOutcome) -> Any:
    """Return, or raise, what the model is told."""
    if outcome.kind != "ok":
        # Never a ModelRetry: Pydantic AI counts those, and ends the run with advice for those who program with it.
        raise ToolFailed(to_text(outcome.value))
    value = outcome.value
    if isinstance(call.decision, Edit):
        value = to_text(value) + EDITED.format(arguments=to_text(encodable(dict(call.decision.arguments))))
    if outcome.content is not None:
        content: Any = outcome.content
        return ToolReturn(value, content=content)
    return value


def _validated(execution: Execution, arguments: Mapping[str, object]) -> dict[str, Any]:
    tool, manager = execution.tool.name, execution.ctx.tool_manager
    tools = manager.tools if manager is not None else None
    if tools is None or tool not in tools:
        return dict(arguments)
    validated: dict[str, Any] = tools[tool].args_validator.validate_python(dict(arguments))
    return validated


async def _run_approved(execution: Execution) -> Any:
    tool, ctx = execution.tool.name, execution.ctx
    manager = ctx.tool_manager
    if manager is None or manager.tools is None:
        raise ToolFailed(f"{tool} is not there any more")
    return await manager.toolset.call_tool(
        tool, execution.args, replace(ctx, tool_call_approved=True), manager.tools[tool]
    )
