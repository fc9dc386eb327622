"""The stand-in for the APIs of models, driven over HTTP by the clients that a session on a model uses."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
from pydantic import TypeAdapter
from pydantic_ai import (
    Agent,
    FunctionToolCallEvent,
    ModelRetry,
    PartDeltaEvent,
    PartStartEvent,
    TextPartDelta,
)
from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tollboard.testing import model_api
from tollboard.testing.model_api import Message, ModelAPI, Reply, Rules, Seen, ToolCall, ToolResult

KEY = "sk-not-a-key"


@pytest.fixture
async def api() -> AsyncIterator[ModelAPI]:
    async with ModelAPI() as api:
        yield api


@pytest.fixture(params=["anthropic", "openai-chat", "openai"])
async def model(request: pytest.FixtureRequest, api: ModelAPI) -> AsyncIterator[Model]:
    async with model_at(request.param, api.url) as model:
        yield model


def model_at(provider: str, url: str) -> Model:
    if provider == "anthropic":
        return AnthropicModel("claude-x", provider=AnthropicProvider(api_key=KEY, base_url=url))
    kind = OpenAIChatModel if provider == "openai-chat" else OpenAIResponsesModel
    return kind("gpt-x", provider=OpenAIProvider(api_key=KEY, base_url=f"{url}/v1"))


@pytest.fixture(params=["plain", "streamed"])
def run(request: pytest.FixtureRequest):
    """Return a function that runs an agent and returns its result."""
    return plain if request.param == "plain" else streamed


async def plain(agent: Agent, prompt: str, **options):
    return await agent.run(prompt, **options)


async def streamed(agent: Agent, prompt: str, **options):
    async with agent.run_stream_events(prompt, **options) as events:
        result = None
        async for event in events:
            result = getattr(event, "result", None) if event.event_kind == "agent_run_result" else result
    return result


def adder(model: Model) -> Agent:
    agent = Agent(model, instructions="You add.")

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        if a < 0:
            raise ModelRetry("not below zero")
        return a + b

    return agent


async def test_without_a_handler_it_says_what_the_user_said(api: ModelAPI, model: Model, run) -> None:
    result = await run(Agent(model, system_prompt="Be kind."), "hello\n\nyou — é")
    assert result.output == "You said: hello\n\nyou — é"
    (seen,) = api.requests
    assert (seen.provider, seen.model) == (model.system, model.model_name)
    assert seen.system == "Be kind."
    assert seen.last_user == "hello\n\nyou — é"
    assert seen.tools == ()
    assert seen.streamed is (run is streamed)
    assert [(m.role, m.text) for m in seen.messages] == [("user", "hello\n\nyou — é")]
    assert KEY in seen.headers["authorization"]
    assert KEY not in repr(seen)


async def test_parallel_tool_calls_come_back_with_their_results(api: ModelAPI, model: Model, run) -> None:
    calls = (ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 30, "b": 40}, id="mine"))
    api.script(Reply("Let me see.", calls), "3 and 70")
    result = await run(adder(model), "add")
    assert result.output == "3 and 70"
    first, second = api.requests
    assert first.tools == ("add",)
    assert first.results == {}
    user, assistant, results = second.messages
    assert (user.role, assistant.role, results.role) == ("user", "assistant", "user")
    assert assistant.text == "Let me see."
    assert [(c.tool, c.arguments) for c in assistant.calls] == [(c.tool, c.arguments) for c in calls]
    made, mine = (c.id for c in assistant.calls)
    assert mine == "mine"
    assert made not in (None, "", "mine")
    assert second.results == {made: "3", "mine": "70"}
    assert second.last_user == "add"


async def test_ids_are_made_unique(api: ModelAPI, model: Model, run) -> None:
    twice = Reply(calls=(ToolCall("add", {"a": 1, "b": 2}),) * 2)
    api.script(twice, twice, "done")
    await run(adder(model), "add")
    ids = [call.id for message in api.requests[-1].messages for call in message.calls]
    assert len(ids) == len(set(ids)) == 4


async def test_a_call_without_arguments(api: ModelAPI, model: Model, run) -> None:
    agent = Agent(model)

    @agent.tool_plain
    def now() -> str:
        return "noon"

    api.script(Reply(calls=(ToolCall("now", {}),)), "noon it is")
    assert (await run(agent, "when?")).output == "noon it is"
    assert list(api.requests[1].results.values()) == ["noon"]


async def test_a_failed_tool_is_marked_where_the_format_can(api: ModelAPI, model: Model, run) -> None:
    api.script(Reply(calls=(ToolCall("add", {"a": -1, "b": 2}),)), "no")
    assert (await run(adder(model), "add")).output == "no"
    (result,) = api.requests[1].messages[-1].results
    assert "not below zero" in result.text
    assert result.is_error is (api.requests[1].provider == "anthropic")


async def test_a_new_prompt_after_tool_results_is_one_message_for_both(
    api: ModelAPI, model: Model, run
) -> None:
    agent = adder(model)
    api.script(Reply(calls=(ToolCall("add", {"a": 1, "b": 2}),)), "3", "again")
    first = await run(agent, "add")
    history = first.all_messages()[:-1]
    await run(agent, "and now?", message_history=history)
    last = api.requests[-1].messages[-1]
    assert last.text == "and now?"
    assert [r.text for r in last.results] == ["3"]
    assert api.requests[-1].last_user == "and now?"


async def test_usage_arrives_and_adds_up(api: ModelAPI, model: Model, run) -> None:
    call = (ToolCall("add", {"a": 1, "b": 2}),)
    api.script(
        Reply(calls=call, input_tokens=100, output_tokens=20), Reply("3", input_tokens=7, output_tokens=4)
    )
    usage = (await run(adder(model), "add")).usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (2, 107, 24)


async def test_text_is_streamed_in_pieces(api: ModelAPI, model: Model) -> None:
    api.script(Reply("abcdefghij", chunk=3))
    pieces = []
    async with Agent(model).run_stream_events("go") as events:
        async for event in events:
            if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                pieces.append(event.delta.content_delta)
    assert "".join(pieces).endswith("defghij")
    assert len(pieces) >= 3


async def test_iter_sees_the_calls(api: ModelAPI, model: Model) -> None:
    api.script(Reply(calls=(ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 3, "b": 4}))), "done")
    called = []
    async with adder(model).iter("add") as run:
        async for node in run:
            if Agent.is_call_tools_node(node):
                async with node.stream(run.ctx) as events:
                    called += [
                        e.part.args_as_dict() async for e in events if isinstance(e, FunctionToolCallEvent)
                    ]
    assert called == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert run.result is not None
    assert run.result.output == "done"


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
async def test_http_errors_look_like_the_providers(api: ModelAPI, model: Model, run, status: int) -> None:
    api.script(Reply("so be it", status=status))
    with pytest.raises(ModelHTTPError) as caught:
        await run(Agent(model), "go")
    assert caught.value.status_code == status
    assert "so be it" in str(caught.value)
    assert len(api.requests) == 1, "no second try"


async def test_a_client_that_may_tries_again(api: ModelAPI, model: Model, run) -> None:
    api.script(Reply(status=429, retry=True), Reply(status=500, retry=True), "at last")
    assert (await run(Agent(model), "go")).output == "at last"
    assert len(api.requests) == 3


async def test_a_cancelled_client_is_noticed_while_a_reply_hangs(api: ModelAPI, model: Model, run) -> None:
    api.script(Reply("a long thought that never ends", hang=True))
    task = asyncio.create_task(run(Agent(model), "go"))
    await api.wait_for_hanging()
    assert api.hanging == 1
    task.cancel()
    await api.wait_for_gone()
    assert api.hanging == 0
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_released_reply_goes_on_to_its_end(api: ModelAPI, model: Model, run) -> None:
    api.script(*[Reply("all of it, in the end", hang=True)] * 2)
    tasks = [asyncio.create_task(run(Agent(model), "go")) for _ in range(2)]
    await api.wait_for_requests(2)
    await api.wait_for_hanging(2)
    api.release()
    assert [result.output for result in await asyncio.gather(*tasks)] == ["all of it, in the end"] * 2
    assert api.hanging == 0


async def test_a_release_is_for_the_replies_that_hang_then(api: ModelAPI, model: Model, run) -> None:
    api.script(*[Reply("in the end", hang=True)] * 2)
    api.release()
    released = asyncio.create_task(run(Agent(model), "go"))
    await api.wait_for_hanging()
    api.release()
    assert (await released).output == "in the end"
    held = asyncio.create_task(run(Agent(model), "go"))
    await api.wait_for_hanging()
    held.cancel()
    await api.wait_for_gone()
    with pytest.raises(asyncio.CancelledError):
        await held


@pytest.mark.parametrize(
    "reply", [Reply(hang=True), Reply(calls=(ToolCall("add", {"a": 1, "b": 2}),), hang=True)]
)
async def test_a_reply_without_words_hangs_too(api: ModelAPI, model: Model, run, reply: Reply) -> None:
    api.script(reply)
    task = asyncio.create_task(run(adder(model), "go"))
    await api.wait_for_hanging()
    task.cancel()
    await api.wait_for_gone()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_first_piece_of_a_hanging_reply_is_there(api: ModelAPI, model: Model) -> None:
    api.script(Reply("first, then nothing", chunk=5, hang=True))
    async with Agent(model).run_stream_events("go") as events:
        async for event in events:
            if event.event_kind == "part_start" and event.part.content == "first":
                break
    await api.wait_for_gone()


async def test_leaving_the_block_ends_what_hangs() -> None:
    async with ModelAPI() as api, model_at("anthropic", api.url) as model:
        api.script(Reply("never", hang=True))
        task = asyncio.create_task(streamed(Agent(model), "go"))
        await api.wait_for_hanging()
        await api.stop()
        with pytest.raises(ModelConnectionError):
            await task


async def test_a_stream_that_is_cut_is_an_error_after_its_first_piece(api: ModelAPI, model: Model) -> None:
    api.script(Reply("half an answer, and the rest", chunk=4, cut=True))
    said = []

    async def run() -> None:
        async with Agent(model).run_stream_events("go") as events:
            async for event in events:
                if isinstance(event, PartStartEvent):
                    said.append(event.part.content)

    with pytest.raises(ModelConnectionError):
        await run()
    assert said == ["half"]
    assert len(api.requests) == 1


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/responses"])
async def test_a_plain_answer_that_is_cut_is_a_reset(api: ModelAPI, path: str) -> None:
    api.script(Reply("half an answer", cut=True))
    async with httpx.AsyncClient(base_url=api.url) as client:
        with pytest.raises(httpx.ReadError):
            await client.post(path, json={"model": "m"})


async def test_why_it_stopped_arrives(api: ModelAPI, model: Model, run) -> None:
    api.script(Reply(calls=(ToolCall("add", {"a": 1, "b": 2}),)), "3")
    messages = (await run(adder(model), "add")).all_messages()
    reasons = [message.finish_reason for message in messages if message.kind == "response"]
    of_a_call = (
        "stop" if isinstance(model, OpenAIResponsesModel) else "tool_call"
    )  # Responses says `completed`
    assert reasons == [of_a_call, "stop"]


ANSWERS = {
    "/v1/messages": (anthropic.types.Message, anthropic.types.RawMessageStreamEvent),
    "/v1/chat/completions": (openai.types.chat.ChatCompletion, openai.types.chat.ChatCompletionChunk),
    "/v1/responses": (openai.types.responses.Response, openai.types.responses.ResponseStreamEvent),
}


@pytest.mark.parametrize("path", ANSWERS)
async def test_every_answer_has_the_shape_that_the_provider_describes(api: ModelAPI, path: str) -> None:
    """The clients forgive what is missing; their types do not."""
    whole, event = (TypeAdapter(kind) for kind in ANSWERS[path])
    reply = Reply("some words", (ToolCall("add", {"a": 1}), ToolCall("now", {})), chunk=4)
    api.script(reply, reply)
    request = {"model": "m", "stream_options": {"include_usage": True}}
    async with httpx.AsyncClient(base_url=api.url) as client:
        answer = await client.post(path, json=request)
        stream = await client.post(path, json=request | {"stream": True})
    assert answer.headers["content-type"] == "application/json"
    whole.validate_json(answer.content)
    assert stream.headers["content-type"] == "text/event-stream"
    frames = [dict(re.findall(r"^(\w+): (.*)$", frame, re.M)) for frame in stream.text.split("\n\n")[:-1]]
    if path == "/v1/chat/completions":
        assert frames.pop() == {"data": "[DONE]"}
    else:
        assert all(frame["event"] == json.loads(frame["data"])["type"] for frame in frames)
    for frame in frames:
        event.validate_json(frame["data"])
    assert len(frames) > 8


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/v1/messages", 401, "authentication_error"),
        ("/v1/messages", 529, "overloaded_error"),
        ("/v1/messages", 500, "api_error"),
        ("/v1/chat/completions", 401, "invalid_request_error"),
        ("/v1/responses", 500, "server_error"),
    ],
)
async def test_an_error_names_its_kind(api: ModelAPI, path: str, status: int, kind: str) -> None:
    api.script(Reply(status=status))
    async with httpx.AsyncClient(base_url=api.url) as client:
        answer = await client.post(path, json={"model": "m"})
    error = answer.json()["error"]
    assert (error["type"], error["message"]) == (kind, f"the stand-in was told to answer {status}")


async def test_a_handler_answers_what_is_not_scripted() -> None:
    async def handler(seen: Seen) -> Reply | str | None:
        return {"reply": Reply("a reply"), "words": "words"}.get(seen.last_user)

    async with ModelAPI(handler) as api, model_at("anthropic", api.url) as model:
        api.script("scripted")
        agent = Agent(model)
        said = [(await agent.run(prompt)).output for prompt in ("reply", "reply", "words", "else")]
    assert said == ["scripted", "a reply", "words", "You said: else"]


async def test_a_handler_that_raises_fails_the_block() -> None:
    def handler(seen: Seen) -> str:
        raise LookupError(seen.last_user)

    async def block() -> None:
        async with ModelAPI(handler) as api, model_at("openai", api.url) as model:
            with pytest.raises(ModelHTTPError):
                await Agent(model).run("oh")

    with pytest.raises(ExceptionGroup) as caught:
        await block()
    assert caught.group_contains(LookupError, match="oh")


async def test_what_is_kept_is_bounded(api: ModelAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_api, "MAX_REQUESTS", 3)
    async with httpx.AsyncClient() as client:
        for number in range(5):
            await client.post(f"{api.openai_url}/chat/completions", json={"model": str(number)})
    await api.wait_for_requests(5)
    assert [seen.model for seen in api.requests] == ["2", "3", "4"]


async def test_what_is_no_request_is_refused(api: ModelAPI) -> None:
    async with httpx.AsyncClient(base_url=api.url) as client:
        assert (await client.get("/v1/messages")).status_code == 404
        assert (await client.post("/v1/other", json={})).status_code == 404
        assert (await client.post("/v1/messages", content=b"{")).status_code == 400
        assert (await client.post("/v1/messages", json=[1])).status_code == 400
        assert (await client.post("/v1/chat/completions", json={"messages": [{}]})).status_code == 400
        counted = await client.post("/v1/messages/count_tokens", json={"messages": []})
        assert counted.json()["input_tokens"] > 0
    assert api.requests == []


def seen(text: str = "", system: str = "", results: dict[str, str] | None = None) -> Seen:
    given = tuple(ToolResult(id_, content) for id_, content in (results or {}).items())
    messages = (Message("user", text), Message("user", results=given)) if given else (Message("user", text),)
    return Seen("openai", "m", system, messages, (), False, {}, {})


def test_rules_answer_in_order_and_once() -> None:
    rules = Rules(
        [
            {"when": "hello", "text": "only once", "once": True},
            {"when": "hello", "system": "polite", "text": "good day"},
            {"when": "hello", "text": "hi", "input_tokens": 3},
            {
                "when": "look",
                "calls": [{"tool": "read", "arguments": {"path": "{user}", "deep": [1, "{user}"]}}],
            },
            {"when": "found", "text": "it gave {result} for {user}"},
        ]
    )
    assert rules(seen("hello")) == Reply("only once")
    assert rules(seen("hello")) == Reply("hi", input_tokens=3)
    assert rules(seen("oh hello", system="be polite")) == Reply("good day")
    assert rules(seen("look")) == Reply(calls=(ToolCall("read", {"path": "look", "deep": [1, "look"]}),))
    assert rules(seen("look", results={"1": "found it"})) == Reply("it gave found it for look")
    assert rules(seen("look", results={"1": "nothing"})) is None
    assert rules(seen("else")) is None


def test_a_rule_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rule 1: unknown .*txt"):
        Rules([{"text": "x"}, {"txt": "x"}])


async def test_as_a_program_with_rules(tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(
        json.dumps(
            [
                {"when": "add", "calls": [{"tool": "add", "arguments": {"a": 1, "b": 2}}]},
                {"when": "3", "text": "it is {result}"},
            ]
        )
    )
    command = [sys.executable, "-m", "tollboard.testing.model_api", "--port", "0", "--rules", str(rules)]
    program = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        url = (await program.stdout.readline()).decode().strip()
        assert url.startswith("http://127.0.0.1:")
        for provider in ("anthropic", "openai-chat", "openai"):
            async with model_at(provider, url) as model:
                assert (await plain(adder(model), "add")).output == "it is 3"
    finally:
        program.terminate()
        await program.communicate()
    assert program.returncode == 0


def test_the_rules_of_the_how_to_do_what_it_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "models-without-a-key.md"
    (data,) = re.findall(r"```json\n(.*?)```", page.read_text(), re.S)
    rules = Rules(json.loads(data))
    assert rules(seen("the weather?")) == Reply(calls=(ToolCall("look_up", {"place": "Oslo"}),))
    assert rules(seen("the weather?", results={"1": "rain"})) == Reply("Take an umbrella: rain")
    assert rules(seen("well?", system="You are a critic.")) == Reply("I do not like it.")
    assert rules(seen("well?", system="You are a critic.")) is None
