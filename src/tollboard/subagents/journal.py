"""What a run remembers: its messages, and each tool call's outcome under (step, call id), so that none runs twice.

Names in the memory, below the run's own key: `head` (how it stands), `m/000000` (messages), `c/<step>/<call id>`.
A step is one response of the model; providers may use a call id again in another step, never here in the same one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tollboard.runtime.approval import Decision, parse_decision, plain_decision
from tollboard.runtime.journal import Commit
from tollboard.runtime.memory import Memory


@dataclass(slots=True)
class CallOutcome:
    """How a tool call ended: `ok` with a value that JSON can hold, `failed` or `retry` with a message for the model."""

    kind: str
    value: object = field(repr=False)
    content: object = field(repr=False, default=None)
    """What the tool wanted the model to see beside its result."""


OUTCOME = ("kind", "value", "content")
"""The fields of an outcome; `asdict` would copy a tool's whole result only to write it down."""


@dataclass(slots=True)
class Call:
    """One tool call of the run's newest response."""

    step: int
    id: str
    tool: str
    arguments: Mapping[str, object] = field(repr=False)
    question: str = ""
    """The id under which a person is asked; empty while nobody is."""
    allowed: tuple[str, ...] = ()
    schema: Mapping[str, object] | None = field(repr=False, default=None)
    decision: Decision | None = None
    started: bool = False
    outcome: CallOutcome | None = None

    @property
    def waits(self) -> bool:
        """Return whether a person has to decide before it can go on."""
        return bool(self.question) and self.decision is None and self.outcome is None


@dataclass(slots=True)
class Head:
    """How a run stands. `first` is the first message the model still sees, `step` counts its responses."""

    step: int = 0
    first: int = 0
    count: int = 0
    runs: int = 0
    """Model calls since the last prompt."""
    usage: dict[str, Any] = field(default_factory=dict)
    window: int = 0
    """The fewest tokens, roughly, that its model refused as too many; 0: it refused none."""
    below: dict[str, Any] = field(default_factory=dict)
    """The usage of sub-agents that have ended."""
    own_before: dict[str, Any] = field(default_factory=dict)
    all_before: dict[str, Any] = field(default_factory=dict)
    """The usage when the newest prompt came: the run's own, and with all below it."""
    status: str = "idle"
    result: dict[str, Any] | None = None
    """How the run ended, once it has."""
    ref: str = ""
    """Which prompt the newest response belongs to, in its owner's words."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What else its owner keeps: a todo list."""


class RunJournal:
    """Writes one run down. With no memory it does nothing, at no cost."""

    def __init__(self, memory: Memory | None, key: str) -> None:
        self._memory = memory
        self._closed = False
        self.key = key

    def close(self) -> None:
        """Write nothing more: from here on whoever tries is cancelled. Idempotent.

        What a run does has to be written down first, so whatever of it swallowed its cancellation ends here.
        """
        self._closed = True

    @property
    def kept(self) -> bool:
        """Return whether anything is written at all."""
        return self._memory is not None

    async def load(self) -> tuple[Head, list[str], list[Call]] | None:
        """Return how the run stands, its messages from `first` on, and the calls of its newest step."""
        if self._memory is None:
            return None
        found = await self._memory.load(f"{self.key}:")
        if (text := found.get(f"{self.key}:head")) is None:
            return None
        head = Head(**json.loads(text))
        messages = [found[f"{self.key}:m/{index:06d}"] for index in range(head.first, head.count)]
        step = f"{self.key}:c/{head.step}/"
        calls = [_call(json.loads(text)) for name, text in found.items() if name.startswith(step)]
        return head, messages, calls

    async def save(self, head: Head, messages: Sequence[str] = (), ended: Sequence[Call] = ()) -> None:
        """Keep the head and the newest messages, which end at `head.count`; forget calls that have ended."""
        self.check_open()
        if self._memory is None:
            return
        begin = head.count - len(messages)
        texts: dict[str, str | None] = {
            f"{self.key}:m/{begin + index:06d}": text for index, text in enumerate(messages)
        }
        texts.update({f"{self.key}:c/{call.step}/{call.id}": None for call in ended})
        texts[f"{self.key}:head"] = _head_text(head)
        await self._commit(texts)

    def submit(self, head: Head) -> Commit | None:
        """Keep the head as it is, without waiting; return what to await until it is durable."""
        self.check_open()
        if self._memory is None:
            return None
        return self._memory.save({f"{self.key}:head": _head_text(head)})

    async def forget(self, messages: Sequence[int]) -> None:
        """Forget messages that the model does not see any more."""
        self.check_open()
        if messages:
            await self._commit({f"{self.key}:m/{index:06d}": None for index in messages})

    async def drop(self, key: str) -> None:
        """Forget a run below this one, and all below it."""
        self.check_open()
        if self._memory is not None:
            # Not the bare key: `1.t1` begins `1.t10` too.
            own, below = await self._memory.load(f"{key}:"), await self._memory.load(f"{key}/")
            await self._commit(dict.fromkeys((*own, *below)))

    async def note(self, call: Call) -> None:
        """Keep what is known of one call."""
        self.check_open()
        if self._memory is not None:
            name = f"{self.key}:c/{call.step}/{call.id}"
            await self._commit({name: json.dumps(_plain(call), separators=(",", ":"))})

    def check_open(self) -> None:
        """Raise CancelledError once it was closed."""
        if self._closed:
            raise asyncio.CancelledError

    async def _commit(self, texts: Mapping[str, str | None]) -> None:
        commit = self._memory.save(texts) if self._memory is not None else None
        if commit is not None:
            await commit


def child_key(key: str, call: Call) -> str:
    """Return the key of the run that a call of the `task` tool starts."""
    return f"{key}/{call.step}.{call.id}"


def _head_text(head: Head) -> str:
    return json.dumps(asdict(head), separators=(",", ":"))


def _plain(call: Call) -> dict[str, Any]:
    plain = {name: getattr(call, name) for name in ("step", "id", "tool", "question", "started")}
    plain["arguments"] = dict(call.arguments)
    plain["allowed"] = list(call.allowed)
    plain["schema"] = call.schema
    plain["decision"] = None if call.decision is None else plain_decision(call.decision)
    outcome = call.outcome
    plain["outcome"] = None if outcome is None else {name: getattr(outcome, name) for name in OUTCOME}
    return plain


def _call(plain: dict[str, Any]) -> Call:
    outcome, decision = plain.pop("outcome"), plain.pop("decision")
    call = Call(**{**plain, "allowed": tuple(plain["allowed"])})
    call.outcome = None if outcome is None else CallOutcome(**outcome)
    call.decision = None if decision is None else parse_decision(decision)
    return call
