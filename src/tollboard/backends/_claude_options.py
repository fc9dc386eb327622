"""The options of a Claude Code session, checked, and what its program's environment is made of. Needs no extra."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tollboard.backends import _options as check
from tollboard.errors import BackendUnavailable, InvalidOption

MODES = ("default", "acceptEdits", "plan", "dontAsk", "auto", "bypassPermissions")
SOURCES = ("user", "project", "local")
BYPASS = "bypassPermissions"
ASKING = ("default", "plan")
"""Modes in which the program asks before it does anything that cannot be undone."""
PLAIN = frozenset(
    {"model", "permission_mode", "disallowed_tools", "system_prompt", "max_turns", "max_buffer_size"}
)
"""Options that let a session do no more than it could without them; of the modes, those in which it asks."""

# With these four the program calls nothing but the model's API; `env` can switch each back on.
HERMETIC: Mapping[str, str] = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
}

TRY_ONCE: Mapping[str, str] = {"CLAUDE_CODE_MAX_RETRIES": "0"}
"""Without it the program asks the API up to eleven times, for minutes, before it says that it failed."""
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ClaudeOptions:
    """What a session was asked to run with; `None` leaves the choice to the program.

    `setting_sources` is empty unless asked for: a repository's own settings may name programs (hooks) that run without
    a question, so they are read only where the caller says that the directory can be trusted. For the same reason
    `strict_mcp` is on: only the servers given here are started, not those of the directory's `.mcp.json`.
    """

    cwd: str | None = None
    marker: tuple[str, str] | None = None
    answered: bool = True
    private: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    model: str | None = None
    permission_mode: str | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    system_prompt: str | None = None
    add_dirs: tuple[str, ...] = ()
    mcp_servers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    strict_mcp: bool = True
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    setting_sources: tuple[str, ...] = ()
    cli_path: str | None = None
    base_url: str | None = None
    max_turns: int | None = None
    max_buffer_size: int = 50 * _MIB

    def environment(self, marker: tuple[str, str]) -> dict[str, str]:
        """Return the variables to set over those of this process; the marker cannot be overridden."""
        base_url = {"ANTHROPIC_BASE_URL": self.base_url} if self.base_url else {}
        return {**HERMETIC, **base_url, **self.env, marker[0]: marker[1]}


def _mcp_servers(value: object) -> dict[str, Any]:
    return {check.name(server): check.table(config) for server, config in check.table(value).items()}


def _sources(value: object) -> list[str]:
    return [check.one_of(*SOURCES)(source) for source in check.texts(value)]


def _tools(value: object) -> list[str]:
    return [check.name(tool) for tool in check.texts(value)]


_CHECKS: Mapping[str, check.Check] = {
    "model": check.name,
    "permission_mode": check.one_of(*MODES),
    "allowed_tools": _tools,
    "disallowed_tools": _tools,
    "system_prompt": check.text,
    "add_dirs": lambda value: [check.directory(path) for path in check.texts(value)],
    "mcp_servers": _mcp_servers,
    "strict_mcp": check.flag,
    "env": check.variables,
    "setting_sources": _sources,
    "cli_path": check.directory,
    "base_url": check.name,
    "max_turns": check.whole(1),
    "max_buffer_size": check.whole(_MIB),
}


def parse_claude_options(given: Mapping[str, object]) -> ClaudeOptions:
    """Return the checked options.

    Raises InvalidOption (also for a mode that the program would refuse here) and BackendUnavailable when `cli_path` is
    no program.
    """
    values = check.read_options("claude", given, _CHECKS)
    marker = values.pop("env_marker", None)
    frozen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    options = ClaudeOptions(marker=marker, **frozen)
    _refuse_bypass_as_root(options)
    if options.cli_path is not None and not os.access(options.cli_path, os.X_OK):
        raise BackendUnavailable(f"cli_path {options.cli_path!r} is no program that can be run")
    return options


def claude_powers(options: Mapping[str, object], more: tuple[str, ...]) -> tuple[str, ...]:
    """Return the options that let a session do more: those of `more` that say something, and a mode that asks less."""
    found = [name for name in more if options[name] not in (None, [], (), {}, "")]
    if options.get("strict_mcp") is True:
        found.remove("strict_mcp")
    if options.get("permission_mode") not in (None, *ASKING):
        found.append("permission_mode")
    return tuple(found)


def _refuse_bypass_as_root(options: ClaudeOptions) -> None:
    """Say early what the program would say by exiting: as root it bypasses permissions only inside a sandbox."""
    sandbox = options.env.get("IS_SANDBOX", os.environ.get("IS_SANDBOX"))
    if options.permission_mode == BYPASS and os.geteuid() == 0 and sandbox != "1":
        raise InvalidOption(
            f"permission_mode {BYPASS!r} is refused by Claude Code when it runs as root: run as another user, or, only "
            "if this machine is a sandbox, set env IS_SANDBOX to '1'"
        )


def claude_worker_options(
    options: Mapping[str, object], opening: str | None, *, retried: bool
) -> dict[str, object]:
    """Return the options of a pool's worker; see `Backend.worker_options`."""
    found = dict(options)
    if opening is not None:
        own = found.get("system_prompt")
        found["system_prompt"] = f"{opening}\n\n{own}" if own else opening
    env = found.get("env", {})
    if retried and isinstance(env, Mapping):
        found["env"] = {**TRY_ONCE, **env}
    return found


def login_found(env: Mapping[str, str]) -> str:
    """Return where a login seems to come from, an empty string when there is none; shows no secret."""
    names = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
    providers = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX")
    for name in (*names, *providers):
        if env.get(name):
            return name
    home = Path(env.get("CLAUDE_CONFIG_DIR") or Path(env.get("HOME", "~")).expanduser() / ".claude")
    credentials = home / ".credentials.json"
    return str(credentials) if credentials.is_file() else ""
