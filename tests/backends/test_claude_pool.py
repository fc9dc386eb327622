"""Pools of real Claude Code programs, against the stand-in for their API: the example, and pools of the daemon."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import tollboard.backends as backends
from tests.fakes.messages_api import Answer, MessagesAPI, Request, Text, Tools
from tollboard.backends._process import find_processes
from tollboard.fleet.pools.pools import NOBODY_ASKS, Pools
from tollboard.ids import new_ref
from tollboard.pool.pool import Pool
from tollboard.store.store import Store

pytestmark = pytest.mark.claude

REVIEW = Path(__file__).parents[2] / "examples" / "pool_review.py"
Options = dict[str, object]


def reads_and_judges(directory: Path) -> object:
    """Return what plays the model: it reads the file that the prompt names, then quotes its first line."""

    def answer(request: Request) -> Answer | None:
        if not request.text.startswith("Review "):
            return None
        if request.tool_results:
            return Text(f"saw {request.tool_results[0].split('# ')[-1].split()[0]}")
        name = request.text.split()[1].rstrip(":")
        return Tools([("Read", {"file_path": str(directory / name)})])

    return answer


async def test_p02_every_file_of_a_directory_is_reviewed_by_claude(
    claude_options: Options, messages_api: MessagesAPI, tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location("pool_review", REVIEW)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    directory = tmp_path / "project"
    directory.mkdir()
    for n in range(5):
        (directory / f"m{n}.py").write_text(f"# word{n}\n" + "x = 1\n" * n)
    messages_api.handler = reads_and_judges(directory)  # type: ignore[assignment]
    marker = ("TOLLBOARD_POOL_TEST", new_ref())
    given = {name: value for name, value in claude_options.items() if name != "cwd"}
    results = await example.review(
        directory, backend="claude", workers=2, env_marker="=".join(marker), **given
    )
    assert [(r.prompt.split()[1], r.text) for r in results] == [
        (f"m{n}.py:", f"saw word{n}") for n in range(5)
    ]
    assert {r.worker.rpartition("-")[2] for r in results} <= {"0", "1"}
    assert all(r.usage is not None and r.usage.cost_usd for r in results)
    assert len({request.session for request in messages_api.requests}) == 5, "a conversation for each task"
    assert not await find_processes(marker=marker)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "state" / "tollboard.db")
    yield opened
    await opened.close()


async def test_p14_a_pool_of_claude_in_the_daemon_survives_a_restart_and_never_hangs_on_a_question(
    claude_options: Options, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "dummy")
    env = {**claude_options["env"], "ANTHROPIC_API_KEY": "$TEST_KEY"}  # type: ignore[dict-item]
    given = {name: value for name, value in claude_options.items() if name != "cwd"} | {"env": env}
    cwd = Path(str(claude_options["cwd"]))
    pools = await Pools.open(store.pools, backends=backends)
    await pools.start("p", 2, path=cwd, backend="claude", strategy="shared_queue", **given)
    await pools.submit("p", ["say one", f"write {cwd / 'made.txt'} text", "fail 400"])
    view = await pools.wait("p", timeout=100)
    assert (view.done, view.ok, view.failed) == (True, 2, 1)
    said, asked, failed = (await pools.results("p")).results
    assert (said.text, failed.reason) == ("one", "backend_error")
    assert NOBODY_ASKS in asked.text, "the model was told why it may not"
    assert not (cwd / "made.txt").exists()
    await pools.close(grace_s=0)
    again = await Pools.open(store.pools, backends=backends)
    await again.submit("p", "say two")
    assert (await again.wait("p", timeout=100)).ok == 3
    await again.close(grace_s=0)


async def test_p15_p16_tasks_of_claude_have_conversations_of_their_own_in_one_program_that_knows_its_role(
    claude_options: Options, messages_api: MessagesAPI
) -> None:
    marker = ("TOLLBOARD_POOL_TEST", new_ref())
    pids: set[int] = set()
    async with Pool.start(
        1, role="trivia expert", backend="claude", env_marker="=".join(marker), **claude_options
    ) as pool:  # type: ignore[arg-type] # the backend's own options
        for number in range(4):
            await pool.map([f"say answer-{number}"])
            pids |= {process.pid for process in await find_processes(marker=marker)}
        results = pool.results().results
    assert [result.text for result in results] == [f"answer-{number}" for number in range(4)]
    assert len(pids) == 1, "one program, warm over all tasks"
    for number, request in enumerate(messages_api.requests):
        body = str(request.body)
        assert [f"answer-{other}" in body for other in range(4)] == [other == number for other in range(4)]
        assert "You are a trivia expert." in str(request.body["system"])
    used = {(result.usage.input_tokens, result.usage.cost_usd) for result in results[1:] if result.usage}
    assert len(used) == 1
    assert not await find_processes(marker=marker)


async def test_p15_what_a_task_left_in_the_background_does_not_reach_the_next(
    claude_options: Options, messages_api: MessagesAPI
) -> None:
    def answer(request: Request) -> Answer | None:
        if request.text == "leave" and not request.tool_results:
            given = {"command": "sleep 300; echo LEFT", "run_in_background": True}
            return Tools([("Bash", given)])
        return None

    messages_api.handler = answer
    marker = ("TOLLBOARD_POOL_TEST", new_ref())
    given = {**claude_options, "allowed_tools": ["Bash"], "env_marker": "=".join(marker)}
    async with Pool.start(1, backend="claude", **given) as pool:  # type: ignore[arg-type]
        results = await pool.map(["leave", "recall", "say last"])
    assert [result.ok for result in results] == [True] * 3
    assert "leave" not in results[1].text
    assert not any("LEFT" in str(request.body) for request in messages_api.requests[2:])
    assert not await find_processes(marker=marker)


@pytest.mark.parametrize(
    ("prompt", "attempts", "calls"),
    [("fail 401", 1, 1), ("fail 500 2", 3, 3)],
    ids=["a wrong key", "an error that passes"],
)
async def test_p17_a_pools_retries_of_claude_do_not_multiply_with_the_programs_own(
    claude_options: Options, messages_api: MessagesAPI, prompt: str, attempts: int, calls: int
) -> None:
    env = dict(claude_options["env"])  # type: ignore[call-overload]
    del env["CLAUDE_CODE_MAX_RETRIES"]
    async with Pool.start(1, backend="claude", retries=3, **{**claude_options, "env": env}) as pool:
        results = await pool.map([prompt])
    assert (results[0].attempt, len(messages_api.requests)) == (attempts, calls)
    assert results[0].ok == (attempts > 1)
