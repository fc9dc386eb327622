"""A backend and agents on strings, for the tests of the runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from tollboard.runtime.agent import GenAgent
from tollboard.runtime.backend import NO_PROCESSES, Backend, Host, ProcessReport, Turn
from tollboard.runtime.event import ErrorEvent, Event, ResultEvent, TextEvent

Script = Callable[[Turn], AsyncIterator[Event]]


class Gate:
    """Where a turn is held: `entered` when it is there, `release` to let it go on."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self._open = asyncio.Event()

    async def pass_through(self) -> None:
        """Say that the turn is here, and wait."""
        self.entered.set()
        await self._open.wait()

    def release(self) -> None:
        """Let the turn go on."""
        self._open.set()


class Puppet(Backend[dict[str, Any]]):
    """Answers a prompt with itself, unless told otherwise for that prompt."""

    name: ClassVar[str] = "puppet"

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.closed: list[str] = []
        self.running = 0
        self.most = 0
        self.started: list[Mapping[str, object]] = []
        self.resumed: list[str] = []
        self.terminated = 0
        self.turns: dict[str, Turn] = {}
        self.sessions_seen: list[object] = []
        self._gates: dict[str, Gate] = {}
        self._scripts: dict[str, Script] = {}
        self.host: Host | None = None
        self.announced: list[str] = []
        self.refuse: Exception | None = None
        self.terminate_gate: Gate | None = None

    def hold(self, text: str) -> Gate:
        """Hold the turn of this prompt after its first event."""
        gate = self._gates[text] = Gate()
        return gate

    def script(self, text: str, script: Script) -> None:
        """Let a function yield the events of this prompt."""
        self._scripts[text] = script

    def fail(self, text: str, message: str = "no") -> None:
        """Let this prompt fail with an error event."""

        async def failing(turn: Turn) -> AsyncIterator[Event]:
            yield ErrorEvent(message)

        self.script(text, failing)

    async def start_session(self, options: Mapping[str, object]) -> dict[str, Any]:
        if self.refuse is not None:
            raise self.refuse
        self.started.append(options)
        return {"n": 0}

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> dict[str, Any]:
        self.resumed.append(provider_session_id)
        return {"n": 0}

    async def prompt(self, session: dict[str, Any], text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        self.ran.append(text)
        self.turns[text] = turn
        self.sessions_seen.append(session)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            script = self._scripts.get(text)
            if script is not None:
                async for event in script(turn):
                    yield event
                return
            yield TextEvent(text)
            gate = self._gates.get(text)
            if gate is not None:
                await gate.pass_through()
            yield ResultEvent(text)
        finally:
            self.running -= 1
            self.closed.append(text)

    def listen(self, session: dict[str, Any], host: Host) -> None:
        self.host = host

    def begin(self, cause: str) -> bool:
        """Begin a turn that nobody asked for; what it does is scripted under its cause, as for a prompt."""
        assert self.host is not None
        self.announced.append(cause)
        return self.host.begin_turn(cause)

    def own_turn(self, session: dict[str, Any], turn: Turn) -> AsyncGenerator[Event, None]:
        return self.prompt(session, self.announced.pop(0), turn)

    async def terminate_session(self, session: dict[str, Any]) -> ProcessReport:
        if self.terminate_gate is not None:
            await self.terminate_gate.pass_through()
        self.terminated += 1
        return NO_PROCESSES

    async def reset_session(self, session: dict[str, Any]) -> dict[str, Any]:
        return {"n": 0, "fresh": True}


class Plain(GenAgent):
    """Decides nothing and needs no options."""

    def init_agent(self, **options: object) -> Mapping[str, object]:
        self.given = options
        return options


class Scripted(GenAgent):
    """Calls the functions it is given under the names of callbacks, and keeps a log of what it was called with."""

    def init_agent(self, **hooks: Any) -> Mapping[str, object]:
        self.log: list[tuple[Any, ...]] = []
        self.hooks = hooks
        return {}

    def _run(self, hook: str, *args: Any) -> Any:
        self.log.append((hook, *args))
        function = self.hooks.get(hook)
        return function(*args) if function is not None else None

    def pre_run(self) -> Any:
        return self._run("pre_run")

    def pre_turn(self, prompt: str) -> Any:
        answer = self._run("pre_turn", prompt)
        return prompt if answer is None else answer

    def handle_stream_event(self, event: Event) -> None:
        self._run("handle_stream_event", event)

    def handle_response(self, ref: str, response: Any) -> Any:
        return self._run("handle_response", ref, response)

    def handle_error(self, ref: str, reason: Any, detail: str) -> Any:
        return self._run("handle_error", ref, reason, detail)

    def post_turn(self, outcome: Any, ref: str) -> Any:
        return self._run("post_turn", outcome, ref)

    def handle_event(self, event: object) -> Any:
        return self._run("handle_event", event)

    def post_run(self) -> Any:
        return self._run("post_run")

    def terminate_agent(self, reason: str) -> Any:
        return self._run("terminate_agent", reason)

    def called(self, hook: str) -> list[tuple[Any, ...]]:
        """Return the arguments of each call of that callback."""
        return [entry[1:] for entry in self.log if entry[0] == hook]
