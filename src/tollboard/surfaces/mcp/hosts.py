"""How each MCP host is told about Tollboard: the file it reads, and what stands in it."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tollboard.errors import Conflict, Invalid

SERVER = "tollboard"


@dataclass(frozen=True, slots=True)
class Host:
    """A host: its configuration file below the home directory, and the path of keys to its list of servers.

    `moved` is the environment variable that puts the file's directory elsewhere, if the host has one.
    """

    name: str
    file: str
    keys: tuple[str, ...] = ("mcpServers",)
    form: str = "json"
    moved: str = ""

    def path(self, home: Path, environment: Mapping[str, str]) -> Path:
        """Return where this host reads its configuration."""
        elsewhere = environment.get(self.moved) if self.moved else None
        return Path(elsewhere) / Path(self.file).name if elsewhere else home / self.file


HOSTS = {
    host.name: host
    for host in (
        Host("claude", ".claude.json", moved="CLAUDE_CONFIG_DIR"),
        Host("codex", ".codex/config.toml", form="toml", moved="CODEX_HOME"),
        Host("gemini", ".gemini/settings.json"),
        Host("opencode", ".config/opencode/opencode.json", ("mcp",)),
        Host("cursor", ".cursor/mcp.json"),
        Host("vscode", ".config/Code/User/mcp.json", ("servers",)),
    )
}
CODEX_START_S = 30
"""How long Codex may wait for the bridge: its own 10 s are short for a machine under load."""
_OURS = frozenset({"command", "args", "required", "startup_timeout_sec"})


def shown(host: Host, command: Sequence[str]) -> str:
    """Return the entry that is added to the host's file, as it stands there, and nothing else of that file."""
    if host.form == "toml":
        return _section(command)
    whole: dict[str, Any] = {SERVER: _entry(host, command)}
    for key in reversed(host.keys):
        whole = {key: whole}
    return json.dumps(whole, indent=2) + "\n"


def _entry(host: Host, command: Sequence[str]) -> dict[str, Any]:
    """Return what the host wants to know about a server that it starts itself."""
    if host.name == "opencode":
        return {"type": "local", "command": list(command), "enabled": True}
    return {"type": "stdio", "command": command[0], "args": list(command[1:])}


def _section(command: Sequence[str]) -> str:
    """Return the section for a host that is configured in TOML.

    Codex starts its servers in the background: without `required` the first prompt of a conversation has no tools.
    """
    quoted = [json.dumps(word) for word in command]  # a JSON string is a TOML string
    return (
        f"[mcp_servers.{SERVER}]\ncommand = {quoted[0]}\nargs = [{', '.join(quoted[1:])}]\n"
        f"required = true\nstartup_timeout_sec = {CODEX_START_S}\n"
    )


def written(host: Host, path: Path, command: Sequence[str]) -> str:
    """Return the whole new text of the host's file. Raises Invalid for a file that is not what it should be, Conflict
    where another server of our name is configured by hand."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if host.form == "toml":
        return _with_section(path, before, _section(command))
    try:
        whole = json.loads(before) if before.strip() else {}
        place = whole
        for key in host.keys:
            place = place.setdefault(key, {})
        place[SERVER] = _entry(host, command)
    except (ValueError, AttributeError, TypeError) as wrong:
        raise Invalid(
            f"{path} is not the JSON that {host.name} writes ({wrong}); nothing was changed"
        ) from None
    return json.dumps(whole, indent=2) + "\n"


def _with_section(path: Path, before: str, section: str) -> str:
    """Return the file with our section in place of the one that an earlier install wrote, else at its end."""
    try:
        servers = tomllib.loads(before).get("mcp_servers", {})
        found = servers.get(SERVER)
    except (ValueError, AttributeError) as wrong:
        raise Invalid(f"{path} is not the TOML that codex reads ({wrong}); nothing was changed") from None
    if found is None:
        return before + ("\n" if before and not before.endswith("\n\n") else "") + section
    lines = before.splitlines(keepends=True)
    begin = next((n for n, line in enumerate(lines) if line.strip() == f"[mcp_servers.{SERVER}]"), None)
    if begin is None or not isinstance(found, dict) or not found.keys() <= _OURS:
        raise Conflict(
            f"{path} has a server {SERVER!r} that was set up by hand; replace it by hand:\n{section}"
        )
    end = next((n for n in range(begin + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
    while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1  # what stands before the next section belongs to it
    return "".join([*lines[:begin], section, *lines[end:]])


def replace_file(path: Path, text: str) -> None:
    """Write the file at once or not at all, keeping its rights; a new one is its owner's alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, mode)
        os.replace(name, path.resolve())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
