"""The `model` backend over real HTTP: the stand-ins for Anthropic and OpenAI answer, the real clients ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.processes import gone
from tollboard.backends import load
from tollboard.backends._directory_tools import DirectoryTools
from tollboard.errors import BackendUnavailable, InvalidOption, StoreUnavailable
from tollboard.runtime.approval import ApprovalRequest, Approve, Decision, Edit, Reject
from tollboard.runtime.backend import NO_PROCESSES, ProcessReport
from tollboard.runtime.event import (
    ErrorEvent,
    NoticeEvent,
    TextEvent,
    ToolResultEvent,
    ToolUseEvent,
    UsageEvent,
)
from tollboard.runtime.memory import DictMemory
from tollboard.testing.backend_contract import RecordingTurn, run_turn
from tollboard.testing.model_api import ModelAPI, Reply, ToolCall

pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")

PROVIDERS = {
    "anthropic": ("anthropic:claude-sonnet-5-5", "anthropic_url"),
    "openai": ("openai:gpt-5", "openai_url"),
    "responses": ("openai-responses:gpt-5", "openai_url"),
}


@pytest.fixture
async def api() -> AsyncIterator[ModelAPI]:
    async with ModelAPI() as served:
        yield served


@pytest.fixture
async def options(api: ModelAPI, tmp_path: Path) -> dict[str, object]:
    (tmp_path / "work").mkdir()
    return options_for("anthropic", api, tmp_path)


def options_for(provider: str, api: ModelAPI, tmp_path: Path) -> dict[str, object]:
    model, url = PROVIDERS[provider]
    return {"model": model, "base_url": getattr(api, url), "cwd": str(tmp_path / "work")}


class Talk:
    """One session and its memory; `say` runs a turn."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self.options = options
        self.backend = load("model")
        self.memory = DictMemory()
        self.session: Any = None

    async def say(
        self, text: str, decide: Callable[[ApprovalRequest], Decision] | None = None, **more: Any
    ) -> RecordingTurn:
        if self.session is None:
            self.session = await self.backend.start_session(self.options)
        turn = self.turn(decide, **more)
        await run_turn(self.backend, self.session, text, turn)
        return turn

    def turn(
        self, decide: Callable[[ApprovalRequest], Decision] | None = None, ref: str = ""
    ) -> RecordingTurn:
        turn = RecordingTurn(decide)
        turn.memory = self.memory
        turn.ref = ref or turn.ref
        return turn

    async def restart(self) -> None:
        """As a new daemon does: another backend, the memory that was kept."""
        id = self.session.id
        await self.backend.terminate_session(self.session)
        self.backend = load("model")
        self.session = await self.backend.resume_session(id, {**self.options, "answered": True})

    async def close(self) -> None:
        if self.session is not None:
            await self.backend.terminate_session(self.session)


@pytest.fixture
async def talk(options: dict[str, object]) -> AsyncIterator[Talk]:
    made = Talk(options)
    yield made
    await made.close()


def call(tool: str, **arguments: object) -> Reply:
    return Reply(calls=(ToolCall(tool, arguments),))


def of(turn: RecordingTurn, kind: type) -> list[Any]:
    return [event for event in turn.events if isinstance(event, kind)]


# --- a turn -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_turn_is_streamed_with_its_tools_and_its_usage(
    provider: str, api: ModelAPI, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "notes.txt").write_text("forty-two")
    talk = Talk(options_for(provider, api, tmp_path))
    api.script(call("read_file", path="notes.txt"), Reply("The notes say forty-two, no more.", chunk=8))
    turn = await talk.say("what do the notes say?")
    await talk.close()
    assert turn.text == "The notes say forty-two, no more."
    assert len(of(turn, TextEvent)) > 1
    assert [e.tool for e in of(turn, ToolUseEvent)] == ["read_file"]
    assert [e.content for e in of(turn, ToolResultEvent)] == ["forty-two"]
    (usage,) = of(turn, UsageEvent)
    assert (usage.usage.input_tokens, usage.usage.output_tokens) == (20, 10)
    assert api.requests[0].streamed
    assert list(api.requests[1].results.values()) == ["forty-two"]


async def test_turns_share_a_conversation_and_count_their_own_usage(talk: Talk, api: ModelAPI) -> None:
    api.script("one", "two")
    await talk.say("first")
    turn = await talk.say("second")
    assert [message.text for message in api.requests[-1].messages] == ["first", "one", "second"]
    assert of(turn, UsageEvent)[0].usage.input_tokens == 10


async def test_the_system_prompt_and_settings_are_sent(options: dict[str, object], api: ModelAPI) -> None:
    talk = Talk({**options, "system_prompt": "Be brief.", "settings": {"max_tokens": 77}})
    await talk.say("hi")
    await talk.close()
    assert "Be brief." in api.requests[0].system
    assert api.requests[0].body["max_tokens"] == 77


@pytest.mark.parametrize(
    ("status", "says"), [(400, "bad thing"), (401, "bad thing"), (429, "bad thing"), (500, "bad thing")]
)
async def test_an_error_of_the_api_is_the_error_of_the_turn(
    talk: Talk, api: ModelAPI, status: int, says: str
) -> None:
    api.script(Reply(says, status=status), "fine again")
    turn = await talk.say("go")
    assert says in of(turn, ErrorEvent)[0].message
    assert (await talk.say("again")).text == "fine again"


async def test_a_stream_that_breaks_off_is_an_error_and_the_next_turn_works(
    talk: Talk, api: ModelAPI
) -> None:
    api.script(Reply("a long answer that never ends", cut=True), "fine again")
    assert of(await talk.say("go"), ErrorEvent)
    assert (await talk.say("again")).text == "fine again"


async def test_a_tool_that_fails_and_one_that_is_unknown_are_told_to_the_model(
    talk: Talk, api: ModelAPI
) -> None:
    api.script(call("read_file", path="none.txt"), call("fly", to="moon"), "I see.")
    turn = await talk.say("go")
    assert [event.is_error for event in of(turn, ToolResultEvent)] == [True, True]
    assert "No such file" in of(turn, ToolResultEvent)[0].content
    assert turn.text == "I see."


async def test_a_run_away_loop_ends_at_its_limit(options: dict[str, object], api: ModelAPI) -> None:
    talk = Talk({**options, "max_runs": 3})
    api.script(*[call("list_files")] * 10)
    turn = await talk.say("go")
    await talk.close()
    assert "max_runs" in of(turn, ErrorEvent)[0].message
    assert len(api.requests) == 3


async def test_a_limit_on_tokens_ends_the_turn(options: dict[str, object], api: ModelAPI) -> None:
    talk = Talk({**options, "limits": {"total_tokens_limit": 20}})
    api.script(*[call("list_files")] * 2, "fine again")
    turn = await talk.say("go")
    assert "20" in of(turn, ErrorEvent)[0].message
    assert len(api.requests) == 2
    assert (await talk.say("again")).text == "fine again", "the limit is for a turn, not for a life"
    await talk.close()


async def test_a_limit_holds_for_sub_agents_too(options: dict[str, object], api: ModelAPI) -> None:
    below = {"name": "helper", "description": "Helps.", "system_prompt": "I am below."}
    talk = Talk({**options, "limits": {"request_limit": 2}, "sub_agents": [below]})
    api.script(_task("helper", "help"), *[call("list_files")] * 2, "it could not")
    turn = await talk.say("go")
    await talk.close()
    assert turn.text == "it could not"
    assert "request_limit of 2" in of(turn, ToolResultEvent)[0].content


# --- people decide ----------------------------------------------------------------------------------------------


async def test_writing_and_running_wait_for_a_person_reading_does_not(talk: Talk, api: ModelAPI) -> None:
    api.script(
        call("list_files"), call("write_file", path="a", content="x"), call("run_command", command="ls"), "ok"
    )
    turn = await talk.say("go", lambda request: Approve())
    assert [request.tool for request in turn.requests] == ["write_file", "run_command"]
    assert "a" in of(turn, ToolResultEvent)[-1].content


async def test_a12_approve_edit_and_reject_in_one_answer(talk: Talk, api: ModelAPI, tmp_path: Path) -> None:
    api.script(
        Reply(calls=tuple(ToolCall("write_file", {"path": name, "content": "model"}) for name in "abc")),
        "done",
    )

    def decide(request: ApprovalRequest) -> Decision:
        match request.arguments["path"]:
            case "a":
                return Approve()
            case "b":
                return Edit({"path": "b", "content": "person"})
        return Reject("not that one")

    turn = await talk.say("go", decide)
    work = tmp_path / "work"
    assert {p.name: p.read_text() for p in work.iterdir()} == {"a": "model", "b": "person"}
    shown = list(api.requests[-1].results.values())
    assert "person" in shown[1]
    assert "not that one" in shown[2]
    assert turn.text == "done"


async def test_questions_of_one_message_are_asked_at_once(talk: Talk, api: ModelAPI) -> None:
    api.script(Reply(calls=tuple(ToolCall("run_command", {"command": c}) for c in ("true", "false"))), "done")
    waiting = asyncio.Event()
    turn = talk.turn()

    async def ask(request: ApprovalRequest) -> Decision:
        turn.requests.append(request)
        if len(turn.requests) == 2:
            waiting.set()
        await waiting.wait()
        return Approve()

    turn.request_approval = ask  # type: ignore[method-assign]
    talk.session = await talk.backend.start_session(talk.options)
    await run_turn(talk.backend, talk.session, "go", turn)
    assert len(turn.requests) == 2


async def test_an_edit_that_does_not_fit_the_schema_is_refused_to_the_person(
    talk: Talk, api: ModelAPI
) -> None:
    api.script(call("write_file", path="a", content="x"), "done")
    turn = await talk.say("go", lambda request: Approve())
    check = turn.requests[0].check
    assert check is not None
    from tollboard.errors import TollboardError

    with pytest.raises(TollboardError):
        check({"path": 3})


async def test_guards_can_be_lifted_and_added(
    options: dict[str, object], api: ModelAPI, tmp_path: Path
) -> None:
    guards = {"write_file": False, "read_file": {"allowed_decisions": ["approve"]}}
    talk = Talk({**options, "guards": guards})
    api.script(call("write_file", path="a", content="x"), call("read_file", path="a"), "done")
    turn = await talk.say("go", lambda request: Approve())
    await talk.close()
    assert [(request.tool, request.allowed) for request in turn.requests] == [("read_file", ("approve",))]


# --- going on after a restart -----------------------------------------------------------------------------------


async def test_a_conversation_goes_on_after_a_restart(talk: Talk, api: ModelAPI) -> None:
    api.script(call("list_files"), "one", "two")
    await talk.say("first")
    await talk.restart()
    assert (await talk.say("second")).text == "two"
    assert [m.text for m in api.requests[-1].messages if m.text] == ["first", "one", "second"]


async def test_a23_a_turn_that_asked_goes_on_after_a_restart_and_repeats_nothing(
    talk: Talk, api: ModelAPI, tmp_path: Path
) -> None:
    count = call("run_command", command="echo x >> count; cat count").calls[0]
    api.script(Reply(calls=(count, ToolCall("write_file", {"path": "a", "content": "b"}))), "done")
    first = talk.turn(lambda request: Approve() if request.tool == "run_command" else _wait_for_ever())
    talk.session = await talk.backend.start_session(talk.options)
    asked = asyncio.Event()

    async def ask(request: ApprovalRequest) -> Decision:
        first.requests.append(request)
        if len(first.requests) == 2:
            asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    first.request_approval = ask  # type: ignore[method-assign]
    running = asyncio.create_task(run_turn(talk.backend, talk.session, "go", first))
    await asked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await talk.restart()
    again = await talk.say("go", lambda request: Approve(), ref=first.ref)
    assert [r.id for r in again.requests] == [r.id for r in first.requests]
    assert again.text == "done"
    assert of(again, UsageEvent)[0].usage.input_tokens == 20, "all of the turn, before the restart too"
    assert (tmp_path / "work" / "count").read_text() == "x\n"
    assert len(api.requests) == 2


def _wait_for_ever() -> Decision:
    raise AssertionError("not used")


async def test_a_conversation_whose_memory_is_gone_is_not_begun_anew(talk: Talk, api: ModelAPI) -> None:
    await talk.say("first")
    talk.memory = DictMemory()
    await talk.restart()
    turn = await talk.say("second")
    assert "gone" in of(turn, ErrorEvent)[0].message
    assert len(api.requests) == 1


async def test_trying_a_failed_prompt_again_asks_the_model_and_not_the_memory(
    talk: Talk, api: ModelAPI
) -> None:
    api.script("one", Reply("down", status=500), "two")
    await talk.say("first")
    failed = await talk.say("second")
    assert of(failed, ErrorEvent)
    again = await talk.say("second", ref=failed.ref)
    assert again.text == "two"
    assert [m.text for m in api.requests[-1].messages] == ["first", "one", "second"]


class FailingMemory(DictMemory):
    """Refuses some of what it is given, as a full disk does."""

    def __init__(self, *refused: int) -> None:
        super().__init__()
        self.refused = refused
        self.saves = 0

    def save(self, texts: Mapping[str, str | None]) -> None:
        self.saves += 1
        if self.saves in self.refused:
            raise StoreUnavailable("the disk is full")
        super().save(texts)


@pytest.mark.parametrize("refused", range(1, 8))
async def test_what_could_not_be_written_down_did_not_run_and_leaves_no_gap(
    talk: Talk, api: ModelAPI, tmp_path: Path, refused: int
) -> None:
    talk.memory = FailingMemory(refused)
    talk.options = {**talk.options, "guards": {"run_command": False}}
    count = call("run_command", command="echo x >> count")
    api.script("one", count, "two", "three", "four")
    for text in ("first", "second", "third"):
        await talk.say(text)
    await talk.restart()
    last = await talk.say("fourth")
    assert last.text in ("three", "four")
    asked = api.requests[-1].messages
    assert [m.text for m in asked if m.role == "user" and m.text][-1] == "fourth"
    called = [c.id for m in asked for c in m.calls]
    assert [result.id for m in asked for result in m.results] == called
    ran = (tmp_path / "work" / "count").read_text() if (tmp_path / "work" / "count").exists() else ""
    assert ran in ("", "x\n")


async def test_a_turn_that_was_cut_off_leaves_a_conversation_that_works(talk: Talk, api: ModelAPI) -> None:
    api.script(call("write_file", path="a", content="x"), "fine")
    talk.session = await talk.backend.start_session(talk.options)
    turn = talk.turn()
    running = asyncio.create_task(run_turn(talk.backend, talk.session, "go", turn))
    await turn.asked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await talk.restart()
    assert (await talk.say("next")).text == "fine"
    assert "was not run" in str(api.requests[-1].messages[-1].results[0].text)


# --- ending -----------------------------------------------------------------------------------------------------


async def test_a20_cancelling_ends_a_model_call_that_hangs(talk: Talk, api: ModelAPI) -> None:
    api.script(Reply("thinking", hang=True))
    talk.session = await talk.backend.start_session(talk.options)
    running = asyncio.create_task(run_turn(talk.backend, talk.session, "go", talk.turn()))
    await api.wait_for_hanging()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with asyncio.timeout(2):
        await api.wait_for_gone()


async def test_cancelling_ends_a_sub_agent_that_hangs(options: dict[str, object], api: ModelAPI) -> None:
    talk = Talk(
        {
            **options,
            "sub_agents": [{"name": "helper", "description": "Helps.", "system_prompt": "I am below."}],
        }
    )
    api.script(_task("helper", "help"), Reply("thinking", hang=True))
    talk.session = await talk.backend.start_session(talk.options)
    running = asyncio.create_task(run_turn(talk.backend, talk.session, "go", talk.turn()))
    await api.wait_for_hanging()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with asyncio.timeout(2):
        await api.wait_for_gone()
    await talk.close()


# --- sub-agents -------------------------------------------------------------------------------------------------


def _task(name: str, instructions: str) -> Reply:
    return call("task", task_name=name, instructions=instructions)


async def test_a_task_goes_to_a_sub_agent_and_its_usage_adds_up(
    options: dict[str, object], api: ModelAPI
) -> None:
    below = {
        "name": "helper",
        "description": "Helps.",
        "system_prompt": "I am below.",
        "tools": ["list_files"],
    }
    talk = Talk({**options, "sub_agents": [below]})
    api.script(_task("helper", "help me"), call("list_files"), "helped", "all done")
    turn = await talk.say("go")
    await talk.close()
    assert turn.text == "all done"
    assert [event.content for event in of(turn, ToolResultEvent)] == ["helped"]
    assert of(turn, UsageEvent)[0].usage.input_tokens == 40
    assert "I am below." in api.requests[1].system
    assert api.requests[1].tools == ("list_files",)
    assert [e.message for e in of(turn, NoticeEvent)] == ["helper has begun", "helper is done: helped"]


@pytest.mark.parametrize("listed", [True, False])
async def test_a13_the_list_of_sub_agents_can_be_kept_out_of_the_prompt(
    options: dict[str, object], api: ModelAPI, listed: bool
) -> None:
    below = {"name": "helper", "description": "Helps with everything.", "system_prompt": "I am below."}
    talk = Talk({**options, "sub_agents": [below], "list_sub_agents": listed})
    await talk.say("go")
    await talk.close()
    assert ("Helps with everything." in json.dumps(api.requests[0].body)) == listed
    assert "helper" in json.dumps(api.requests[0].body["tools"]), "its name is in the schema all the same"


async def test_a16_a_question_from_three_levels_down_says_where_it_comes_from(
    options: dict[str, object], api: ModelAPI, tmp_path: Path
) -> None:
    low = {"name": "low", "description": "Low.", "system_prompt": "low"}
    middle = {"name": "middle", "description": "Middle.", "system_prompt": "middle", "sub_agents": [low]}
    top = {"name": "top", "description": "Top.", "system_prompt": "top", "sub_agents": [middle]}
    talk = Talk({**options, "sub_agents": [top]})
    api.script(
        _task("top", "a"), _task("middle", "b"), _task("low", "c"), call("write_file", path="x", content="y"),
        "low done", "middle done", "top done", "done",
    )  # fmt: skip
    turn = await talk.say("go", lambda request: Approve())
    await talk.close()
    assert turn.requests[0].path == ("top", "middle", "low")
    assert (tmp_path / "work" / "x").read_text() == "y"
    assert turn.text == "done"


async def test_a14_the_general_purpose_one_has_the_same_tools_and_guards(
    options: dict[str, object], api: ModelAPI
) -> None:
    talk = Talk({**options, "general_purpose": True})
    api.script(_task("general-purpose", "write"), call("write_file", path="a", content="b"), "below", "done")
    turn = await talk.say("go", lambda request: Approve())
    await talk.close()
    assert turn.requests[0].path == ("general-purpose",)
    assert "task" not in api.requests[1].tools


# --- todo list, long conversations, tools from elsewhere --------------------------------------------------------


async def test_the_todo_list_is_shown(talk: Talk, api: ModelAPI) -> None:
    todos = [{"content": "read", "status": "completed"}, {"content": "write", "status": "pending"}]
    api.script(call("write_todos", todos=todos), "ok")
    turn = await talk.say("go")
    (notice,) = of(turn, NoticeEvent)
    assert notice.name == "todos"
    assert notice.message == "[x] read · [ ] write"


async def test_a_long_conversation_is_summarised_before_the_next_prompt(
    options: dict[str, object], api: ModelAPI
) -> None:
    talk = Talk({**options, "summarise_at": 100})
    api.script(Reply("long", input_tokens=500), "the summary", "after", "more")
    await talk.say("first")
    turn = await talk.say("second")
    assert [event.name for event in of(turn, NoticeEvent)] == ["summarised"]
    asked = api.requests[-1].messages
    assert len(asked) == 1
    assert "the summary" in asked[0].text
    assert "second" in asked[0].text
    await talk.restart()
    await talk.say("third")
    await talk.close()
    assert "the summary" in api.requests[-1].messages[0].text
    assert "second" in api.requests[-1].messages[0].text


async def test_a_tool_of_an_entry_point_is_called_by_its_name(
    options: dict[str, object], api: ModelAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    point = importlib.metadata.EntryPoint("shout", f"{__name__}:shout", "tollboard.tools")
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda **_: importlib.metadata.EntryPoints([point])
    )
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: shout)
    talk = Talk({**options, "tools": ["shout"]})
    api.script(call("shout", text="hey"), "ok")
    turn = await talk.say("go")
    await talk.close()
    assert of(turn, ToolResultEvent)[0].content == "HEY"
    assert api.requests[0].tools == ("shout",)


@pytest.mark.parametrize("tool", ["list_files", "search_files"])
async def test_a_file_name_that_is_no_text_does_not_spoil_the_conversation(
    talk: Talk, api: ModelAPI, tmp_path: Path, tool: str
) -> None:
    (tmp_path / "work" / os.fsdecode(b"caf\xe9")).write_text("coffee")
    api.script(call(tool, **({"text": "coffee"} if tool == "search_files" else {})), "seen")
    assert (await talk.say("look")).text == "seen"
    assert "caf\ufffd" in next(iter(api.requests[1].results.values()))
    assert (await talk.say("go on")).text == "You said: go on"


async def test_half_a_character_of_a_model_does_not_spoil_the_conversation(talk: Talk, api: ModelAPI) -> None:
    api.script(
        Reply("half \ud83d", calls=(ToolCall("write_file", {"path": "x", "content": "\ude00"}),)),
        Reply("\ud83d\ude00 and \ud83d", chunk=1),
    )
    turn = await talk.say("smile", lambda _: Approve())
    assert turn.text == "\U0001f600 and \ufffd"
    assert (await talk.say("go on")).text == "You said: go on"
    assert next(m.text for m in api.requests[-1].messages if m.role == "assistant") == "half \ufffd"
    await talk.restart()
    assert (await talk.say("still there?")).text == "You said: still there?"


async def test_a_tool_that_swallows_its_cancellation_changes_nothing_of_the_next_turn(
    options: dict[str, object], api: ModelAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    monkeypatch.setattr("tollboard.backends._model_turn.CANCEL_S", 0.01)
    begun, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        """Hold on."""
        begun.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        ended.set()
        return "late"

    point = importlib.metadata.EntryPoint("stubborn", f"{__name__}:stubborn", "tollboard.tools")
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda **_: importlib.metadata.EntryPoints([point])
    )
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: stubborn)
    talk = Talk({**options, "tools": ["stubborn"]})
    api.script(call("stubborn"), "I see.", "Still here.")
    interrupted = asyncio.create_task(talk.say("go"))
    await begun.wait()
    interrupted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await interrupted
    await talk.say("What happened?")
    assert "not known whether this call ran" in next(iter(api.requests[1].results.values()))
    kept = await talk.memory.load()
    assert not [name for name in kept if ":c/1/" in name]
    release.set()
    await ended.wait()
    await talk.close()
    assert await talk.memory.load() == kept
    assert (await talk.say("And now?")).events[-1].text == "Still here."  # type: ignore[union-attr]
    assert len(api.requests) == 3


async def shout(text: str) -> str:
    """Say it loudly."""
    return text.upper()


async def test_a_reset_whose_caller_leaves_closes_the_old_conversation_before_the_next_turn(
    talk: Talk, api: ModelAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    await talk.say("first")
    closing, close_on = asyncio.Event(), asyncio.Event()

    async def close_late(tools: DirectoryTools) -> ProcessReport:
        closing.set()
        await close_on.wait()
        return NO_PROCESSES

    monkeypatch.setattr(DirectoryTools, "close", close_late)
    leaving = asyncio.create_task(talk.backend.reset_session(talk.session))
    await closing.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    second = asyncio.create_task(talk.say("second"))
    assert not (await asyncio.wait({second}, timeout=0))[0]
    close_on.set()
    assert (await second).text == "You said: second"
    assert "first" not in str(api.requests[-1].body["messages"])


@pytest.mark.slow
async def test_a_tool_of_an_mcp_server_is_called_and_its_process_ends_with_the_session(
    options: dict[str, object], api: ModelAPI, tmp_path: Path
) -> None:
    import sys

    server = tmp_path / "server.py"
    server.write_text(
        "import os\nfrom mcp.server import MCPServer\nserver = MCPServer('double')\n"
        "@server.tool()\ndef double(n: int) -> str:\n    return f'{2 * n} {os.getpid()}'\n"
        "server.run('stdio')\n"
    )
    talk = Talk({**options, "mcp_servers": {"sums": {"command": sys.executable, "args": [str(server)]}}})
    api.script(call("sums_double", n=21), call("sums_double", n=4), "ok")
    turn = await talk.say("go")
    results = [event.content.split() for event in of(turn, ToolResultEvent)]
    assert [result[0] for result in results] == ["42", "8"]
    await talk.close()
    assert results[0][1] == results[1][1]
    assert gone(int(results[0][1]))


# --- bad options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"model": None}, "needs the option 'model'"),
        ({"model": "nobody:x"}, "no model 'nobody:x'"),
        ({"model": "gpt"}, "no model"),
        ({"tools": ["list_files", "fly"]}, "no tool 'fly'; known are: list_files"),
        ({"guards": {"fly": True}}, "list_files"),
        ({"guards": {"read_file": "maybe"}}, "read_file"),
        ({"guards": {"read_file": {"allowed_decisions": ["shrug"]}}}, "shrug"),
        ({"limits": {"dollars": 3}}, "total_tokens_limit"),
        ({"max_runs": 0}, "max_runs"),
        ({"sub_agents": [{"name": "x"}]}, "'x' has no description"),
        ({"sub_agents": [{"name": "x", "description": "y", "system_prompt": "z", "colour": 1}]}, "colour"),
        (
            {"sub_agents": [{"name": "x", "description": "y", "system_prompt": "z", "until_tool": "list_files",
                             "until_tool_success": "list_files"}]},
            "not both",
        ),
        ({"temperature": 1}, "temperature"),
        ({"mcp_servers": {"x": {}}}, "command"),
        ({"mcp_servers": {"x": {"command": 3}}}, "command"),
        ({"summarise_at": -1}, "summarise_at"),
    ],
)  # fmt: skip
async def test_bad_options_are_named_when_the_session_is_started(
    options: dict[str, object], bad: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidOption) as refused:
        await load("model").start_session(
            {**options, "base_url": None, "env": {"ANTHROPIC_API_KEY": "x"}, **bad}
        )
    assert says in str(refused.value)


async def test_a_missing_key_names_the_variable(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(BackendUnavailable, match="ANTHROPIC_API_KEY"):
        await load("model").start_session({**options, "base_url": None})


async def test_a_key_given_to_the_session_is_sent_and_shown_nowhere(
    options: dict[str, object], api: ModelAPI, caplog: pytest.LogCaptureFixture
) -> None:
    talk = Talk({**options, "env": {"ANTHROPIC_API_KEY": "sk-very-secret"}})
    turn = await talk.say("hi")
    assert "sk-very-secret" in str(api.requests[0].headers)
    assert "sk-very-secret" not in f"{talk.session!r} {turn.events!r} {caplog.text} {turn.checkpoints!r}"
    await talk.close()


async def test_e79_a_long_turn_is_summarised_between_two_steps(
    options: dict[str, object], api: ModelAPI
) -> None:
    talk = Talk({**options, "summarise_at": 100})
    todos = [{"content": "look around", "status": "in_progress"}]
    plan = ToolCall("write_todos", {"todos": todos})
    api.script(
        Reply(calls=(plan, ToolCall("list_files", {}))), Reply(calls=(ToolCall("list_files", {}),), input_tokens=500),
        "the summary", "all done",
    )  # fmt: skip
    turn = await talk.say("look around")
    await talk.close()
    assert turn.text == "all done"
    assert [event.name for event in of(turn, NoticeEvent)] == ["todos", "summarised"]
    asked, answered = api.requests[-2], api.requests[-1]
    # Written out as text, with every result beside its call: some providers refuse calls without the same tools.
    assert not [call for message in asked.messages for call in message.calls]
    assert asked.last_user.count("Assistant called") == asked.last_user.count("Result of") == 3
    (message,) = answered.messages
    assert "the summary" in message.text
    assert "look around" in message.text


async def test_e77_e78_the_newest_todo_list_wins_and_other_tools_leave_it(talk: Talk, api: ModelAPI) -> None:
    def todos(*names: str) -> ToolCall:
        return ToolCall("write_todos", {"todos": [{"content": name} for name in names]})

    api.script(Reply(calls=(todos("a", "b"), todos("b"), ToolCall("list_files", {}))), "ok")
    turn = await talk.say("go")
    assert [event.message for event in of(turn, NoticeEvent)] == ["[ ] a · [ ] b", "[ ] b"]
    kept = json.loads((await talk.memory.load(f"{talk.session.id}:head"))[f"{talk.session.id}:head"])
    assert kept["notes"]["todos"] == "[ ] b"


async def test_what_an_ended_sub_agent_said_is_not_kept(options: dict[str, object], api: ModelAPI) -> None:
    below = {"name": "helper", "description": "Helps.", "system_prompt": "I am below."}
    talk = Talk({**options, "sub_agents": [below]})
    api.script(_task("helper", "help me"), call("list_files"), "helped", "all done")
    await talk.say("go")
    id = talk.session.id
    await talk.close()
    assert not await talk.memory.load(f"{id}/")
    assert len(await talk.memory.load(f"{id}:m/")) == 4


async def test_e65_another_prompt_after_an_interrupt_leaves_nothing_of_the_sub_agent(
    options: dict[str, object], api: ModelAPI
) -> None:
    below = {"name": "helper", "description": "Helps.", "system_prompt": "I am below."}
    talk = Talk({**options, "sub_agents": [below]})
    api.script(_task("helper", "help me"), call("write_file", path="a", content="b"), "fine")
    talk.session = await talk.backend.start_session(talk.options)
    turn = talk.turn()
    running = asyncio.create_task(run_turn(talk.backend, talk.session, "go", turn))
    await turn.asked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await talk.say("something else")).text == "fine"
    assert not await talk.memory.load(f"{talk.session.id}/")
    assert len(asyncio.all_tasks()) == 2  # the test, and the stand-in's connection
    await talk.close()


# --- what is paid for -------------------------------------------------------------------------------------------


async def cut_off(talk: Talk, api: ModelAPI) -> RecordingTurn:
    """Run a turn until a reply hangs, and interrupt it."""
    talk.session = talk.session or await talk.backend.start_session(talk.options)
    turn = talk.turn()
    running = asyncio.create_task(run_turn(talk.backend, talk.session, "go", turn))
    await api.wait_for_hanging()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return turn


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_l08_an_interrupted_turn_reports_what_it_used(
    provider: str, api: ModelAPI, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    talk = Talk(options_for(provider, api, tmp_path))
    api.script(
        Reply(calls=(ToolCall("list_files", {}),), input_tokens=100, output_tokens=20),
        Reply("thin", hang=True),
    )
    turn = await cut_off(talk, api)
    await talk.close()
    assert turn.usages[0].input_tokens == 100
    assert turn.usage is not None
    # Anthropic says at the beginning of a stream what it has read; that counts if it had come.
    begun = {(100, 20), (110, 21)} if provider == "anthropic" else {(100, 20)}
    assert (turn.usage.input_tokens, turn.usage.output_tokens) in begun


async def test_l08_also_what_the_sub_agents_used_at_every_depth(
    options: dict[str, object], api: ModelAPI
) -> None:
    leaf = {"name": "leaf", "description": "Leaf.", "system_prompt": "I am the leaf."}
    below = {"name": "helper", "description": "Helps.", "system_prompt": "I am below.", "sub_agents": [leaf]}
    talk = Talk({**options, "sub_agents": [below]})
    api.script(
        replace(_task("helper", "help"), input_tokens=1000),
        replace(_task("leaf", "help"), input_tokens=200),
        replace(call("list_files"), input_tokens=30),
        Reply("thinking", hang=True),
    )
    turn = await cut_off(talk, api)
    assert [usage.input_tokens for usage in turn.usages][:3] == [1000, 1200, 1230]
    api.script(Reply("fresh", input_tokens=7, output_tokens=3))
    after = await talk.say("something else")
    await talk.close()
    (usage,) = of(after, UsageEvent)
    assert (usage.usage.input_tokens, usage.usage.output_tokens) == (7, 3)


async def test_l08_a_failed_turn_reports_what_it_used(talk: Talk, api: ModelAPI) -> None:
    api.script(
        Reply(calls=(ToolCall("list_files", {}),), input_tokens=100, output_tokens=20),
        Reply("no", status=400),
    )
    turn = await talk.say("go")
    error = turn.events[-1]
    assert isinstance(error, ErrorEvent)
    assert error.usage is not None
    assert (error.usage.input_tokens, error.usage.output_tokens) == (100, 20)


# --- checked before it is started --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model": "anthropic:x", "base_url": None}, BackendUnavailable, "ANTHROPIC_API_KEY"),
        ({"model": "nobody:x"}, InvalidOption, "nobody:x"),
        ({"tools": ["reed_file"]}, InvalidOption, "reed_file"),
        ({"guards": {"reed_file": True}}, InvalidOption, "reed_file"),
        ({"limits": {"requests": 1}}, InvalidOption, "requests"),
    ],
)
async def test_a_start_can_be_checked(
    options: dict[str, object], change: dict[str, object], error: type[Exception], said: str
) -> None:
    backend = load("model")
    await backend.check_start(options)
    with pytest.raises(error, match=said):
        await backend.check_start({**options, **change})
