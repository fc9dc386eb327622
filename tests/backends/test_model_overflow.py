"""Conversations that are too long for their model: made shorter and tried again, on every format (L05)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backends.test_model import Talk, of
from tests.backends.test_model_ends import FORMATS, error_of, every_format, is_ours
from tollboard.runtime.event import NoticeEvent
from tollboard.testing.model_api import ModelAPI, Reply, Seen, ToolCall

pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")

WINDOW = 20_000
"""Characters that the model takes."""
REFUSALS = {
    "messages": Reply("prompt is too long: 210000 tokens > 200000 maximum", status=400),
    "chat": Reply("This model's maximum context length is 5000 tokens.", status=400, code="context_length_exceeded"),
    "responses": Reply("Your input exceeds the context window of this model.", status=400,
                       code="context_length_exceeded"),
    "gemini": Reply("The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).",
                    status=400),
}  # fmt: skip
OTHERS = [
    Reply("Request Entity Too Large", status=413),
    Reply("the request exceeds the available context size. try increasing the context size", status=400),
    Reply("maximum context length is 5000 tokens. However, you requested 9000 tokens", status=400),
    Reply("Input is too long for requested model.", status=400),
]


def length_of(seen: Seen) -> int:
    return sum(
        len(message.text) + sum(len(result.text) for result in message.results) for message in seen.messages
    )


class Narrow:
    """A model with a small window; it says how much it was sent, and summarises in a few words."""

    def __init__(self, refusal: Reply) -> None:
        self.refusal = refusal
        self.usage = True
        self.summary = Reply("in short: 4711")
        self.refused = 0

    def __call__(self, seen: Seen) -> Reply:
        if length_of(seen) > WINDOW:
            self.refused += 1
            return self.refusal
        calls = any(message.calls for message in seen.messages)
        if calls and not seen.tools:
            return Reply("tools must be given where messages have calls", status=400)
        if "Summarise" in seen.system:
            return self.summary
        if seen.last_user == "read it" and not calls:
            return Reply(calls=(ToolCall("read_file", {"path": "big"}),), usage=self.usage)
        return Reply(f"heard {len(seen.last_user)}", input_tokens=length_of(seen) // 4, usage=self.usage)


@pytest.fixture
async def talk(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Talk]:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "big").write_text("line of a big file\n" * 2_500)
    format = getattr(request, "param", "chat")
    narrow = Narrow(REFUSALS[format])
    async with ModelAPI(narrow) as api:
        model, url = FORMATS[format]
        made = Talk(
            {
                "model": model,
                "base_url": getattr(api, url),
                "cwd": str(tmp_path / "work"),
                "tools": ["read_file"],
            }
        )
        made.api, made.narrow = api, narrow  # type: ignore[attr-defined]
        yield made
        await made.close()


@every_format
async def test_l05_a_result_larger_than_the_window_is_cut_and_the_turn_goes_on(talk: Talk) -> None:
    turn = await talk.say("read it")
    assert turn.text.startswith("heard")
    assert [event.name for event in of(turn, NoticeEvent)] == ["shortened"]
    (result,) = talk.api.requests[-1].results.values()  # type: ignore[attr-defined]
    assert "characters are left out here" in result
    assert (await talk.say("and now?")).text == "heard 8"
    assert talk.narrow.refused < 5  # type: ignore[attr-defined]


@every_format
async def test_l05_a_talk_that_grew_too_long_is_summarised_and_tried_again(talk: Talk) -> None:
    for _ in range(3):
        await talk.say("x" * 6_000)
    turn = await talk.say("y" * 6_000)
    assert turn.text.startswith("heard 60")
    assert [event.name for event in of(turn, NoticeEvent)] == ["shortened"]
    newest = talk.api.requests[-1].messages  # type: ignore[attr-defined]
    assert "in short: 4711" in newest[0].text
    assert newest[-1].text.endswith("y" * 6_000)
    assert (await talk.say("and now?")).text == "heard 8"


@every_format
async def test_l05_a_single_prompt_that_cannot_fit_is_refused_and_changes_nothing(talk: Talk) -> None:
    await talk.say("the vault code is 4711")
    turn = await talk.say("z" * 50_000)
    assert "too long for the model" in error_of(turn)
    assert is_ours(error_of(turn).partition("The provider says")[0])
    assert (await talk.say("and now?")).text == "heard 8"
    said = [message.text for message in talk.api.requests[-1].messages]  # type: ignore[attr-defined]
    assert said == ["the vault code is 4711", "heard 22", "and now?"]


async def test_l05_a_first_prompt_that_cannot_fit_leaves_a_session_that_works(talk: Talk) -> None:
    assert "too long for the model" in error_of(await talk.say("z" * 50_000))
    assert (await talk.say("and now?")).text == "heard 8"


@pytest.mark.parametrize("refusal", OTHERS, ids=lambda reply: reply.text[:12])
async def test_l05_the_words_of_other_servers_are_understood(talk: Talk, refusal: Reply) -> None:
    talk.narrow.refusal = refusal  # type: ignore[attr-defined]
    for _ in range(4):
        turn = await talk.say("x" * 6_000)
    assert turn.text.startswith("heard 60")


@pytest.mark.parametrize("summary", [Reply("The user", reason="length"), Reply(""), Reply("no", status=500)])
async def test_l05_where_no_summary_can_be_had_parts_are_left_out(talk: Talk, summary: Reply) -> None:
    talk.narrow.summary = summary  # type: ignore[attr-defined]
    for _ in range(4):
        turn = await talk.say("x" * 6_000)
    assert turn.text.startswith("heard")
    assert "left out" in talk.api.requests[-1].messages[0].text  # type: ignore[attr-defined]
    assert (await talk.say("and now?")).text == "heard 8"


async def test_l05_the_window_is_remembered_so_that_the_next_time_comes_in_time(talk: Talk) -> None:
    for _ in range(4):
        await talk.say("x" * 6_000)
    refused = talk.narrow.refused  # type: ignore[attr-defined]
    await talk.restart()
    for _ in range(6):
        assert (await talk.say("x" * 6_000)).text.startswith("heard 60")
    assert talk.narrow.refused == refused  # type: ignore[attr-defined]


@pytest.mark.parametrize("talk", ["chat", "messages"], indirect=True)
async def test_l05_a_server_that_reports_no_tokens_is_summarised_in_time(talk: Talk) -> None:
    talk.options = {**talk.options, "summarise_at": 2_000}
    talk.narrow.usage = False  # type: ignore[attr-defined]
    turns = [await talk.say("x" * 6_000) for _ in range(6)]
    assert talk.narrow.refused == 0  # type: ignore[attr-defined]
    assert [event.name for turn in turns for event in of(turn, NoticeEvent)] == ["summarised", "summarised"]
