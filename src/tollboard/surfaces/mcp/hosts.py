"""How each MCP host is told about Tollboard: the file it reads, and what stands in it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tollboard.errors import Conflict, Invalid

SERVER = "tollboard"


@dataclass(frozen=True, slots=True)
class Host:
    """A host: its configuration file below the home directory, and the path of keys to its list of servers."""

    name: str
    file: str
    keys: tuple[str, ...] = ("mcpServers",)
    form: str = "json"


HOSTS = {
    host.name: host
    for host in (
        Host("claude", ".claude.json"),
        Host("codex", ".codex/config.toml", form="toml"),
        Host("gemini", ".gemini/settings.json"),
        Host("opencode", ".config/opencode/opencode.json", ("mcp",)),
        Host("cursor", ".cursor/mcp.json"),
        Host("vscode", ".config/Code/User/mcp.json", ("servers",)),
    )
}


def entry(host: Host, command: Sequence[str]) -> dict[str, Any]:
    """Return what the host wants to know about a server that it starts itself."""
    if host.name == "opencode":
        return {"type": "local", "command": list(command), "enabled": True}
    return {"type": "stdio", "command": command[0], "args": list(command[1:])}


def toml(command: Sequence[str]) -> str:
    """Return the section for a host that is configured in TOML."""
    quoted = [json.dumps(word) for word in command]  # a JSON string is a TOML string
    return f"[mcp_servers.{SERVER}]\ncommand = {quoted[0]}\nargs = [{', '.join(quoted[1:])}]\n"


def written(host: Host, home: Path, command: Sequence[str]) -> tuple[Path, str]:
    """Return the host's file and its whole new text. Raises Invalid for a file that is not what it should be, Conflict
    where another server of our name is configured by hand."""
    path = home / host.file
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if host.form == "toml":
        section = toml(command)
        if section in before:
            return path, before
        if f"[mcp_servers.{SERVER}]" in before:
            raise Conflict(
                f"{path} has a section [mcp_servers.{SERVER}] already; replace it by hand:\n{section}"
            )
        return path, before + ("\n" if before and not before.endswith("\n\n") else "") + section
    try:
        whole = json.loads(before) if before.strip() else {}
        place = whole
        for key in host.keys:
            place = place.setdefault(key, {})
        place[SERVER] = entry(host, command)
    except (ValueError, AttributeError, TypeError) as wrong:
        raise Invalid(
            f"{path} is not the JSON that {host.name} writes ({wrong}); nothing was changed"
        ) from None
    return path, json.dumps(whole, indent=2) + "\n"


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
