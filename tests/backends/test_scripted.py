"""Every step of the script language, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.processes import gone
from tollboard.backends._process import find_processes
from tollboard.backends.scripted import ScriptedBackend, ScriptedSession
from tollboard.errors import BackendError, InvalidOption
from tollboard.ids import new_ref
from tollboard.runtime.approval import ApprovalRequest, Approve, Decision, Edit, Reject
from tollboard.runtime.backend import Turn
from tollboard.runtime.event import (
    ErrorEvent,
    Event,
    NoticeEvent,
    ResultEvent,
    TextEvent,
    ToolResultEvent,
    ToolUseEvent,
    Usage,
    UsageEvent,
)
from tollboard.testing.backend_contract import RecordingTurn, run_turn

BACKEND = ScriptedBackend()


async def session_of(*script: object, **options: object) -> ScriptedSession:
    return await BACKEND.start_session({"script": list(script), **options})


async def play(session: ScriptedSession, text: str = "go", turn: RecordingTurn | None = None) -> list[Event]:
    return await run_turn(BACKEND, session, text, turn or RecordingTurn())


async def drain(session: ScriptedSession) -> list[Event]:
    """Play a turn that does not keep to the rules."""
    stream = BACKEND.prompt(session, "go", RecordingTurn())
    events = [event async for event in stream]
    await stream.aclose()
    return events


async def test_each_prompt_consumes_one_entry_and_the_end_is_an_error() -> None:
    session = await session_of("one", {"text": "two"}, ["three", {"text": "four"}])
    assert await play(session) == [TextEvent("one", message="m1"), ResultEvent()]
    assert await play(session) == [TextEvent("two", message="m1"), ResultEvent()]
    assert await play(session) == [TextEvent("three", "m1"), TextEvent("four", "m2"), ResultEvent()]
    (error,) = await play(session)
    assert isinstance(error, ErrorEvent)
    assert "3 turns were played" in error.message


async def test_a_repeated_script_starts_over() -> None:
    session = await session_of("a", "b", repeat=True)
    said = [(await play(session))[0] for _ in range(5)]
    assert [event.text for event in said if isinstance(event, TextEvent)] == ["a", "b", "a", "b", "a"]


async def test_rules_answer_by_the_prompt_and_are_not_consumed() -> None:
    session = await session_of({"when": "ping", "text": "pong"}, "first")
    assert (await play(session, "ping"))[0] == TextEvent("pong", message="m1")
    assert (await play(session, "else"))[0] == TextEvent("first", message="m1")
    assert (await play(session, "another ping"))[0] == TextEvent("pong", message="m1")
    again = await BACKEND.resume_session(session.id, {"script": [{"when": "ping", "text": "pong"}]})
    assert (await play(again, "ping"))[0] == TextEvent("pong", message="m1")


async def test_chunks_messages_and_the_prompt_in_texts() -> None:
    session = await session_of({"text": "you said {prompt} {x}", "chunks": 3, "message": "mine"})
    *pieces, _ = await play(session, "hi")
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextEvent)) == "you said hi {x}"
    assert {piece.message for piece in pieces if isinstance(piece, TextEvent)} == {"mine"}


async def test_keys_of_an_object_are_played_in_their_order() -> None:
    session = await session_of(
        {"text": "a", "delay": 0.0, "usage": {"input_tokens": 3}, "error": "no: {prompt}"}
    )
    assert await play(session) == [
        TextEvent("a", "m1"),
        UsageEvent(Usage(input_tokens=3)),
        ErrorEvent("no: go"),
    ]


async def test_events_by_kind_and_fields() -> None:
    session = await session_of(
        {
            "events": [
                {"kind": "tool_use", "id": "t", "tool": "ls", "arguments": {"a": 1}},
                {"kind": "tool_result", "id": "t", "content": "x", "is_error": True},
                {"kind": "notice", "name": "n"},
                {"kind": "result", "text": "done", "usage": {"cost_usd": 0.5}},
            ]
        }
    )
    assert await play(session) == [
        ToolUseEvent("t", "ls", {"a": 1}),
        ToolResultEvent("t", "x", is_error=True),
        NoticeEvent("n"),
        ResultEvent("done", usage=Usage(cost_usd=0.5)),
    ]


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (Approve(), 'approved: sh {"cmd": "rm"}'),
        (Edit({"cmd": "ls"}), 'edited: sh {"cmd": "ls"}'),
        (Reject("never"), 'rejected: sh {"cmd": "rm"}: never'),
        (Reject(), 'rejected: sh {"cmd": "rm"}'),
    ],
)
async def test_an_approval_says_what_was_decided_and_what_would_have_run(
    decision: Decision, said: str
) -> None:
    session = await session_of(
        {"approval": {"tool": "sh", "arguments": {"cmd": "rm"}, "allowed": ["approve"]}}
    )
    turn = RecordingTurn(lambda _: decision)
    use, result, text, _ = await play(session, turn=turn)
    assert use == ToolUseEvent("call-1", "sh", {"cmd": "rm"})
    assert result == ToolResultEvent("call-1", said, is_error=isinstance(decision, Reject))
    assert text == TextEvent(said, message="m1")
    assert turn.requests[0].allowed == ("approve",)


async def test_several_approvals_are_asked_at_once() -> None:
    session = await session_of(
        {"approvals": [{"tool": "a"}, {"tool": "b"}], "then": "{tool} {decision}{message}"}
    )
    both = asyncio.Event()

    class Together(RecordingTurn):
        async def request_approval(self, request: ApprovalRequest) -> Decision:
            self.requests.append(request)
            if len(self.requests) == 2:
                both.set()
            await both.wait()
            return Reject("!") if request.tool == "b" else Approve()

    turn = Together()
    await play(session, turn=turn)
    assert turn.text == "a approvedb rejected!"


async def test_a_crash_raises_in_mid_stream() -> None:
    session = await session_of({"text": "a", "crash": "boom"}, "next")
    with pytest.raises(BackendError, match="boom"):
        await play(session)
    assert (await play(session))[-1] == ResultEvent()


async def test_a_turn_without_terminal_event() -> None:
    assert await drain(await session_of({"text": "a", "no_terminal": True})) == [TextEvent("a", "m1")]


async def test_a_turn_that_goes_on_after_its_end() -> None:
    events = await drain(await session_of([{"result": "x"}, "late"]))
    assert events == [ResultEvent("x"), TextEvent("late", "m1")]


async def test_many_lines_in_fewer_pieces() -> None:
    session = await session_of({"lines": 1000, "chunks": 30})
    pieces = [event.text for event in await play(session) if isinstance(event, TextEvent)]
    assert "".join(pieces) == "".join(f"line {number}\n" for number in range(1, 1001))
    assert 25 <= len(pieces) <= 30


async def test_many_lines_and_text_that_cannot_be_encoded() -> None:
    session = await session_of({"lines": 1000}, {"invalid_utf8": True})
    assert len(await play(session)) == 1001
    text = (await play(session))[0]
    assert isinstance(text, TextEvent)
    assert "\0" in text.text
    with pytest.raises(UnicodeEncodeError):
        text.text.encode()


async def test_a_checkpoint_changes_the_conversation() -> None:
    session, turn = await session_of({"checkpoint": "other"}), RecordingTurn()
    await play(session, turn=turn)
    assert turn.checkpoints[-1] == ("other", None)
    assert session.id == "other"


async def test_python_steps() -> None:
    gate = asyncio.Event()

    async def custom(prompt: str, turn: Turn) -> AsyncIterator[Event]:
        yield TextEvent(f"{prompt} {turn.attempt}")

    session = await session_of([gate, NoticeEvent("n"), custom, ValueError("mine")])
    task = asyncio.create_task(play(session))
    assert not (await asyncio.wait({task}, timeout=0))[0]
    gate.set()
    with pytest.raises(ValueError, match="mine"):
        await task


async def test_closing_early_ends_the_turns_processes(tmp_path: Path) -> None:
    session = await session_of(
        {"process": ["sleep", "3600"]},
        {"process": ["sleep", "3600"], "hang": True},
        env_marker=f"TB_TEST={(value := new_ref())}",
        cwd=str(tmp_path),
    )
    (notice, _) = await play(session)
    assert isinstance(notice, NoticeEvent)
    kept = psutil.Process(int(notice.message))
    assert await find_processes(marker=("TB_TEST", value)) == [kept]
    assert kept.cwd() == str(tmp_path)
    turn = RecordingTurn()
    task = asyncio.create_task(play(session, turn=turn))
    await turn.spoke.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    started = turn.events[0]
    assert isinstance(started, NoticeEvent)
    assert gone(int(started.message))
    assert kept.is_running()
    assert (await BACKEND.terminate_session(session)).killed == (kept.pid,)


async def test_a_turn_closed_while_a_process_starts_ends_all_that_it_began(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    session = await session_of(
        {"process": ["sh", "-c", "setsid sleep 3600 & echo $! > begun; wait"]}, cwd=str(tmp_path)
    )
    before = psutil.Process().children()
    task = asyncio.create_task(play(session))
    while psutil.Process().children() == before:
        await asyncio.sleep(0)
    # The loop stands still: the program goes on, the call that starts it does not return before it is cancelled.
    moved = int((tmp_path / "begun").read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(moved)


async def test_a_turn_closed_at_any_step_leaves_no_process_and_the_session_goes_on() -> None:
    mark = ("TB_TEST", new_ref())
    turn = [{"process": ["sh", "-c", "setsid sleep 3600 & wait"]}, {"text": "up"}, {"hang": True}]
    session = await session_of(*[turn] * 12, {"text": "on"}, env_marker="=".join(mark))
    for steps in range(12):
        task = asyncio.create_task(play(session))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await find_processes(marker=mark), f"after {steps} steps"
    session.played = 12
    assert (await play(session))[-1] == ResultEvent()
    assert not session.children


async def test_terminating_ends_what_a_program_left_behind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    session = await session_of(
        {"process": ["sh", "-c", "setsid sleep 3600 & echo $! > begun"]}, cwd=str(tmp_path)
    )
    await play(session)
    moved = int(await asyncio.to_thread((tmp_path / "begun").read_text))
    (child,) = session.children
    await child.wait()
    assert (await BACKEND.terminate_session(session)).killed == (moved,)
    assert (await BACKEND.terminate_session(session)).killed == ()


async def test_a_slow_close_takes_its_time_only_when_closed_early() -> None:
    session = await session_of({"slow_close": 0.05, "hang": True}, {"slow_close": 3600, "text": "a"})
    turn = RecordingTurn()
    task = asyncio.create_task(play(session, turn=turn))
    await turn.begun.wait()
    await asyncio.wait({task}, timeout=0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await play(session))[-1] == ResultEvent()


async def test_a_stubborn_turn_swallows_its_cancellation() -> None:
    session, turn = await session_of({"stubborn": 0.05, "text": "ha"}), RecordingTurn()
    task = asyncio.create_task(play(session, turn=turn))
    await turn.begun.wait()
    await asyncio.wait({task}, timeout=0)
    task.cancel()
    assert (await task)[0] == TextEvent("ha", "m1")


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("no list", "list of turns"),
        ([3], "entry 1"),
        (["ok", {"tex": "x"}], "entry 2: does not know 'tex'"),
        ([{"when": "x"}], "has no step"),
        ([{"delay": -1}], "seconds"),
        ([{"lines": "many"}], "whole number"),
        ([{"text": 3}], "must be text"),
        ([{"events": [{"kind": "nope"}]}], "kinds are text"),
        ([{"events": [{"kind": "text", "words": "x"}]}], "entry 1"),
        ([{"usage": {"tokens": 1}}], "usage does not know tokens"),
        ([{"approval": {"arguments": {}}}], "entry 1"),
        ([{"approval": {"tool": "x", "when": 1}}], "does not know when"),
        ([{"approval": {"tool": "x", "allowed": ["maybe"]}}], "one of approve, edit, reject"),
        ([{"process": []}], "needs a program"),
    ],
)
async def test_a_bad_script_is_refused_with_its_entry_and_fault(script: object, fault: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        await BACKEND.start_session({"script": script})
    assert fault in str(refused.value)


async def test_the_language_is_plain_json() -> None:
    script = [
        {"text": "a", "chunks": 2},
        {"approval": {"tool": "t", "arguments": {"x": [1]}}},
        {"hang": True},
    ]
    assert await BACKEND.start_session({"script": json.loads(json.dumps(script))})


async def test_a_reset_session_has_another_id_and_goes_on() -> None:
    session = await session_of("a", "b")
    await play(session)
    again = await BACKEND.reset_session(session)
    turn = RecordingTurn()
    assert (await play(again, turn=turn))[0] == TextEvent("b", "m1")
    assert turn.checkpoints[0][0] == again.id != session.id
