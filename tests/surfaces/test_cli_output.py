"""How the command line prints: safe text, readable times, tables that fit, exact JSON, colour only on terminals."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollboard import errors
from tollboard.fleet.records import Life
from tollboard.surfaces.cli.failures import exit_code, hint, report
from tollboard.surfaces.cli.output import Cell, Column, Output, plain
from tollboard.surfaces.cli.text import ago, cells, count, cut, exact, one_line, safe, span


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard output a terminal; not a fixture, as pytest puts its own stream back between the two."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    return screen


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\\x0db"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("rm \u202egnp.exe", "rm \\u202egnp.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\udce9 \0", "\\udce9 \\x00"),
        ("naïve 漢字 👩‍💻", "naïve 漢字 👩‍💻"),
    ],
)
def test_agents_text_cannot_drive_the_terminal(given_text: str, shown: str) -> None:
    assert safe(given_text) == shown


@given(st.text(alphabet=st.characters(exclude_categories=[])), st.integers(0, 40))
def test_no_control_character_passes_however_the_text_is_cut(text: str, at: int) -> None:
    shown = safe(text[:at]) + safe(text[at:])
    assert not [c for c in shown if (ord(c) < 32 and c not in "\t\n") or 0x7F <= ord(c) < 0xA0]
    shown.encode()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (0.34, "0.3 s"), (9.97, "10 s"), (59, "59 s"), (60, "1 min"), (185, "3 min 5 s"),
     (3600, "1 h"), (7805, "2 h 10 min"), (86400 * 4 + 3600 * 3, "4 d 3 h")],
)  # fmt: skip
def test_spans_are_readable(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


def test_points_in_time() -> None:
    assert [ago(1000.0, now=1000 + n) for n in (-5, 1, 30, 150, 7300, 200_000)] == [
        "just now", "just now", "30 s ago", "2 min ago", "2 h ago", "2 d ago"
    ]  # fmt: skip
    assert exact(0.25) == "1970-01-01T00:00:00.250Z"
    assert (ago(None), exact(None)) == ("-", "-")


def test_cutting_counts_the_columns_of_wide_characters() -> None:
    assert cut("abcdef", 4) == "abc…"
    assert cut("/home/a/long/path", 8, left=True) == "…ng/path"
    assert cut("漢字漢字", 5) == "漢字…"
    assert cells("漢a") == 3
    assert one_line("a\n  b\tc", 4) == "a b…"
    assert (count(1, "turn"), count(2000, "turn"), count(0, "process", "processes")) == (
        "1 turn", "2,000 turns", "0 processes"
    )  # fmt: skip


COLUMNS = (Column("NAME"), Column("TURNS", right=True), Column("PATH", gives="left"))
ROWS = [(Cell("api", "bold"), "12", "/a/very/long/path/to/the/api"), ("web", Cell("3", "dim"), "/b\x1b[2J")]


def test_a_table_on_a_pipe_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(COLUMNS, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        "NAME  TURNS  PATH",
        "api      12  /a/very/long/path/to/the/api",
        "web       3  /b\\x1b[2J",
    ]


@pytest.mark.parametrize("width", [24, 30, 200])
def test_a_table_on_a_terminal_fits_its_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    Output().table(COLUMNS, ROWS)
    lines = terminal.getvalue().splitlines()
    assert all(len(line) <= max(width, 24) for line in lines)
    assert lines[1].endswith("/the/api" if width > 24 else "he/api")


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    Output().line("red \x1b[32mnot green", "red")
    assert terminal.getvalue() == "\x1b[31mred \\x1b[32mnot green\x1b[0m\n"
    for variable, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            terminal.seek(0)
            terminal.truncate()
            Output().line("red", "red")
            assert terminal.getvalue() == "red\n"


def test_a_stream_that_knows_only_ascii_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    Output().line("caf\xe9")
    sys.stdout.flush()
    assert raw.getvalue() == b"caf\\xe9\n"


@dataclass
class Record:
    """Something a verb might return."""

    life: Life
    parts: tuple[object, ...]


def test_json_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    value = Record(Life.DEAD, ({"a": 1.5, "b": None}, Path("/x"), "\x1b\u202e"))
    assert plain(value) == {"life": "dead", "parts": [{"a": 1.5, "b": None}, "/x", "\x1b\u202e"]}
    Output(json=True).document(value)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.isascii()
    assert json.loads(printed) == plain(value)


EXPECTED = {
    errors.NotFound: 3, errors.AgentNotFound: 3, errors.AgentDead: 3, errors.RequestNotFound: 3,
    errors.ApprovalNotFound: 3, errors.SessionBusy: 4, errors.SessionHalted: 4, errors.AgentBusy: 4,
    errors.Draining: 4, errors.Overloaded: 4, errors.Invalid: 2, errors.InvalidName: 2, errors.InvalidOption: 2,
    errors.InvalidPath: 2, errors.InvalidPrompt: 2, errors.InvalidDecision: 2, errors.UnknownBackend: 2,
    errors.WireError: 2, errors.TimedOut: 5,
}  # fmt: skip


@pytest.mark.parametrize("cls", errors.by_code().values(), ids=lambda cls: cls.__name__)
def test_every_error_has_its_exit_code(cls: type[errors.TollboardError]) -> None:
    expected = next((EXPECTED[base] for base in cls.__mro__ if base in EXPECTED), 1)
    assert exit_code(cls.__new__(cls)) == expected


def test_an_error_says_what_happened_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.SessionHalted("session 'api' is halted\x1b[2J")
    assert report(error, Output()) == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[0] == "error: session 'api' is halted\\x1b[2J"
    assert "tollboard resume" in printed.err
    error.add_note("do this instead")
    assert hint(error) == "do this instead"
    assert report(error, Output(json=True)) == 4
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out) == {
        "error": {
            "code": "session_halted",
            "message": "session 'api' is halted\x1b[2J",
            "hint": "do this instead",
        }
    }


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (
            errors.StoreUnavailable("no room in '/a; b'; free some space"),
            ["no room in '/a; b'", "free some space"],
        ),
        (errors.StoreUnavailable("no room"), ["no room", "look closer: tollboard doctor"]),
        (errors.AgentNotFound("no 'x'; see the list"), ["no 'x'", "see the sessions: tollboard list"]),
        (errors.InvalidPrompt("the prompt is empty"), ["the prompt is empty"]),
        (errors.WireError("a: wrong; b: wrong"), ["a: wrong; b: wrong"]),
    ],
)
def test_an_error_is_a_line_of_what_and_a_line_of_what_to_do(
    error: errors.TollboardError, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    report(error, Output())
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == len(lines)
    assert all(wanted in line for line, wanted in zip(printed, lines, strict=True))


def test_json_has_the_whole_message(capsys: pytest.CaptureFixture[str]) -> None:
    report(errors.StoreUnavailable("no room; free some space"), Output(json=True))
    assert json.loads(capsys.readouterr().out)["error"]["message"] == "no room; free some space"


def test_a_daemon_that_stands_still_comes_with_its_remedy_beside_what_the_command_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    frozen = errors.DaemonFrozen("the daemon (pid 7) is stopped; let it go on with `kill -CONT 7`")
    frozen.add_note("the prompt is safe, see how it stands: tollboard poll api x")
    assert report(frozen, Output(json=False)) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: the daemon (pid 7) is stopped",
        "  → the prompt is safe, see how it stands: tollboard poll api x",
        "  → let it go on with `kill -CONT 7`",
    ]
