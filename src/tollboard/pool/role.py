"""What the workers of a role are: who they are told to be, their model, backend, options and number (P16)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tollboard.errors import InvalidOption
from tollboard.runtime.backend import Backend
from tollboard.runtime.options import RESERVED

DEFAULT_ROLE = "worker"
"""The role of a pool that names none; its workers are not told of it."""
OPENING = "You are a {role}."
KEYS = ("size", "prompt", "model", "backend", "options")
EVERY_BACKEND = RESERVED | {"cwd", "env_marker", "private", "pass_env", "sandbox_default"}
"""Options that workers on another backend than their pool's get too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """The workers of one role. What is not given is the pool's.

    `prompt` is how their system prompt begins, instead of `You are a {role}.`; an empty one says nothing of the role.
    `{role}` and `{worker}` are filled in. `options` go over the pool's; with another `backend` they stand alone.
    """

    size: int = 1
    prompt: str | None = field(default=None, repr=False)
    model: str | None = None
    backend: Backend[Any] | str | None = None
    options: Mapping[str, object] = field(default_factory=dict, repr=False)

    def opening(self, role: str, options: Mapping[str, object]) -> str | None:
        """Return how the system prompt of its workers begins, `None` if nothing is added to the options' own."""
        if self.prompt is not None:
            return self.prompt or None
        if role == DEFAULT_ROLE or "{role}" in str(options.get("system_prompt", "")):
            return None
        return OPENING

    def merged(self, shared: Mapping[str, object], *, same_backend: bool) -> dict[str, object]:
        """Return the options of its workers."""
        usual = (
            shared if same_backend else {key: value for key, value in shared.items() if key in EVERY_BACKEND}
        )
        model = {} if self.model is None else {"model": self.model}
        return {**usual, **self.options, **model}


def check_roles(roles: object) -> dict[str, Role]:
    """Return the roles that were given, by name. Raises InvalidOption.

    A number is a role of that size, a mapping has the fields of one.
    """
    if not isinstance(roles, Mapping) or not roles:
        raise InvalidOption("roles names no role: give {role: Role(...)}, or {role: number}")
    return {_check_name(name): _check_role(name, role) for name, role in roles.items()}


def _check_name(name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise InvalidOption(f"role is {name!r}: it must be text that is not empty")
    return name


def _check_role(name: str, role: object) -> Role:
    if isinstance(role, int) and not isinstance(role, bool):
        return Role(size=role)
    if isinstance(role, Mapping):
        if unknown := sorted(str(key) for key in role if key not in KEYS):
            raise InvalidOption(f"role {name!r} has {unknown[0]!r}; a role has: {', '.join(KEYS)}")
        role = Role(**role)
    if not isinstance(role, Role):
        raise InvalidOption(f"role {name!r} is {role!r:.60}: give a Role, or a number of workers")
    for what, value in (("prompt", role.prompt), ("model", role.model)):
        if value is not None and not isinstance(value, str):
            raise InvalidOption(f"the {what} of role {name!r} is {value!r:.60}: it must be text")
    if role.backend is not None and not isinstance(role.backend, str | Backend):
        raise InvalidOption(f"the backend of role {name!r} is {role.backend!r:.60}: give its name")
    if not isinstance(role.options, Mapping):
        raise InvalidOption(f"the options of role {name!r} are {role.options!r:.60}: they must be a mapping")
    return role
