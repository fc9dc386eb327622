"""`tollboard review`: a person on a real terminal, a real daemon, a script as the editor."""

from __future__ import annotations

import stat
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.daemon.process import DaemonProcess
from tests.surfaces.person import Person
from tests.surfaces.terminal import Terminal
from tests.surfaces.waiting import asks, decided, said
from tollboard import sync
from tollboard.daemon.client import Client
from tollboard.errors import DaemonFrozen
from tollboard.surfaces.cli import review
from tollboard.surfaces.cli.output import Output

pytestmark = pytest.mark.slow

ASK = "[a]pprove [e]dit [r]eject [s]kip [q]uit ? "
NEXT = "Enter goes on to the next > "
IDLE = "nothing waits; what comes is shown here"


@pytest.fixture
def daemon(home: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(home) as started:
        yield started


@pytest.fixture
def fleet(daemon: DaemonProcess) -> Iterator[sync.Board]:
    with sync.connect(daemon.home.path, start=False, client="other") as connected:
        yield connected


def on_terminal(home: Path, *words: str, **env: str) -> Terminal:
    given = {"TERM": "xterm", "NO_COLOR": "1", "VISUAL": "", **env}
    return Terminal([sys.executable, "-m", "tollboard", "--home", str(home), *words], given, columns=100)


def editor(home: Path, *bodies: str) -> str:
    """Return an editor that does these things, one each time it is opened; `$1` is the file."""
    cases = "\n".join(f"{number}) {body} ;;" for number, body in enumerate(bodies, 1))
    path = home / "editor"
    path.write_text(
        f"#!/bin/sh\necho x >> {home}/opened\nn=$(wc -l < {home}/opened | tr -d ' ')\n"
        f'seen={home}/seen$n\ncp "$1" "$seen"\ncase $n in\n{cases}\nesac\n'
    )
    path.chmod(stat.S_IRWXU)
    return str(path)


def seen(home: Path, number: int) -> str:
    """Return what the editor was opened with."""
    return (home / f"seen{number}").read_text()


# -- the walk ----------------------------------------------------------------------------------------------------


def test_what_waits_is_put_one_after_the_other(home: Path, fleet: sync.Board) -> None:
    first = asks(fleet, home, "one", arguments={"command": "git push\nrm \x1b[8mhidden", "times": 2})
    second = asks(fleet, home, "two", display="Push it")
    asks(fleet, home, "three")
    with on_terminal(home, "review") as person:
        shown = person.shows(ASK)
        assert "3 wait; this is the oldest" in shown
        assert "one wants to use shell" in shown
        assert "command       git push\r\n              rm \\x1b[8mhidden" in shown
        assert "times         2" in shown
        person.types("a\n")
        person.shows("approved: shell of one")
        assert "shown as      Push it" in person.shows(ASK)
        person.types("r\n")
        person.shows("why?")
        person.types("not on a Friday\n")
        person.shows("rejected: shell of two")
        person.shows(ASK)
        person.types("s\n")
        person.shows("skipped: shell of three")
        person.shows("1 approved, 1 rejected, 1 skipped")
        assert person.ended() == 0
    assert said(fleet, first).startswith("approved {")
    assert said(fleet, second) == 'rejected {"command": "ls"} not on a Friday'
    assert [one.session for one in fleet.approvals()] == ["three"]
    assert str(decided(fleet, "one").decided_by).startswith("cli:")


def test_one_session_only_and_what_is_not_allowed_is_not_offered(home: Path, fleet: sync.Board) -> None:
    asks(fleet, home, "one")
    ref = asks(fleet, home, "two", allowed=["approve", "reject"])
    with on_terminal(home, "review", "two") as person:
        shown = person.shows("[a]pprove [r]eject [s]kip [q]uit ? ")
        assert "two wants" in shown
        assert "wait; this" not in shown
        person.types("e\n")
        assert "let it run as it was asked" in person.shows("[a]pprove [r]eject [s]kip [q]uit ? ")
        person.types("Approve\n")
        person.shows("1 approved")
        assert person.ended() == 0
    assert said(fleet, ref).startswith("approved")


STORE = {
    "id": "store",
    "text": "Which store?",
    "header": "Store",
    "options": ["Alpha", "Beta"],
    "free_text": False,
}
WHY = {"id": "why", "text": "Why?", "secret": True}
ASK_QUESTION = "[a]nswer [r]eject [s]kip [q]uit ? "


def test_b06_questions_are_answered_by_number_and_in_words(home: Path, fleet: sync.Board) -> None:
    one = asks(fleet, home, "one", questions=[STORE])
    two = asks(fleet, home, "two", questions=[STORE, WHY])
    with on_terminal(home, "review") as person:
        shown = person.shows(ASK_QUESTION)
        assert "one asks (shell)" in shown
        assert "1  Alpha" in shown
        person.types("9\n")
        person.shows("takes no words of your own")
        person.shows(ASK_QUESTION)
        person.types("2\n")
        person.shows("answered: shell of one")
        person.shows(ASK_QUESTION)
        person.types("a\n")
        person.shows("Store: number. Ctrl-D: back > ")
        person.types("alpha\n")
        person.shows("why: your own words. Ctrl-D: back > ")
        person.types("hunter2\n")
        assert "hunter2" not in person.shows("2 answered")
        assert person.ended() == 0
    assert said(fleet, one) == 'answered {"store": "Beta"} '
    assert said(fleet, two) == 'answered {"store": "Alpha", "why": "*"} '


def test_b06_answer_without_words_asks_for_that_one(home: Path, fleet: sync.Board) -> None:
    asks(fleet, home, "one", questions=[STORE])
    ref = asks(fleet, home, "two", questions=[STORE])
    (record,) = fleet.approvals("two")
    with on_terminal(home, "answer", record.id[-6:]) as person:
        person.shows(ASK_QUESTION)
        person.types("1\n")
        person.shows("answered: shell of two")
        assert person.ended() == 0
    assert said(fleet, ref) == 'answered {"store": "Alpha"} '
    assert [one.session for one in fleet.approvals()] == ["one"]


def test_it_is_left_with_q_ctrl_d_and_ctrl_c_and_decides_nothing(home: Path, fleet: sync.Board) -> None:
    asks(fleet, home, "one")
    for leave, code in (("q\n", 0), ("\x04", 0), ("", 130)):
        with on_terminal(home, "review") as person:
            person.shows(ASK)
            person.types(leave) if leave else person.interrupt()
            person.shows("nothing was decided")
            assert person.ended() == code
    assert [one.state for one in fleet.approvals(all=True)] == ["pending"]


def test_a_rejection_can_be_thought_over_and_needs_no_reason(home: Path, fleet: sync.Board) -> None:
    ref = asks(fleet, home, "one")
    with on_terminal(home, "review") as person:
        person.shows(ASK)
        person.types("r\n")
        person.shows("why?")
        person.types("\x04")
        person.shows(ASK)
        person.types("r\n")
        person.shows("why?")
        person.types("\n")
        person.shows("1 rejected")
        assert person.ended() == 0
    assert said(fleet, ref) == 'rejected {"command": "ls"} '


def test_what_is_longer_than_the_screen_comes_in_pages(home: Path, fleet: sync.Board) -> None:
    ref = asks(fleet, home, "one", arguments={"command": "\n".join(f"step {n}" for n in range(200))})
    with on_terminal(home, "review") as person:
        shown = person.shows("more lines: Enter shows them, w all of them")
        assert "step 30" in shown
        assert "step 60" not in shown
        person.shows(ASK)
        person.types("a\n")
        person.shows("not all of it was shown; to approve all the same type 'approve' in full")
        person.shows(ASK)
        person.types("\n")
        assert "step 60" in person.shows(ASK)
        person.types("w\n")
        shown = person.shows(ASK)
        assert "step 199" in shown
        assert "more line" not in shown
        person.types("a\n")
        person.shows("1 approved")
        assert person.ended() == 0
    assert "step 199" in said(fleet, ref)


def test_no_line_of_an_argument_begins_where_ours_do(home: Path, fleet: sync.Board) -> None:
    fake = "x" * 86 + "id            00000000"
    asks(fleet, home, "one", arguments={"command": fake, "id\n\x1b[2Jby": "y", "n" * 120: "z"})
    with on_terminal(home, "review") as person:
        shown = person.shows(ASK)
        assert "\r\n↳             id            00000000" in shown
        assert "id \\x1b[2Jby" in shown
        assert f"\r\n{'n' * 86}\r\n↳             {'n' * 34}\r\n              z" in shown


# -- somebody else, and the daemon -------------------------------------------------------------------------------


def test_somebody_else_decides_while_one_is_asked(home: Path, fleet: sync.Board) -> None:
    asks(fleet, home, "one")
    ref = asks(fleet, home, "two")
    with on_terminal(home, "review") as person:
        assert "one wants" in person.shows(ASK)
        person.types("a")  # half an answer: it must not become one to the next question
        fleet.decide(decided(fleet, "one").id, {"type": "approve"})
        person.shows("python:other approved this call meanwhile")
        person.shows(NEXT)
        person.types("\n")
        assert "two wants" in person.shows(ASK)
        person.types("\n")
        person.shows(ASK)
        person.types("r\n")
        person.shows("why?")
        fleet.interrupt("two")
        person.shows("this call is not asked about any more: the turn was interrupted")
        person.shows("nothing was decided")
        assert person.ended() == 0
    assert fleet.poll("two", ref).status == "failed"


def test_an_answer_that_comes_too_late_is_said_to_be(home: Path, fleet: sync.Board) -> None:
    asks(fleet, home, "one")
    other = f"{sys.executable} -m tollboard --home {home} reject {decided(fleet, 'one').id} -m no > /dev/null"
    change = 'echo \'{"command": "pwd"}\' > $1'
    with on_terminal(home, "review", EDITOR=editor(home, f"{other}; {change}")) as person:
        person.shows(ASK)
        person.types("e\n")
        person.shows("rejected this call meanwhile")
        assert person.ended() == 0
    assert decided(fleet, "one").decision == {"type": "reject", "message": "no"}


def test_with_follow_it_waits_for_what_comes(home: Path, fleet: sync.Board) -> None:
    with on_terminal(home, "review", "--follow") as person:
        person.shows(IDLE)
        ref = asks(fleet, home, "one")
        assert "one wants" in person.shows(ASK)
        later = asks(fleet, home, "two")  # it comes while another is asked
        person.types("a\n")
        assert "two wants" in person.shows(ASK)
        person.types("s\n")
        person.shows(IDLE)
        fleet.decide(decided(fleet, "two").id, {"type": "approve"})
        person.shows(IDLE)
        person.types("what?\n\n")
        fleet.send("one", "again")
        person.shows(ASK)
        person.types("a\n")
        person.shows(IDLE)
        person.interrupt()
        person.shows("2 approved, 1 skipped")
        assert person.ended() == 130
    assert said(fleet, ref).startswith("approved")
    assert said(fleet, later).startswith("approved")


def test_it_goes_on_over_a_restart_of_the_daemon(home: Path, daemon: DaemonProcess) -> None:
    with sync.connect(home, start=False) as fleet:
        asks(fleet, home, "one")
    with on_terminal(home, "review", "--follow") as person:
        person.shows(ASK)
        daemon.end()
        person.shows("the daemon does not answer any more")
        person.types("a\n")
        person.shows("no daemon answers")
        person.shows(ASK)
        daemon.start()
        person.shows("this call is not asked about any more: the daemon ended")
        person.shows(IDLE)
        with sync.connect(home, start=False) as fleet:
            ref = fleet.send("one", "again")
            person.shows(ASK)
            person.types("a\n")
            person.shows("approved: shell of one")
            assert said(fleet, ref).startswith("approved")
        person.types("q\n")
        assert person.ended() == 0


# -- the editor --------------------------------------------------------------------------------------------------


def test_a_syntax_error_opens_the_editor_again_with_the_error_on_top(home: Path, fleet: sync.Board) -> None:
    ref = asks(fleet, home, "one", arguments={"command": "ls", "note": "\u202eevil ü"})
    opens = editor(
        home,
        'sed -i \'s/"ls"/"pwd/\' $1',
        'sed -i \'s/"pwd/"pwd", "command": "x"/\' $1',
        'sed -i \'s/, "command": "x"//\' $1',
    )
    with on_terminal(home, "review", EDITOR=opens) as person:
        person.shows(ASK)
        person.types("e\n")
        person.shows("edited: shell of one")
        assert person.ended() == 0
    assert seen(home, 1).startswith("// one wants to use shell\n// Save and leave:")
    assert '"\\u202eevil ü"' in seen(home, 1)
    assert "NOT TAKEN" not in seen(home, 1)
    assert "// NOT TAKEN: the arguments are not JSON: Invalid control character" in seen(home, 2)
    assert "// NOT TAKEN: 'command' stands twice in the arguments" in seen(home, 3)
    assert said(fleet, ref) == 'edited {"command": "pwd", "note": "\u202eevil ü"} '


def test_unchanged_nothing_is_decided(home: Path, fleet: sync.Board) -> None:
    otherwise_written = 'echo \'{"times":2,\n"command":"ls"}\' > $1'
    leaves = (":", "echo >> $1", ": > $1", "exit 1", otherwise_written)
    asks(fleet, home, "one", arguments={"command": "ls", "times": 2})
    with on_terminal(home, "review", EDITOR=editor(home, *leaves)) as person:
        for _ in leaves:
            person.shows(ASK)
            person.types("e\n")
            person.shows("nothing was changed, so nothing is decided")
        person.shows(ASK)
        person.types("q\n")
        assert person.ended() == 0
    assert len((home / "opened").read_text().split()) == len(leaves)
    assert decided(fleet, "one").state == "pending"


def test_ctrl_c_is_the_editors_and_what_it_does_to_the_terminal_is_undone(
    home: Path, fleet: sync.Board
) -> None:
    asks(fleet, home, "one")
    with on_terminal(
        home, "review", EDITOR=editor(home, "kill -INT $PPID; stty raw -echo; exit 1")
    ) as person:
        person.shows(ASK)
        person.types("e\n")
        person.shows("nothing was changed, so nothing is decided")
        person.shows(ASK)
        person.types("a\n")
        person.shows("1 approved")
        assert person.ended() == 0


def test_an_editor_that_cannot_be_used_is_named_and_the_question_stays(home: Path, fleet: sync.Board) -> None:
    asks(fleet, home, "one")
    for command, says in (("/no/such/editor", "cannot be started"), ("vi '", "is no command")):
        with on_terminal(home, "review", EDITOR=command) as person:
            person.shows(ASK)
            person.types("e\n")
            person.shows(says)
            person.shows(ASK)
            person.types("q\n")
            assert person.ended() == 0


def test_edit_by_id_opens_the_editor_again_too(home: Path, fleet: sync.Board) -> None:
    ref = asks(fleet, home, "one")
    id = decided(fleet, "one").id
    with on_terminal(home, "edit", id[-6:], EDITOR=editor(home, "echo '[]' > $1", ":")) as person:
        person.shows("nothing was done")
        assert person.ended() == 1
    assert "// NOT TAKEN: the arguments must be a JSON object, not list" in seen(home, 2)
    (home / "opened").unlink()
    with on_terminal(
        home, "edit", id, EDITOR=editor(home, "echo '[]' > $1", "sed -i 's/\\[]/{}/' $1")
    ) as person:
        person.shows("edited: shell of one")
        assert person.ended() == 0
    assert said(fleet, ref) == "edited {} "
    with on_terminal(home, "edit", id, EDITOR="/no/such/editor") as person:
        person.shows("is edited already, by cli:")
        assert person.ended() == 1


async def test_a_daemon_that_stands_still_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Following the feed may never notice, and then nobody says that the daemon is back."""
    asked: list[str | None] = []

    class Board:
        async def approvals(self, name: str | None) -> tuple[()]:
            asked.append(name)
            if len(asked) < 3:
                raise DaemonFrozen("the daemon (pid 7) is stopped")
            return ()

    monkeypatch.setattr(review, "Keyboard", object)  # nobody types
    walk = review.Review(cast(Client, Board()), Output(json=False), "api", Counter())
    assert await walk._open() == []
    assert asked == ["api"] * 3


# -- where there is no terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("review",), ("review", "--json")])
def test_without_a_terminal_it_says_what_a_script_does(person: Person, words: tuple[str, ...]) -> None:
    failed = person.types(*words)
    assert failed.code == 2
    assert "review asks a person at a terminal" in (failed.err or failed.out)
    assert "approvals --json" in (failed.err or failed.out)


def test_an_unknown_session_is_named(home: Path, fleet: sync.Board) -> None:
    asks(fleet, home, "one")
    with on_terminal(home, "review", "onr") as person:
        person.shows("did you mean one?")
        assert person.ended() == 3


def test_names_are_completed(person: Person, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    person.does("start", "api", "--backend", "echo")
    monkeypatch.setenv("_TOLLBOARD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "tollboard review a")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        person.types()
    assert capsys.readouterr().out.split() == ["api"]
