"""Model sessions in the real daemon: killed, restarted, asked from deep below; every tool runs exactly once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.daemon.process import DaemonProcess
from tests.processes import gone
from tollboard.daemon.client import Client
from tollboard.errors import AlreadyDecided, BackendUnavailable, InvalidDecision, InvalidOption
from tollboard.fleet.records import ApprovalRecord, PollCompleted
from tollboard.testing.model_api import ModelAPI, Reply, ToolCall

pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")
pytestmark = pytest.mark.slow

COUNT = ToolCall("run_command", {"command": "echo x >> count"})


def task(name: str) -> Reply:
    return Reply(calls=(ToolCall("task", {"task_name": name, "instructions": f"go, {name}"}),))


def below(name: str, *more: object) -> dict[str, object]:
    return {"name": name, "description": name, "system_prompt": f"You are {name}.", "sub_agents": list(more)}


@pytest.fixture
async def api() -> AsyncIterator[ModelAPI]:
    async with ModelAPI() as served:
        yield served


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    os.mkfifo(tmp_path / "work" / "begun")
    return tmp_path / "work"


async def start(board: Client, api: ModelAPI, work: Path, **options: object) -> None:
    await board.start_session(
        "m",
        path=work,
        backend="model",
        model="anthropic:claude-sonnet-5-5",
        base_url=api.anthropic_url,
        **options,
    )


async def waiting(board: Client, count: int) -> dict[str, ApprovalRecord]:
    """Wait until that many questions are open; return them by tool."""
    async for item in board.tail(after=0):
        if item.kind == "approval.requested" and len(found := await board.approvals()) == count:
            return {record.tool: record for record in found}
    raise AssertionError


async def answer(board: Client, ref: str) -> str | None:
    assert not (await board.wait([ref], timeout=30)).pending
    poll = await board.poll("m", ref)
    assert isinstance(poll, PollCompleted), poll
    return poll.text


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
async def test_a23_decided_after_the_daemon_ended_every_tool_runs_exactly_once(
    home: Path, work: Path, api: ModelAPI, ending: signal.Signals
) -> None:
    write = ToolCall("write_file", {"path": "a", "content": "model's"})
    api.script(Reply(calls=(COUNT, write)), "All done.")
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            await start(board, api, work)
            ref = await board.send("m", "go")
            before = await waiting(board, 2)
            await board.decide(before["run_command"].id, {"type": "approve"})
        daemon.signal(ending)
        daemon.wait()
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            (left,) = await board.approvals()
            assert left == before["write_file"]
            assert (await board.status("m")).needs_decision
            edit = {"type": "edit", "arguments": {"path": "a", "content": "a person's"}}
            await board.decide(left.id, edit)
            assert await answer(board, ref) == "All done."
            assert (await board.status("m")).turns == 1
    assert (work / "count").read_text() == "x\n"
    assert (work / "a").read_text() == "a person's"
    assert len(api.requests) == 2


async def test_a23_killed_while_a_tool_runs_it_is_not_run_again_and_the_conversation_goes_on(
    home: Path, work: Path, api: ModelAPI
) -> None:
    api.script(
        Reply(calls=(ToolCall("run_command", {"command": "echo x >> count; echo $$ > begun; sleep 1000"}),)),
        "Now?",
    )
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            await start(board, api, work)
            ref = await board.send("m", "go")
            await board.decide((await waiting(board, 1))["run_command"].id, {"type": "approve"})
            pid = await begun(work)
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    with DaemonProcess(home):
        assert gone(pid)
        async with Client.connect(home, start=False) as board:
            assert await answer(board, ref) == "Now?"
    assert (work / "count").read_text() == "x\n"
    assert "not known whether this call ran" in next(iter(api.requests[-1].results.values()))


async def begun(work: Path) -> int:
    """Wait until a command has written its process id into the pipe there, and return it."""
    return int(await asyncio.to_thread((work / "begun").read_text))


async def test_a20_three_levels_down_and_beside_it_in_one_list(home: Path, work: Path, api: ModelAPI) -> None:
    def reply(seen: object) -> Reply | str:
        system = getattr(seen, "system", "")
        last = seen.messages[-1]  # type: ignore[attr-defined]
        if "You are low." in system:
            return "low is done" if last.results else Reply(calls=(COUNT,))
        if "You are middle." in system:
            return "middle is done" if last.results else task("low")
        if "You are top." in system:
            return "top is done" if last.results else task("middle")
        if last.results:
            return "everything is done"
        own = ToolCall("write_file", {"path": "own", "content": ""})
        return Reply(calls=(*task("top").calls, own))

    async with ModelAPI(reply) as deep:
        with DaemonProcess(home) as daemon:
            async with Client.connect(home, start=False) as board:
                await start(board, deep, work, sub_agents=[below("top", below("middle", below("low")))])
                ref = await board.send("m", "go")
                found = await waiting(board, 2)
            assert found["run_command"].path == "m/top/middle/low"
            assert found["write_file"].path == "m"
            daemon.signal(signal.SIGKILL)
            daemon.wait()
        with DaemonProcess(home):
            async with Client.connect(home, start=False) as board:
                for record in found.values():
                    await board.decide(record.id, {"type": "approve"})
                assert await answer(board, ref) == "everything is done"
    assert (work / "count").read_text() == "x\n"
    assert (work / "own").read_text() == ""


async def test_a24_the_same_decision_by_two_clients_at_once_runs_the_tool_once(
    home: Path, work: Path, api: ModelAPI
) -> None:
    api.script(Reply(calls=(COUNT,)), "done")
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as one, Client.connect(home, start=False) as two:
            await start(one, api, work)
            ref = await one.send("m", "go")
            (question,) = (await waiting(one, 1)).values()
            answers = await asyncio.gather(
                *(board.decide(question.id, {"type": "approve"}) for board in (one, two, one, two)),
                return_exceptions=True,
            )
            assert sum(isinstance(each, ApprovalRecord) for each in answers) == 1
            assert sum(isinstance(each, AlreadyDecided) for each in answers) == 3
            await answer(one, ref)
    assert (work / "count").read_text() == "x\n"


async def test_a18_an_edit_against_the_schema_is_refused_to_the_person_and_the_question_stays(
    home: Path, work: Path, api: ModelAPI
) -> None:
    api.script(Reply(calls=(COUNT,)), "done")
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            await start(board, api, work)
            await board.send("m", "go")
            (question,) = (await waiting(board, 1)).values()
            with pytest.raises(InvalidDecision, match="command"):
                await board.decide(question.id, {"type": "edit", "arguments": {"command": 3}})
            assert len(await board.approvals()) == 1
    assert len(api.requests) == 1


async def test_a26_nobody_decides_in_time(home: Path, work: Path, api: ModelAPI) -> None:
    api.script(Reply(calls=(COUNT,)), "then not")
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            await start(board, api, work, approval_timeout_s=0.05)
            assert await answer(board, await board.send("m", "go")) == "then not"
    assert not (work / "count").exists()
    assert "nobody decided within" in next(iter(api.requests[-1].results.values()))


async def test_a08_stopping_the_session_ends_its_commands_and_model_calls(
    home: Path, work: Path, api: ModelAPI
) -> None:
    command = ToolCall("run_command", {"command": "echo $$ > begun; sleep 1000"})
    api.script(Reply(calls=(*task("low").calls, command)), Reply("thinking", hang=True))
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            await start(board, api, work, sub_agents=[below("low")], guards={"run_command": False})
            await board.send("m", "go")
            pid = await begun(work)
            await api.wait_for_hanging()
            await board.stop_session("m")
            await api.wait_for_gone()
            assert gone(pid)


async def test_bad_models_and_missing_keys_are_said_at_the_start(
    home: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            with pytest.raises(BackendUnavailable, match="OPENAI_API_KEY"):
                await board.start_session("m", path=work, backend="model", model="openai:gpt-5")
            with pytest.raises(InvalidOption, match="no model 'nobody:x'"):
                await board.start_session("m", path=work, backend="model", model="nobody:x")
            assert await board.list_sessions() == ()


async def test_l08_what_a_turn_used_before_the_daemon_was_killed_is_in_its_entry(
    home: Path, work: Path, api: ModelAPI
) -> None:
    (work / "notes").write_text("x")
    helper = below("helper")
    api.script(
        Reply(calls=task("helper").calls, input_tokens=100, output_tokens=10),
        Reply(calls=(ToolCall("read_file", {"path": "notes"}),), input_tokens=2000, output_tokens=200),
        Reply("thinking", hang=True),
    )
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            await start(board, api, work, sub_agents=[helper])
            ref = await board.send("m", "go")
            await api.wait_for_requests(3)
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    api.script(Reply("fresh", input_tokens=7, output_tokens=3))
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            again = await board.send("m", "and now?")
            await answer(board, again)
            killed, next_one = (await board.transcript("m")).entries
    assert killed.ref == ref
    assert killed.usage is not None
    assert next_one.usage is not None
    assert (killed.usage.input_tokens, killed.usage.output_tokens) == (2100, 210)
    assert (next_one.usage.input_tokens, next_one.usage.output_tokens) == (7, 3)
