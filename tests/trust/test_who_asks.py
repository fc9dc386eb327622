"""Only a person approves: real processes of sessions, however they detach themselves, get an agent's rights."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.trust.agents import DUMMY_KEY, Agents, agents_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """Agents may do nothing, which is the default."""
    with agents_of(tmp_path_factory.mktemp("s"), tmp_path_factory.mktemp("p")) as agents:
        yield agents


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """Agents may do the most that can be set."""
    config = "agents_may = ['read', 'send']"
    with agents_of(tmp_path_factory.mktemp("t"), tmp_path_factory.mktemp("q"), config) as agents:
        yield agents


def plain(words: list[str]) -> list[str]:
    return words


def below_a_shell(words: list[str]) -> list[str]:
    return ["sh", "-c", f"{shlex.join(words)}; true"]


def in_the_background(words: list[str]) -> list[str]:
    return ["sh", "-c", f"({shlex.join(words)} &) & true"]


def in_a_session_of_its_own(words: list[str]) -> list[str]:
    return ["setsid", "-f", *words]


def without_environment(words: list[str]) -> list[str]:
    return ["env", "-i", *words]


def hidden(words: list[str]) -> list[str]:
    return ["sh", "-c", f"env -i setsid nohup {shlex.join(words)} >/dev/null 2>&1 &"]


MARKED = {
    "direct": plain,
    "grandchild": below_a_shell,
    "double fork": in_the_background,
    "setsid": in_a_session_of_its_own,
}
UNMARKED = {"env -i": without_environment, "env -i setsid nohup": hidden}
WAYS = {**MARKED, **UNMARKED}


@pytest.mark.parametrize("way", WAYS)
def test_s27_a_sessions_process_may_do_nothing_here(strict: Agents, way: str) -> None:
    words, fifo = strict.probe("ask")
    strict.run(WAYS[way](words))
    said = strict.answers(fifo)
    strict.clear()
    assert {status for status, _ in said.values()} == {403}, said
    assert "only a person approves" in said["decide"][1]
    assert strict.undecided()


@pytest.mark.parametrize("how", ["fork", "leave"])
def test_s27_a_process_whose_parents_have_ended_is_still_an_agents(strict: Agents, how: str) -> None:
    words, fifo = strict.probe(how)
    strict.run(words)
    said = strict.answers(fifo)
    strict.clear()
    assert {status for status, _ in said.values()} == {403}, said
    assert strict.undecided()


@pytest.mark.parametrize("how", ["ask", "fork", "leave"])
def test_s27_the_admin_token_over_tcp_makes_no_person_of_an_agent(strict: Agents, how: str) -> None:
    words, fifo = strict.probe(how, strict.served.tcp_address, strict.served.secret)
    strict.run(words)
    said = strict.answers(fifo)
    strict.clear()
    assert {status for status, _ in said.values()} == {403}, said
    assert strict.undecided()


def test_s27_this_process_is_a_person_on_both_doors(strict: Agents) -> None:
    with strict.served.unix() as http:
        assert http.post("/v1/list_sessions", json={}).status_code == 200
    with strict.served.tcp(strict.served.secret) as http:
        assert http.post("/v1/delete_session", json={"name": "nobody"}).status_code == 404


@pytest.mark.parametrize("way", MARKED)
def test_s27_agents_may_read_and_send_where_a_person_has_said_so(trusting: Agents, way: str) -> None:
    words, fifo = trusting.probe("ask")
    trusting.run(MARKED[way](words), "helper")
    said = trusting.answers(fifo)
    started = [
        item for item in trusting.call("events", kinds=["session.started"])["items"]
        if item["session"] == "by-agent"
    ]  # fmt: skip
    trusting.left.append("by-agent")
    trusting.clear()
    assert [said[name][0] for name in ("list_sessions", "start_session", "decide", "delete_session")] == [
        200, 200, 403, 403,
    ], said  # fmt: skip
    assert "session 'helper'" in said["decide"][1]
    assert started[-1]["data"]["by"] == "agent:helper"
    assert trusting.undecided()


def test_s27_a_process_that_belongs_to_no_known_session_gets_nothing(trusting: Agents) -> None:
    words, fifo = trusting.probe("leave")
    trusting.run(words, "helper")
    said = trusting.answers(fifo)
    trusting.clear()
    assert {status for status, _ in said.values()} == {403}, said


def test_s27_a_worker_of_a_pool_is_an_agent_too(trusting: Agents) -> None:
    words, fifo = trusting.probe("ask")
    trusting.call(
        "pool_start", name="crew", size=1, path=str(trusting.place), backend="scripted",
        options={"script": [[{"process": words}, {"hang": True}]]},
    )  # fmt: skip
    trusting.call("pool_submit", name="crew", tasks=[{"prompt": "go"}])
    said = trusting.answers(fifo)
    trusting.call("pool_stop", name="crew")
    trusting.left.append("by-agent")
    trusting.clear()
    assert (said["start_session"][0], said["decide"][0]) == (200, 403), said
    assert "session 'crew/" in said["decide"][1]


@pytest.mark.claude
async def test_s27_the_shell_and_the_mcp_servers_of_claude_code_are_agents(
    strict: Agents, claude_options: dict[str, Any]
) -> None:
    words, fifo = strict.probe("leave")
    server, told = strict.probe("ask")
    options = {
        **claude_options, "allowed_tools": ["Bash"],
        "env": {**claude_options["env"], "ANTHROPIC_API_KEY": f"${DUMMY_KEY}"},
        "mcp_servers": {"probe": {"type": "stdio", "command": server[0], "args": server[1:]}},
    }  # fmt: skip
    path = options.pop("cwd")
    call = partial(asyncio.to_thread, strict.call)
    await call("start_session", name="claude", path=path, backend="claude", options=options)
    ref = await call("send", name="claude", prompt=f"run {shlex.join(words)}")
    said = [await asyncio.to_thread(strict.answers, one) for one in (told, fifo)]
    await call("wait", refs=[ref], timeout=30.0)
    strict.left.append("claude")
    await asyncio.to_thread(strict.clear)
    for answers in said:
        assert {status for status, _ in answers.values()} == {403}, answers
        assert "only a person approves" in answers["decide"][1]
    assert "session 'claude'" in said[0]["decide"][1]
    assert strict.undecided()
