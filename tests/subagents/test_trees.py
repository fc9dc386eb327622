"""Trees of sub-agents with random guards and decisions against a plain model: which calls ran, with what, how often."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.subagents.brains import Answer, Brain, calls, task
from tollboard.runtime.approval import Approve, Decision, Edit, Reject
from tollboard.runtime.memory import DictMemory
from tollboard.subagents import Completed, Interrupted, Status, SubAgent, SubAgentConfig, SubAgentServer


@dataclass
class Node:
    """One agent: its steps; each is a list of calls: a guarded or a free number, or a child."""

    name: str
    steps: list[list[tuple[str, int] | Node]] = field(default_factory=list)


@st.composite
def trees(draw: st.DrawFn, depth: int = 0, name: str = "n") -> Node:
    node = Node(name)
    numbers = 0
    for step in range(draw(st.integers(1, 2))):
        made: list[tuple[str, int] | Node] = []
        for place in range(draw(st.integers(1, 3))):
            kinds = ["free", "guarded"] + (["child"] if depth < 2 else [])
            kind = draw(st.sampled_from(kinds))
            if kind == "child":
                made.append(draw(trees(depth + 1, f"{name}{step}{place}")))
            else:
                numbers += 1
                made.append((kind, numbers))
        node.steps.append(made)
    return node


DECISIONS = st.one_of(
    st.just(Approve()),
    st.just(Reject("no")),
    st.builds(lambda n: Edit({"value": f"edited {n}"}), st.integers(0, 3)),
)


def build(node: Node, ran: Counter[str]) -> SubAgentConfig:
    """Return the agent that plays the node."""

    def free(value: str) -> str:
        """Run freely."""
        ran[f"free {value}"] += 1
        return value

    def guarded(value: str) -> str:
        """Run when allowed."""
        ran[f"guarded {value}"] += 1
        return value

    answers: list[Answer] = []
    children: list[SubAgentConfig] = []
    for number, step in enumerate(node.steps):
        made: list[tuple[str, dict[str, Any], str]] = []
        for place, item in enumerate(step):
            id = f"c{number}{place}"
            if isinstance(item, Node):
                children.append(build(item, ran))
                made.append(task(item.name, "Go.", id))
            else:
                made.append((item[0], {"value": f"{node.name}#{item[1]}"}, id))
        answers.append(calls(*made))
    return SubAgentConfig(
        name=node.name, description="d", system_prompt="s", tools=(free, guarded), interrupt_on={"guarded": True},
        model=Brain(*answers, f"{node.name} done").model, sub_agents=tuple(children),
    )  # fmt: skip


def expected(node: Node, decided: dict[str, Decision]) -> Counter[str]:
    """What must have run: everything free, what was approved as it was, what was edited as it was edited."""
    wanted: Counter[str] = Counter()
    for step in node.steps:
        for item in step:
            if isinstance(item, Node):
                wanted += expected(item, decided)
            elif item[0] == "free":
                wanted[f"free {node.name}#{item[1]}"] += 1
            else:
                match decided[f"{node.name}#{item[1]}"]:
                    case Approve():
                        wanted[f"guarded {node.name}#{item[1]}"] += 1
                    case Edit(arguments):
                        wanted[f"guarded {arguments['value']}"] += 1
    return wanted


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a18_a20_a23_every_call_runs_once_with_the_arguments_that_were_decided(data: st.DataObject) -> None:
    asyncio.run(_play(data))


async def _play(data: st.DataObject) -> None:
    tree, ran, memory = data.draw(trees()), Counter[str](), DictMemory()
    decided: dict[str, Decision] = {}

    async def process() -> SubAgentServer:
        server = SubAgentServer(memory=memory)
        await server.start(SubAgent(build(tree, ran), "Go.", id="root"))
        return server

    server = await process()
    outcome = await server.execute("root")
    while isinstance(outcome, Interrupted):
        if data.draw(st.booleans(), label="a new process"):
            server = await process()
            assert server.get_status("root") is Status.INTERRUPTED
        requests = outcome.interrupt.requests
        chosen = data.draw(
            st.lists(st.sampled_from(requests), min_size=1, unique_by=lambda r: r.id), label="decided now"
        )
        decisions = {request.id: data.draw(DECISIONS) for request in chosen}
        for request in chosen:
            decided[str(request.arguments["value"])] = decisions[request.id]
        outcome = await server.resume("root", decisions)
    assert isinstance(outcome, Completed), outcome
    assert outcome.result == f"{tree.name} done"
    assert ran == expected(tree, decided)
    await server.close()
