"""The commands, each against a real Switchboard: what they print, what they promise a script, what they advise."""

from __future__ import annotations

import io
import json
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.surfaces.person import UUID, Person
from tollboard.errors import DaemonUnreachable
from tollboard.surfaces.cli import following, main
from tollboard.surfaces.cli.completion import complete_kind
from tollboard.surfaces.cli.invocation import Cli


@pytest.fixture
def api(person: Person) -> Person:
    person.does("start", "api", "--backend", "echo")
    return person


def scripted(person: Person, *turns: object, name: str = "deploy") -> None:
    person.does("start", name, "--backend", "scripted", "--option", f"script={json.dumps(turns)}")


ASKS = {
    "approval": {"tool": "shell", "arguments": {"command": "git push\nrm \x1b[8mhidden", "times": 2}},
    "then": "{decision} {arguments}",
}


# -- sessions ----------------------------------------------------------------------------------------------------


def test_start_list_status(person: Person, home: Path) -> None:
    assert "no sessions yet" in person.types("list").err
    said = person.does("start", "api", "--backend", "echo", "--path", str(home / "src"), "-o", "delay=0")
    assert said == f"api is idle: echo in {home / 'src'}\n"
    assert person.does("list").splitlines() == [
        "NAME  STATE  QUEUED  TURNS  UNREAD  BACKEND  MODEL  PATH",
        f"api   idle        0      0       0  echo     -      {home / 'src'}",
    ]
    fields = dict(line.split(maxsplit=1) for line in person.does("status", "api").splitlines())
    assert (fields["name"], fields["state"], fields["path"]) == ("api", "idle", str(home / "src"))
    (listed,) = person.types("list", "--json").json
    assert (listed["name"], listed["phase"], listed["unread"]) == ("api", "idle", 0)
    assert listed.items() >= person.types("status", "api", "--json").json.items()


def test_state_says_first_what_must_be_known(person: Person) -> None:
    scripted(person, ASKS)
    ref = person.sends("deploy", "ship it")
    following_text = person.types("send", "deploy", "more", "--wait", "-q", "--timeout", "0.05")
    assert following_text.code == 5
    assert " needs decision " in person.does("list")
    person.does("halt", "deploy")
    assert " needs decision " in person.does("list")
    person.does("interrupt", "deploy", "--ref", ref)
    assert " halted " in person.does("list")


def test_alarms_stand_below_the_table(api: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    status = api.board.do(api.board.board.status("api"))
    alarmed = replace(
        status, alarms=("model is 'small', asked was 'big'",), problem="gone", effective={"model": "small"}
    )

    async def listed(**_: object) -> tuple[object, ...]:
        return (alarmed,)

    monkeypatch.setattr(api.board.board, "list_sessions", listed)
    _, row, *below = api.does("list").splitlines()
    assert " small " in row
    assert below == ["! api: model is 'small', asked was 'big'", "! api: gone"]


def test_a_directory_that_vanished_is_named(person: Person, home: Path) -> None:
    (home / "src" / "gone").mkdir()
    person.does("start", "api", "--backend", "echo", "--path", "gone")
    (home / "src" / "gone").rmdir()
    said = person.types("send", "api", "hello")
    assert (said.code, "gone" in said.err) == (2, True)
    assert "put it back, or stop the session" in said.err


@pytest.mark.parametrize(
    ("words", "code", "advice"),
    [
        (["start", "api", "--backend", "echo"], 1, "tollboard stop NAME"),
        (["start", "a/b", "--backend", "echo"], 2, "letters"),
        (["start", "b", "--backend", "ehco"], 2, "tollboard backends"),
        (["start", "b", "--backend", "echo", "--path", "nowhere"], 2, "nowhere"),
        (["start", "b", "--backend", "echo", "-o", "delay"], 2, "KEY=VALUE"),
        (["start", "b", "--backend", "echo", "-o", "path=/"], 2, "argument"),
        (["start", "b", "--backend", "echo", "-o", "nonsense=1"], 2, "delay"),
        (["status", "apo"], 3, "did you mean api?"),
        (["send", "API", "x"], 3, "tollboard list"),
        (["send", "api", " "], 2, "empty"),
        (["send", "api"], 2, "standard input"),
        (["send", "api", "x", "--file", "y"], 2, "--file"),
        (["send", "api", "--file", "missing"], 2, "missing"),
        (["send", "api", "x", "--timeout", "1"], 2, "--wait"),
        (["poll", "api", "nope"], 3, "transcript"),
        (["wait", "nope"], 3, "nope"),
        (["cancel", "api", "nope"], 3, "nope"),
        (["halt"], 2, "--all"),
        (["start", "x", "--backend", "echo", "--path", ""], 2, "no path"),
        (["start", "x", "--backend", "echo", "--path", "~nobody-of-that-name"], 2, "does not exist"),
        (["pool", "start", "x", "--size", "1", "--backend", "echo", "--path", ""], 2, "no path"),
        (["list", "--home", ""], 2, "no path"),
        (["start", "x", "--backend", "echo", "-o", "delay=NaN"], 2, "not 'NaN'"),
        (["start", "x", "--backend", "echo", "-o", "delay=" + "[" * 100_000], 2, "must be a number"),
        (["halt", "api", "--all"], 2, "--all"),
        (["delete", "api"], 2, "--yes"),
        (["delete", "api", "--yes"], 1, "stop it"),
        (["ack", "api", "7"], 2, "7"),
        (["approve", "nope"], 3, "tollboard approvals"),
        (["edit", "abcdef", "--arguments", "[1]"], 2, "object"),
        (["edit", "abcdef", "--arguments", "{"], 2, "JSON"),
        (["broadcast", "x", "--to", "nobody"], 1, ""),
    ],
)
def test_errors_name_the_thing_and_the_next_step(
    api: Person, words: list[str], code: int, advice: str
) -> None:
    said = api.types(*words)
    assert said.code == code, said
    assert advice in said.err
    assert "Traceback" not in said.err
    if words[0] != "broadcast":
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert len(said.err.splitlines()) <= 2  # what happened, and what to do
        with_json = api.types(*words, "--json")
        assert with_json.code == code
        assert set(with_json.json) == {"error"}
        assert set(with_json.json["error"]) == {"code", "message", "hint"}


def test_a_stopped_session_is_said_to_be_stopped(api: Person) -> None:
    api.does("stop", "api")
    said = api.types("send", "api", "hi")
    assert said.code == 3
    assert "it is stopped; read it: tollboard transcript api" in said.err
    assert "did you mean api" in api.types("send", "apii", "hi").err


def test_without_a_session_the_first_step_is_shown(person: Person) -> None:
    said = person.types("send", "api", "x")
    assert (said.code, "tollboard start" in said.err) == (3, True)


def test_stop_and_delete(api: Person) -> None:
    scripted(api, {"hang": True}, name="slow")
    ref = api.sends("slow", "a")
    queued = api.sends("slow", "b", "--queue")
    said = api.does("stop", "slow")
    assert said.startswith("slow is stopped, ")
    assert f"  request {queued} ended with: stopped" in said
    assert ref in api.does("transcript", "slow")
    assert "slow" not in api.does("list")
    assert "stopped" in api.does("list", "--all")
    assert api.types("delete", "slow", "--yes", "--json").json["session"] == "slow"
    assert "slow" not in api.does("list", "--all")


def test_backends(person: Person) -> None:
    assert re.search(r"^echo +yes +", person.does("backends"), re.M)
    assert {"echo", "scripted", "claude"} <= {one["name"] for one in person.types("backends", "--json").json}


# -- prompts -----------------------------------------------------------------------------------------------------


def test_send_prints_only_the_ref(api: Person) -> None:
    ref = api.sends("api", "hello")
    assert api.does("wait", ref)
    assert api.types("poll", "api", ref).out == "echo: hello\n"
    assert api.types("send", "api", "x", "--json").json.keys() == {"session", "ref"}


def test_send_reads_standard_input_and_files(api: Person, home: Path) -> None:
    assert api.types("send", "api", "-", "--wait", stdin="from a pipe\n").out == "echo: from a pipe\n"
    (home / "prompt.md").write_text("from a file", encoding="utf-8")
    assert api.types("send", "api", "--file", str(home / "prompt.md"), "--wait").out == "echo: from a file\n"
    bad = api.types("send", "api", "-", stdin=b"caf\xe9")
    assert (bad.code, "UTF-8" in bad.err) == (2, True)


def test_a_prompt_may_begin_with_a_dash(api: Person) -> None:
    assert api.types("send", "--wait", "api", "--", "--queue").out == "echo: --queue\n"


def test_send_wait_streams_each_piece_once(person: Person) -> None:
    scripted(
        person,
        [
            {"text": "one two three", "chunks": 5},
            {"text": "second"},
            {"usage": {"output_tokens": 7, "cost_usd": 0.5}},
            {"result": "second"},
        ],
        {"result": "only a result"},
        [{"text": "said"}, {"result": "and concluded"}],
    )
    said = person.types("send", "deploy", "go", "--wait")
    assert said.out == "one two three\nsecond\n"
    assert re.search(r"deploy · turn 1 · .* s · 7 tokens out · \$0\.5000", said.err)
    assert person.types("send", "deploy", "go", "--wait").out == "only a result\n"
    assert person.types("send", "deploy", "go", "--wait").out == "said\nand concluded\n"


def test_l02_an_answer_whose_end_is_missing_says_so_wherever_it_is_read(person: Person) -> None:
    scripted(
        person, {"events": [{"kind": "result", "text": "the first of the", "note": "its end is missing"}]}
    )
    said = person.types("send", "deploy", "go", "--wait")
    assert said.out == "the first of the\n"
    assert "its end is missing" in said.err
    assert "its end is missing" in person.types("transcript", "deploy").out
    assert person.types("transcript", "deploy", "--json").json["entries"][0]["note"] == "its end is missing"


def test_send_wait_with_json_is_one_document(api: Person) -> None:
    document = api.types("send", "api", "hi", "--wait", "--json").json
    assert (document["status"], document["text"], document["entry"]["seq"]) == ("completed", "echo: hi", 1)


def test_send_wait_tells_a_failure_by_code_and_reason(person: Person) -> None:
    scripted(person, [{"text": "so far"}, {"error": "no luck\x1b[2J"}])
    said = person.types("send", "deploy", "go", "--wait")
    assert (said.code, said.out) == (1, "so far\n")
    assert "no luck\\x1b[2J" in said.err
    ref = json.loads(person.types("transcript", "deploy", "--json").out)["entries"][0]["ref"]
    polled = person.types("poll", "deploy", ref)
    assert (polled.code, "no luck" in polled.out) == (0, True)


def test_send_wait_gives_up_after_the_timeout_and_the_turn_goes_on(person: Person) -> None:
    scripted(person, {"hang": True})
    said = person.types("send", "deploy", "go", "--wait", "--timeout", "0.05")
    assert said.code == 5
    assert "goes on" in said.err
    assert "tollboard interrupt deploy --ref" in said.err
    said = person.types("send", "deploy", "x", "--wait", "-q", "-t", "0")
    assert "the prompt is still queued for deploy" in said.err
    ref = UUID.search(said.err)
    assert ref is not None
    assert f"tollboard cancel deploy {ref[0]}" in said.err
    person.does("cancel", "deploy", ref[0])
    assert (
        person.types("send", "deploy", "x", "--wait", "-q", "-t", "0", "--json").json["status"] == "pending"
    )


def test_ctrl_c_while_waiting_says_that_the_turn_goes_on(
    api: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "follow", interrupted)
    said = api.types("send", "api", "go", "--wait")
    assert said.code == 130
    assert "the turn of api goes on" in said.err
    assert UUID.search(said.err)
    assert "tollboard cancel" not in said.err
    assert "while it is queued: tollboard cancel api" in api.types("send", "api", "go", "--wait", "-q").err
    assert api.types("send", "api", "go", "--wait", "-q", "--json").json["error"]["code"] == "stopped"


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_ctrl_c_in_wait_says_that_the_turns_go_on(
    api: Person, monkeypatch: pytest.MonkeyPatch, json: tuple[str, ...]
) -> None:
    async def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "wait_for", interrupted)
    said = api.types("wait", "some-ref", *json)
    assert said.code == 130
    assert "the turns go on" in (said.json["error"]["message"] if json else said.err)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_while_a_session_is_drained_says_that_it_ends(
    api: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cli, "run", interrupted)
    said = api.types("stop", "api", "--drain")
    assert (said.code, said.out) == (130, "")
    assert "api ends all the same" in said.err
    assert "now, not after its turn: tollboard stop api" in said.err
    assert "not after its turn" not in api.types("stop", "api").err
    assert api.types("stop", "api", "--json").json["error"]["message"].endswith("api ends all the same")


def test_ctrl_c_leaves_one_document_with_json(api: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cli, "run", interrupted)
    said = api.types("inbox", "--wait", "60", "--json")
    assert (said.code, said.json["error"]["code"]) == (130, "stopped")
    said = api.types("inbox", "--wait", "60")
    assert (said.code, said.out, said.err) == (130, "", "")


def test_a_daemon_lost_while_one_waits_says_that_nothing_is(
    api: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: object, **__: object) -> None:
        raise DaemonUnreachable("the daemon went away")

    monkeypatch.setattr(following, "wait_for", lost)
    said = api.types("wait", "one", "two")
    assert (said.code, "wait again: tollboard wait one two" in said.err) == (1, True)


def test_a_lost_daemon_does_not_lose_the_ref(api: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: object, **__: object) -> None:
        raise DaemonUnreachable("the daemon went away")

    monkeypatch.setattr(following, "follow", lost)
    said = api.types("send", "api", "go", "--wait")
    assert said.code == 1
    assert re.search(rf"tollboard poll api {UUID.pattern}", said.err)


def test_busy_names_what_is_in_the_way(person: Person) -> None:
    scripted(person, ASKS)
    ref = person.sends("deploy", "one")
    said = person.types("send", "deploy", "two")
    assert said.code == 4
    assert "--queue" in said.err
    assert f"tollboard wait {ref}" in said.err
    what, advice = said.err.splitlines()
    assert what.startswith(f"error: session 'deploy' is working on {ref}")
    assert advice.startswith("  → send it after that turn: --queue    or ")
    assert person.types("send", "deploy", "two", "--queue").code == 0


def test_a_key_makes_sending_safe_to_repeat(api: Person) -> None:
    assert api.sends("api", "once", "--key", "k") == api.sends("api", "once", "--key", "k")
    assert api.types("send", "api", "other", "--key", "k").code == 1


def test_wait_any_all_and_timeout(api: Person) -> None:
    scripted(api, {"hang": True}, name="slow")
    quick, slow = api.sends("api", "x"), api.sends("slow", "y")
    assert api.types("wait", quick, slow, "--any").code == 0
    said = api.types("wait", quick, slow, "--timeout", "0.05")
    assert said.code == 5
    assert re.search(r"^api +completed ", said.out, re.M)
    assert re.search(r"^slow +in flight ", said.out, re.M)
    document = api.types("wait", quick, slow, "--timeout", "0", "--json").json
    assert (len(document["done"]), len(document["pending"])) == (1, 1)
    api.does("interrupt", "slow")
    assert api.types("wait", quick, slow).code == 1


def test_wait_tells_of_each_end_on_a_terminal(api: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [api.sends("api", str(n), "--queue") for n in range(3)]
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setenv("NO_COLOR", "1")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        assert main(["wait", *refs, refs[0]]) == 0
    assert [line[:6] for line in screen.getvalue().splitlines()] == ["1 of 3", "2 of 3", "3 of 3"]


def test_broadcast_reports_each_session(api: Person) -> None:
    api.does("start", "web", "--backend", "echo")
    assert [line.split()[0] for line in api.does("broadcast", "all").splitlines()] == [
        "SESSION",
        "api",
        "web",
    ]
    said = api.types("broadcast", "some", "--to", "web", "--to", "nobody")
    assert said.code == 1
    assert "agent_not_found" in said.out
    assert re.search(rf"^web +{UUID.pattern}$", said.out, re.M)


def test_cancel_a_queued_request(api: Person) -> None:
    api.does("halt", "api")
    ref = api.sends("api", "x", "--queue")
    assert "queued, number 1" in api.does("poll", "api", ref)
    assert ref in api.does("cancel", "api", ref)
    assert "cancelled" in api.does("poll", "api", ref)
    assert api.types("cancel", "api", ref).code == 1


# -- reading -----------------------------------------------------------------------------------------------------


def test_inbox_peeks_and_acknowledges_per_reader(api: Person) -> None:
    for word in ("one", "two"):
        api.types("send", "api", word, "--wait")
    api.does("summary", "set", "api", "# Where it stands")
    peek = api.types("inbox")
    assert peek.out.count("✓ api #") == 2
    assert "Where it stands" in peek.out
    assert "tollboard inbox --ack" in peek.err
    assert [line.split()[4] for line in api.does("list").splitlines()] == ["UNREAD", "2"]
    assert "2 turns acknowledged" in api.types("inbox", "api", "--ack").err
    assert "nothing new" in api.types("inbox").err
    assert len(api.types("inbox", "--reader", "script", "--json").json["entries"]) == 2
    assert api.does("ack", "api", "1") == "api: read up to turn 1, 1 unread\n"
    (entry,) = api.types("inbox", "--json").json["entries"]
    assert (entry["seq"], entry["text"]) == (2, "echo: two")
    limited = api.types("inbox", "-r", "new", "-n", "1")
    assert "--limit" in limited.err


def test_inbox_tells_of_approvals(person: Person) -> None:
    scripted(person, ASKS)
    person.types("send", "deploy", "x", "--wait", "-t", "0.05")
    assert "1 approval waits: tollboard approvals" in person.types("inbox").err


def test_transcript_pages_through_everything(api: Person) -> None:
    refs = [api.sends("api", f"p{n}", "--queue") for n in range(1, 251)]
    api.does("wait", refs[-1])
    entries = api.types("transcript", "api", "--all", "--json").json["entries"]
    assert [entry["seq"] for entry in entries] == list(range(1, 251))
    assert len(api.types("transcript", "api", "-n", "230", "--json").json["entries"]) == 230
    said = api.types("transcript", "api", "--limit", "2")
    assert re.findall(r"#(\d+) ok", said.out) == ["249", "250"]
    assert "the last 2 of 250 turns" in said.err


def test_what_an_agent_says_is_shown_not_obeyed(person: Person) -> None:
    evil = "\x1b]0;owned\x07\x1b[2Jbye\rhello\u202e"
    scripted(person, evil)
    said = person.types("send", "deploy", "a\x1b[31mb", "--wait")
    assert said.out == "\\x1b]0;owned\\x07\\x1b[2Jbye\\x0dhello\\u202e\n"
    everything = person.does("transcript", "deploy") + person.does("inbox")
    assert "\x1b" not in everything
    assert person.types("transcript", "deploy", "--json").json["entries"][0]["text"] == evil


def test_summaries(api: Person, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nobody has written one" in api.types("summary", "get", "api").err
    assert api.does("summary", "set", "api", "first") == "summary of api, version 1\n"
    api.types("summary", "set", "api", "-", stdin="second\n")
    api.types("send", "api", "x", "--wait")
    said = api.types("summary", "get", "api")
    assert said.out == "second\n"
    assert "version 2 by cli:tester" in said.err
    assert "1 turn since" in said.err
    assert api.does("summary", "get", "api", "--version", "1") == "first\n"
    monkeypatch.setenv("EDITOR", str(editor(home, "printf third >> $1")))
    assert "version 3" in api.does("summary", "edit", "api")
    assert api.types("summary", "get", "api", "--json").json["text"] == "second\nthird"
    monkeypatch.setenv("EDITOR", str(editor(home, "exit 0")))
    assert "nothing was changed" in api.types("summary", "edit", "api").err
    assert [line.split()[0] for line in api.does("summary", "versions", "api").splitlines()] == [
        "VERSION", "1", "2", "3"
    ]  # fmt: skip
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    assert "cannot be started" in api.types("summary", "edit", "api").err


def editor(home: Path, body: str) -> Path:
    """Return an editor that does this to the file it is given."""
    path = home / "editor"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(stat.S_IRWXU)
    return path


# -- control -----------------------------------------------------------------------------------------------------


def test_halt_lists_what_is_held_and_resume_releases_it(api: Person) -> None:
    assert "halted: api" in api.does("halt", "--all")
    said = api.types("send", "api", "x")
    assert (said.code, "tollboard resume api" in said.err) == (4, True)
    ref = api.sends("api", "held prompt", "--queue")
    assert "it was so already" in api.does("halt", "api")
    released = api.does("resume", "--all")
    assert "resumed: api" in released
    assert f"{ref}  held prompt" in released
    assert api.types("wait", ref).code == 0


def test_interrupt(person: Person) -> None:
    scripted(person, {"hang": True})
    assert "nothing was done" in person.does("interrupt", "deploy")
    ref = person.sends("deploy", "x")
    assert person.types("interrupt", "deploy", "--ref", "another", "--json").json["acted"] is False
    assert ref in person.does("interrupt", "deploy")
    assert person.types("wait", ref).code == 1


# -- approvals ---------------------------------------------------------------------------------------------------


def asked(person: Person, *turns: object) -> tuple[str, str]:
    scripted(person, *(turns or (ASKS,)))
    ref = person.sends("deploy", "ship it")
    person.types("wait", ref, "--timeout", "0.05")
    (waiting,) = person.types("approvals", "--json").json
    return waiting["id"], ref


def test_approvals_show_every_argument_in_full(person: Person) -> None:
    approval, _ = asked(person)
    said = person.types("approvals")
    assert approval in said.out
    assert "git push\n" in said.out
    assert "rm \\x1b[8mhidden" in said.out
    assert re.search(r"^times +2$", said.out, re.M)
    assert "tollboard approve ID" in said.err


def test_approve_by_the_end_of_the_id(person: Person) -> None:
    approval, ref = asked(person)
    assert person.types("approve", approval[:8]).code == 3
    assert person.types("approve", approval[-4:]).code == 3
    assert person.does("approve", approval[-6:]) == "approved: shell of deploy\n"
    assert person.types("wait", ref).code == 0
    late = person.types("reject", approval)
    assert late.code == 1
    assert "cli:tester" in late.err
    assert "approved" in person.does("approvals", "--all")
    assert "nothing waits" in person.types("approvals").err


def test_edit_with_arguments_and_with_an_editor(
    person: Person, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval, ref = asked(person, ASKS, ASKS)
    assert (
        person.types("edit", approval, "--arguments", '{"command": "ls"}', "--json").json["state"] == "edited"
    )
    person.does("wait", ref)
    assert person.does("poll", "deploy", ref) == 'edited {"command": "ls"}\n'
    ref = person.sends("deploy", "again")
    person.types("wait", ref, "-t", "0.05")
    (waiting,) = person.types("approvals", "--json").json
    monkeypatch.setenv("EDITOR", str(editor(home, "sed -i 's/2/3/' $1")))
    assert "edited" in person.does("edit", waiting["id"])
    person.does("wait", ref)
    assert '"times": 3' in person.does("poll", "deploy", ref)


def test_an_editor_that_fails_changes_nothing(
    person: Person, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval, _ = asked(person)
    monkeypatch.setenv("EDITOR", str(editor(home, "exit 1")))
    said = person.types("edit", approval)
    assert (said.code, "nothing was done" in said.err) == (1, True)
    assert approval in person.does("approvals")


def test_reject_with_a_message(person: Person) -> None:
    approval, ref = asked(person, {"approval": {"tool": "sh"}, "then": "{decision} {message}"})
    assert person.does("reject", approval, "-m", "not on a Friday") == "rejected: sh of deploy\n"
    person.does("wait", ref)
    assert person.does("poll", "deploy", ref) == "rejected not on a Friday\n"
    assert "not on a Friday" in person.does("approvals", "--all")


# -- the rest ----------------------------------------------------------------------------------------------------


def test_the_state_directory_and_json_may_stand_before_the_command(api: Person, home: Path) -> None:
    said = api.types("--home", str(home), "--json", "list")
    assert [one["name"] for one in said.json] == ["api"]
    assert api.board.opened[-1] == (home, True)
    api.does("list", "--home", "/elsewhere")
    assert api.board.opened[-1] == (Path("/elsewhere"), True)


def test_completion_knows_sessions_and_starts_nothing(api: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TOLLBOARD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "tollboard status a")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        api.types()
    assert api._capsys.readouterr().out.split() == ["api"]
    assert api.board.opened[-1] == (None, False)


def test_a_kind_that_no_item_has_is_refused_instead_of_waited_for(person: Person) -> None:
    refused = person.types("tail", "--kind", "nonsense")
    assert refused.code == 2
    assert "there is no kind 'nonsense' of items\n  → there are: session.started," in refused.err
    assert complete_kind("turn.c") == ["turn.completed"]
