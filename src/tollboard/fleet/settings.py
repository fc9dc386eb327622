"""What a session was asked to be and what it is: limits of the fleet, directories, secrets, alarms (S24)."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tollboard.errors import (
    Denied,
    Invalid,
    InvalidName,
    InvalidOption,
    InvalidPath,
    InvalidPrompt,
    UnknownBackend,
)
from tollboard.fleet.board import MAX_PROMPT_BYTES, MAX_SUMMARY_BYTES
from tollboard.fleet.secrets import PLACES, REFERENCE, refuse_secrets
from tollboard.ids import check_name, looks_like_id
from tollboard.runtime.backend import Backend
from tollboard.runtime.options import split_options

OURS = ("cwd", "env_marker", "answered", "private", "pass_env", "sandbox_default")
"""Options that every backend gets from the fleet itself."""
ASKED = ("model", "permission_mode")
"""Options that a provider reports back, by the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """Limits and policy of one fleet. `home_id` marks its processes; `roots` are the only directories it may use."""

    home_id: str = "local"
    roots: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    """The only backends it may use; empty means all."""
    private: tuple[str, ...] = ()
    """Directories of the daemon's own, which no tool of a session may open: its state directory."""
    pass_env: tuple[str, ...] = ()
    """Variables of the daemon's environment that its programs inherit beside the usual ones."""
    sandbox: str = "off"
    """Whether commands run in a sandbox (off, auto, required) where a session does not say."""
    send_options: tuple[str, ...] = ()
    """Options beyond the plain ones that whoever may send may give; see `Backend.powers`."""
    absolute_paths: bool = False
    """Refuse relative ones: who asks a daemon stands in another directory than it does."""
    max_prompt_bytes: int = MAX_PROMPT_BYTES
    max_summary_bytes: int = MAX_SUMMARY_BYTES
    revive_timeout_s: float = 30.0
    """How long one session may take to come back at start-up, so that none blocks the others."""

    def ours(self) -> dict[str, object]:
        """Return the options that every session and worker gets from these settings."""
        sandbox = "" if self.sandbox == "off" else self.sandbox
        found = {"private": self.private, "pass_env": self.pass_env, "sandbox_default": sandbox}
        return {name: value for name, value in found.items() if value}

    def check_backend(self, name: str) -> None:
        """Raise UnknownBackend if the configuration does not allow this backend."""
        if self.backends and name not in self.backends:
            raise UnknownBackend(
                f"backend {name!r} is not allowed here; allowed are: {', '.join(self.backends)}"
            )

    def check_path(self, path: str | os.PathLike[str]) -> str:
        """Return the real path of an existing, allowed directory (S01). Symlinks are followed before the check."""
        text = os.fspath(path)
        if not isinstance(text, str) or not text or "\0" in text:
            raise InvalidPath(f"{text!r} is not a path")
        if not _is_unicode(text):
            raise InvalidPath(
                f"the path {text!r} is not valid UTF-8, so it cannot be kept; rename the directory"
            )
        expanded = os.path.expanduser(text)
        if self.absolute_paths and not os.path.isabs(expanded):
            raise InvalidPath(
                f"the path {text!r} is relative, to what cannot be known here; give an absolute one"
            )
        real = os.path.realpath(expanded)
        if not os.path.isdir(real):
            what = "is not a directory" if os.path.exists(real) else "does not exist"
            raise InvalidPath(f"the working directory {real!r} {what}; create it or give another path")
        if self.roots and not any(Path(real).is_relative_to(os.path.realpath(root)) for root in self.roots):
            raise InvalidPath(
                f"the working directory {real!r} is outside of what is allowed: {', '.join(self.roots)}"
            )
        return real

    def check_powers(self, backend: Backend[Any], path: str, options: Mapping[str, object]) -> None:
        """Raise Denied for a session or pool that a caller who may only send may not start."""
        powers = backend.powers(split_options(dict(options))[1])
        for power in powers:
            if power.partition(".")[0] not in self.send_options:
                raise Denied(
                    f"the option {power!r} of backend {backend.name!r} gives a session more rights, which needs the "
                    "capability configure: start it from a terminal, or have a person add "
                    f"{power.partition('.')[0]!r} to send_options in tollboard.toml"
                )
        for own in self.private:
            if Path(own).is_relative_to(path) or Path(path).is_relative_to(own):
                raise Denied(
                    f"a session in {path!r} would have the daemon's own files below it or around it; choose another "
                    "directory"
                )

    def check_prompt(self, prompt: str) -> str:
        """Return the prompt if it is text of an allowed size."""
        if not isinstance(prompt, str):
            raise InvalidPrompt(f"a prompt is text, not {type(prompt).__name__}")
        if not prompt.strip():
            raise InvalidPrompt("the prompt is empty")
        return self._check_text("prompt", prompt, self.max_prompt_bytes)

    def check_summary(self, text: str) -> str:
        """Return the summary if it is text of an allowed size; empty is allowed."""
        if not isinstance(text, str):
            raise InvalidPrompt(f"a summary is text, not {type(text).__name__}")
        return self._check_text("summary", text, self.max_summary_bytes)

    def _check_text(self, what: str, text: str, limit: int) -> str:
        if not _is_unicode(text):
            raise InvalidPrompt(f"the {what} is not valid Unicode text (a lone surrogate)")
        size = len(text.encode())
        if size > limit:
            raise InvalidPrompt(
                f"the {what} has {size:,} bytes, {limit:,} are allowed; put long text into a file"
            )
        return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def asked(path: str, options: Mapping[str, object]) -> dict[str, str]:
    """Return what was asked for of the settings that a provider reports back."""
    found = {name: str(options[name]) for name in ASKED if options.get(name) is not None}
    return {"cwd": path, **found}


def alarms(wanted: Mapping[str, str], effective: Mapping[str, str]) -> tuple[str, ...]:
    """Return one sentence for each setting that the provider runs with otherwise than asked (S24)."""
    return tuple(
        f"{name} is {effective[name]!r}, asked was {wanted[name]!r}"
        for name in wanted
        if name in effective and not _same(name, wanted[name], effective[name])
    )


def _same(name: str, wanted: str, effective: str) -> bool:
    if wanted == effective:
        return True  # the usual case must not cost a look at the disk: a list may show ten thousand sessions
    if name == "cwd":
        return os.path.realpath(wanted) == os.path.realpath(effective)
    if name == "model":
        # Providers answer an alias such as `sonnet` with the full name of what it stands for.
        return wanted.lower() in effective.lower()
    return False


def check_session_name(name: str) -> None:
    """Raise InvalidName for what cannot be the name of a session."""
    check_name(name)
    if looks_like_id(name):
        raise InvalidName(f"{name!r} looks like the id of a session; choose another name")


def check_options(options: Mapping[str, object], ours: Collection[str] = OURS) -> dict[str, object]:
    """Return those options that the backend is to check. Raises Invalid, InvalidOption for the others."""
    if taken := options.keys() & set(ours):
        raise Invalid(f"{min(taken)} is not an option: the fleet sets it itself")
    refuse_secrets(options)
    return split_options(dict(options))[1]


def resolve_references(options: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, object]:
    """Return the options with every `"$NAME"` inside `env` and `headers` replaced by that variable."""
    return {key: _resolved(value, environ, inside=key in PLACES) for key, value in options.items()}


def _resolved(value: object, environ: Mapping[str, str], *, inside: bool) -> object:
    if isinstance(value, Mapping):
        return {k: _resolved(v, environ, inside=inside or k in PLACES) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(item, environ, inside=inside) for item in value]
    if inside and isinstance(value, str) and (match := REFERENCE.match(value)):
        name = match.group(1)
        if name not in environ:
            raise InvalidOption(f"the variable {name} is not set in the daemon's environment")
        return environ[name]
    return value
