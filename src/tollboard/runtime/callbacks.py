"""The only caller of user code: guarded, its return checked, its failure given a meaning.

A callback that raises becomes a `Raised` value; what that means is decided by the caller, line by line of PARITY.
Only `Crash`, which user code raises on purpose, goes through and ends the agent (R35).
"""

from __future__ import annotations

import inspect
import logging
from asyncio import CancelledError, current_task
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tollboard.errors import Crash
from tollboard.runtime.agent import GenAgent, Halt, Next, Prompt
from tollboard.runtime.request import OnComplete
from tollboard.runtime.response import Response
from tollboard.runtime.results import Outcome
from tollboard.runtime.telemetry import CALLBACK_FAILED

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine

logger = logging.getLogger("tollboard.runtime")

HOOKS = (
    "pre_run", "pre_turn", "handle_stream_event", "handle_response", "handle_error", "post_turn", "handle_event",
    "post_run", "terminate_agent",
)  # fmt: skip

current: ContextVar[Machine | None] = ContextVar("tollboard_current_agent", default=None)


def current_name() -> str | None:
    """Return the name of the agent whose callback is running, `None` outside of callbacks (R45)."""
    machine = current.get()
    return None if machine is None else machine.name


class Hooks:
    """Which callbacks a GenAgent class overrides: the turn skips the others without a call."""

    __slots__ = ("handle_event_waits", *HOOKS)

    def __init__(self, cls: type[GenAgent]) -> None:
        for name in HOOKS:
            setattr(self, name, getattr(cls, name) is not getattr(GenAgent, name))
        self.handle_event_waits = inspect.iscoroutinefunction(cls.handle_event)

    pre_run: bool
    pre_turn: bool
    handle_stream_event: bool
    handle_response: bool
    handle_error: bool
    post_turn: bool
    handle_event: bool
    post_run: bool
    terminate_agent: bool
    handle_event_waits: bool


_hooks: dict[type[GenAgent], Hooks] = {}


def hooks_of(cls: type[GenAgent]) -> Hooks:
    """Return the class's hooks, looked up once per class."""
    found = _hooks.get(cls)
    if found is None:
        found = _hooks[cls] = Hooks(cls)
    return found


class Raised:
    """A callback raised, or returned something malformed. Carries no message: it may quote a prompt (R49, E30)."""

    __slots__ = ("error", "hook")

    def __init__(self, hook: str, error: str) -> None:
        self.hook = hook
        self.error = error

    def __str__(self) -> str:
        return f"{self.hook} {self.error}"


class Begun:
    """A call of `handle_event` that turned out to be awaitable: what is left to do is to await it."""

    __slots__ = ("value",)

    def __init__(self, value: Awaitable[object]) -> None:
        self.value = value

    def drop(self) -> None:
        """Give up on what nobody will await; a coroutine that is only forgotten would complain to stderr."""
        if inspect.iscoroutine(self.value):
            self.value.close()


def describe(exc: BaseException) -> str:
    """Return the exception's type and where it was raised, without its message or any value."""
    tb = exc.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    where = f" at {tb.tb_frame.f_code.co_filename}:{tb.tb_lineno}" if tb is not None else ""
    return f"raised {type(exc).__name__}{where}"


def call(machine: Machine, hook: str, function: Callable[..., object], *args: object) -> object:
    """Call a callback; return its value, an awaitable to hand to `finish`, or `Raised`."""
    try:
        return function(*args)
    except Crash:
        raise
    except Exception as exc:
        return report(machine, Raised(hook, describe(exc)))


def handle_response(machine: Machine, ref: str, response: Response) -> object:
    """Call the callback that every turn calls; as `call`, without its detour."""
    try:
        return machine.agent.handle_response(ref, response)
    except Crash:
        raise
    except Exception as exc:
        return report(machine, Raised("handle_response", describe(exc)))


async def finish(machine: Machine, hook: str, value: object) -> object:
    """Return what the callback's value comes to once awaited; a plain value is returned as it is."""
    if not isinstance(value, Awaitable):
        return value
    turn = machine.turn
    if turn is not None:
        turn.enter_callback()
    try:
        return await value
    except CancelledError as exc:
        if turn is not None and turn.callback_expired:
            turn.absorb_cancel()
            return report(machine, Raised(hook, "ran longer than the watchdog allows"))
        if is_cancelled():
            raise
        return report(machine, Raised(hook, describe(exc)))
    except Crash:
        raise
    except Exception as exc:
        return report(machine, Raised(hook, describe(exc)))
    finally:
        if turn is not None:
            turn.leave_callback()


def is_cancelled() -> bool:
    """Return whether a CancelledError is meant for this task, not let out by something that user code awaited."""
    task = current_task()
    return task is None or task.cancelling() > 0


def tell_complete(machine: Machine, function: OnComplete, ref: str, outcome: Outcome) -> None:
    """Call the `on_complete` that was given with `tell` (R50)."""
    try:
        function(ref, outcome)
    except Exception as exc:
        report(machine, Raised("on_complete", describe(exc)))


def report(machine: Machine, raised: Raised) -> Raised:
    """Log and emit a callback's failure."""
    logger.warning("agent %s: %s", machine.name, raised)
    machine.telemetry.execute(
        CALLBACK_FAILED, {}, {"agent": machine.name, "callback": raised.hook, "error": raised.error}
    )
    return raised


def as_next(machine: Machine, hook: str, value: object) -> Next | Raised:
    """Return the value if it is a `Next`; anything else is reported like an exception (E11)."""
    if isinstance(value, Prompt) and not issubclass(type(value.text), str):
        return report(machine, Raised(hook, f"returned Prompt({type(value.text).__name__}): it must be text"))
    if value is None or isinstance(value, Prompt | Halt | Raised):
        return value
    return report(machine, Raised(hook, f"returned {type(value).__name__}: use None, Prompt(text) or Halt()"))
