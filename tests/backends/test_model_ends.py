"""How answers of models end, over real HTTP on every format that the stand-in speaks: only a whole answer is one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backends.test_model import Talk, of
from tollboard.runtime.event import ErrorEvent, NoticeEvent, ResultEvent, ToolResultEvent, ToolUseEvent
from tollboard.testing.backend_contract import RecordingTurn
from tollboard.testing.model_api import ModelAPI, Reply, ToolCall

pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")

FORMATS = {
    "messages": ("anthropic:claude-sonnet-5-5", "anthropic_url"),
    "chat": ("openai:gpt-6-luna", "openai_url"),
    "responses": ("openai-responses:gpt-6-luna", "openai_url"),
    "gemini": ("google:gemini-3.8-flash", "google_url"),
}
every_format = pytest.mark.parametrize("talk", FORMATS, indirect=True)
LIMITS = {
    "messages": "max_tokens",
    "chat": "length",
    "responses": "max_output_tokens",
    "gemini": "MAX_TOKENS",
}
REFUSALS = {
    "messages": "refusal",
    "chat": "content_filter",
    "responses": "content_filter",
    "gemini": "SAFETY",
}
WRITE = ToolCall("write_file", {"path": "a", "content": "half of a plan"})


@pytest.fixture
async def api() -> AsyncIterator[ModelAPI]:
    async with ModelAPI() as served:
        yield served


@pytest.fixture
async def talk(api: ModelAPI, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Talk]:
    """A session whose tools ask nobody; parametrized by the format."""
    (tmp_path / "work").mkdir()
    model, url = FORMATS[getattr(request, "param", "chat")]
    made = Talk(
        {
            "model": model,
            "base_url": getattr(api, url),
            "cwd": str(tmp_path / "work"),
            "tools": ["write_file", "read_file"],
            "guards": {"write_file": False},
        }
    )
    made.format = getattr(request, "param", "chat")  # type: ignore[attr-defined]
    yield made
    await made.close()


def error_of(turn: RecordingTurn) -> str:
    (error,) = of(turn, ErrorEvent)
    return str(error.message)


def is_ours(text: str) -> bool:
    """Nothing of the library below shows through."""
    return not any(
        word in text for word in ("pydantic", "Model", "Unexpected", "finish_reason", "max retries")
    )


async def says_nothing_of(said: str, talk: Talk, api: ModelAPI) -> None:
    """The next prompt works, and the provider is not sent a word of what failed."""
    turn = await talk.say("and now?")
    assert turn.text == "You said: and now?"
    assert said not in str(api.requests[-1].body)


@every_format
async def test_l01_a_stream_that_never_says_that_it_ended_is_no_answer(talk: Talk, api: ModelAPI) -> None:
    api.script(Reply("Delete nothing before you", reason=""))
    turn = await talk.say("go")
    assert "broke off" in error_of(turn)
    assert is_ours(error_of(turn))
    await says_nothing_of("Delete nothing", talk, api)


@every_format
async def test_l01_a_stream_that_closes_cleanly_in_the_middle_is_no_answer(talk: Talk, api: ModelAPI) -> None:
    first = {"messages": 4, "chat": 3, "responses": 5, "gemini": 1}[talk.format]  # type: ignore[attr-defined]
    api.script(Reply("Delete nothing before you have read this", stop_after=first))
    turn = await talk.say("go")
    assert "broke off" in error_of(turn)
    await says_nothing_of("Delete nothing", talk, api)


@every_format
async def test_l01_a_stream_that_ends_before_it_says_anything_is_no_answer(talk: Talk, api: ModelAPI) -> None:
    api.script(Reply("never", stop_after=0))
    turn = await talk.say("go")
    assert is_ours(error_of(turn))
    await says_nothing_of("never", talk, api)


@every_format
async def test_l01_an_error_inside_a_stream_fails_the_turn_in_the_providers_words(
    talk: Talk, api: ModelAPI
) -> None:
    api.script(Reply("Delete nothing", fail="the backend fell over"))
    turn = await talk.say("go")
    assert "the backend fell over" in error_of(turn)
    assert is_ours(error_of(turn))
    await says_nothing_of("Delete nothing", talk, api)


@every_format
async def test_l01_a_connection_that_is_reset_fails_the_turn(talk: Talk, api: ModelAPI) -> None:
    api.script(Reply("Delete nothing before you have read this", cut=True))
    turn = await talk.say("go")
    assert "the connection to the provider broke" in error_of(turn)
    await says_nothing_of("Delete nothing", talk, api)


@every_format
async def test_l01_no_call_of_a_stream_that_was_cut_runs(talk: Talk, api: ModelAPI, tmp_path: Path) -> None:
    api.script(Reply("I write it.", calls=(WRITE,), reason=""))
    turn = await talk.say("go")
    assert "broke off" in error_of(turn)
    assert not (tmp_path / "work" / "a").exists()
    assert not of(turn, ToolUseEvent)
    await says_nothing_of("half of a plan", talk, api)


async def test_l01_a_call_that_is_cut_in_its_arguments_does_not_run(
    talk: Talk, api: ModelAPI, tmp_path: Path
) -> None:
    api.script(Reply(calls=(WRITE,), stop_after=4, chunk=8))
    turn = await talk.say("go")
    assert "broke off" in error_of(turn)
    assert not (tmp_path / "work" / "a").exists()
    await says_nothing_of("half", talk, api)


@every_format
async def test_l01_what_ran_before_the_cut_is_still_known(talk: Talk, api: ModelAPI, tmp_path: Path) -> None:
    api.script(Reply(calls=(WRITE,)), Reply("Now I", reason=""))
    turn = await talk.say("go")
    assert "broke off" in error_of(turn)
    assert (tmp_path / "work" / "a").exists()
    await talk.say("and now?")
    assert "half of a plan" in str(api.requests[-1].body)


@every_format
async def test_l02_an_answer_cut_at_its_token_limit_says_so(talk: Talk, api: ModelAPI) -> None:
    api.script(Reply("The first of the", reason=LIMITS[talk.format]))  # type: ignore[attr-defined]
    turn = await talk.say("go")
    (end,) = of(turn, ResultEvent)
    assert end.text == "The first of the"
    assert "cut off at its token limit" in end.note
    whole = await talk.say("again")
    assert of(whole, ResultEvent)[0].note == ""


@every_format
async def test_l02_calls_cut_at_the_token_limit_do_not_run(talk: Talk, api: ModelAPI, tmp_path: Path) -> None:
    api.script(Reply(calls=(WRITE,), reason=LIMITS[talk.format]))  # type: ignore[attr-defined]
    turn = await talk.say("go")
    assert "cut off at its token limit" in error_of(turn)
    assert is_ours(error_of(turn))
    assert not (tmp_path / "work" / "a").exists()
    await says_nothing_of("half of a plan", talk, api)


@every_format
async def test_l02_a_limit_reached_before_any_word_is_a_failure_in_our_words(
    talk: Talk, api: ModelAPI
) -> None:
    api.script(Reply(reason=LIMITS[talk.format]))  # type: ignore[attr-defined]
    turn = await talk.say("go")
    assert "before it answered anything" in error_of(turn)
    assert is_ours(error_of(turn))


@every_format
@pytest.mark.parametrize("said", ["", "I would rather"])
async def test_l02_a_refusal_is_a_failure_with_its_reason(talk: Talk, api: ModelAPI, said: str) -> None:
    api.script(Reply(said, reason=REFUSALS[talk.format]))  # type: ignore[attr-defined]
    turn = await talk.say("go")
    assert "refused to answer" in error_of(turn)
    assert REFUSALS[talk.format] in error_of(turn)  # type: ignore[attr-defined]
    assert is_ours(error_of(turn))
    await says_nothing_of("I would rather", talk, api)


@pytest.mark.parametrize("talk", ["messages", "chat"], indirect=True)
async def test_l02_a_refusal_is_told_in_the_providers_words(talk: Talk, api: ModelAPI) -> None:
    reason = "refusal" if talk.format == "messages" else "stop"  # type: ignore[attr-defined]
    api.script(Reply(reason=reason, refusal="that would be harmful"))
    assert "that would be harmful" in error_of(await talk.say("go"))


@pytest.mark.parametrize(
    "word", ["error", "abort", "insufficient_system_resource", "sensitive", "max_length"]
)
async def test_l02_the_words_of_compatible_servers_for_a_bad_end_are_understood(
    talk: Talk, api: ModelAPI, word: str, tmp_path: Path
) -> None:
    api.script(Reply(calls=(WRITE,), reason=word))
    turn = await talk.say("go")
    assert word in error_of(turn)
    assert not (tmp_path / "work" / "a").exists()


@pytest.mark.parametrize("word", ["eos", "end_turn", "stop_sequence", "COMPLETE"])
async def test_l02_their_words_for_an_ordinary_end_are_an_ordinary_end(
    talk: Talk, api: ModelAPI, word: str
) -> None:
    api.script(Reply("whole", reason=word))
    (end,) = of(await talk.say("go"), ResultEvent)
    assert (end.text, end.note) == ("whole", "")


@pytest.mark.parametrize(
    ("talk", "word"), [("chat", "tool_calls"), ("messages", "tool_use")], indirect=["talk"]
)
async def test_l01_calls_that_were_announced_but_never_came_are_no_answer(
    talk: Talk, api: ModelAPI, word: str
) -> None:
    api.script(Reply("Let me look at that.", reason=word))
    assert "sent no call" in error_of(await talk.say("go"))


@every_format
@pytest.mark.parametrize("said", ["", "  \n"])
async def test_l01_an_empty_answer_is_asked_for_again_and_not_kept(
    talk: Talk, api: ModelAPI, said: str
) -> None:
    api.script(Reply(said), "there it is")
    turn = await talk.say("go")
    assert turn.text.strip() == "there it is"
    assert [m.role for m in api.requests[-1].messages] == ["user"]


async def test_l01_a_model_that_answers_with_nothing_again_and_again_fails_the_turn(
    talk: Talk, api: ModelAPI
) -> None:
    api.script(*[Reply("")] * 3)
    turn = await talk.say("go")
    assert error_of(turn) == "the model answered with nothing"
    await says_nothing_of("go", talk, api)


@every_format
@pytest.mark.parametrize("bad", ["cut", "refused", "empty", "broken", "failed"])
async def test_l03_a_bad_summary_never_replaces_the_conversation(talk: Talk, api: ModelAPI, bad: str) -> None:
    talk.options = {**talk.options, "summarise_at": 1000}
    summary = {
        "cut": Reply("The user wants to", reason=LIMITS[talk.format]),  # type: ignore[attr-defined]
        "refused": Reply("I", reason=REFUSALS[talk.format]),  # type: ignore[attr-defined]
        "empty": Reply(" "),
        "broken": Reply("The user", reason=""),
        "failed": Reply("no", status=400),
    }[bad]
    api.script(Reply("noted: 4711", input_tokens=5000), summary, "two")
    await talk.say("the vault code is 4711")
    turn = await talk.say("and now?")
    assert turn.text == "two"
    assert [event.name for event in of(turn, NoticeEvent)] == ["not summarised"]
    assert is_ours(of(turn, NoticeEvent)[0].message)
    assert [m.text for m in api.requests[-1].messages] == [
        "the vault code is 4711",
        "noted: 4711",
        "and now?",
    ]


async def test_l03_a_summary_that_failed_is_tried_again_at_the_next_prompt_only(
    talk: Talk, api: ModelAPI
) -> None:
    talk.options = {**talk.options, "summarise_at": 1000}
    api.script(Reply("noted", input_tokens=5000), Reply("no", status=500))
    await talk.say("one")
    api.script(Reply(calls=(WRITE,), input_tokens=5000), Reply("done", input_tokens=5000))
    turn = await talk.say("two")
    assert turn.text == "done"
    assert len(of(turn, ToolResultEvent)) == 1
    api.script("a summary", "three")
    assert [event.name for event in of(await talk.say("three"), NoticeEvent)] == ["summarised"]
