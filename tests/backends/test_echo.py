"""The echo backend's options, beyond the contract."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from tollboard.backends.echo import EchoBackend
from tollboard.errors import InvalidOption
from tollboard.runtime.event import ErrorEvent, Event, ResultEvent, TextEvent
from tollboard.testing.backend_contract import RecordingTurn, run_turn


async def ask(text: str, **options: object) -> list[Event]:
    backend = EchoBackend()
    return await run_turn(backend, await backend.start_session(options), text, RecordingTurn())


async def test_it_answers_the_prompt() -> None:
    assert await ask("hi") == [TextEvent("echo: hi", message="1"), ResultEvent("echo: hi")]


@pytest.mark.parametrize("chunks", [2, 3, 1000])
async def test_chunks_join_to_the_answer(chunks: int) -> None:
    *pieces, result = await ask("hello", chunks=chunks)
    texts = [piece.text for piece in pieces if isinstance(piece, TextEvent)]
    assert "".join(texts) == "echo: hello"
    assert len(texts) == min(chunks, len("echo: hello"))
    assert all(texts)
    assert result == ResultEvent("echo: hello")


async def test_every_turn_fails() -> None:
    assert await ask("hi", fail="out of order") == [ErrorEvent("out of order")]


async def test_only_some_turns_fail() -> None:
    assert isinstance((await ask("a bad one", fail_on="bad"))[-1], ErrorEvent)
    assert isinstance((await ask("a good one", fail_on="bad"))[-1], ResultEvent)
    assert await ask("bad", fail_on="bad", fail="no") == [ErrorEvent("no")]


@pytest.mark.parametrize(
    "options",
    [
        {"delay": -1},
        {"delay": "1"},
        {"delay": float("nan")},
        {"chunks": 0},
        {"chunks": True},
        {"fail": 3},
        {"env_marker": "x"},
    ],
)
async def test_bad_values_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        await EchoBackend().start_session(options)


async def test_none_means_not_given() -> None:
    assert (await ask("hi", delay=None, fail=None))[-1] == ResultEvent("echo: hi")


async def test_the_directory_is_reported_as_effective() -> None:
    backend, turn = EchoBackend(), RecordingTurn()
    session = await backend.start_session({"cwd": "/tmp"})
    await run_turn(backend, session, "hi", turn)
    assert turn.checkpoints == [(session.id, {"cwd": "/tmp"})]


async def test_a_reset_session_is_another_conversation() -> None:
    backend = EchoBackend()
    session = await backend.start_session({"chunks": 2})
    again = await backend.reset_session(session)
    assert again.id != session.id
    assert again.chunks == 2


async def test_ten_thousand_sessions_are_light() -> None:
    backend = EchoBackend()
    tracemalloc.start()
    sessions = [await backend.start_session({}) for _ in range(10_000)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(sessions) < 400
    assert len(asyncio.all_tasks()) == 1
