"""A role shapes its workers (P16): what their backend's session is started with."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

import pytest

from tollboard.backends import load
from tollboard.errors import InvalidOption
from tollboard.pool.pool import Pool
from tollboard.pool.role import Role
from tollboard.runtime.backend import NO_PROCESSES, Backend, ProcessReport, Turn
from tollboard.runtime.event import Event, ResultEvent
from tollboard.testing.model_api import ModelAPI


class Shown(Backend[str]):
    """Answers with who its worker was told to be, and its model."""

    name = "shown"

    async def start_session(self, options: Mapping[str, object]) -> str:
        return f"{options.get('system_prompt')} on {options.get('model')}"

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> str:
        return await self.start_session(options)

    async def prompt(self, session: str, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        yield ResultEvent(session)

    async def terminate_session(self, session: str) -> ProcessReport:
        return NO_PROCESSES

    def worker_options(
        self, options: Mapping[str, object], *, opening: str | None, retried: bool
    ) -> Mapping[str, object]:
        return options if opening is None else {**options, "system_prompt": opening}


async def test_p16_a_role_is_in_the_system_prompt_and_may_have_its_own() -> None:
    roles = {
        "coder": Role(size=2, model="big"),
        "reviewer": Role(prompt="You are strict, {worker}."),
        "echo": Role(backend="echo"),
        "plain": 1,
    }
    async with Pool.start(roles=roles, backend=Shown(), model="small", name="p") as pool:
        assert len(pool.workers) == 5
        for role in roles:
            await pool.submit("x", role=role)
        await pool.wait_for_all(5)
        said = {result.role: result.text for result in pool.results().results}
    assert said == {
        "coder": "You are a coder. on big",
        "reviewer": "You are strict, p-2. on small",
        "echo": "echo: x",
        "plain": "You are a plain. on small",
    }


async def test_p16_a_pool_without_a_role_and_a_prompt_that_names_it_are_left_alone() -> None:
    async with Pool.start(1, backend=Shown(), system_prompt="Be brief.") as pool:
        assert (await pool.map(["x"]))[0].text == "Be brief. on None"
    async with Pool.start(1, role="poet", backend=Shown(), system_prompt="As a {role}, rhyme.") as pool:
        assert (await pool.map(["x"]))[0].text == "As a poet, rhyme. on None"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"size": 2, "roles": {"a": 1}}, "leave size and role out"),
        ({"roles": {}}, "roles names no role"),
        ({"roles": {"a": 0}}, "the size of role 'a' is 0"),
        ({"roles": {"a": "two"}}, "give a Role, or a number"),
        ({"roles": {"a": {"size": 1, "colour": "red"}}}, "role 'a' has 'colour'; a role has: size, prompt"),
        ({"roles": {"a": Role(model=3)}}, "the model of role 'a' is 3"),  # type: ignore[arg-type]
        ({}, "size is None"),
    ],
)
def test_p16_roles_that_make_no_sense_are_refused(given: dict[str, object], match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        Pool.start(backend=Shown(), **given)  # type: ignore[arg-type]


@pytest.mark.slow
async def test_p15_p16_p17_a_pool_on_a_model_knows_its_role_and_no_other_task() -> None:
    pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")
    async with ModelAPI() as api:
        given = {"model": "openai:m", "base_url": api.openai_url, "tools": []}
        async with Pool.start(1, role="trivia expert", backend=load("model"), retries=2, **given) as pool:  # type: ignore[arg-type]
            results = await pool.map([f"secret-{number}" for number in range(5)])
            assert [result.ok for result in results] == [True] * 5
    assert [[m.text for m in seen.messages if m.role == "user"] for seen in api.requests] == [
        [f"secret-{number}"] for number in range(5)
    ]
    assert all(seen.system.startswith("You are a trivia expert.") for seen in api.requests)
    assert len({result.usage.input_tokens for result in results if result.usage}) == 1
