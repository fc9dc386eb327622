"""The fleet at a Python prompt (S16), on a real terminal, and how results are shown there and in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.daemon.process import DaemonProcess
from tests.surfaces.terminal import Terminal
from tollboard.daemon.client import Client
from tollboard.errors import DaemonFrozen
from tollboard.fleet import records
from tollboard.fleet.records import Receipt, RequestState
from tollboard.surfaces.repl import load_ipython_extension, rendering, shell

RECEIPT = Receipt("r", "api", RequestState.ENDED, None, 1.0, 1.0, 2.0, "completed")
NASTY = "<script>alert(1)</script> \x1b[31m & so on"


@pytest.fixture
def prompt(home: Path, tmp_path: Path) -> Iterator[Terminal]:
    env = {"HOME": str(tmp_path), "TERM": "xterm", "NO_COLOR": "1", "PROMPT_TOOLKIT_NO_CPR": "1"}
    (tmp_path / "src").mkdir()
    with (
        DaemonProcess(home),
        Terminal([sys.executable, "-m", "tollboard", "--home", str(home), "repl"], env) as terminal,
    ):
        terminal.shows("In [1]:")
        yield terminal


@pytest.mark.slow
def test_s16_s01_s12_the_tour_at_the_prompt(prompt: Terminal, tmp_path: Path) -> None:
    src = tmp_path / "src"
    prompt.types(f'await start_session("project-a", path="{src}", backend="echo")\n')
    assert "project-a" in prompt.shows("In [2]:")
    prompt.types('ref = await send("project-a", "what files are here?")\n')
    prompt.shows("In [3]:")
    prompt.types("await wait([ref])\n")
    assert "project-a: echo: what files are here?" in prompt.shows("In [4]:")
    prompt.types('await poll("project-a", ref)\n')
    assert "echo: what files are here?" in prompt.shows("In [5]:")
    prompt.types('await inbox("project-a", ack=True)\n')
    assert "✓ project-a #1 ok" in prompt.shows("In [6]:")
    prompt.types("await list_sessions()\n")
    assert "NAME       PHASE" in prompt.shows("In [7]:")
    prompt.types('await send("nobody", "x")\n')
    said = prompt.shows("In [8]:")
    assert "error: there is no session 'nobody'" in said
    assert "Traceback" not in said
    prompt.types("help_board()\n")
    assert "Leaving the prompt" in prompt.shows("In [9]:")
    prompt.types("await pools.list()\n")
    prompt.shows("In [10]:")
    prompt.types("\x04")
    prompt.shows("The fleet goes on")
    assert prompt.ended() == 0


@pytest.mark.slow
def test_s10_the_tail_is_live_while_one_types(prompt: Terminal, tmp_path: Path) -> None:
    prompt.types(f'_ = await start_session("api", path="{tmp_path / "src"}", backend="echo")\n')
    prompt.shows("In [2]:")
    prompt.types('tail("api")\n')
    prompt.shows("In [3]:")
    prompt.types('ref = await send("api", "hello")\n')
    prompt.shows("turn.completed")
    prompt.types("untail(); 40 + 2\n")
    prompt.shows("42")


@pytest.mark.slow
def test_s16_names_are_completed_and_ctrl_c_leaves_the_prompt_alive(prompt: Terminal, tmp_path: Path) -> None:
    prompt.types(
        f'_ = await start_session("project-a", path="{tmp_path / "src"}", backend="echo", delay=60)\n'
    )
    prompt.shows("In [2]:")
    prompt.types('ref = await send("pro\t')
    prompt.shows("project-a")
    prompt.types('", "x")\n')
    prompt.shows("In [3]:")
    prompt.types('print("be" + "gin"); await wait([ref])\n')
    prompt.shows("begin")
    prompt.interrupt()
    prompt.shows("In [4]:")
    prompt.types("40 + 2\n")
    prompt.shows("42")


# -- how results are shown


def entry(text: str = "done") -> records.Entry:
    return records.Entry(
        session="api", session_id="i", seq=1, ref="r", status=records.TurnStatus.OK, prompt="do\nit", text=text,
        error=None, usage=None, duration_s=1.0, attempt=1, started_at=1.0, completed_at=2.0,
    )  # fmt: skip


def test_results_are_text_to_read() -> None:
    assert rendering.text_of(records.PollCompleted(RECEIPT, "the answer", entry())) == "the answer"
    shown = rendering.text_of(records.Inbox("me", (entry(),), (), 0, more=True))
    assert shown is not None
    assert shown.splitlines()[1:] == ["  > do", "  > it", "  done", "there is more: ask again"]
    assert rendering.text_of((entry(), entry())) is not None
    assert rendering.text_of("a text") is None
    assert rendering.text_of((1, 2)) is None


def test_what_agents_wrote_drives_neither_terminal_nor_page() -> None:
    inbox = records.Inbox("me", (entry(NASTY),), (), 0, more=False)
    for value in (records.PollCompleted(RECEIPT, NASTY, entry(NASTY)), (entry(NASTY),), inbox):
        text, page = rendering.text_of(value), rendering.html_of(value)
        assert text is not None
        assert page is not None
        assert "\x1b" not in text + page
        assert "<script>" not in page


def test_s16_a_notebook_shows_html() -> None:
    prompt = InteractiveShell()
    load_ipython_extension(prompt)
    assert prompt.display_formatter is not None
    shown, _ = prompt.display_formatter.format((entry(),))
    assert shown["text/html"].startswith("<table>")
    assert "SESSION" in shown["text/plain"]
    plain, _ = prompt.display_formatter.format((1, 2))
    assert plain == {"text/plain": "(1, 2)"}


def test_a_daemon_that_stands_still_is_not_asked_for_names_as_well() -> None:
    frozen = SimpleNamespace(error_in_exec=DaemonFrozen("the daemon (pid 7) is stopped"))
    known = {"api"}
    shell._learn(cast(Client, None), known, frozen)
    assert known == {"api"}
