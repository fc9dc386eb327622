"""A loopback stand-in for the APIs of Anthropic, OpenAI (Chat Completions, Responses) and Google, also streamed.

Tests and examples point a model's base URL at it, so that the real clients talk real HTTP without a key:

    async with ModelAPI() as api:
        api.script(Reply(calls=(ToolCall("add", {"a": 1, "b": 2}),)), "It is 3.")
        ...  # a client at api.anthropic_url or api.openai_url

What it answers is decided, for each request, by the scripted replies, else by the handler, else it says
`You said: <the last user text>`. It never checks a key, never writes what it reads anywhere, never sleeps.

As a program, `python -m tollboard.testing.model_api --port 0 --rules rules.json` prints its address on the first line
and serves until it is ended. `Rules` says what the file holds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import json
import re
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from tollboard.testing.model_formats import ChatCompletions, wire_of
from tollboard.testing.model_wire import Message, Reply, Seen, ToolCall, ToolResult, Wire, unique

__all__ = ["Message", "ModelAPI", "Reply", "Rules", "Seen", "ToolCall", "ToolResult"]

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_REQUESTS = 1000
"""How many requests `ModelAPI.requests` keeps; the oldest are forgotten."""

_RESET = struct.pack("ii", 1, 0)
"""Linger for no time: closing the socket resets the connection."""
_GIVE_UP, _TRY_AGAIN = "x-should-retry: false", "retry-after-ms: 1"
"""What the clients of both providers heed, so that a failure costs no waiting."""


Answer = Reply | str | None
"""A reply, its words, or None for `You said: ...`."""

Handler = Callable[[Seen], Answer | Awaitable[Answer]]


class ModelAPI:
    """The server, on a free port of the loopback. A handler that raises fails the `async with` block at its end."""

    def __init__(self, handler: Handler | None = None) -> None:
        self.requests: list[Seen] = []
        """The requests so far, oldest first."""
        self.hanging = 0
        """How many replies hang now."""
        self.url = ""
        self._handler = handler
        self._script: list[Reply | str] = []
        self._arrived = 0
        self._gone = 0
        self._changed = asyncio.Condition()
        self._released = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []

    @property
    def anthropic_url(self) -> str:
        """The base URL for a client of Anthropic."""
        return self.url

    @property
    def google_url(self) -> str:
        """The base URL for a client of Google."""
        return self.url

    @property
    def openai_url(self) -> str:
        """The base URL for a client of OpenAI."""
        return f"{self.url}/v1"

    async def __aenter__(self) -> ModelAPI:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if self._failures and error is None:
            raise ExceptionGroup("the stand-in could not answer", self._failures)

    async def start(self, port: int = 0) -> None:
        """Listen; 0 picks a free port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def script(self, *replies: Reply | str) -> None:
        """Queue replies; they are used in order, before the handler."""
        self._script.extend(replies)

    def release(self) -> None:
        """Let the replies that hang now go on to their end."""
        self._released.set()
        self._released = asyncio.Event()

    async def wait_for_requests(self, count: int) -> None:
        """Return once that many requests have arrived, counted from the start."""
        await self._wait(lambda: self._arrived >= count)

    async def wait_for_hanging(self, count: int = 1) -> None:
        """Return once that many replies hang, their first pieces sent."""
        await self._wait(lambda: self.hanging >= count)

    async def wait_for_gone(self, count: int = 1) -> None:
        """Return once that many clients went away from a hanging reply, counted from the start."""
        await self._wait(lambda: self._gone >= count)

    async def _wait(self, predicate: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(predicate)

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failures.append(error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            try:
                await self._exchange(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request and answer it; every connection is for one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, _, path = head[0].rpartition(" ")[0].partition(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        wire = wire_of(path) if method == "POST" else None
        if wire is None:
            _respond(writer, ChatCompletions().error(404, f"nothing at {method} {path}"), 404)
            return
        length = int(headers.get("content-length", 0))
        if length > MAX_BODY_BYTES:
            _respond(writer, wire.error(413, f"at most {MAX_BODY_BYTES} bytes"), 413)
            return
        data = await reader.readexactly(length)
        if "/count_tokens" in path:
            _respond(writer, {"input_tokens": length // 4})
            return
        try:
            seen = wire.read(json.loads(data), headers)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _respond(writer, wire.error(400, f"not a request: {error!r}"), 400)
            return
        await self._keep(seen)
        try:
            reply = await self._answer(seen)
        except BaseException:
            _respond(writer, wire.error(500, "the stand-in could not answer"), 500, _GIVE_UP)
            raise
        await self._reply(wire, seen, reply, reader, writer)

    async def _keep(self, seen: Seen) -> None:
        self.requests.append(seen)
        del self.requests[:-MAX_REQUESTS]
        self._arrived += 1
        await self._announce()

    async def _answer(self, seen: Seen) -> Reply:
        answer: Answer | Awaitable[Answer] = self._script.pop(0) if self._script else None
        if answer is None and self._handler is not None:
            answer = self._handler(seen)
            if inspect.isawaitable(answer):
                answer = await answer
        if answer is None:
            answer = f"You said: {seen.last_user}"
        reply = Reply(answer) if isinstance(answer, str) else answer
        assert isinstance(reply, Reply), f"a handler returns a Reply, words or None, not {reply!r}"
        return replace(reply, calls=tuple(replace(c, id=c.id or unique("call")) for c in reply.calls))

    async def _reply(
        self, wire: Wire, seen: Seen, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if reply.status != 200:
            message = reply.text or f"the stand-in was told to answer {reply.status}"
            again = _TRY_AGAIN if reply.retry else _GIVE_UP
            _respond(writer, wire.error(reply.status, message, reply.code), reply.status, again)
            return
        pieces = _sse(wire.events(seen, reply)) if seen.streamed else _halves(wire.plain(seen, reply))
        kind = "text/event-stream" if seen.streamed else "application/json"
        writer.write(_head(200, kind, "transfer-encoding: chunked"))
        first = wire.first if seen.streamed and (reply.text or reply.calls) else 1
        for number, piece in enumerate(pieces):
            if number == reply.stop_after:
                break
            if number == first and reply.fail and seen.streamed:
                _write(writer, next(_sse(iter([wire.failure(reply.fail)]))))
                break
            if number == first and reply.cut:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
                return
            if number == first and reply.hang and not await self._hang(reader):
                return
            _write(writer, piece)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _hang(self, reader: asyncio.StreamReader) -> bool:
        """Wait for a release or the client's end; return whether the client is still there."""
        gone = asyncio.ensure_future(reader.read(1))
        released = asyncio.ensure_future(self._released.wait())
        self.hanging += 1
        await self._announce()
        try:
            await asyncio.wait({gone, released}, return_when=asyncio.FIRST_COMPLETED)
            left = gone.done()
        finally:
            self.hanging -= 1
            for task in (gone, released):
                task.cancel()
            await asyncio.gather(gone, released, return_exceptions=True)
        self._gone += left
        await self._announce()
        return not left


def _head(status: int, kind: str, *lines: str) -> bytes:
    fields = (f"HTTP/1.1 {status} -", f"content-type: {kind}", "connection: close", *lines)
    return "".join(f"{line}\r\n" for line in (*fields, "")).encode()


def _respond(writer: asyncio.StreamWriter, body: object, status: int = 200, *lines: str) -> None:
    data = json.dumps(body).encode()
    writer.write(_head(status, "application/json", f"content-length: {len(data)}", *lines) + data)


def _write(writer: asyncio.StreamWriter, piece: bytes) -> None:
    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


def _halves(body: object) -> Iterator[bytes]:
    data = json.dumps(body).encode()
    yield data[: len(data) // 2]
    yield data[len(data) // 2 :]


def _sse(events: Iterator[tuple[str, object]]) -> Iterator[bytes]:
    for name, data in events:
        text = data if isinstance(data, str) else json.dumps(data)
        yield (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


# --- the program ------------------------------------------------------------------------------------------------


class Rules:
    """A handler made of data. The first rule that fits answers; when none does, it is `You said: ...`.

    A rule is a mapping. What it looks at:

        when    text that the last message holds: what tools gave, or what the user said; absent: any
        system  text that the system prompt holds, to tell agents apart; absent: any
        once    true: the rule answers one request and is used up

    What it answers: `text`, `calls` (a list of `{"tool": ..., "arguments": {...}}`) and the other fields of `Reply`.
    `{user}` and `{result}` in texts and arguments stand for the last user text and the last message's tool results.
    """

    _own = frozenset({"when", "system", "once"})

    def __init__(self, rules: list[dict[str, Any]]) -> None:
        known = {field.name for field in fields(Reply)} | self._own
        for number, rule in enumerate(rules):
            if unknown := set(rule) - known:
                raise ValueError(f"rule {number}: unknown {sorted(unknown)}; known are {sorted(known)}")
        self._rules = list(rules)

    def __call__(self, seen: Seen) -> Reply | None:
        """Return the reply of the first rule that fits."""
        last = seen.messages[-1] if seen.messages else Message("user")
        text = "\n".join([*seen.results.values(), last.text])
        for rule in self._rules:
            if rule.get("when", "") in text and rule.get("system", "") in seen.system:
                if rule.get("once"):
                    self._rules.remove(rule)
                return self._reply(rule, seen)
        return None

    def _reply(self, rule: dict[str, Any], seen: Seen) -> Reply:
        texts = {"{user}": seen.last_user, "{result}": "\n".join(seen.results.values())}
        answer = {key: _filled(value, texts) for key, value in rule.items() if key not in self._own}
        calls = tuple(
            ToolCall(c["tool"], c.get("arguments", {}), c.get("id"), c.get("raw"))
            for c in answer.pop("calls", ())
        )
        return Reply(calls=calls, **answer)


def _filled(value: Any, texts: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, texts) for item in value]
    if isinstance(value, str):
        return re.sub(r"\{user\}|\{result\}", lambda match: texts[match[0]], value)
    return value


async def _serve(port: int, rules: Rules | None) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    api = ModelAPI(rules)
    await api.start(port)
    try:
        print(
            f"{api.url}\nANTHROPIC_BASE_URL={api.anthropic_url}\nOPENAI_BASE_URL={api.openai_url}", flush=True
        )
        await ended.wait()
    finally:
        await api.stop()


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="tollboard.testing.model_api", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--rules", type=Path, help="a JSON file with a list of rules")
    options = parser.parse_args()
    rules = Rules(json.loads(options.rules.read_text(encoding="utf-8"))) if options.rules else None
    asyncio.run(_serve(options.port, rules))


if __name__ == "__main__":
    _main()
