"""Standard input and output as the two streams of an MCP server, on the event loop; `stdio.py` runs the server on them.

The SDK reads and writes them in threads, three hops for each call, which took as long as all the rest of a tool that
does nothing. Pipes and sockets need none, and they are what hosts give; anything else (a terminal, a file) goes the
SDK's way.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self

import anyio
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError, jsonrpc_message_adapter
from pydantic import ValidationError

from tollboard.operations.arguments import is_unicode
from tollboard.surfaces.mcp.greeting import STDIN, STDOUT, Greeted, is_piped

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Of a message: a prompt of its full length is a tenth of it, however it is escaped."""
STDERR = 2


@asynccontextmanager
async def standard_streams(greeted: Greeted) -> AsyncGenerator[tuple[Any, Any]]:
    """Yield what to read messages from and what to write them to; what was read before comes first. While it serves,
    and afterwards, nothing else in the process can write to the wire: standard output is standard error."""
    if not all(is_piped(number) for number in (STDIN, STDOUT)):
        async with stdio_server() as streams:
            yield streams
        return
    loop = asyncio.get_running_loop()
    wire_in, wire_out = os.fdopen(os.dup(STDIN), "rb", 0), os.fdopen(os.dup(STDOUT), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, STDIN)
    os.close(nothing)
    os.dup2(STDERR, STDOUT)
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    reader.feed_data(greeted.read)
    reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), wire_in)
    writing, flow = await loop.connect_write_pipe(lambda: asyncio.streams.FlowControlMixin(loop), wire_out)
    writing.set_write_buffer_limits(0)  # a message counts as sent once all of it is gone
    try:
        outgoing = Outgoing(asyncio.StreamWriter(writing, flow, reader, loop), greeted.answered)
        yield Incoming(reader, outgoing), outgoing
    finally:
        reading.close()
        writing.close()


class _Stream:
    """What the SDK's loops want of both."""

    async def aclose(self) -> None:
        """Do nothing: who opened the streams closes them."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


class Incoming(_Stream):
    """What the host says, message by message. Implements the SDK's ReadStream."""

    def __init__(self, reader: asyncio.StreamReader, outgoing: Outgoing) -> None:
        self._reader = reader
        self._outgoing = outgoing

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message, or what is wrong with it. Raises EndOfStream when the host has closed its end."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):  # the host is gone, or says a line without end
            line = b""
        if not line:
            raise anyio.EndOfStream
        try:
            return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
        except ValidationError as exc:
            # The SDK drops it, and the host would wait for an answer for ever.
            if (refusal := _refusal(line, exc)) is not None:
                with suppress(anyio.BrokenResourceError):
                    await self._outgoing.send(SessionMessage(refusal))
            return exc

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


def _refusal(line: bytes, fault: ValidationError) -> JSONRPCError | None:
    """Return the answer to what cannot be read, `None` when nobody waits for one: it is no request, or has no id."""
    try:
        said = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    asked = said.get("id") if isinstance(said, dict) and not said.keys() & {"result", "error"} else None
    if isinstance(asked, bool) or not isinstance(asked, int | str) or not is_unicode(str(asked)):
        return None
    first = fault.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        why = f"{first['msg']}; text must be whole Unicode characters, and nothing nested too deeply"
        return _error(asked, PARSE_ERROR, f"the request cannot be read: {why}")
    where = ".".join(map(str, first["loc"][1:])) or "the message"
    return _error(asked, INVALID_REQUEST, f"the request cannot be read: {where}: {first['msg']}")


def _error(asked: int | str, code: int, message: str) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=asked, error=ErrorData(code=code, message=message))


class Outgoing(_Stream):
    """What the host is told. Implements the SDK's WriteStream."""

    def __init__(self, writer: asyncio.StreamWriter, answered: int | str | None = None) -> None:
        self._writer = writer
        self._answered = answered
        """The request that was answered before: its second answer is not sent."""

    async def send(self, item: SessionMessage) -> None:
        """Send a message. Raises BrokenResourceError when nobody reads it."""
        if self._answered is not None and getattr(item.message, "id", None) == self._answered:
            self._answered = None
            return
        text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        try:
            self._writer.write(text.encode() + b"\n")
            await self._writer.drain()
        except OSError:
            raise anyio.BrokenResourceError from None
