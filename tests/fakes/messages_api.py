"""A loopback stand-in for the Anthropic Messages API, so that the real Claude Code program runs without a model.

In a test: `async with MessagesAPI() as api:` and point ANTHROPIC_BASE_URL at `api.url`. What it answers is decided, for
each request, by the answers queued with `api.script(...)`, else by `api.handler`, else by the default rules over the
last user text:

    say X               X
    run CMD             calls Bash with CMD, then says `output: <what the tool gave>`
    both CMD && CMD     calls Bash twice in one message
    write FILE TEXT     calls Write
    background CMD      calls Bash with CMD in the background
    delegate PROMPT     calls Task with PROMPT, for a sub-agent in the background
    (by itself)         told, when the program says that something in the background has ended
    slow [N]            N pieces (default 20), a tenth of a second apart
    hang                one piece, then nothing until `api.release()` or the client goes away
    fail STATUS [N]     fails with that HTTP status; with N only the first N times, then says `recovered`
    break [N]           resets the connection in mid-stream; with N only the first N times
    recall              the user texts of the conversation so far, one a line
    anything else       You said: <text>

As a program: `python tests/fakes/messages_api.py --port 0` prints its address on the first line and serves until it is
ended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

PRICED_MODEL = "claude-sonnet-4-5"
"""A model whose price the program knows, so that turns have a cost."""


@dataclass
class Request:
    """One call of the program: its headers, its body, and what the rules look at."""

    headers: dict[str, str]
    body: dict[str, Any]
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the program closed the connection before the answer was complete."""

    @property
    def session(self) -> str:
        return self.headers.get("x-claude-code-session-id", "")

    @property
    def user_texts(self) -> list[str]:
        """What the user typed, oldest first, without what the program added to it."""
        return [text for message in self.body.get("messages", []) for text in _texts(message)]

    @property
    def text(self) -> str:
        """The last thing the user typed."""
        texts = self.user_texts
        return texts[-1] if texts else ""

    @property
    def notified(self) -> bool:
        """Whether the program called by itself: the last message tells of the background, and holds no prompt."""
        messages = self.body.get("messages", [])
        if not messages or "<task-notification>" not in json.dumps(messages[-1]):
            return False
        return all("<task-notification>" in text for text in _texts(messages[-1]))

    @property
    def tool_results(self) -> list[str]:
        """The tool results in the last message, as text."""
        messages = self.body.get("messages", [])
        if not messages or _texts(messages[-1]):
            return []  # results of an interrupted turn, sent along with the next prompt
        content = messages[-1].get("content")
        blocks = content if isinstance(content, list) else []
        return [_plain(block.get("content")) for block in blocks if block.get("type") == "tool_result"]


def _texts(message: dict[str, Any]) -> list[str]:
    if message.get("role") != "user":
        return []
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    texts = [_plain([block]).strip() for block in blocks if block.get("type") == "text"]
    return [
        text for text in texts if text and not text.startswith(("<system-reminder>", "[Request interrupted"))
    ]


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return re.sub(r"<system-reminder>.*?</system-reminder>", "", content, flags=re.DOTALL)
    return "".join(_plain(block.get("text", "")) for block in content or [] if isinstance(block, dict))


@dataclass
class Text:
    """Say something, in pieces `pause_s` apart."""

    text: str
    pieces: int = 1
    pause_s: float = 0.0


@dataclass
class Tools:
    """Call tools: pairs of a name and its input, perhaps after some words."""

    calls: list[tuple[str, dict[str, Any]]]
    text: str = ""


@dataclass
class Fail:
    """Answer with an HTTP error."""

    status: int
    message: str = "told to fail"


@dataclass
class Broken:
    """Say some words, then reset the connection."""

    text: str = "half an ans"


@dataclass
class Hang:
    """Say some words, then nothing until the API is released (then the rest) or the program goes away."""

    text: str = "thinking"
    rest: str = " done"


Answer = Text | Tools | Fail | Broken | Hang


class MessagesAPI:
    """The server. `requests` holds every call so far; nothing here sleeps to make something visible."""

    def __init__(self, handler: Callable[[Request], Answer | None] | None = None) -> None:
        self.handler = handler
        self.requests: list[Request] = []
        self.held: list[Request] = []
        self.url = ""
        self._queued: list[Answer] = []
        self._seen: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._changed = asyncio.Condition()
        self._released = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> MessagesAPI:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port, limit=64 * 1024 * 1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def script(self, *answers: Answer) -> None:
        """Queue answers; they go before the handler and the rules."""
        self._queued.extend(answers)

    def release(self) -> None:
        """Let every held answer end, now and later."""
        self._released.set()

    async def wait_for(self, predicate: Callable[[MessagesAPI], bool]) -> None:
        """Wait until the predicate holds; it is looked at whenever a request arrives, is held or closes."""
        async with self._changed:
            await self._changed.wait_for(lambda: predicate(self))

    async def wait_requests(self, count: int) -> None:
        await self.wait_for(lambda api: len(api.requests) >= count)

    async def wait_held(self, count: int = 1) -> None:
        """Wait until that many answers hang, having sent their first words."""
        await self.wait_for(lambda api: len(api.held) >= count)

    # --- the rules ----------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """Return what to answer: queued, else the handler's, else by the default rules."""
        if self._queued:
            return self._queued.pop(0)
        answer = self.handler(request) if self.handler is not None else None
        return answer if answer is not None else self._by_rule(request)

    def _by_rule(self, request: Request) -> Answer:
        if request.notified:
            return Text("told")
        if results := request.tool_results:
            return Text("output: " + "\n".join(result.strip() for result in results))
        text = request.text
        self._seen[text] += 1
        word, _, rest = text.partition(" ")
        match word.lower():
            case "say":
                return Text(rest, pieces=4)
            case "run":
                return Tools([("Bash", {"command": rest, "description": "run it"})])
            case "both":
                return Tools(
                    [("Bash", {"command": cmd.strip(), "description": "run"}) for cmd in rest.split("&&")]
                )
            case "background":
                return Tools([("Bash", {"command": rest, "description": rest, "run_in_background": True})])
            case "delegate":
                return Tools([("Task", {"description": rest, "prompt": rest, "subagent_type": "general-purpose",
                                        "run_in_background": True})])  # fmt: skip
            case "write":
                path, _, content = rest.partition(" ")
                return Tools([("Write", {"file_path": path, "content": content})])
            case "slow":
                return Text("slow and steady " * 5, pieces=int(rest or 20), pause_s=0.1)
            case "hang":
                return Hang()
            case "fail":
                status, _, times = rest.partition(" ")
                return Text("recovered") if self._seen[text] > int(times or 10**9) else Fail(int(status))
            case "break":
                return Text("recovered") if self._seen[text] > int(rest or 10**9) else Broken()
            case "recall":
                return Text("\n".join(request.user_texts[:-1]) or "nothing")
            case _:
                return Text(f"You said: {text}")

    # --- HTTP ---------------------------------------------------------------------------------------------------

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._exchange(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if method != "POST" or not path.startswith("/v1/messages"):
            _respond(writer, 404, {"type": "error", "error": {"type": "not_found_error", "message": path}})
            return
        if "count_tokens" in path:
            _respond(writer, 200, {"input_tokens": 100})
            return
        request = Request(headers, json.loads(body))
        self.requests.append(request)
        await self._announce()
        await self._reply(request, self.answer(request), reader, writer)

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _reply(
        self, request: Request, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if isinstance(answer, Fail):
            kind = {400: "invalid_request_error", 429: "rate_limit_error", 529: "overloaded_error"}
            error = {"type": kind.get(answer.status, "api_error"), "message": answer.message}
            _respond(writer, answer.status, {"type": "error", "error": error})
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        gone = asyncio.get_running_loop().create_task(reader.read(1))
        try:
            async for name, data in self._events(request, answer, gone):
                writer.write(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode())
                await writer.drain()
                if gone.done():
                    return
            if isinstance(answer, Broken):
                writer.transport.abort()
        finally:
            if gone.done():
                request.closed.set()
                await self._announce()
            gone.cancel()

    async def _events(
        self, request: Request, answer: Answer, gone: asyncio.Task[bytes]
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield the stream events of an answer."""
        number = next(self._numbers)
        usage = {"input_tokens": 100, "output_tokens": 1}
        model = request.body.get("model", PRICED_MODEL)
        message = {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
        }
        yield (
            "message_start",
            {"message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}},
        )
        blocks = 0
        if text := answer.text:
            yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
            for piece in _pieces(text, answer.pieces if isinstance(answer, Text) else 1):
                yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}}
                if isinstance(answer, Text) and answer.pause_s:
                    await asyncio.wait({gone}, timeout=answer.pause_s)
            if isinstance(answer, Broken):
                return
            if isinstance(answer, Hang):
                await self._hold(request, gone)
                yield (
                    "content_block_delta",
                    {"index": 0, "delta": {"type": "text_delta", "text": answer.rest}},
                )
            yield "content_block_stop", {"index": 0}
            blocks = 1
        calls = answer.calls if isinstance(answer, Tools) else []
        for index, (tool, arguments) in enumerate(calls, blocks):
            block = {"type": "tool_use", "id": f"toolu_{number}_{index}", "name": tool, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}
            yield "content_block_start", {"index": index, "content_block": block}
            yield "content_block_delta", {"index": index, "delta": delta}
            yield "content_block_stop", {"index": index}
        reason = "tool_use" if calls else "end_turn"
        yield (
            "message_delta",
            {"delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": 10}},
        )
        yield "message_stop", {}

    async def _hold(self, request: Request, gone: asyncio.Task[bytes]) -> None:
        self.held.append(request)
        await self._announce()
        released = asyncio.get_running_loop().create_task(self._released.wait())
        await asyncio.wait({released, gone}, return_when=asyncio.FIRST_COMPLETED)
        released.cancel()


def _pieces(text: str, count: int) -> list[str]:
    count = max(1, min(count, len(text)))
    cuts = [len(text) * n // count for n in range(count + 1)]
    return [text[a:b] for a, b in itertools.pairwise(cuts)]


def _respond(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    writer.write(head.encode() + b"connection: close\r\n\r\n" + data)


async def _main(port: int) -> None:
    api = MessagesAPI()
    await api.start(port)
    print(api.url, flush=True)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await api.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A loopback stand-in for the Anthropic Messages API.")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args().port))
