"""What a pool was asked to be, checked before anything exists: faults are typed errors that name what is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tollboard.errors import InvalidOption, InvalidPrompt
from tollboard.ids import check_name, new_ref
from tollboard.pool.conversation import Conversation, ConversationPolicy
from tollboard.pool.dispatch import Strategy, strategy_named
from tollboard.pool.rate import parse_rate
from tollboard.pool.records import Task
from tollboard.pool.role import DEFAULT_ROLE, Role, check_roles
from tollboard.runtime.backend import Backend

MAX_WORKERS = 10_000
MAX_NAME_CHARS = 48
_NAME_TAIL_CHARS = 10

MIB = 1024 * 1024
Count = int | Mapping[str, int]


class BackendDirectory(Protocol):
    """Backends by name; the package `tollboard.backends` is one."""

    def load(self, name: str) -> Backend[Any]:
        """Return a new backend. Raises UnknownBackend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """The checked settings of a pool. `sizes`, `minimum` and `maximum` are by role."""

    name: str
    sizes: Mapping[str, int]
    roles: Mapping[str, Role]
    conversation: ConversationPolicy
    make_strategy: Callable[[], Strategy]
    rate: float | None
    burst: int | None
    minimum: Mapping[str, int]
    maximum: Mapping[str, int]
    retries: int
    max_queued: int
    max_queued_bytes: int
    max_results: int
    max_result_bytes: int
    cooldown_s: float
    max_restarts: int
    restart_window_s: float

    def elastic(self, role: str) -> bool:
        """Return whether the size of this role may change by itself."""
        return self.minimum[role] < self.maximum[role]

    def check_task(
        self, task: str | Task, role: str | None, hint_s: float | None
    ) -> tuple[str, str, float | None]:
        """Return prompt, role and hint of a task that was submitted. Raises InvalidPrompt, InvalidOption."""
        if isinstance(task, Task):
            role = task.role if role is None else role
            hint_s = task.hint_s if hint_s is None else hint_s
            task = task.prompt
        if not isinstance(task, str):
            raise InvalidPrompt(f"a task is text or a Task, not {type(task).__name__}")
        if not task or task.isspace():
            raise InvalidPrompt("the prompt is empty")
        if role is None or role not in self.sizes:
            role = self.check_role(role)
        if hint_s is not None and not is_number(hint_s, at_least=0):
            raise InvalidOption(f"hint_s is {hint_s!r}: it must be a number of seconds, 0 or more")
        return task, role, hint_s

    def check_role(self, role: str | None) -> str:
        """Return the role that was named, or the only one there is. Raises InvalidOption, which names the roles."""
        if role is None and len(self.sizes) == 1:
            return next(iter(self.sizes))
        if role in self.sizes:
            return str(role)
        known = ", ".join(repr(name) for name in self.sizes)
        if role is None:
            raise InvalidOption(f"this pool has several roles: name one of {known}")
        raise InvalidOption(f"this pool has no role {role!r}; its roles are {known}")


def settle_settings(
    size: Count | None, *, name: str | None, role: str | None, roles: Mapping[str, Role | int] | None,
    conversation: str, recycle_turns: int | None, recycle_tokens: int | None, strategy: str | Callable[[], Strategy],
    rate: float | str | None, burst: int | None, min: Count | None, max: Count | None, retries: int, max_queued: int,
    max_queued_bytes: int, max_results: int, max_result_bytes: int, cooldown_s: float, max_restarts: int,
    restart_window_s: float,
) -> PoolSettings:  # fmt: skip
    """Return the settings. Raises InvalidOption, InvalidName."""
    known = _roles(size, role, roles)
    sizes = {one: known[one].size for one in known}
    minimum, maximum = _bounds("min", min, sizes), _bounds("max", max, sizes)
    for one, wanted in sizes.items():
        if minimum[one] > maximum[one]:
            raise InvalidOption(f"min is {minimum[one]} and max is {maximum[one]}: min must not be above max")
        if not minimum[one] <= wanted <= maximum[one]:
            raise InvalidOption(
                f"size is {wanted}: it must lie between min ({minimum[one]}) and max ({maximum[one]})"
            )
    if burst is not None and rate is None:
        raise InvalidOption(f"burst is {burst!r} without a rate: give rate= too")
    per_second = None if rate is None else parse_rate(rate)
    for what, value, least in (
        ("retries", retries, 0), ("max_queued", max_queued, 1), ("max_queued_bytes", max_queued_bytes, 1),
        ("max_results", max_results, 0), ("max_result_bytes", max_result_bytes, 0), ("max_restarts", max_restarts, 0),
        ("burst", 1 if burst is None else burst, 1),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidOption(f"{what} is {value!r}: it must be a whole number, {least} or more")
    for what, seconds in (("cooldown_s", cooldown_s), ("restart_window_s", restart_window_s)):
        if not is_number(seconds, at_least=0):
            raise InvalidOption(f"{what} is {seconds!r}: it must be a number of seconds, 0 or more")
    if per_second is not None and burst is None:
        burst = int(per_second) or 1
    return PoolSettings(
        name=_name(name),
        sizes=sizes,
        roles=known,
        conversation=_conversation(conversation, recycle_turns, recycle_tokens),
        make_strategy=strategy_named(strategy),
        rate=per_second,
        burst=burst,
        minimum=minimum,
        maximum=maximum,
        retries=retries,
        max_queued=max_queued,
        max_queued_bytes=max_queued_bytes,
        max_results=max_results,
        max_result_bytes=max_result_bytes,
        cooldown_s=float(cooldown_s),
        max_restarts=max_restarts,
        restart_window_s=float(restart_window_s),
    )


def check_count(what: str, value: object) -> int:
    """Return a number of workers. Raises InvalidOption."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_WORKERS:
        raise InvalidOption(f"{what} is {value!r}: it must be a whole number from 1 to {MAX_WORKERS:,}")
    return value


def is_number(value: object, *, at_least: float) -> bool:
    """Return whether a value is a finite number, and no smaller than that."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value >= at_least


def find_backend(backend: Backend[Any] | str | None, backends: BackendDirectory | None) -> Backend[Any]:
    """Return the backend that was given, the one of that name, or the default one. Raises UnknownBackend."""
    if isinstance(backend, Backend):
        return backend
    from tollboard import backends as built_in

    return (backends or built_in).load(built_in.DEFAULT_BACKEND if backend is None else backend)


def _roles(size: object, role: str | None, roles: object) -> dict[str, Role]:
    """Return the roles of a pool; how many workers there are may be said in one of three ways."""
    if roles is not None:
        if size is not None or role is not None:
            raise InvalidOption("roles says how many workers there are: leave size and role out")
        found = check_roles(roles)
    elif isinstance(size, Mapping):
        if role is not None:
            raise InvalidOption(f"role is {role!r} and size names roles too: give one of them")
        if not size:
            raise InvalidOption("size names no role: give a number of workers, or {role: number}")
        found = {
            _check_role(one): Role(size=check_count(f"the size of role {one!r}", n))
            for one, n in size.items()
        }
    else:
        found = {_check_role(DEFAULT_ROLE if role is None else role): Role(size=check_count("size", size))}
    for one, known in found.items():
        check_count(f"the size of role {one!r}", known.size)
    return found


def _check_role(role: object) -> str:
    if not isinstance(role, str) or not role.strip():
        raise InvalidOption(f"role is {role!r}: it must be text that is not empty")
    return role


def _conversation(kind: object, turns: int | None, tokens: int | None) -> ConversationPolicy:
    try:
        found = Conversation(str(kind))
    except ValueError:
        known = " or ".join(repr(one.value) for one in Conversation)
        raise InvalidOption(f"conversation is {kind!r}: use {known}") from None
    for what, value in (("recycle_turns", turns), ("recycle_tokens", tokens)):
        if value is None:
            continue
        if found is not Conversation.KEPT:
            raise InvalidOption(f"{what} is for a kept conversation: give conversation='kept' too")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidOption(f"{what} is {value!r}: it must be a whole number, 1 or more")
    return ConversationPolicy(found, turns, tokens)


def _bounds(what: str, given: Count | None, sizes: Mapping[str, int]) -> dict[str, int]:
    if isinstance(given, Mapping):
        if unknown := [role for role in given if role not in sizes]:
            raise InvalidOption(
                f"{what} names role {unknown[0]!r}; the roles are {', '.join(map(repr, sizes))}"
            )
        return {role: check_count(what, given.get(role, size)) for role, size in sizes.items()}
    return {role: size if given is None else check_count(what, given) for role, size in sizes.items()}


def _name(name: str | None) -> str:
    if name is None:
        return f"pool-{new_ref()[-_NAME_TAIL_CHARS:]}"
    if len(check_name(name)) > MAX_NAME_CHARS:
        raise InvalidOption(
            f"the name {name!r} is too long: a pool's name has at most {MAX_NAME_CHARS} characters"
        )
    return name
