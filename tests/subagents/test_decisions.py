"""People's decisions: what is asked, what fits, what runs, over nesting and restarts (A11, A12, A15-A21, A23, A24)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic_ai import ApprovalRequired, ModelRetry, RunContext, Tool

from tests.subagents.brains import Answer, Brain, calls, hangs, task
from tollboard.errors import InvalidDecision, InvalidStatus
from tollboard.runtime.approval import Approve, Edit, Reject
from tollboard.runtime.memory import DictMemory
from tollboard.subagents import (
    Completed,
    Failed,
    Halted,
    Interrupted,
    Outcome,
    Status,
    SubAgent,
    SubAgentConfig,
    SubAgentServer,
)
from tollboard.subagents.events import SubAgentEvent
from tollboard.subagents.outcome import Cause


class Desk:
    """Tools that note what ran."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, object]] = []

    def look(self, x: int = 0) -> str:
        """Look at something."""
        self.ran.append(("look", x))
        return f"saw {x}"

    def save(self, path: str) -> str:
        """Save something."""
        self.ran.append(("save", path))
        return f"saved {path}"

    def send(self, to: str) -> str:
        """Send something."""
        self.ran.append(("send", to))
        return f"sent to {to}"

    def boom(self) -> str:
        """Fail."""
        self.ran.append(("boom", None))
        raise RuntimeError("it broke")

    def halt(self) -> str:
        """Halt."""
        raise Halted("the budget is spent")

    def config(self, brain: Brain, name: str = "kid", **more: Any) -> SubAgentConfig:
        given = {
            "description": "does things", "system_prompt": "Do.", "interrupt_on": {"save": True, "send": True},
            "tools": (self.look, self.save, self.send, self.boom, self.halt),
        }  # fmt: skip
        return SubAgentConfig(name=name, model=brain.model, **{**given, **more})


async def run(config: SubAgentConfig, *rounds: Any, memory: DictMemory | None = None) -> Outcome:
    """Execute, then resume with each of the rounds."""
    async with SubAgentServer(memory=memory) as server:
        id = await server.start(SubAgent(config, "Go."))
        outcome = await server.execute(id)
        for decisions in rounds:
            assert isinstance(outcome, Interrupted), outcome
            outcome = await server.resume(id, decisions)
        return outcome


MIXED = calls(
    ("look", {"x": 1}, "l"),
    ("save", {"path": "a"}, "s1"),
    ("send", {"to": "b"}, "s2"),
    ("save", {"path": "c"}, "s3"),
)


async def test_a16_a17_the_interrupt_says_what_waits_and_nothing_guarded_ran() -> None:
    desk = Desk()
    guards = {"save": True, "send": {"allowed_decisions": ["approve", "reject"]}}
    outcome = await run(desk.config(Brain(MIXED, "done"), interrupt_on=guards))
    assert isinstance(outcome, Interrupted)
    requests = outcome.interrupt.requests
    assert [(r.tool_call_id, r.tool, dict(r.arguments)) for r in requests] == [
        ("s1", "save", {"path": "a"}), ("s2", "send", {"to": "b"}), ("s3", "save", {"path": "c"}),
    ]  # fmt: skip
    assert outcome.interrupt.review == {"save": ("approve", "edit", "reject"), "send": ("approve", "reject")}
    assert len(set(outcome.interrupt.ids)) == 3
    assert desk.ran == [("look", 1)]


async def test_a19_approve_edit_and_reject_in_one_answer() -> None:
    desk, brain = Desk(), Brain(MIXED, "done")
    outcome = await run(desk.config(brain), [Approve(), Edit({"to": "c"}), Reject("not that one")])
    assert isinstance(outcome, Completed)
    assert sorted(desk.ran, key=str) == [("look", 1), ("save", "a"), ("send", "c")]
    results = brain.results()
    assert results["l"] == "saw 1"
    assert results["s1"] == "saved a"
    assert results["s2"].startswith("sent to c")
    assert 'changed the arguments of this call before it ran, to {"to": "c"}' in results["s2"]
    assert results["s3"] == "A person rejected this call; it was not run: not that one"


async def test_a18_decisions_also_parse_from_plain_dicts() -> None:
    desk = Desk()
    given = [
        {"type": "approve"},
        {"type": "edit", "arguments": {"to": "c"}},
        {"type": "reject", "message": "no"},
    ]
    assert isinstance(await run(desk.config(Brain(MIXED, "done")), given), Completed)
    assert ("send", "c") in desk.ran


async def test_a18_e67_by_tool_call_id_in_any_order() -> None:
    desk = Desk()
    given = {"s3": Reject("no"), "s1": Approve(), "s2": Reject("no")}
    assert isinstance(await run(desk.config(Brain(MIXED, "done")), given), Completed)
    assert sorted(desk.ran) == [("look", 1), ("save", "a")]


async def test_a18_partial_decisions_are_kept_and_applied_when_complete() -> None:
    desk, brain = Desk(), Brain(MIXED, "done")
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(desk.config(brain), "Go."))
        await server.execute(id)
        outcome = await server.resume(id, {"s2": Approve()})
        assert isinstance(outcome, Interrupted)
        assert [request.tool_call_id for request in outcome.interrupt.requests] == ["s1", "s3"]
        assert desk.ran == [("look", 1)]
        assert isinstance(await server.resume(id, [Reject(), Approve()]), Completed)
    assert sorted(desk.ran) == [("look", 1), ("save", "c"), ("send", "b")]


@pytest.mark.parametrize(
    ("decisions", "says"),
    [
        ([], "0 decisions were given, 3 calls wait"),
        ([Approve()] * 4, "4 decisions were given, 3 calls wait"),
        ({"nope": Approve()}, "no call waits under the id 'nope'; waiting are: s1, s2, s3"),
        ([{"type": "maybe"}, Approve(), Approve()], "decision for s1: decision type 'maybe' is unknown"),
        ([Approve(), {"type": "edit"}, Approve()], "decision for s2: edit needs 'arguments'"),
        (
            [Approve(), Approve(), Edit({"path": 7})],
            "decision for 'save' (s3): edit: the arguments do not fit 'save': path",
        ),
        ([Edit({}), Approve(), Approve()], "'path' is a required property"),
        ([Edit({"path": "x", "more": 1}), Approve(), Approve()], "more"),
        (["yes", Approve(), Approve()], "a decision is an object"),
    ],
)
async def test_a18_e61_a_fault_names_the_decision_and_leaves_the_interrupt_intact(
    decisions: Any, says: str
) -> None:
    desk, brain = Desk(), Brain(MIXED, "done")
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(desk.config(brain), "Go."))
        before = await server.execute(id)
        with pytest.raises(InvalidDecision) as refused:
            await server.resume(id, decisions)
        assert says in str(refused.value)
        assert server.get_status(id) is Status.INTERRUPTED
        assert desk.ran == [("look", 1)]
        assert isinstance(before, Interrupted)
        assert server._tree.runs[id].interrupt() == before.interrupt
        assert isinstance(await server.resume(id, [Approve()] * 3), Completed)


async def test_a16_e61_a_type_that_is_not_allowed() -> None:
    desk = Desk()
    config = desk.config(Brain(MIXED, "done"), interrupt_on={"save": {"allowed_decisions": ["approve"]}})
    with pytest.raises(InvalidDecision, match=r"reject is not allowed for 'save'; allowed: approve"):
        await run(config, [Approve(), Reject()])


async def test_a16_a_guard_set_to_false_frees_a_tool_that_wants_approval() -> None:
    desk = Desk()
    tool = Tool(desk.look, requires_approval=True)
    config = desk.config(Brain(calls(("look", {}, "l")), "done"), tools=(tool,), interrupt_on={"look": False})
    assert isinstance(await run(config), Completed)
    assert desk.ran == [("look", 0)]


async def test_a16_a_tool_that_wants_approval_is_guarded_without_being_named() -> None:
    desk = Desk()
    tool = Tool(desk.look, requires_approval=True)
    config = desk.config(Brain(calls(("look", {"x": 1}, "l")), "done"), tools=(tool,), interrupt_on={})
    assert isinstance(await run(config, [Edit({"x": 2})]), Completed)
    assert desk.ran == [("look", 2)]


async def test_e58_a_tool_that_asks_by_itself() -> None:
    ran: list[bool] = []

    def pay(ctx: RunContext[None], amount: int) -> str:
        """Pay."""
        if amount > 10 and not ctx.tool_call_approved:
            raise ApprovalRequired
        ran.append(ctx.tool_call_approved)
        return f"paid {amount}"

    brain = Brain(calls(("pay", {"amount": 5}, "p1"), ("pay", {"amount": 50}, "p2")), "done")
    outcome = await run(Desk().config(brain, tools=(pay,), interrupt_on={}), [Approve()])
    assert isinstance(outcome, Completed)
    assert ran == [False, True]
    assert brain.results() == {"p1": "paid 5", "p2": "paid 50"}


async def test_a_tool_that_raises_is_told_to_the_model_and_the_run_goes_on() -> None:
    desk, brain = Desk(), Brain(calls(("boom", {}, "b"), ("look", {"x": 1}, "l")), "done")
    assert isinstance(await run(desk.config(brain)), Completed)
    assert brain.results() == {"b": "RuntimeError: it broke", "l": "saw 1"}


async def test_a_tool_that_asks_for_another_try_gets_it() -> None:
    tries: list[int] = []

    def picky(x: int) -> str:
        """Be picky."""
        tries.append(x)
        if x < 2:
            raise ModelRetry("larger, please")
        return "good"

    brain = Brain(calls(("picky", {"x": 1}, "p1")), calls(("picky", {"x": 2}, "p2")), "done")
    assert isinstance(await run(Desk().config(brain, tools=(picky,), interrupt_on={})), Completed)
    assert tries == [1, 2]
    assert "larger, please" in brain.results()["p1"]


# -- the completion tool, and limits


@pytest.mark.parametrize("kind", ["until_tool", "until_tool_success"])
async def test_a11_the_completion_tools_result_is_the_result(kind: str) -> None:
    def submit(answer: str) -> dict[str, str]:
        """Hand in."""
        return {"answer": answer}

    brain = Brain(calls(("submit", {"answer": "42"}, "s"), text="here"), "never asked")
    outcome = await run(Desk().config(brain, tools=(submit,), interrupt_on={}, **{kind: "submit"}))
    assert isinstance(outcome, Completed)
    assert (outcome.result, outcome.extra) == ('{"answer": "42"}', {"answer": "42"})
    assert brain.asked == 1


async def test_a11_e76_an_error_of_the_completion_tool_is_a_failure() -> None:
    brain = Brain(calls(("boom", {}, "b")), "never asked")
    outcome = await run(Desk().config(brain, until_tool="boom"))
    assert isinstance(outcome, Failed)
    assert (outcome.cause, brain.asked) == (Cause.UNTIL_TOOL, 1)
    assert "it broke" in outcome.reason


async def test_a11_with_success_an_error_keeps_the_loop_going() -> None:
    tries: list[int] = []

    def submit() -> str:
        """Hand in."""
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("not yet")
        return "accepted"

    brain = Brain(calls(("submit", {}, "s1")), calls(("submit", {}, "s2")), "never asked")
    outcome = await run(Desk().config(brain, tools=(submit,), interrupt_on={}, until_tool_success="submit"))
    assert isinstance(outcome, Completed)
    assert (outcome.result, brain.asked) == ("accepted", 2)


async def test_a11_stopping_without_the_tool_is_a_failure() -> None:
    outcome = await run(Desk().config(Brain("I am done"), until_tool="look"))
    assert isinstance(outcome, Failed)
    assert "without calling its completion tool 'look'" in outcome.reason


async def test_a11_e63_a_completion_tool_beside_a_guarded_call_never_drops_the_approval() -> None:
    desk = Desk()
    brain = Brain(calls(("look", {"x": 7}, "l"), ("save", {"path": "a"}, "s")), "never asked")
    config = desk.config(brain, until_tool="look")
    first = await run(config)
    assert isinstance(first, Interrupted)
    desk.ran.clear()
    outcome = await run(config, [Approve()])
    assert isinstance(outcome, Completed)
    assert outcome.extra == "saw 7"
    assert sorted(desk.ran) == [("look", 7), ("save", "a")]
    assert brain.asked == 2


async def test_a12_a_run_away_loop_ends_with_a_clear_reason_also_across_resumes() -> None:
    desk = Desk()

    async def again(messages: list[Any]) -> Answer:
        return calls(
            ("look", {"x": len(messages)}, f"l{len(messages)}"), ("save", {"path": "p"}, f"s{len(messages)}")
        )

    brain = Brain(again)
    outcome = await run(desk.config(brain, max_runs=3), [Approve()], [Approve()], [Approve()])
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.MAX_RUNS
    assert "3 times" in outcome.reason
    assert brain.asked == 3


async def test_a12_usage_adds_up_across_resumes_and_children() -> None:
    desk = Desk()
    kid = Brain(calls(("save", {"path": "p"}, "s")), "kid done")
    top = Brain(calls(task("kid", "Go.", "t")), calls(task("kid", "Again.", "t")), "done")
    config = desk.config(top, "top", sub_agents=(desk.config(kid),))
    outcome = await run(config, [Approve()], [Approve()])
    assert isinstance(outcome, Completed)
    assert outcome.usage.output_tokens is not None
    kid_alone = await run(desk.config(Brain(calls(("save", {"path": "p"}, "s")), "kid done")), [Approve()])
    assert isinstance(kid_alone, Completed)
    top_alone = Brain(calls(task("kid", "Go.", "t")), calls(task("kid", "Again.", "t")), "done")
    plain = desk.config(top_alone, "top", sub_agents=(desk.config(Brain("kid done")),))
    alone = await run(plain)
    short = await run(desk.config(Brain("kid done")))
    assert isinstance(alone, Completed)
    assert isinstance(short, Completed)
    wanted = (alone.usage.output_tokens or 0) + 2 * (
        (kid_alone.usage.output_tokens or 0) - (short.usage.output_tokens or 0)
    )
    assert outcome.usage.output_tokens == wanted


# -- nesting


def nested(desk: Desk, *, levels: int = 3) -> tuple[SubAgentConfig, list[Brain]]:
    """A chain: each level starts two of the next; the lowest saves."""
    leaf = Brain(calls(("look", {"x": 1}, "l"), ("save", {"path": "leaf"}, "s")), "leaf done")
    config, brains = desk.config(leaf, f"level{levels}"), [leaf]
    for level in range(levels - 1, 0, -1):
        below = config.name
        brain = Brain(calls(task(below, "one", "t1"), task(below, "two", "t2")), f"level {level} done")
        config = desk.config(brain, f"level{level}", sub_agents=(config,))
        brains.insert(0, brain)
    return config, brains


async def test_a15_several_tasks_of_one_message_run_side_by_side() -> None:
    both = asyncio.Barrier(2)

    async def meet(messages: list[Any]) -> Answer:
        await both.wait()  # neither would come back if they ran one after the other
        return "met"

    kid = Brain(meet)
    desk = Desk()
    top = desk.config(
        Brain(calls(task("kid", "a", "t1"), task("kid", "b", "t2")), "done"),
        "top",
        sub_agents=(desk.config(kid),),
    )
    assert isinstance(await run(top), Completed)


async def test_a20_e54_e55_e56_e59_three_levels_with_two_branches_interrupted_at_once() -> None:
    desk = Desk()
    config, brains = nested(desk)
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(config, "Go."))
        outcome = await server.execute(id)
        assert isinstance(outcome, Interrupted)
        requests = outcome.interrupt.requests
        assert [request.path for request in requests] == [("level1", "level2", "level3")] * 4
        assert len({request.id for request in requests}) == 4
        assert requests[0].display == "level1 › level2 › level3: save"
        outcome = await server.resume(id, [Approve(), Edit({"path": "x"}), Reject("no"), Approve()])
    assert isinstance(outcome, Completed)
    assert sorted(desk.ran, key=str) == [
        *[("look", 1)] * 4,
        ("save", "leaf"),
        ("save", "leaf"),
        ("save", "x"),
    ]
    assert [brain.asked for brain in brains] == [2, 4, 8]  # E57: no sibling ran again
    assert brains[0].results() == {"t1": "level 2 done", "t2": "level 2 done"}  # E55, E56


async def test_e57_a_sibling_that_was_done_is_not_run_again() -> None:
    desk = Desk()
    fast = Brain("fast done")
    slow = Brain(calls(("save", {"path": "p"}, "s")), "slow done")
    top = Brain(calls(task("fast", "a", "t1"), task("slow", "b", "t2"), ("look", {"x": 3}, "l")), "done")
    config = desk.config(top, "top", sub_agents=(desk.config(fast, "fast"), desk.config(slow, "slow")))
    assert isinstance(await run(config, [Approve()]), Completed)
    assert fast.asked == 1
    assert sorted(desk.ran) == [("look", 3), ("save", "p")]
    assert top.results() == {"t1": "fast done", "t2": "slow done", "l": "saw 3"}


async def test_a20_the_parents_own_guard_and_a_sub_agents_are_answered_together() -> None:
    desk = Desk()
    kid = Brain(calls(("save", {"path": "kid"}, "same-id")), "kid done")
    top = Brain(calls(task("kid", "a", "t1"), ("send", {"to": "x"}, "same-id")), "done")
    config = desk.config(top, "top", sub_agents=(desk.config(kid),))
    outcome = await run(config, [Approve(), Reject("no")])
    assert isinstance(outcome, Completed)
    assert desk.ran == [("save", "kid")]
    assert top.results()["same-id"].startswith("A person rejected")


async def test_a21_e74_a_halt_below_ends_the_whole_run_with_its_name() -> None:
    desk = Desk()
    kid = Brain(calls(("halt", {}, "h")), "never")
    top = Brain(calls(task("kid", "a", "t1")), "never")
    events: list[SubAgentEvent] = []
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(SubAgent(desk.config(top, "top", sub_agents=(desk.config(kid),)), "Go."))
        outcome = await server.execute(id)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.halted_by, outcome.reason) == (Cause.HALTED, "kid", "the budget is spent")
    failed = [event for event in events if event.kind == "subagent_failed"]
    assert [event.name for event in failed] == ["kid", "top"]
    assert (kid.asked, top.asked) == (1, 1)


async def test_a21_a_halt_ends_siblings_that_still_run() -> None:
    desk, asked = Desk(), asyncio.Event()

    async def halts(messages: list[Any]) -> Answer:
        await asked.wait()
        return calls(("halt", {}, "h"))

    kids = (desk.config(Brain(halts), "halts"), desk.config(Brain(hangs(asked)), "hangs"))
    top = desk.config(
        Brain(calls(task("halts", "a", "t1"), task("hangs", "b", "t2"))), "top", sub_agents=kids
    )
    events: list[SubAgentEvent] = []
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(SubAgent(top, "Go."))
        outcome = await server.execute(id)
    assert isinstance(outcome, Failed)
    assert [event.name for event in events if event.kind == "subagent_cancelled"] == ["hangs"]


# -- once


async def test_a24_e89_the_same_decision_by_two_at_once_runs_every_tool_once() -> None:
    desk = Desk()
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(desk.config(Brain(MIXED, "done")), "Go."))
        await server.execute(id)
        first, second = await asyncio.gather(
            server.resume(id, [Approve()] * 3), server.resume(id, [Approve()] * 3), return_exceptions=True
        )
    assert isinstance(first, Completed)
    assert isinstance(second, InvalidStatus)
    assert sorted(desk.ran) == [("look", 1), ("save", "a"), ("save", "c"), ("send", "b")]


class Crash(BaseException):
    """The process ends here."""


async def _life(memory: DictMemory, config: SubAgentConfig, decisions: Any = None) -> Outcome:
    """One process: it takes the run up from memory, decides if it waits, and is gone without a goodbye."""
    server = SubAgentServer(memory=memory)
    id = await server.start(SubAgent(config, "Go.", id="one"))
    if server.get_status(id) is Status.INTERRUPTED:
        return await server.resume(id, decisions)
    return await server.execute(id)


async def test_a23_decided_in_a_new_process_without_repeating_what_ran() -> None:
    desk, memory = Desk(), DictMemory()
    config, _ = nested(desk)
    assert isinstance(await _life(memory, config), Interrupted)
    outcome = await _life(memory, nested(desk)[0], [Approve()] * 4)
    assert isinstance(outcome, Completed)
    assert sorted(desk.ran) == [*[("look", 1)] * 4, *[("save", "leaf")] * 4]


async def test_a23_partial_decisions_survive_too() -> None:
    desk, memory = Desk(), DictMemory()
    assert isinstance(await _life(memory, desk.config(Brain(MIXED, "done"))), Interrupted)
    assert isinstance(await _life(memory, desk.config(Brain(MIXED, "done")), {"s1": Approve()}), Interrupted)
    outcome = await _life(memory, desk.config(Brain(MIXED, "done")), [Reject(), Reject()])
    assert isinstance(outcome, Completed)
    assert sorted(desk.ran) == [("look", 1), ("save", "a")]


async def test_a23_a_crash_between_two_calls_repeats_none_and_says_what_is_unknown() -> None:
    memory, ran = DictMemory(), list[str]()

    async def first() -> str:
        """First."""
        ran.append("first")
        return "one"

    async def second() -> str:
        """Second."""
        ran.append("second")
        raise Crash

    def config(brain: Brain) -> SubAgentConfig:
        tools = (Tool(first), Tool(second, sequential=True))
        return Desk().config(brain, tools=tools, interrupt_on={})

    script: Sequence[Answer] = (
        calls(("first", {}, "f")),
        calls(("first", {}, "f2"), ("second", {}, "s")),
        "done",
    )
    with pytest.raises(Crash):
        await _life(memory, config(Brain(*script)))
    brain = Brain(*script)
    outcome = await _life(memory, config(brain))
    assert isinstance(outcome, Completed)
    assert sorted(ran) == ["first", "first", "second"]
    assert brain.asked == 1
    assert brain.results()["f"] == brain.results()["f2"] == "one"
    assert "not known whether this call ran" in brain.results()["s"]


async def test_a23_what_is_repeatable_may_run_again_after_a_crash() -> None:
    memory, tries = DictMemory(), list[int]()

    async def peek() -> str:
        """Peek."""
        tries.append(1)
        if len(tries) == 1:
            raise Crash
        return "seen"

    def config(brain: Brain) -> SubAgentConfig:
        return Desk().config(brain, tools=(peek,), interrupt_on={}, repeatable=frozenset({"peek"}))

    with pytest.raises(Crash):
        await _life(memory, config(Brain(calls(("peek", {}, "p")), "done")))
    brain = Brain(calls(("peek", {}, "p")), "done")
    assert isinstance(await _life(memory, config(brain)), Completed)
    assert brain.results() == {"p": "seen"}


async def test_a23_what_has_ended_gives_its_outcome_again_after_a_restart() -> None:
    memory = DictMemory()
    done = await _life(memory, Desk().config(Brain("done")))
    server = SubAgentServer(memory=memory)
    await server.start(SubAgent(Desk().config(Brain(RuntimeError("never"))), "Go.", id="one"))
    assert server.get_status("one") is Status.COMPLETED
    assert await server._tree.runs["one"].go() == done


async def test_providers_that_use_a_call_id_again_confuse_nothing() -> None:
    desk = Desk()
    brain = Brain(
        calls(("look", {"x": 1}, "call_0"), ("look", {"x": 2}, "call_0")),
        calls(("look", {"x": 3}, "call_1")),
        "done",
    )
    assert isinstance(await run(desk.config(brain), memory=DictMemory()), Completed)
    assert sorted(desk.ran) == [("look", 1), ("look", 2), ("look", 3)]
