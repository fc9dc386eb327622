"""The real Claude Code program against a stand-in for its API: turns, tools, approvals, failures, kills, resumption.

Nothing here waits by sleeping: the stand-in says when the program has called, hangs or went away, and a tool says that
it is up by a file the test waits for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from tests.fakes.messages_api import MessagesAPI, Text, Tools
from tests.processes import gone
from tollboard.backends._process import end_processes, find_processes
from tollboard.backends.claude import ClaudeBackend, ClaudeSession
from tollboard.ids import new_ref
from tollboard.runtime.approval import ApprovalRequest, Approve, Decision, Edit, Reject
from tollboard.runtime.backend import ProcessReport
from tollboard.runtime.event import (
    ErrorEvent,
    Event,
    NoticeEvent,
    ResultEvent,
    TextEvent,
    ToolResultEvent,
    ToolUseEvent,
)
from tollboard.testing.backend_contract import RecordingTurn, run_turn

pytestmark = pytest.mark.claude

BACKEND = ClaudeBackend()
MARKER = ("TOLLBOARD_CLAUDE_TEST", new_ref())

Options = dict[str, object]


def approve(_: ApprovalRequest) -> Decision:
    return Approve()


class Conversation:
    """A session and its turns, short to write."""

    def __init__(self, session: ClaudeSession) -> None:
        self.session = session
        self.turn = RecordingTurn(approve)

    async def say(self, text: str, decide: Callable[[ApprovalRequest], Decision] = approve) -> list[Event]:
        self.turn = RecordingTurn(decide)
        return await run_turn(BACKEND, self.session, text, self.turn)

    async def answer(self, text: str) -> str:
        """Return the answer of a turn that must succeed."""
        last = (await self.say(text))[-1]
        assert isinstance(last, ResultEvent), last.message if isinstance(last, ErrorEvent) else last
        return last.text or ""

    def begin(self, text: str) -> asyncio.Task[list[Event]]:
        """Begin a turn in a task of its own; `turn` is set at once."""
        self.turn = turn = RecordingTurn(approve)
        return asyncio.create_task(run_turn(BACKEND, self.session, text, turn))

    @property
    def program(self) -> psutil.Process:
        """The process of the running program."""
        assert self.session.program is not None
        process = self.session.program._process
        assert process is not None
        return process

    def kill(self) -> None:
        os.kill(self.program.pid, signal.SIGKILL)


@pytest.fixture
def options(claude_options: Options) -> Options:
    return {**claude_options, "env_marker": "=".join(MARKER)}


@pytest.fixture
def cwd(claude_options: Options) -> Path:
    return Path(str(claude_options["cwd"]))


@pytest.fixture
async def talk(options: Options) -> AsyncIterator[Conversation]:
    session = await BACKEND.start_session(options)
    yield Conversation(session)
    report = await BACKEND.terminate_session(session)
    assert not report.unverified
    assert not await find_processes(marker=MARKER)


async def file_at(path: Path) -> str:
    """Wait until the file is there and has a line, and return it; the kernel tells, through the directory."""

    async def look() -> str:
        while not (path.is_file() and path.read_text().endswith("\n")):
            await asyncio.sleep(0.01)  # no portable event for a file another process writes
        return path.read_text().strip()

    return await asyncio.wait_for(look(), 20)


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def of(kind: type, events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


# --- text and conversation ----------------------------------------------------------------------------------------


async def test_text_streams_in_pieces_and_is_not_doubled(talk: Conversation) -> None:
    events = await talk.say("say one two three four")
    pieces = of(TextEvent, events)
    assert len(pieces) == 4
    assert "".join(piece.text for piece in pieces) == "one two three four"
    assert len({piece.message for piece in pieces}) == 1
    assert events[-1] == ResultEvent("one two three four", usage=events[-1].usage)  # type: ignore[union-attr]


async def test_text_arrives_while_the_model_still_speaks(
    talk: Conversation, messages_api: MessagesAPI
) -> None:
    task = talk.begin("hang")
    await talk.turn.spoke.wait()
    assert not task.done()
    assert talk.turn.text == "thinking"
    messages_api.release()
    assert (await task)[-1] == ResultEvent("thinking done", usage=talk.turn.events[-1].usage)  # type: ignore[union-attr]


async def test_several_turns_are_one_conversation_with_a_cost_each(
    talk: Conversation, messages_api: MessagesAPI
) -> None:
    costs = []
    for word in ("one", "two", "three"):
        events = await talk.say(f"say {word}")
        assert isinstance(events[-1], ResultEvent)
        assert events[-1].usage is not None
        costs.append(events[-1].usage.cost_usd)
        assert (events[-1].usage.input_tokens, events[-1].usage.output_tokens) == (100, 10)
    assert costs == pytest.approx([0.00045] * 3)  # per turn, though the program reports a running total
    assert await talk.answer("recall") == "say one\nsay two\nsay three"
    assert {request.session for request in messages_api.requests} == {talk.session.id}


async def test_the_id_is_durable_before_the_program_starts_and_the_effective_settings_follow(
    options: Options, cwd: Path
) -> None:
    session = await BACKEND.start_session({**options, "permission_mode": "plan"})
    programs: list[object] = []

    class Looking(RecordingTurn):
        async def checkpoint(self, provider_session_id: str, effective: Any = None) -> None:
            programs.append(session.program)
            await super().checkpoint(provider_session_id, effective)

    turn = Looking()
    await run_turn(BACKEND, session, "say hi", turn)
    await run_turn(BACKEND, session, "say hi", turn2 := RecordingTurn())
    await BACKEND.terminate_session(session)
    settings = {"model": "claude-sonnet-4-5", "permission_mode": "plan", "cwd": str(cwd)}
    assert turn.checkpoints == [(session.id, None), (session.id, settings)]
    assert programs[0] is None
    assert turn2.checkpoints == []  # nothing changed


async def test_progress_and_answer_are_messages_of_their_own(
    talk: Conversation, messages_api: MessagesAPI
) -> None:
    messages_api.script(
        Tools([("Bash", {"command": "echo x", "description": "d"})], text="let me look"), Text("it is x")
    )
    events = await talk.say("look")
    assert [piece.text for piece in of(TextEvent, events)] == ["let me look", "it is x"]
    assert len({piece.message for piece in of(TextEvent, events)}) == 2
    assert [type(event) for event in events].index(ToolUseEvent) > 0


# --- tools and approvals ------------------------------------------------------------------------------------------


async def test_an_approved_call_runs(talk: Conversation, cwd: Path) -> None:
    events = await talk.say("run echo approved > made && cat made")
    (request,) = talk.turn.requests
    assert request.tool == "Bash"
    assert request.arguments["command"] == "echo approved > made && cat made"
    assert request.display == "Bash: echo approved > made && cat made"
    assert (cwd / "made").read_text() == "approved\n"
    (use,), (result,) = of(ToolUseEvent, events), of(ToolResultEvent, events)
    assert use.id == result.id == request.tool_call_id
    assert (result.content, result.is_error) == ("approved", False)
    assert talk.turn.text == "output: approved"


async def test_an_edited_call_runs_with_the_changed_arguments(talk: Conversation, cwd: Path) -> None:
    await talk.say("run echo asked > made", lambda _: Edit({"command": "echo edited > other"}))
    assert not (cwd / "made").exists()
    assert (cwd / "other").read_text() == "edited\n"


async def test_a_rejected_call_does_not_run_and_the_model_is_told_why(talk: Conversation, cwd: Path) -> None:
    events = await talk.say("run echo x > made", lambda _: Reject("use the other file"))
    assert not (cwd / "made").exists()
    (result,) = of(ToolResultEvent, events)
    assert result.is_error
    assert "use the other file" in talk.turn.text
    assert await talk.answer("say on") == "on"


async def test_two_calls_are_asked_about_and_answered_one_by_one(talk: Conversation, cwd: Path) -> None:
    def by_file(request: ApprovalRequest) -> Decision:
        return Approve() if "good" in str(request.arguments["command"]) else Reject("no")

    await talk.say("both echo a > good && echo b > bad", by_file)
    assert len(talk.turn.requests) == 2
    assert (cwd / "good").exists()
    assert not (cwd / "bad").exists()


async def test_allowed_and_disallowed_tools(options: Options, cwd: Path, messages_api: MessagesAPI) -> None:
    session = await BACKEND.start_session(
        {**options, "allowed_tools": ["Bash"], "disallowed_tools": ["Write"]}
    )
    turn = RecordingTurn(approve)
    await run_turn(BACKEND, session, "run echo x > made", turn)
    await BACKEND.terminate_session(session)
    assert turn.requests == []
    assert (cwd / "made").exists()
    assert "Write" not in {tool["name"] for tool in messages_api.requests[0].body["tools"]}


async def test_output_that_is_no_text_and_output_that_is_huge(talk: Conversation) -> None:
    (result,) = of(ToolResultEvent, await talk.say(r"run printf 'caf\351 \377\376 ok' | tee bytes"))
    assert "ok" in result.content
    result.content.encode()  # the program has replaced what was not UTF-8
    (result,) = of(ToolResultEvent, await talk.say("run seq 1 2000000 | tee numbers"))
    assert not result.is_error
    assert await talk.answer("say still here") == "still here"


async def test_the_programs_environment_is_silent_and_marked(talk: Conversation, cwd: Path) -> None:
    await talk.say("run env > seen")
    seen = dict(line.split("=", 1) for line in (cwd / "seen").read_text().splitlines() if "=" in line)
    assert seen[MARKER[0]] == MARKER[1]
    for name in ("DISABLE_TELEMETRY", "DISABLE_AUTOUPDATER", "DISABLE_ERROR_REPORTING"):
        assert seen[name] == "1"


async def test_the_system_prompt_is_added_and_the_directory_s_settings_are_not_read(
    options: Options, cwd: Path, messages_api: MessagesAPI
) -> None:
    (cwd / "CLAUDE.md").write_text("The magic word is xyzzy.")
    session = await BACKEND.start_session({**options, "system_prompt": "Speak like a parrot."})
    await run_turn(BACKEND, session, "say hi", RecordingTurn())
    await BACKEND.terminate_session(session)
    sent = str(messages_api.requests[0].body)
    assert "Speak like a parrot." in str(messages_api.requests[0].body["system"])
    assert "Claude" in str(messages_api.requests[0].body["system"])
    assert "xyzzy" not in sent


# --- interrupting -------------------------------------------------------------------------------------------------


async def test_an_interrupt_in_a_model_call_closes_it_and_the_program_stays(
    talk: Conversation, messages_api: MessagesAPI
) -> None:
    task = talk.begin("hang")
    await messages_api.wait_held()
    program = talk.program
    await cancel(task)
    await asyncio.wait_for(messages_api.held[0].closed.wait(), 5)
    assert await talk.answer("say on") == "on"
    assert talk.program == program


async def test_an_interrupt_right_after_the_prompt_is_not_lost(
    talk: Conversation, messages_api: MessagesAPI
) -> None:
    await talk.answer("say hi")
    task = talk.begin("hang")
    assert talk.session.program is not None
    sent, send = asyncio.Event(), talk.session.program.send

    async def sending(text: str, uuid: str) -> None:
        await send(text, uuid)
        sent.set()

    talk.session.program.send = sending  # type: ignore[method-assign]
    await sent.wait()
    await cancel(task)
    assert await talk.answer("say on") == "on"
    assert all(request.closed.is_set() for request in messages_api.held)


async def test_an_interrupt_ends_a_running_tool_and_what_it_left_behind(
    talk: Conversation, cwd: Path
) -> None:
    await talk.answer("say hi")
    task = talk.begin("run setsid sleep 3600 & sleep 3600 & echo $! $(pgrep -n -f 'sleep 3600') > pids; wait")
    pids = [int(pid) for pid in (await file_at(cwd / "pids")).split()]
    running = {process.pid for process in await find_processes(marker=MARKER)}
    program = talk.program
    await cancel(task)
    assert set(pids) <= running
    assert all(gone(pid) for pid in pids)
    assert [process.pid for process in await find_processes(marker=MARKER)] == [program.pid]
    assert await talk.answer("say on") == "on"


async def test_l08_an_interrupted_turn_reports_what_it_used(talk: Conversation, cwd: Path) -> None:
    await talk.answer("say hi")
    task = talk.begin("run echo x > begun; sleep 3600")
    await file_at(cwd / "begun")
    turn = talk.turn
    await cancel(task)
    assert await talk.answer("say on") == "on"  # which waits until the turn before was cleared away
    assert turn.usage is not None
    assert (turn.usage.input_tokens, turn.usage.output_tokens) == (100, 10)


async def test_a_background_command_of_an_earlier_turn_survives_an_interrupt(
    talk: Conversation, cwd: Path, messages_api: MessagesAPI
) -> None:
    await talk.say("run setsid sleep 3600 >/dev/null 2>&1 & echo $! > pid")
    pid = int(await file_at(cwd / "pid"))
    task = talk.begin("hang")
    await messages_api.wait_held()
    await cancel(task)
    assert not gone(pid)
    await BACKEND.terminate_session(talk.session)
    assert gone(pid)


async def test_a_program_that_does_not_obey_is_ended_and_started_again(
    talk: Conversation, messages_api: MessagesAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    await talk.answer("say hi")
    task = talk.begin("hang")
    await messages_api.wait_held()
    monkeypatch.setattr("tollboard.backends._claude_program._INTERRUPT_WAIT_S", 0.2)
    stopped = talk.program
    stopped.suspend()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(stopped.pid)
    assert (await talk.answer("recall")).startswith("say hi")


async def test_an_interrupt_while_the_program_starts(talk: Conversation) -> None:
    task = talk.begin("say hi")
    await talk.turn.begun.wait()
    while talk.session.program is None:
        await asyncio.sleep(0)
    await cancel(task)
    assert not await find_processes(marker=MARKER)
    assert await talk.answer("say on") == "on"


async def test_an_interrupt_just_before_the_program_forks(
    talk: Conversation, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = cwd / "claude"
    program.write_text("#!/bin/sh\nsetsid sleep 3600 &\nsleep 3600\n")
    program.chmod(0o755)
    talk.session.options = dataclasses.replace(talk.session.options, cli_path=str(program))
    forking, looked = asyncio.Event(), asyncio.Event()
    fork = anyio.open_process

    async def fork_late(*args: Any, **more: Any) -> Any:
        forking.set()
        await looked.wait()
        return await fork(*args, **more)

    async def tell(**what: Any) -> ProcessReport:
        report = await end_processes(**what)
        looked.set()
        return report

    monkeypatch.setattr(anyio, "open_process", fork_late)
    monkeypatch.setattr("tollboard.backends._claude_program.end_processes", tell)
    task = talk.begin("say hi")
    await forking.wait()
    await cancel(task)
    assert not await find_processes(marker=MARKER)


async def test_an_interrupt_while_a_program_that_died_is_cleared_away(
    talk: Conversation, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tollboard.backends._claude_program import Program  # needs the extra

    task = talk.begin("run setsid sleep 3600 & echo $! > pid; wait")
    pid = int(await file_at(cwd / "pid"))
    looking, look_on = asyncio.Event(), asyncio.Event()
    processes = Program.processes

    async def look_late(program: Any) -> Any:
        looking.set()
        await look_on.wait()
        return await processes(program)

    monkeypatch.setattr(Program, "processes", look_late)
    talk.kill()
    await looking.wait()
    task.cancel()
    look_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(pid)
    assert not await find_processes(marker=MARKER)
    assert await talk.answer("say on") == "on"


async def test_a_prompt_after_a_reset_whose_caller_left_waits_for_the_old_program_s_end(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    await talk.answer("say hi")
    ending, end_on = asyncio.Event(), asyncio.Event()

    async def end_late(**what: Any) -> ProcessReport:
        ending.set()
        await end_on.wait()
        return await end_processes(**what)

    monkeypatch.setattr("tollboard.backends._claude_program.end_processes", end_late)
    leaving = asyncio.create_task(BACKEND.reset_session(talk.session))
    await ending.wait()
    await cancel(leaving)
    waiting = asyncio.create_task(talk.session.settled())
    assert not (await asyncio.wait({waiting}, timeout=0))[0]
    end_on.set()
    await waiting
    assert not await find_processes(marker=MARKER)
    assert (await talk.answer("recall")).startswith("say hi")


async def test_a_question_after_its_turn_is_denied(talk: Conversation) -> None:
    decision = await talk.session.ask(ApprovalRequest(tool="Bash", arguments={}))
    assert isinstance(decision, Reject)
    assert "No turn" in decision.message


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 429, 500, 529])
async def test_a_failed_api_call_is_an_error_with_its_status(talk: Conversation, status: int) -> None:
    events = await talk.say(f"fail {status}")
    error = events[-1]
    assert isinstance(error, ErrorEvent)
    assert str(status) in error.message
    assert "told to fail" in error.message
    if status != 400:
        (retry,) = of(NoticeEvent, events)
        assert retry.name == "api_retry"
        assert str(status) in retry.message
    assert await talk.answer("say on") == "on"


async def test_a_call_that_fails_once_is_tried_again(talk: Conversation) -> None:
    assert await talk.answer("fail 529 1") == "recovered"


async def test_a_broken_stream(talk: Conversation) -> None:
    assert await talk.answer("break 1") == "recovered"
    events = await talk.say("break")
    assert isinstance(events[-1], ErrorEvent)
    assert await talk.answer("say on") == "on"


async def test_the_program_killed_in_mid_turn_and_the_conversation_goes_on(
    talk: Conversation, messages_api: MessagesAPI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await talk.answer("say first")
    task = talk.begin("hang")
    await messages_api.wait_held()
    talk.kill()
    error = (await task)[-1]
    assert isinstance(error, ErrorEvent)
    assert "exit code -9" in error.message
    assert (await talk.answer("recall")).startswith("say first")


async def test_the_program_killed_in_a_tool_leaves_no_orphan(talk: Conversation, cwd: Path) -> None:
    task = talk.begin("run echo $$ > pid; tail -f /dev/null")
    pid = int(await file_at(cwd / "pid"))
    talk.kill()
    assert isinstance((await task)[-1], ErrorEvent)
    assert gone(pid)
    assert await talk.answer("say on") == "on"


async def test_the_program_killed_between_turns_is_started_again(talk: Conversation) -> None:
    await talk.answer("say first")
    program, reader = talk.program, talk.session.program
    talk.kill()
    assert reader is not None
    assert reader._reader is not None
    await asyncio.wait({reader._reader})
    assert await talk.answer("recall") == "say first"
    assert talk.program != program


async def test_a_program_that_ends_without_an_error_before_it_is_ready_is_not_waited_for(
    talk: Conversation, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_START_LOOK_S", "_START_WAIT_S"):
        monkeypatch.setattr(f"tollboard.backends._claude_program.{name}", 0.05)
    program = cwd / "claude"
    program.write_text("#!/bin/sh\nread line\necho not today >&2\n")
    program.chmod(0o755)
    talk.session.options = dataclasses.replace(talk.session.options, cli_path=str(program))
    last = (await talk.say("say hi"))[-1]
    assert isinstance(last, ErrorEvent)
    assert "ended before it was ready (exit code 0): not today" in last.message


async def test_a_first_turn_that_left_no_transcript_begins_again(
    talk: Conversation, messages_api: MessagesAPI
) -> None:
    known = talk.session.id
    task = talk.begin("hang")
    await messages_api.wait_held()
    talk.kill()
    assert isinstance((await task)[-1], ErrorEvent)
    for path in Path(str(talk.session.options.env["HOME"])).rglob(f"{known}.jsonl"):
        path.unlink()
    assert await talk.answer("say on") == "on"
    assert talk.session.id == known


async def test_a_directory_that_vanished(talk: Conversation, cwd: Path) -> None:
    cwd.rmdir()
    (error,) = await talk.say("say hi")
    assert isinstance(error, ErrorEvent)
    assert str(cwd) in error.message
    cwd.mkdir()
    assert await talk.answer("say on") == "on"


# --- sessions -----------------------------------------------------------------------------------------------------


async def test_a_fresh_backend_goes_on_with_the_conversation(talk: Conversation, options: Options) -> None:
    await talk.answer("say first")
    await BACKEND.terminate_session(talk.session)
    again = ClaudeBackend()
    session = await again.resume_session(talk.session.id, options)
    turn = RecordingTurn()
    events = await run_turn(again, session, "recall", turn)
    await again.terminate_session(session)
    assert turn.text == "say first"
    assert {session_id for session_id, _ in turn.checkpoints} == {talk.session.id}
    assert isinstance(events[-1], ResultEvent)
    assert events[-1].usage is not None
    assert events[-1].usage.cost_usd == pytest.approx(0.00045)


async def test_a_conversation_that_is_gone_says_so_and_nothing_is_started(
    options: Options, messages_api: MessagesAPI
) -> None:
    session = await BACKEND.resume_session(known := new_ref(), options)
    (error,) = await run_turn(BACKEND, session, "say hi", RecordingTurn())
    assert isinstance(error, ErrorEvent)
    assert f"{known} is gone" in error.message
    assert messages_api.requests == []
    assert not await find_processes(marker=MARKER)
    fresh = await BACKEND.reset_session(session)
    turn = RecordingTurn()
    await run_turn(BACKEND, fresh, "say hi", turn)
    assert turn.text == "hi"
    assert fresh.id != known
    await BACKEND.terminate_session(fresh)


async def test_a_conversation_that_was_never_answered_may_begin_under_its_id(options: Options) -> None:
    session = await BACKEND.resume_session(known := new_ref(), {**options, "answered": False})
    turn = RecordingTurn()
    await run_turn(BACKEND, session, "say hi", turn)
    assert turn.text == "hi"
    assert session.id == known
    await BACKEND.terminate_session(session)


async def test_five_sessions_in_five_directories_at_once(options: Options, tmp_path: Path) -> None:
    async def one(number: int) -> tuple[str, Path]:
        directory = tmp_path / f"d{number}"
        directory.mkdir()
        # Each its own marker, as in the fleet: ending one must not end the others.
        own = {"cwd": str(directory), "env_marker": f"{MARKER[0]}={MARKER[1]}-{number}"}
        session = await BACKEND.start_session({**options, **own})
        talk = Conversation(session)
        assert await talk.answer(f"say {number}") == str(number)
        await talk.answer(f"run echo {number} > made")
        recalled = await talk.answer("recall")
        await BACKEND.terminate_session(session)
        return recalled, directory

    for number, (recalled, directory) in enumerate(await asyncio.gather(*map(one, range(5)))):
        assert recalled == f"say {number}\nrun echo {number} > made"
        assert (directory / "made").read_text() == f"{number}\n"


async def test_terminating_ends_a_tool_that_moved_to_a_session_of_its_own(
    talk: Conversation, cwd: Path
) -> None:
    await talk.say("run setsid sleep 3600 >/dev/null 2>&1 & echo $! > pid")
    pid = int(await file_at(cwd / "pid"))
    assert not gone(pid)
    report = await BACKEND.terminate_session(talk.session)
    assert pid in report.killed
    assert gone(pid)


async def test_terminating_in_mid_turn(talk: Conversation, messages_api: MessagesAPI) -> None:
    task = talk.begin("hang")
    await messages_api.wait_held()
    program = talk.program
    await BACKEND.terminate_session(talk.session)
    assert gone(program.pid)
    last = (await task)[-1]
    assert isinstance(last, ErrorEvent)
    assert "terminated" in last.message


async def test_two_clients_of_one_program_are_told_apart_by_the_prompt(
    talk: Conversation, messages_api: MessagesAPI
) -> None:
    """A prompt somebody else queued is merged or answered apart; ours is matched by its id, not by counting."""
    await talk.answer("say hi")
    program = talk.session.program
    assert program is not None
    await program.send("say stranger", new_ref())
    assert "mine" in await talk.answer("say mine")


async def test_a_prompt_of_a_megabyte_with_odd_characters(
    talk: Conversation, messages_api: MessagesAPI
) -> None:
    text = "x\u2028\x07é" * 250_000
    messages_api.handler = lambda request: Text(str(len(request.text)))
    assert await talk.answer(text) == str(len(text))


async def test_a_check_that_is_given_up_leaves_no_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "begun")
    program = tmp_path / "claude"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/begun\nexec sleep 3600\n")
    program.chmod(0o755)
    monkeypatch.setattr("tollboard.backends.claude._find_program", lambda: str(program))
    checking = asyncio.create_task(BACKEND.check())
    pid = int(await asyncio.to_thread((tmp_path / "begun").read_text))
    await cancel(checking)
    assert gone(pid)


async def test_what_doctor_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    health = await BACKEND.check()
    assert not health.ok
    assert "2." in health.detail
    assert "ANTHROPIC_API_KEY" in health.mend
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a-secret")
    health = await BACKEND.check()
    assert health.ok
    assert "a-secret" not in health.detail
