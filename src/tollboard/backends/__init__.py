"""The built-in backends by name. Nothing heavy is imported here: a backend's file is read when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tollboard.errors import UnknownBackend
from tollboard.runtime.backend import Backend

Loader = Callable[[], Backend[Any]]


def _echo() -> Backend[Any]:
    from tollboard.backends.echo import EchoBackend

    return EchoBackend()


def _scripted() -> Backend[Any]:
    from tollboard.backends.scripted import ScriptedBackend

    return ScriptedBackend()


def _claude() -> Backend[Any]:
    from tollboard.backends.claude import ClaudeBackend

    return ClaudeBackend()


def _model() -> Backend[Any]:
    from tollboard.backends.model import ModelBackend

    return ModelBackend()


# To add a backend: one file here, one loader above, one line below; then run the contract suite over it.
BACKENDS: dict[str, Loader] = {
    "echo": _echo,
    "scripted": _scripted,
    "claude": _claude,
    "model": _model,
}

DEFAULT_BACKEND = "claude"
"""What answers where nothing is said."""

EXTRAS: dict[str, str] = {"claude": "claude", "model": "models"}
"""Which extra of the distribution a backend needs; those not named need nothing."""


def known() -> tuple[str, ...]:
    """Return the names `load` takes, sorted."""
    return tuple(sorted(BACKENDS))


def install_hint(name: str) -> str:
    """Return the command that brings what the backend needs, or an empty string when it needs nothing."""
    extra = EXTRAS.get(name)
    return f"pip install 'tollboard[{extra}]'" if extra else ""


def load(name: str) -> Backend[Any]:
    """Return a new backend of that name. It imports no extra: that waits until a session starts its program.

    Raises UnknownBackend, which lists the known names and what to install for those that need more.
    """
    loader = BACKENDS.get(name) if isinstance(name, str) else None
    if loader is None:
        raise UnknownBackend(
            f"no backend is called {name!r} (known are: {', '.join(_described(n) for n in known())})"
        )
    return loader()


def _described(name: str) -> str:
    hint = install_hint(name)
    return f"{name} (needs: {hint})" if hint else name
