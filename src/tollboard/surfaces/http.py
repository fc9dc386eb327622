"""HTTP: one route for each operation of the catalogue, the feed as server-sent events, health and shutdown.

`daemon.app` serves it on the unix socket and, when asked for, on TCP; `gate` decides who comes in.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect

import tollboard
from tollboard.errors import DaemonError, StaleOwner, TollboardError, WireError
from tollboard.fleet.records import FeedItem
from tollboard.operations.access import Access, Capability
from tollboard.operations.arguments import MAX_WORD, Follow, NoArguments
from tollboard.operations.catalogue import OPERATIONS, AnyOperation
from tollboard.operations.wire import (
    STREAM_ERROR,
    DaemonHealth,
    ErrorAnswer,
    ErrorBody,
    check,
    describe,
    error_answer,
    parse_arguments,
)
from tollboard.surfaces.gate import App, Door, Gate, Receive, Scope, SendMessage, answer
from tollboard.surfaces.mcp.http import McpOverHttp

logger = logging.getLogger("tollboard.http")

HEARTBEAT_S = 15.0
MCP_PATH = "/mcp"
Run = Callable[[Request], Awaitable[Response]]
LAST_WORDS_S = 1.0
"""How long an operation that only waits may take to answer once the daemon shuts down."""


def make_app(door: Door, mcp: McpOverHttp | None = None) -> App:
    """Return the app: the gate, then what is called often, then FastAPI. `mcp` stands in for the usual one in tests."""
    app = FastAPI(
        title="Tollboard", version=tollboard.__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json",
        description="Drives a fleet of long-lived agent sessions.",
        # For the description only: the gate has looked at the token before any route is found.
        dependencies=[Depends(HTTPBearer(auto_error=False, description="Not needed over the unix socket."))],
    )  # fmt: skip
    app.state.door = door
    runs = {f"/v1/{operation.name}": _add_route(app, door, operation) for operation in OPERATIONS.values()}
    _add_stream(app, door)
    _add_daemon_routes(app, door)
    app.add_exception_handler(TollboardError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    return ServerErrorMiddleware(Gate(Shortcut(app, runs, mcp or McpOverHttp(door)), door), handler=_on_bug)


class Shortcut:
    """Runs operations and MCP without the routes of FastAPI and the layers around them, which took most of a call.

    The route of an operation describes it, and says what else may not be asked of its path.
    """

    def __init__(self, app: FastAPI, runs: Mapping[str, Run], mcp: App) -> None:
        self._app = app
        self._runs = runs
        self._mcp = mcp

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """Handle one request that the gate has let in."""
        run = self._runs.get(scope["path"]) if scope["method"] == "POST" else None
        if run is None and scope["path"] != MCP_PATH:
            await self._app(scope, receive, send)
            return
        request = Request({**scope, "app": self._app}, receive)
        try:
            if run is None:
                await self._mcp(scope, receive, send)
                return
            response = await run(request)
        except TollboardError as exc:
            response = await _on_error(request, exc)
        await response(scope, receive, send)


# -- operations ---------------------------------------------------------------------------------------------------

_FAULTS = {
    401: "A bearer token is needed.",
    403: "The token, Host or Origin does not allow it.",
    404: "What was named is not there.",
    409: "The moment is wrong.",
    413: "The body is too long.",
    422: "Bad input; the message names it.",
    424: "The provider or its program failed.",
    429: "A bounded queue is full.",
    503: "The daemon is shutting down.",
    507: "The database cannot be written now; nothing was accepted.",
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": text} for code, text in _FAULTS.items()
}
# The same, by reference to what the daemon's own routes declare: a model for each of two hundred answers was half of
# the time that making the app took, and a client that starts the daemon waits for that.
_REFERRED: dict[int | str, dict[str, Any]] = {
    code: {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}},
    }
    for code, text in _FAULTS.items()
}


def _add_route(app: FastAPI, door: Door, operation: AnyOperation) -> Run:
    async def run(request: Request) -> Response:
        access: Access = request.state.access
        access.require(operation.needs)
        arguments = parse_arguments(operation, await _json(request))
        access.require(operation.needed(arguments))
        work = operation.run(door.boards(access), arguments)
        # What changes something is carried out, whoever hangs up meanwhile: half a stop helps nobody.
        result = await (_unless_gone(request, door, work) if operation.waits else work)
        return Response(operation.result.dump_json(result), media_type="application/json")

    takes = _inlined(operation.arguments.model_json_schema())
    gives = _inlined(operation.result.json_schema(mode="serialization"))
    body = {"schema": takes, "example": dict(operation.example)}
    app.add_api_route(
        f"/v1/{operation.name}", run, methods=["POST"], operation_id=operation.name, summary=operation.summary,
        description=_description(operation), response_model=None,
        responses={200: {"description": "Done.", "content": {"application/json": {"schema": gives}}}, **_REFERRED},
        openapi_extra={
            "requestBody": {"required": bool(takes.get("required")), "content": {"application/json": body}}
        },
    )  # fmt: skip
    return run


def _description(operation: AnyOperation) -> str:
    codes = ", ".join(f"`{error.code}`" for error in operation.raises)
    return f"{operation.summary}\n\nNeeds the capability `{operation.needs}`. Errors: {codes}."


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without `$defs`: what they hold is put where it is used."""
    definitions = schema.pop("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            ref = node.get("$ref")
            if isinstance(ref, str):
                return walk(definitions[ref.rsplit("/", 1)[-1]])
            return {key: walk(value) for key, value in node.items() if key != "discriminator"}
        return [walk(item) for item in node] if isinstance(node, list) else node

    inlined: dict[str, Any] = walk(schema)
    return inlined


async def _json(request: Request) -> object:
    try:
        body = await request.body()
    except ClientDisconnect:
        raise WireError("the client hung up before it had asked") from None
    if not body:
        return {}
    try:
        return _decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except (ValueError, RecursionError):
        raise WireError("the body is not JSON") from None


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode


async def _unless_gone(request: Request, door: Door, work: Any) -> Any:
    """Return what the operation answers; give it up when the client has gone or the daemon shuts down."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    closing = asyncio.ensure_future(door.closing.wait())
    tasks: tuple[asyncio.Future[Any], ...] = (working, gone, closing)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if closing.done() and not working.done():
            await asyncio.wait({working}, timeout=LAST_WORDS_S)
        if not working.done():
            raise DaemonError("the daemon is shutting down; try again in a moment")
        return working.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# -- the feed -----------------------------------------------------------------------------------------------------


def _add_stream(app: FastAPI, door: Door) -> None:
    @app.get(
        "/v1/events/stream",
        operation_id="events_stream",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}, **_ANSWERS},
    )
    async def stream(request: Request, query: Annotated[Follow, Query()]) -> StreamingResponse:
        """Follow the feed as server-sent events; `Last-Event-ID` or `after` continues without gaps or repeats."""
        request.state.access.require(Capability.READ)
        last = _last_event_id(request)
        if query.name is not None:
            await door.board.status(query.name)
        asked = query.after if last is None else last
        after = door.board.newest_item if asked is None else asked
        items = door.board.tail(query.name, kinds=tuple(query.kind), ref=query.ref, after=after)
        return StreamingResponse(
            _sse(items, door, after), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )


def _last_event_id(request: Request) -> int | None:
    last = request.headers.get("last-event-id")
    if last is None:
        return None
    if not last.isascii() or not last.isdigit() or len(last) > 18:
        raise WireError(f"Last-Event-ID is {last[:40]!r}: it is the number of a feed item")
    return int(last)


async def _sse(items: AsyncIterator[FeedItem], door: Door, after: int) -> AsyncIterator[bytes]:
    """Yield the feed, a comment when nothing happens, and an end when the daemon shuts down.

    First comes the number it begins after: who loses the stream before the first item can go on from there. A slow
    client holds nothing up: the next item is asked for once the last one was taken.
    """
    following: asyncio.Future[FeedItem] | None = None
    closing = asyncio.ensure_future(door.closing.wait())
    try:
        yield b": following\nid: %d\n\n" % after
        while not closing.done():
            following = following or asyncio.ensure_future(_next(items))
            either: set[asyncio.Future[Any]] = {following, closing}
            await asyncio.wait(either, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                item = following.result()
                following = None
                yield _event(item)
            elif not closing.done():
                yield b": waiting\n\n"
    except StopAsyncIteration:
        return
    except TollboardError as exc:
        yield f"event: {STREAM_ERROR}\ndata: {error_answer(exc).model_dump_json()}\n\n".encode()
    finally:
        await _end(items, closing, following)


async def _next(items: AsyncIterator[FeedItem]) -> FeedItem:
    return await anext(items)


async def _end(items: AsyncIterator[FeedItem], *tasks: asyncio.Future[Any] | None) -> None:
    left = [task for task in tasks if task is not None]
    for task in left:
        task.cancel()
    await asyncio.wait(left)
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()


def _event(item: FeedItem) -> bytes:
    """Return an item as one event. In ASCII: some readers end lines at every kind of line end Unicode has."""
    row = {"seq": item.seq, "at": item.at, "session": item.session, "ref": item.ref, "kind": item.kind}
    data = json.dumps({**row, "data": dict(item.data)}, separators=(",", ":"))
    return f"id: {item.seq}\nevent: {item.kind}\ndata: {data}\n\n".encode()


# -- the daemon ---------------------------------------------------------------------------------------------------


def _add_daemon_routes(app: FastAPI, door: Door) -> None:
    @app.get("/v1/health", operation_id="health", responses=_ANSWERS)
    async def health() -> DaemonHealth:
        """Say who serves here."""
        return door.health()

    @app.post("/v1/shutdown", operation_id="shutdown", responses=_ANSWERS)
    async def shutdown(request: Request) -> JSONResponse:
        """End the daemon: turns in flight get a moment, queued prompts run after the next start."""
        request.state.access.require(Capability.ADMIN)
        check("shutdown", NoArguments, await _json(request))
        door.shutdown()
        return JSONResponse({"stopping": True})


# -- errors -------------------------------------------------------------------------------------------------------


async def _on_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, TollboardError)
    if isinstance(exc, StaleOwner):
        # Another daemon owns the directory: nothing can be written here any more, so this one ends.
        request.app.state.door.shutdown()
    return answer(exc)


async def _on_validation(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    faults = [{**fault, "loc": fault["loc"][1:]} for fault in exc.errors()]
    return answer(WireError(f"events_stream: {describe(faults, Follow.model_fields)}"))


async def _on_http(request: Request, exc: Exception) -> JSONResponse:
    """Say in our own form that there is no such route, or not with this method."""
    assert isinstance(exc, HTTPException)
    path = request.url.path[:MAX_WORD]
    code, message = WireError.code, str(exc.detail)
    if exc.status_code == 404:
        code, message = "not_found", f"there is nothing at {path!r}; /openapi.json describes what there is"
    elif exc.status_code == 405 and exc.headers is not None:
        message = f"{path!r} does not take {request.method}; use {exc.headers['Allow']}"
    body = ErrorAnswer(error=ErrorBody(code=code, message=message))
    return JSONResponse(body.model_dump(), status_code=exc.status_code, headers=exc.headers)


async def _on_bug(_: Request, exc: Exception) -> JSONResponse:
    # The server logs it, with where it happened.
    logger.error("a request failed with %s", type(exc).__name__)
    return answer(TollboardError("the daemon has a fault; daemon.log says more"), 500)
