"""The example of how sub-agents are used, as a user writes it: names from the package's root, outcomes by `match`."""

from __future__ import annotations

import pytest

from tests.subagents.brains import Brain, calls
from tests.subagents.test_server import config
from tollboard import Approve, Completed, Edit, Failed, Interrupted, SubAgent, SubAgentServer

TWO = calls(("save", {"path": "a.txt"}, "s1"), ("save", {"path": "b.txt"}, "s2"))


async def test_a32_the_example_of_sub_agents_runs_as_it_is_written() -> None:
    brain = Brain(TWO, "wind and sun")
    researcher = config(brain, "researcher", interrupt_on={"save": True})

    server = SubAgentServer()
    subagent = SubAgent(config=researcher, instructions="Research renewable energy", parent="main-agent")
    await server.start(subagent)
    match await server.execute(subagent.id):
        case Completed(result=text):
            pytest.fail(f"nobody was asked: {text}")
        case Interrupted(interrupt=questions):
            assert len(questions.requests) == 2
            outcome = await server.resume(subagent.id, [Approve(), Edit(arguments={"path": "safe.txt"})])
        case Failed(reason=why):
            pytest.fail(str(why))
    match outcome:
        case Completed(result=text):
            assert text == "wind and sun"
        case _:
            pytest.fail(f"{outcome}")
    await server.stop(subagent.id)
    assert "saved safe.txt" in brain.results()["s2"]
