"""The state directory is out of reach of the file tools, whatever leads there (S27)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.messages_api import MessagesAPI, Text, Tools
from tollboard.backends._directory_tools import DirectoryTools, ToolProblem
from tollboard.backends.claude import ClaudeBackend
from tollboard.runtime.event import ToolResultEvent
from tollboard.testing.backend_contract import RecordingTurn, run_turn

SECRET = "the-admin-token"


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[DirectoryTools]:
    """Tools of a session above the state directory, which lies in `home/state`."""
    (tmp_path / "home" / "state" / "deep").mkdir(parents=True)
    (tmp_path / "home" / "state" / "token").write_text(SECRET)
    (tmp_path / "home" / "notes").write_text("mine")
    made = DirectoryTools(tmp_path / "home", private=[str(tmp_path / "home" / "state")])
    yield made
    await made.close()


async def refused(call: object) -> None:
    with pytest.raises(ToolProblem, match=r"daemon's own|outside"):
        await call  # type: ignore[misc]


WAYS = {
    "directly": "state/token",
    "up and down": "state/../state/./deep/../token",
    "a link to the file": "link-to-file",
    "a link to the directory": "link-to-state/token",
    "a link to a link": "link-to-link/token",
    "a hard link": "hard",
    "the root of a process": "root-link{state}/token",
}


def prepare(place: Path) -> None:
    (place / "link-to-file").symlink_to(place / "state" / "token")
    (place / "link-to-state").symlink_to("state")
    (place / "link-to-link").symlink_to("link-to-state")
    (place / "hard").hardlink_to(place / "state" / "token")
    (place / "root-link").symlink_to("/proc/self/root")


@pytest.mark.parametrize("way", WAYS)
async def test_s27_no_file_tool_opens_the_state_directory(
    tools: DirectoryTools, tmp_path: Path, way: str
) -> None:
    place = tmp_path / "home"
    prepare(place)
    path = WAYS[way].format(state=place / "state")
    await refused(tools.read_file(path))
    await refused(tools.edit_file(path, "admin", "x"))
    if way != "a hard link":  # writing replaces the name, and leaves the file it named
        await refused(tools.write_file(path, "mine now"))
    assert (place / "state" / "token").read_text() == SECRET


async def test_s27_no_file_tool_puts_anything_there(tools: DirectoryTools, tmp_path: Path) -> None:
    prepare(tmp_path / "home")
    for path in ("state/tollboard.toml", "state/deep/new/file", "link-to-state/tollboard.toml", "state"):
        await refused(tools.write_file(path, "agents_may = ['read']"))
    assert sorted(os.listdir(tmp_path / "home" / "state")) == ["deep", "token"]


async def test_s27_neither_list_nor_search_shows_what_is_there(tools: DirectoryTools, tmp_path: Path) -> None:
    prepare(tmp_path / "home")
    assert "token" not in (await tools.list_files(".", depth=8)).replace(" -> ", "\n").split("\n")
    assert await tools.search_files(SECRET) == "nothing found"
    for path in ("state", "state/deep", "link-to-state"):
        await refused(tools.list_files(path))
        await refused(tools.search_files("admin", path))
    assert "notes" in await tools.list_files(".")


async def test_s27_a_session_at_the_root_reads_no_environment_of_the_daemon() -> None:
    tools = DirectoryTools("/")
    for path in ("proc/self/environ", "proc/1/environ", f"proc/{os.getpid()}/environ", "proc/self/maps"):
        await refused(tools.read_file(path))


async def test_s27_a_session_in_the_state_directory_has_no_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    tools = DirectoryTools(tmp_path, private=[str(tmp_path)])
    await refused(tools.read_file("token"))
    await refused(tools.list_files("."))


@pytest.mark.claude
@pytest.mark.slow
async def test_s27_the_file_tools_of_claude_code_are_kept_out_too(
    messages_api: MessagesAPI, claude_options: dict[str, Any], tmp_path: Path
) -> None:
    state = tmp_path / "work" / "state"
    state.mkdir()
    (state / "token").write_text(SECRET)
    (tmp_path / "work" / "notes").write_text("plain-notes")
    backend = ClaudeBackend()
    options = {**claude_options, "private": (str(state),), "allowed_tools": ["Read", "Write", "Grep"]}
    session = await backend.start_session(options)
    calls = [("Read", {"file_path": str(state / "token")}), ("Read", {"file_path": str(tmp_path / "work" / "notes")}),
             ("Write", {"file_path": str(state / "tollboard.toml"), "content": "x"}),
             ("Grep", {"pattern": "admin", "path": str(tmp_path / "work"), "output_mode": "content"})]  # fmt: skip
    messages_api.script(*(Tools([call]) for call in calls), Text("done"))
    turn = RecordingTurn()
    try:
        await run_turn(backend, session, "read it", turn)
    finally:
        await backend.terminate_session(session)
    said = [event.content for event in turn.events if isinstance(event, ToolResultEvent)]
    assert len(said) == len(calls), turn.events
    assert SECRET not in str(said)
    assert "plain-notes" in said[1]
    assert not (state / "tollboard.toml").exists()
