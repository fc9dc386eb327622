"""The contract of a backend: how a prompt reaches a model. Implementations live in `tollboard.backends`.

A backend adapts one provider. It is stateless between sessions; what belongs to a conversation lives in the session
object that `start_session` returns and that the runtime hands back for every prompt. `tollboard.testing` ships the
conformance suite every backend must pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

from tollboard.errors import Unsupported
from tollboard.runtime.approval import ApprovalRequest, Decision
from tollboard.runtime.event import Event, Usage
from tollboard.runtime.memory import Memory
from tollboard.runtime.sub_agents import SubAgentNews

if TYPE_CHECKING:
    from tollboard.runtime.background_task import BackgroundTask

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """What ending a session did to its processes: the pids that were killed, and what could not be verified (S26)."""

    killed: tuple[int, ...] = ()
    unverified: tuple[str, ...] = ()


NO_PROCESSES = ProcessReport()


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a backend could work here. `mend` says what to do when it could not; empty when all is well."""

    ok: bool
    detail: str
    mend: str = ""


class Turn(Protocol):
    """What a backend sees of the turn it works for."""

    ref: str
    attempt: int

    @property
    def memory(self) -> Memory | None:
        """Return what this session remembers from turn to turn, `None` when nothing outlives the process."""

    async def request_approval(self, request: ApprovalRequest) -> Decision:
        """Wait for a person to decide; may be called from any task of the backend.

        The watchdog stands still meanwhile. When the turn ends first, the answer is a `Reject` that says so.
        """

    async def checkpoint(self, provider_session_id: str, effective: Mapping[str, str] | None = None) -> None:
        """Make the conversation's id durable as soon as it is known, so that no later failure loses it (R34).

        `effective` is what the provider says it really runs with, by the option's name: `model`,
        `permission_mode`, `cwd`. Call it again whenever it changes.
        """

    def sub_agent(self, news: SubAgentNews) -> None:
        """Keep what is told of an agent below this turn, in order; also when the turn is being ended.

        One that was told to begin and not to end has ended with the turn, unless the turn goes on after a restart.
        """

    def report_usage(self, usage: Usage) -> None:
        """Note what this attempt has used so far, all in all; the last report counts, as of a `UsageEvent`.

        Unlike an event it may also come when the stream is being closed, or after that: what an interrupted turn has
        used by then was paid for. It is written down at once, so a crash does not lose it.
        """


class Host(Protocol):
    """What a session that acts by itself may tell its agent, at any time between its start and its end."""

    def begin_turn(self, cause: str) -> bool:
        """Announce a turn that no request began; return whether it will be taken up (see `Backend.own_turn`).

        `cause` tells a person why the agent began it. Announce it as soon as it has begun: until it has ended the
        agent is busy, an interrupt ends it, and a halt or a stop treat it as the turn in flight.
        """

    def background(self, running: Sequence[BackgroundTask], *, lost: str = "") -> None:
        """Tell what runs beside the turns now.

        `lost`, if given, says why what is missing since the last call was cut off: the history will say so. Without
        it, what is missing has ended by itself.
        """

    async def ask(self, request: ApprovalRequest, ref: str = "") -> Decision:
        """Wait for a person to decide on a call that belongs to no turn, such as a background sub-agent's.

        Whatever turns run meanwhile, the question waits as long as any other; cancel the call to withdraw it. `ref`
        is that of the request that started the asker.
        """


class Backend(ABC, Generic[S]):
    """One provider. All methods are called on the event loop; none may block it."""

    name: ClassVar[str]
    """The name people type; unique."""
    extra: ClassVar[str | None] = None
    """The extra of the distribution that brings what it needs, `None` when nothing more is needed."""
    goes_on: ClassVar[bool] = False
    """Whether a turn that has asked a person goes on after a restart: `prompt` is called again with the same ref,
    repeats nothing that ran, and asks the same questions under the same ids."""

    plain_options: ClassVar[frozenset[str]] = frozenset()
    """Options that let a session do no more than it could without them, whatever their value; see `powers`."""
    remembers: ClassVar[bool] = True
    """Whether a session's turns know of those before. Where they do not, a fresh conversation costs nothing."""

    @abstractmethod
    async def start_session(self, options: Mapping[str, object]) -> S:
        """Return a new session. Called once, before `start_agent` returns.

        `options` are the caller's, untouched, plus what the fleet adds: `cwd`; `env_marker`, a `NAME=VALUE` that every
        process started for this session must carry in its environment; `private`, directories that none of its tools
        may open, the daemon's own; `pass_env`, variables that they inherit beside the usual ones. Must be quick: a
        program is started at the first prompt. Raises InvalidOption for an unknown or bad option, listing known ones,
        and BackendUnavailable when a needed extra or program is missing.
        """

    @abstractmethod
    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> S:
        """Return a session that goes on with an earlier conversation; called after a restart.

        Must be quick too. A conversation that turns out to be gone fails the next turn with an error event that says
        so; it must never silently start anew. The option `answered: False` says that no turn of it ever completed: only
        then may it begin anew, under the same id.
        """

    @abstractmethod
    def prompt(self, session: S, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        """Run one turn: an async generator that yields events and exactly one terminal event, last.

        Called by the turn, never concurrently for one session. The runtime always closes the generator; closing it
        early (interrupt, watchdog, stop) must end everything the turn started, and leave the session usable.
        """

    @abstractmethod
    async def terminate_session(self, session: S) -> ProcessReport:
        """End the session and every process it started; called once, last, also after a crash. Idempotent."""

    def listen(self, session: S, host: Host) -> None:
        """Take what the session may tell its agent between prompts; called once, before its first prompt.

        A backend whose agents never act by themselves ignores it.
        """

    def own_turn(self, session: S, turn: Turn) -> AsyncGenerator[Event, None]:
        """Yield the events of a turn that the session announced with `Host.begin_turn`, the terminal one last.

        Called once for each, in the order they were announced, never concurrently with `prompt`. What is true of the
        generator of `prompt` is true of this one: closing it early ends the turn.
        """
        raise Unsupported(f"backend {self.name!r} announces no turns of its own")

    async def reset_session(self, session: S) -> S:
        """Return a session with a fresh conversation and the same options; called only while no prompt runs.

        Nothing that was said in the old conversation reaches a model again. May return the same object; when it is
        cancelled or fails, it is called again, with the old one. Must be quick: a pool calls it before each task. One
        that cannot raises Unsupported, and the session is ended and another started in its place.
        """
        raise Unsupported(f"backend {self.name!r} cannot start a fresh conversation")

    async def cancel_sub_agent(self, session: S, id: str) -> bool:
        """End one agent below the turn in flight, and all below it; return whether it was there. Its parent goes on."""
        return False

    def worker_options(
        self, options: Mapping[str, object], *, opening: str | None, retried: bool
    ) -> Mapping[str, object]:
        """Return the options of a pool's worker, for `start_session`.

        `opening` says who the worker is, such as "You are a reviewer.": it comes first in the system prompt.
        `retried`: the pool runs failed tasks again, so the provider's client must not try on its own as well.
        """
        return options

    def check_options(self, options: Mapping[str, object]) -> None:
        """Raise InvalidOption for options that `start_session` would refuse, by looking at nothing but them.

        Must be quick: no extra is imported. A backend that does not implement it is asked at the start only.
        """

    def powers(self, options: Mapping[str, object]) -> tuple[str, ...]:
        """Return the options that let a session do more than it could without them, by name, with a dot for a part.

        Such as: run a program, name an address that a key is sent to, lift a guard, read another directory. Who may
        only send may not give them. What a backend has not declared plain counts as one. Must be quick, must take any
        value, and is called before `check_options`.
        """
        return tuple(sorted(set(options) - self.plain_options))

    async def check_start(self, options: Mapping[str, object]) -> None:
        """Raise what `start_session` would raise with these options, also for what lies outside them (a key, an extra).

        Starts nothing. Called before several sessions are started, so that none is when one of them could not be.
        """
        self.check_options(options)

    def login_command(self) -> Sequence[str]:
        """Return the program that logs a person in, with its arguments. Raises Unsupported, BackendUnavailable."""
        raise Unsupported(
            f"backend {self.name!r} has no login of its own; `tollboard doctor` says what it needs"
        )

    async def check(self) -> Health:
        """Say whether this backend could work here (program, login); what `tollboard doctor` shows. Calls no model."""
        return Health(ok=True, detail="built in")
