"""One conversation with a model, step by step, over Pydantic AI.

Pydantic AI asks the model, checks arguments and runs tools side by side. What it lacks is here: every response is
written down before its tools run, every outcome of a tool call before the model sees it (`calls.py`). So there is one
way to go on, after a pause as after a crash: take the newest response again, and bring each of its calls to its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    ModelMessagesTypeAdapter,
    UsageLimits,
)
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import (
    FunctionToolResultEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    UserPromptPart,
)
from pydantic_ai.usage import RunUsage

from tollboard.errors import InvalidDecision, StoreError
from tollboard.runtime.approval import ApprovalKind, ApprovalRequest, Decision, Edit, fit_decision
from tollboard.runtime.event import Event, NoticeEvent, TextEvent, ToolResultEvent, ToolUseEvent, Usage
from tollboard.subagents.ask_tool import questions_of
from tollboard.subagents.building import (
    Guard,
    agent_of,
    jsonable,
    misfit,
    model_of,
    to_text,
)
from tollboard.subagents.calls import Calls, ChildMaker
from tollboard.subagents.ends import NOTHING, Unusable, check_end, is_empty
from tollboard.subagents.failures import is_overflow, words_of
from tollboard.subagents.hygiene import encodable, mend_response
from tollboard.subagents.journal import Call, Head, RunJournal
from tollboard.subagents.messages import (
    arguments_of,
    as_usage,
    limits_after,
    name_apart,
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
from tollboard.subagents.shortening import shortened, tokens_about
from tollboard.subagents.subagent import CompiledSubAgent, SubAgentConfig
from tollboard.subagents.summaries import summary_message, try_summary

SUMMARISED = "the conversation was long; a summary has taken its place"
NOT_SUMMARISED = "the conversation is long, but it could not be summarised and stays as it is: {why}"
SHORTENED = "the conversation was too long for the model; it was made shorter and sent again"
TOO_LONG = (
    "the prompt is too long for the model, also with everything before it made as short as possible: about {about:,} "
    "tokens. The conversation is as it was before. The provider says: {said}"
)
EMPTY_PROMPT = "the prompt is empty; providers refuse to be sent that"
LEAST_WINDOW = 500
"""A model that refuses fewer tokens than these, roughly, refuses for another reason."""
WINDOW_SHARE = 0.75
"""How much of what a model once refused a conversation may have, before it is summarised."""
MAX_SHORTENED = 16
"""How often in a turn the conversation is halved."""
SAY_SOMETHING = "Your last answer was empty. Answer in words, or call a tool."
MAX_EMPTY = 2
"""How many empty answers in one turn the model is asked again after."""
MAX_RUNS = "it called the model {runs} times without coming to an end, which is its limit (max_runs)"

Show = Callable[[Event], Awaitable[None]]


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
        self.below = RunUsage()
        """What the sub-agents used that have ended."""
        self.messages: list[ModelMessage] = []
        self.calls = Calls(self, journal, make_child)
        self.show = show
        self.on_usage: Callable[[], None] | None = None
        """Called for every response that was paid for, here and below, before it is written down."""
        self._journal = journal
        self._heard = heard
        self.limits = limits or UsageLimits(request_limit=None)
        """For each prompt; those below have the same for theirs."""
        self._kept = 0
        """How many of the messages are written down."""
        self._trial: list[ModelMessage] | None = None
        """The conversation as it is tried now, kept only if the model answers; `None`: as it stands."""
        self._replaces = False
        """Whether what is tried takes the conversation's place, rather than adding to it."""
        self._shortened = 0
        self._empties = 0
        self._no_summary = False
        """Whether a summary failed in this turn: the next prompt tries again, not every step of this one."""
        self.note = ""
        """What a reader has to be told about the newest answer: that it was cut off at its token limit."""
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
        self.below = usage_from(self.head.below)
        await self.calls.load(calls)
        return True

    async def save(self, ended: Sequence[Call] = ()) -> None:
        """Write down how it stands, and the messages that are new; calls of an earlier step are not needed again."""
        new = self.messages[self._kept :]
        self._kept = len(self.messages)
        self.head.count += len(new)
        self.head.usage, self.head.below = usage_fields(self.usage), usage_fields(self.below)
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
        return self.calls.questions(tool_calls(self.messages[-1])) if self.unfinished else ()

    def check(self, question: str, decision: Decision) -> None:
        """Raise ApprovalNotFound or InvalidDecision unless this decision fits this question."""
        _, call = self.calls.find(question)
        asked = questions_of(call.tool, call.arguments, call.allowed)
        kind = ApprovalKind.QUESTION if asked else ApprovalKind.CALL
        request = ApprovalRequest(call.tool, call.arguments, allowed=call.allowed, kind=kind, questions=asked)
        fit_decision(decision, request)
        if isinstance(decision, Edit) and (why := misfit(decision.arguments, call.schema)):
            raise InvalidDecision(f"edit: the arguments do not fit {self.full_name(call.tool)!r}: {why}")

    async def decide(self, question: str, decision: Decision) -> None:
        """Keep a decision; nothing runs yet. The first one stays: a second is ignored."""
        journal, call = self.calls.find(question)
        if call.decision is None:
            call.decision = decision
            await journal.note(call)

    def total(self) -> Usage:
        """Return the usage of this run and of all below it."""
        return as_usage(self.sum_usage())

    def newly(self) -> Usage:
        """Return the same since the newest prompt came."""
        return as_usage(self.sum_usage() - usage_from(self.head.all_before))

    def sum_usage(self) -> RunUsage:
        """Return the same, as Pydantic AI counts."""
        total = self.usage + self.below
        for child in self.calls.children.values():
            total = total + child.loop.sum_usage()
        return total

    def full_name(self, tool: str) -> str:
        """Return how people know a tool whose name was made to fit the provider; any other by its own name."""
        if isinstance(self.definition, CompiledSubAgent):
            return tool
        return self.definition.full_names.get(tool, tool)

    def close(self) -> None:
        """Let nothing more happen here, whatever swallowed its cancellation, and end all below. Idempotent."""
        self._journal.close()
        for child in tuple(self.calls.children.values()):
            child.cancelled()

    # -- going on ----------------------------------------------------------------------------------

    async def go(self, prompt: str | None = None, *, ref: str = "") -> Outcome:
        """Run to the end or to the next pause. With a prompt a new round begins; without, the newest response goes on.

        `ref` names the prompt; the head has it as soon as there is a response to it. Cancelling ends everything below.
        Exceptions of the model's client go through; what tools raise does not.
        """
        if prompt is not None:
            if not (prompt := encodable(prompt)).strip():
                return Failed(EMPTY_PROMPT)
            self._ref = ref
            self.head.own_before = usage_fields(self.usage)
            self.head.all_before = usage_fields(self.sum_usage())
            if self.unfinished:
                results = await self.calls.settle(tool_calls(self.messages[-1]))
                self.messages.append(ModelRequest(parts=results))
            self.head.runs = 0
            self._no_summary, self._shortened = False, 0
            if self._long:
                await self._compact()
        self._trial, self._replaces, self._empties, self.note = None, False, 0, ""
        if prompt is not None and self.messages and isinstance(last := self.messages[-1], ModelRequest):
            # Pydantic AI makes one request of two in a row, and the prompt would not be found as a new one: it was
            # not kept where a summary, or the results of calls that were cut off, came before it.
            self._trial = [
                *self.messages[:-1],
                replace(last, parts=[*last.parts, UserPromptPart(prompt)]),
            ]
            self._replaces, prompt = True, None
        try:
            return await self._go(prompt)
        except Halted as halted:
            return Failed(
                str(halted.args[0] if halted.args else ""), Cause.HALTED, _halted_by(halted, self.path)
            )

    async def _go(self, prompt: str | None) -> Outcome:
        while (outcome := await self._until_long(prompt)) is None:
            prompt = None
            if self._trial is None:
                await self._compact()
        return outcome

    async def _until_long(self, prompt: str | None) -> Outcome | None:
        """Run; return `None` where the conversation has to be summarised first, or the model has to be asked again."""
        history = self.messages if self._trial is None else self._trial
        async with self.agent.iter(
            prompt,
            message_history=list(history) or None,
            deps=self.deps,
            usage=self.usage,
            usage_limits=limits_after(self.limits, usage_from(self.head.own_before)),
            **self._guard.at_run(),
        ) as run:
            node: Any = run.next_node
            while not Agent.is_end_node(node):
                if Agent.is_model_request_node(node):
                    if self.calls.done() is not None:
                        break
                    if self.head.runs >= self.definition.max_runs:
                        return Failed(MAX_RUNS.format(runs=self.head.runs), Cause.MAX_RUNS)
                    if self._trial is None and self._long and self.unfinished:
                        self.messages.append(
                            node.request
                        )  # every call with its result: none is parted from it
                        return None
                    self.head.runs += 1
                    asked = [*run.all_messages(), node.request]
                    try:
                        if self.show is not None:
                            await _watch(node.stream(run.ctx), self._streamed)
                        node = await run.next(node)
                    except ModelAPIError as failure:
                        if not is_overflow(failure):
                            raise
                        await self._shorten(asked, failure)
                        return None
                    continue
                if Agent.is_call_tools_node(node):
                    messages = run.all_messages()
                    if len(messages) > len(history) and self._unanswered(messages):
                        return None
                    manager = run.ctx.deps.tool_manager
                    await self._take(messages, len(history), tuple(manager.tools or ()))
                    if self.show is not None:
                        await _watch(node.stream(run.ctx), self._refused)
                node = await run.next(node)
            return self._outcome(run.result)

    def _unanswered(self, messages: Sequence[ModelMessage]) -> bool:
        """Return whether the model has to be asked again, because it answered with nothing.

        Raises Unusable for a response that broke off, or was refused, or cut off where none of it can be used.
        """
        response = messages[-1]
        if not isinstance(response, ModelResponse):
            return False
        self.note = check_end(response, self.model)
        if isinstance(self.definition, CompiledSubAgent) or not is_empty(response):
            return False
        if self._empties >= MAX_EMPTY:
            raise Unusable(NOTHING)
        self._empties += 1
        asked = messages[-2]
        assert isinstance(asked, ModelRequest)
        again = replace(asked, parts=[*asked.parts, UserPromptPart(SAY_SOMETHING)])
        self._trial = [*messages[:-2], again]
        return True

    async def _shorten(self, asked: Sequence[ModelMessage], failure: ModelAPIError) -> None:
        """Have the conversation tried again, shorter; it is kept so only if the model answers.

        Raises Unusable for a prompt that cannot fit: the conversation is then as it was.
        """
        about = tokens_about(asked)
        if about >= LEAST_WINDOW:
            self.head.window = min(about, self.head.window or about)
        self._shortened += 1
        self.head.runs -= 1  # what was refused was no run
        shorter = None
        if self._shortened <= MAX_SHORTENED:
            shorter = await shortened(self.model, asked, self.usage, todos=self.head.notes.get("todos"))
        if shorter is None:
            raise Unusable(TOO_LONG.format(about=about, said=words_of(failure)))
        self._trial, self._replaces = shorter, True

    async def _take(self, messages: Sequence[ModelMessage], heard: int, tools: Sequence[str]) -> None:
        """Write a new response down, with what led to it, before any of its calls runs.

        `heard` of the messages are not new to observers; `tools` are the names of those the model may call.
        """
        replaced = range(self.head.first, self.head.count) if self._replaces else range(0)
        if self._replaces:
            self.head.first, self.messages, self._kept = self.head.count, [], 0
        self._trial, self._replaces = None, False
        fresh = list(messages[len(self.messages) :])
        if not fresh:
            return  # it goes on with the response it had
        response = fresh[-1]
        assert isinstance(response, ModelResponse)
        mend_response(response, tools)
        name_apart(tool_calls(response))
        self.messages.extend(fresh)
        ended = self.calls.begin()
        self.head.step += 1
        self.head.ref = self._ref
        if self.on_usage is not None:
            self.on_usage()
        await self.save(ended)
        await self._journal.forget(replaced)
        if self._heard is not None:
            for message in messages[heard:]:
                self._heard(message)
        if replaced and self._shortened and self.show is not None:
            await self.show(NoticeEvent("shortened", SHORTENED))
        if self.show is not None:
            for part in tool_calls(fresh[-1]):
                tool = self.full_name(part.tool_name)
                await self.show(ToolUseEvent(part.tool_call_id, tool, arguments_of(part)))

    def _outcome(self, result: Any) -> Outcome:
        output = result.output if result is not None else None
        if isinstance(output, DeferredToolRequests):
            if output.calls:
                names = ", ".join(sorted({call.tool_name for call in output.calls}))
                return Failed(f"{names}: tools that are answered elsewhere are not supported", Cause.CRASHED)
            return Interrupted(Interrupt(self.id, self.definition.name, self.questions()))
        if (done := self.calls.done()) is not None:
            return done
        if self.definition.until is not None:
            return Failed(
                f"it stopped without calling its completion tool {self.definition.until!r}", Cause.UNTIL_TOOL
            )
        extra = None if isinstance(output, str) else jsonable(output)
        return Completed(to_text(output), extra, note=self.note)

    @property
    def _long(self) -> bool:
        """Whether the conversation came near the model's limit."""
        if not self.messages or self._no_summary or not isinstance(self.messages[-1], ModelResponse):
            return False
        about = tokens_about(self.messages)
        if self.head.window and about >= self.head.window * WINDOW_SHARE:
            return True
        limit = self.definition.summarise_at
        # Many servers report nothing when they stream, and some less than they were sent.
        return limit is not None and max(tokens_of(self.messages[-1]) or about, about // 2) >= limit

    async def _compact(self) -> None:
        """Put a summary in the place of the conversation; one that is cut off, empty or refused never takes it."""
        text, why = await try_summary(self.model, self.messages, self.usage)
        if not text:
            self._no_summary = True
            if self.show is not None:
                await self.show(NoticeEvent("not summarised", NOT_SUMMARISED.format(why=why)))
            return
        old, ended = range(self.head.first, self.head.count), self.calls.begin()
        self.head.first = self.head.count
        self.messages, self._kept = [summary_message(text, self.head.notes.get("todos"))], 0
        await self.save(ended)
        await self._journal.forget(old)
        if self.show is not None:
            await self.show(NoticeEvent("summarised", SUMMARISED))

    # -- what is shown -----------------------------------------------------------------------------

    async def _streamed(self, event: object) -> None:
        match event:
            case PartStartEvent(part=TextPart(content=text)) if text:
                await self._say(text)
            case PartDeltaEvent(delta=TextPartDelta(content_delta=text)) if text:
                await self._say(text)

    async def _say(self, text: str) -> None:
        if self.show is not None:
            await self.show(TextEvent(text, message=str(self.head.step)))

    async def _refused(self, event: object) -> None:
        """Show a call that never came to `handle`: an unknown tool, arguments that do not fit."""
        if isinstance(event, FunctionToolResultEvent) and self.show is not None:
            id = event.part.tool_call_id
            if self.calls.get(id) is None:
                content = to_text(jsonable(getattr(event.part, "content", "")))
                await self.show(ToolResultEvent(id, content, is_error=True))


async def _watch(stream: Any, see: Callable[[object], Awaitable[None]]) -> None:
    async with stream as events:
        async for event in events:
            await see(event)


def _halted_by(halted: Halted, path: tuple[str, ...]) -> str:
    return str(halted.args[1]) if len(halted.args) > 1 and halted.args[1] else path[-1]
