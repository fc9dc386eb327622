"""Whose a line of Claude Code is, on lines as the real program prints them (B02, B05)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tollboard.backends._claude_stream import INTERRUPTED, UNASKED, Speech, Stream
from tollboard.runtime.background_task import BackgroundTask
from tollboard.runtime.event import ErrorEvent, ResultEvent

INIT = {"type": "system", "subtype": "init"}
OWN = {"kind": "task-notification", "producer": "session-task"}


class Heard:
    """A stream, and what it announced."""

    def __init__(self) -> None:
        self.own: list[tuple[Speech, str]] = []
        self.told: list[tuple[list[str], str]] = []
        self.stream = Stream(lambda speech, cause: self.own.append((speech, cause)), self._tell, lambda: "r1")

    def _tell(self, running: Sequence[BackgroundTask], lost: str) -> None:
        self.told.append(([task.id for task in running], lost))

    async def lines(self, *lines: dict[str, Any]) -> None:
        for line in lines:
            await self.stream.take(line)


def started(uuid: str) -> dict[str, Any]:
    return {"type": "command_lifecycle", "command_uuid": uuid, "state": "started"}


def words(text: str) -> dict[str, Any]:
    return {"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": text}]}}


def result(text: str, *names: str, turns: int = 1, **more: Any) -> dict[str, Any]:
    named = {"user_message_uuids": list(names)} if names else {}
    usage = {"input_tokens": 5, "output_tokens": 7}
    return {"type": "result", "result": text, "num_turns": turns, "usage": usage, **named, **more}


def running(*ids: str, kind: str = "local_bash") -> dict[str, Any]:
    tasks = [{"task_id": id, "task_type": kind, "description": f"do {id}"} for id in ids]
    return {"type": "system", "subtype": "background_tasks_changed", "tasks": tasks}


def notified(id: str, status: str = "completed") -> dict[str, Any]:
    return {
        "type": "system",
        "subtype": "task_notification",
        "task_id": id,
        "status": status,
        "summary": f"{id} {status}",
    }


async def said(speech: Speech) -> list[Any]:
    """Return everything up to the terminal event."""
    found: list[Any] = []
    while not found or not isinstance(found[-1], ResultEvent | ErrorEvent | None):
        found.append(await speech.next())
    return found


async def ending(speech: Speech) -> Any:
    return (await said(speech))[-1]


async def test_b02_a_prompt_gets_the_result_that_names_it_and_the_own_turn_its_own() -> None:
    heard = Heard()
    await heard.lines(started("p0"), running("t1"), notified("t1"), running(), INIT)
    mine = heard.stream.ask("p1")
    await heard.lines(words("by itself"), result("by itself", origin=OWN), started("p1"), INIT, words("yes"))
    await heard.lines(result("yes", "p1"))
    ((own, cause),) = heard.own
    assert cause == "t1 completed"
    assert [line for line in await said(own) if isinstance(line, dict)] == [INIT, words("by itself")]
    assert [line for line in await said(mine) if isinstance(line, dict)] == [INIT, words("yes")]


async def test_b02_what_names_nobody_here_ends_nobody_here() -> None:
    heard = Heard()
    mine = heard.stream.ask("p1")
    await heard.lines(started("p1"), INIT, result("another", "gone"))
    assert not mine.over
    await heard.lines(result("mine", "p1"))
    assert (await ending(mine)).text == "mine"


async def test_b02_two_prompts_merged_into_one_turn_are_both_answered_and_paid_once() -> None:
    heard = Heard()
    first, second = heard.stream.ask("p1"), heard.stream.ask("p2")
    await heard.lines(started("p1"), started("p2"), INIT, result("both", "p1", "p2"))
    ends = [await ending(first), await ending(second)]
    assert [end.text for end in ends] == ["both", "both"]
    assert [end.usage is not None for end in ends] == [True, False]


async def test_b02_a_prompt_taken_up_inside_of_an_own_turn_gets_the_rest_of_it() -> None:
    heard = Heard()
    await heard.lines(started("p0"), running("t1"), notified("t1"), running(), INIT, words("looking"))
    mine = heard.stream.ask("p1")
    await heard.lines(started("p1"), words("yes"), result("yes", "p1", origin=OWN))
    ((own, _),) = heard.own
    assert await ending(own) == ResultEvent(None)
    end = await ending(mine)
    assert (end.text, end.usage.output_tokens) == ("yes", 7)


async def test_b02_what_a_resumed_program_says_of_what_it_lost_is_no_turn_and_no_answer() -> None:
    """Five of six prompts after a kill ended `ok` with this empty text."""
    heard = Heard()
    mine = heard.stream.ask("p1")
    await heard.lines(
        notified("t0", "stopped"), INIT, result("", turns=0, origin={"kind": "task-notification"})
    )
    assert not mine.over
    assert not heard.own
    await heard.lines(started("p1"), INIT, result("yes", "p1"))
    assert (await ending(mine)).text == "yes"


async def test_b02_a_program_too_old_to_name_prompts_is_believed() -> None:
    heard = Heard()
    mine = heard.stream.ask("p1")
    await heard.lines(INIT, words("yes"), result("yes"))
    assert [type(each) for each in await said(mine)] == [dict, dict, ResultEvent]


async def test_b02_the_end_of_the_program_ends_every_turn_without_a_result() -> None:
    heard = Heard()
    mine = heard.stream.ask("p1")
    await heard.lines(started("p1"), INIT)
    heard.stream.close()
    assert await said(mine) == [INIT, None]


async def test_b01_a_turn_without_a_known_cause_is_announced_when_it_speaks() -> None:
    heard = Heard()
    await heard.lines(started("p0"), INIT, result("yes", "p0"), INIT, words("a schedule of mine"))
    assert [cause for _, cause in heard.own] == [UNASKED]
    await heard.lines(result("a schedule of mine"))
    assert (await ending(heard.own[0][0])).text == "a schedule of mine"


async def test_b01_the_end_of_a_command_in_the_foreground_is_no_cause() -> None:
    heard = Heard()
    mine = heard.stream.ask("p1")
    await heard.lines(started("p1"), INIT, notified("front"), result("yes", "p1"), INIT)
    assert mine.over
    assert not heard.own


async def test_b01_one_that_nobody_follows_keeps_its_result_and_holds_nobody_up() -> None:
    heard = Heard()
    await heard.lines(started("p0"), running("t1"), notified("t1"), INIT, *[words("x")] * 2_000)
    await heard.lines(result("the whole", origin=OWN))
    ((own, _),) = heard.own
    lines = await said(own)
    assert len(lines) < 300
    assert lines[-1].text == "the whole"


async def test_b04_lines_of_a_background_sub_agent_are_in_no_turn() -> None:
    heard = Heard()
    mine = heard.stream.ask("p1")
    await heard.lines(
        started("p1"), INIT, running("a1", kind="local_agent"),
        {"type": "system", "subtype": "task_started", "tool_use_id": "tool-1", "is_backgrounded": True},
        {**words("a child"), "agent_id": "a1", "parent_tool_use_id": "tool-1"}, words("mine"), result("mine", "p1"),
    )  # fmt: skip
    assert words("mine") in await said(mine)
    assert heard.stream.running["a1"].kind == "agent"


async def test_b05_what_an_interrupt_stopped_is_told_apart_from_what_ended() -> None:
    heard = Heard()
    await heard.lines(running("t1", "t2"))
    assert heard.told == [(["t1", "t2"], "")]
    heard.stream.interrupting = True
    await heard.lines(notified("t1", "stopped"), running("t2"))
    heard.stream.interrupting = False
    await heard.lines(notified("t2", "stopped"), running())
    assert heard.told[1:] == [(["t2"], INTERRUPTED), (["t2"], ""), ([], "")]
