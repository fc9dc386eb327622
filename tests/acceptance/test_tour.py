"""The tour of docs/tour.md, as it happens: a person at the prompt and Claude Code on one fleet, each seeing what the
other did. `pytest tests/acceptance/test_tour.py --write-tour` writes the page anew."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.acceptance.claude_host import claude_code, last_json
from tests.acceptance.recording import AtPrompt, ByClaude, Claude, Recording
from tests.daemon.process import DaemonProcess
from tests.fakes.messages_api import MessagesAPI
from tests.surfaces.terminal import Terminal

pytestmark = [pytest.mark.claude, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "tour.md"
STATE = ".local/state/tollboard"
COLUMNS = 200
ABOUT = """<!-- Recorded by tests/acceptance/test_tour.py; --write-tour writes it anew. Do not edit it here. -->

# A tour: you at the prompt, Claude Code beside you

One fleet, two managers. You sit at `tollboard repl`; Claude Code manages the same sessions through MCP
(`tollboard mcp`). Whatever one of you does, the other sees.

This page is a recording, and a test runs it again and compares. The daemon, the prompt on its terminal, Claude Code
and its tools are the real programs. Claude's model is played by a stand-in that calls the tools it was told to, so
that every run is the same; the sessions are on the backend `echo`, which answers with what it was asked. Refs, times
and directories were replaced, and times and fields without a value were left out of what the tools answered.

How to set it up: [Let an MCP host be the manager](how-to/mcp.md),
[Drive the fleet from a Python prompt](how-to/python-prompt.md)."""


async def test_s13_s16_a_person_and_claude_code_share_two_sessions(
    home: Path, request: pytest.FixtureRequest
) -> None:
    place = home.resolve()
    state = place / STATE
    for directory in (state, place / "src/api", place / "src/docs"):
        directory.mkdir(parents=True, mode=0o700)
    env = {
        "HOME": str(place), "TOLLBOARD_HOME": str(state), "TERM": "xterm", "NO_COLOR": "1",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "tollboard", "repl"]
    recording = Recording(place)
    with DaemonProcess(state), Terminal(command, env, columns=COLUMNS) as terminal:
        async with MessagesAPI() as api, claude_code(api, state, place) as host:
            await tour(AtPrompt(terminal, recording), Claude(host, recording), recording, place)
    if request.config.getoption("--write-tour"):
        PAGE.write_text(recording.page())
    assert PAGE.read_text() == recording.page(), f"see {__name__}, if this is meant"


async def tour(person: AtPrompt, claude: Claude, guide: Recording, place: Path) -> None:
    """Play it."""
    guide.says(ABOUT)

    guide.says(
        "## You begin\n\n"
        "A session for the API, and its first turn. `tail` will show above the prompt what happens in it."
    )
    await person.opens()
    await person.types(f'_ = await start_session("api", path="{place}/src/api", backend="echo")')
    await person.types('ref = await send("api", "Which tests fail?")')
    assert "api: echo: Which tests fail?" in await person.types("await wait([ref])")
    await person.types('tail("api")')

    guide.says(
        "## Claude joins\n\n"
        "It finds your session and what came of it, starts one of its own beside it (slow: each turn "
        "takes a minute), and leaves it at work."
    )
    docs = {"name": "docs", "path": f"{place}/src/docs", "backend": "echo", "options": {"delay": 60}}
    answers = await claude.does(
        "See how the fleet stands, then have a session write the changelog.",
        ("switchboard_list_sessions", {}),
        ("switchboard_transcript", {"name": "api"}),
        ("switchboard_start_session", docs),
        ("switchboard_send", {"name": "docs", "prompt": "Write the changelog."}),
    )
    assert '"name":"api"' in answers[0]
    assert "echo: Which tests fail?" in answers[1]
    writing = last_json(answers)["result"]

    guide.says(
        "## You see it, and step in\n\n"
        "The session that Claude started is yours as well. While it works on Claude's prompt "
        "it takes none of yours, and says which ref it works on. You end that turn."
    )
    shown = await person.types("await list_sessions()")
    assert "docs  processing" in shown
    assert writing in await person.types('await send("docs", "And the README.")')
    await person.types('await interrupt("docs")')

    guide.says(
        "## Claude hears of it\n\n"
        "Its ref says what became of it: not lost, not answered, interrupted. It writes that down "
        "for whoever comes next, and goes on with your session."
    )
    answers = await claude.does(
        "How far is the changelog? And ask the API session what changed.",
        ("switchboard_poll", {"name": "docs", "ref": writing}),
        ("switchboard_summary_update", {"name": "docs", "text": "The changelog was interrupted; ask first."}),
        ("switchboard_send", {"name": "api", "prompt": "What changed since 1.0?"}),
        lambda results: ("switchboard_wait", {"refs": [last_json(results)["result"]]}),
    )
    assert "interrupted" in answers[0]
    assert "echo: What changed since 1.0?" in answers[3]
    guide.says("You still follow that session: its work for Claude has appeared above your prompt.")
    assert "echo: What changed since 1.0?" in await person.sees("turn.completed")
    assert "The changelog was interrupted" in await person.types('await summary_get("docs")')

    guide.says(
        "## You freeze a session while Claude works with it\n\n"
        "Claude is told why it cannot send and what it can do, "
        "queues its prompt, and waits for it."
    )
    await person.types('untail(); _ = await halt("api")')
    turn = ByClaude(guide, until="switchboard_wait")
    async with asyncio.TaskGroup() as both:
        working = both.create_task(
            claude.does(
                "Have the API session fix what fails.",
                ("switchboard_send", {"name": "api", "prompt": "Fix it."}),
                ("switchboard_send", {"name": "api", "prompt": "Fix it.", "queue": True}),
                lambda results: ("switchboard_wait", {"refs": [last_json(results)["result"]]}),
                turn=turn,
            )
        )
        await turn.called.wait()
        guide.says("It is still waiting when you look, and let the session go on.")
        assert "idle   True    1" in await person.types("await list_sessions()")
        await person.types('_ = await resume("api")')
        guide.says("Claude's wait ends with the answer.")
        turn.goes_on()
    answers = working.result()
    assert "session_halted" in answers[0]
    assert "echo: Fix it." in answers[2]

    guide.says(
        "## One history for both\n\nYour inbox has everything that is new to you, whoever asked for it."
    )
    shown = await person.types("await inbox(ack=True)")
    for prompt in ("Which tests fail?", "Write the changelog.", "What changed since 1.0?", "Fix it."):
        assert f"> {prompt}" in shown
    assert "come back with" in await person.leaves()

    guide.says(
        "## You leave, the fleet stays\n\n"
        "Claude reads the inbox with a cursor of its own: that you have read yours "
        "changes nothing for it."
    )
    answers = await claude.does(
        "What is new, and who is there?",
        ("switchboard_inbox", {"ack": True}),
        ("switchboard_list_sessions", {}),
    )
    assert [entry["prompt"] for entry in last_json(answers[:1])["entries"]][-1] == "Fix it."
    assert [one["name"] for one in last_json(answers)["result"]] == ["api", "docs"]
