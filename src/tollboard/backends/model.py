"""Sessions on any model that Pydantic AI knows: tools, sub-agents, guarded calls (the extra `models`).

The conversation lives in the session's memory, step by step, so a restart goes on where it was; a turn that waits for
people goes on too, and asks the same questions. What happens within a turn is in `_model_turn.py`, the options in
`_model_options.py`, the agents made of them in `_model_agent.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from tollboard.backends._imports import often_switched
from tollboard.backends._model_options import (
    ModelOptions,
    check_model_option,
    model_worker_options,
    parse_model_options,
)
from tollboard.backends._model_powers import model_powers
from tollboard.errors import BackendUnavailable, TollboardError
from tollboard.ids import new_ref
from tollboard.runtime.backend import NO_PROCESSES, Backend, Health, ProcessReport, Turn
from tollboard.runtime.event import ErrorEvent, Event
from tollboard.runtime.memory import DictMemory, Memory

if TYPE_CHECKING:
    from tollboard.backends._model_turn import Conversation

__all__ = ["ModelBackend", "ModelSession", "check_model_option"]

INSTALL = "pip install 'tollboard[models]'"


OPENING_S = 20.0
"""How long a cancel waits for a turn that is being taken up again after a restart."""


@dataclass(slots=True, eq=False)
class ModelSession:
    """One conversation under an id of ours; opened at the first prompt."""

    id: str
    options: ModelOptions
    answered: bool
    reported: bool = False
    own: Memory = field(default_factory=DictMemory)
    """The memory where nothing else keeps one: a session without a daemon."""
    conversation: Conversation | None = None
    closing: asyncio.Task[ProcessReport] | None = None
    opening: asyncio.Event | None = None
    """Set once the prompt that is being opened can be reached: making a conversation anew may take seconds."""
    sandbox: dict[str, str] = field(default_factory=dict)
    """What `status` shows of the sandbox of its commands."""


class ModelBackend(Backend[ModelSession]):
    """Run prompts through a model's API.

    Options: `model` (needed: `anthropic:...`, `openai:...`, `google:...`, any that Pydantic AI knows), `base_url`
    (an OpenAI-compatible server such as Ollama or vLLM, or a proxy), `env` (keys by name, as `"$NAME"`),
    `system_prompt`, `settings` (temperature, max_tokens, ...), `limits`, `max_runs` (model calls in a turn, default
    100), `tools` (names: list_files, read_file, write_file, edit_file, search_files, run_command, write_todos,
    ask_person, and entry points of the group `tollboard.tools`; default: all built-in ones), `guards` (tool to true,
    false or {"allowed_decisions": [...]}; writing and running wait for a person by default), `mcp_servers`,
    `sub_agents`, `general_purpose`, `list_sub_agents`, `summarise_at` (tokens), `sandbox` (off, auto or required:
    whether commands run in one), `sandbox_network` (default true).
    """

    name: ClassVar[str] = "model"
    extra: ClassVar[str | None] = "models"
    goes_on: ClassVar[bool] = True

    def powers(self, options: Mapping[str, object]) -> tuple[str, ...]:
        """Return servers, addresses, keys, guards that are lifted, tools of other packages; in sub-agents too."""
        return model_powers(options)

    def check_options(self, options: Mapping[str, object]) -> None:
        """Raise InvalidOption for an unknown or bad option; models and tools are looked up at the start."""
        parse_model_options(options)

    async def check_start(self, options: Mapping[str, object]) -> None:
        """Raise what `start_session` would: the agents are made, and thrown away."""
        await self.terminate_session(await self.start_session(options))

    async def start_session(self, options: Mapping[str, object]) -> ModelSession:
        """Return a new session. Raises InvalidOption, also for an unknown model, BackendUnavailable without a key."""
        session = ModelSession(f"model-{new_ref()}", parse_model_options(options), answered=False)
        await _open(session)
        return session

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> ModelSession:
        """Return a session that goes on with an earlier conversation, which is read at the next prompt."""
        parsed = parse_model_options(options)
        return ModelSession(provider_session_id, parsed, answered=parsed.answered)

    async def prompt(self, session: ModelSession, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        """Run one turn, or go on with the one that a restart cut off."""
        if not session.reported:
            await turn.checkpoint(session.id, _effective(session))
            session.reported = True
        opened = session.conversation is not None
        opening = session.opening = asyncio.Event()
        try:
            try:
                conversation = await _open(session)
            except TollboardError as wrong:
                yield ErrorEvent(str(wrong))  # a key that was there when the session was started
                return
            if session.sandbox and not opened:
                await turn.checkpoint(session.id, _effective(session))  # known only now
            async with conversation.turn(text, turn, turn.memory or session.own) as events:
                opening.set()
                async for event in events:
                    yield event
        finally:
            opening.set()
        session.answered = True

    async def cancel_sub_agent(self, session: ModelSession, id: str) -> bool:
        """End one sub-agent of the turn in flight, and all below it; its parent continues."""
        if session.opening is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OPENING_S):
                    await session.opening.wait()
        conversation = session.conversation
        return conversation is not None and await conversation.cancel_sub_agent(id)

    async def terminate_session(self, session: ModelSession) -> ProcessReport:
        """End what its commands started, close its connections. Idempotent; whoever leaves meanwhile, it is done."""
        conversation, session.conversation = session.conversation, None
        if conversation is not None:
            session.closing = asyncio.create_task(conversation.close())
        if session.closing is None or (conversation is None and session.closing.done()):
            return NO_PROCESSES
        return await asyncio.shield(session.closing)

    async def reset_session(self, session: ModelSession) -> ModelSession:
        """Return the session with a fresh conversation under another id; its connections and MCP servers stay."""
        session.id = f"model-{new_ref()}"
        session.answered = session.reported = False
        session.own = DictMemory()
        if session.conversation is not None:
            await session.conversation.renew(session.id)
        return session

    def worker_options(
        self, options: Mapping[str, object], *, opening: str | None, retried: bool
    ) -> Mapping[str, object]:
        """Return the options with who the worker is in the system prompt; a retried one's client tries once."""
        return model_worker_options(options, opening, retried=retried)

    async def check(self) -> Health:
        """Say whether Pydantic AI is there; keys belong to sessions."""
        if importlib.util.find_spec("pydantic_ai") is None:
            return Health(ok=False, detail="pydantic-ai is not installed", mend=INSTALL)
        from importlib.metadata import version

        return Health(
            ok=True, detail=f"Pydantic AI {version('pydantic-ai-slim')}; keys come with each session"
        )


async def _open(session: ModelSession) -> Conversation:
    """Return the session's conversation, made if it has none."""
    if session.closing is not None:
        # The one before ends its processes by their marker, which those of the next one carry too.
        await asyncio.wait({session.closing})
    if session.conversation is None:
        if importlib.util.find_spec("pydantic_ai") is None:
            raise BackendUnavailable(f"the model backend needs Pydantic AI: {INSTALL}")
        # On a thread: what it imports takes seconds, and a blocked loop stops every other agent.
        conversation = await asyncio.to_thread(_made, session)
        session.sandbox = await conversation.settle_sandbox()
        session.conversation = conversation
    return session.conversation


def _made(session: ModelSession) -> Conversation:
    """Return a new conversation, with all imported that its first request will need."""
    with often_switched():
        turn = importlib.import_module("tollboard.backends._model_turn")
        conversation: Conversation = turn.Conversation(session.id, session.options, answered=session.answered)
        conversation.warm()
        return conversation


def _effective(session: ModelSession) -> dict[str, str]:
    options = session.options
    found = {"model": str(options.agent.model), **session.sandbox}
    return found if options.cwd is None else {**found, "cwd": options.cwd}
