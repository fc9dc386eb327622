"""HTTP: one route for each operation of the catalogue, the feed as server-sent events, and who may come in.

The app serves the unix socket and, when asked for, TCP. On TCP a bearer token is always needed; Host and Origin are
checked everywhere, against pages that make a browser call us (DNS rebinding, cross-site requests).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

import tollboard
from tollboard.errors import Denied, StaleOwner, TollboardError, WireError
from tollboard.fleet.records import Caller, FeedItem
from tollboard.fleet.switchboard import Switchboard
from tollboard.operations.access import ALL, Access, Capability, plain, read_token
from tollboard.operations.catalogue import OPERATIONS, AnyOperation
from tollboard.operations.wire import DaemonHealth, ErrorAnswer, error_answer, parse_arguments, status_of

logger = logging.getLogger("tollboard.http")

MAX_BODY_BYTES = 4 * 1024 * 1024
HEARTBEAT_S = 15.0
SURFACE_HEADER, CLIENT_HEADER = "x-tollboard-surface", "x-tollboard-client"
UNIX_HOST = "tollboard"
"""The Host that our client sends over the unix socket."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
SendMessage = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class Door:
    """What the app needs to know of its daemon."""

    board: Switchboard
    secret: str
    hosts: frozenset[str]
    """Allowed Host headers on TCP, with their port."""
    shutdown: Callable[[], None]
    health: Callable[[], DaemonHealth]
    closing: asyncio.Event = field(default_factory=asyncio.Event)


def make_app(door: Door) -> FastAPI:
    """Return the app."""
    app = FastAPI(
        title="Tollboard", version=tollboard.__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json",
        description="Drives a fleet of long-lived agent sessions.",
    )  # fmt: skip
    app.state.door = door
    for operation in OPERATIONS.values():
        _add_route(app, door, operation)
    _add_stream(app, door)
    _add_daemon_routes(app, door)
    app.add_exception_handler(TollboardError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(Gate, door=door)
    return app


# -- routes --------------------------------------------------------------------------------

_ANSWERS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": text}
    for code, text in {
        400: "Not a JSON object, or a header that does not fit.",
        401: "A bearer token is needed.",
        403: "The token, Host or Origin does not allow it.",
        404: "What was named is not there.",
        408: "The wait ended.",
        409: "The moment is wrong.",
        413: "The body is too large.",
        422: "Bad input; the message names it.",
        424: "The provider or its program failed.",
        429: "A bounded queue is full.",
        503: "The daemon is shutting down.",
        507: "The database cannot be written now; nothing was accepted.",
    }.items()
}


def _add_route(app: FastAPI, door: Door, operation: AnyOperation) -> None:
    async def run(request: Request) -> JSONResponse:
        access: Access = request.state.access
        access.require(operation.needs)
        arguments = parse_arguments(operation, await _json_object(request))
        work = asyncio.ensure_future(operation.run(door.board.on_behalf_of(access.caller), arguments))
        result = await _unless_gone(request, door, work)
        return JSONResponse(operation.result.dump_python(result, mode="json"))

    takes = _inlined(operation.arguments.model_json_schema())
    gives = _inlined(operation.result.json_schema(mode="serialization"))
    app.add_api_route(
        f"/v1/{operation.name}", run, methods=["POST"], operation_id=operation.name, summary=operation.summary,
        description=f"Needs the capability `{operation.needs}`.", response_model=None,
        responses={200: {"description": "Done.", "content": {"application/json": {"schema": gives}}}, **_ANSWERS},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": takes}}}},
    )  # fmt: skip


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


async def _json_object(request: Request) -> object:
    body = await request.body()
    if not body:
        return {}
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise WireError("the body is not JSON") from None


async def _unless_gone(request: Request, door: Door, work: asyncio.Future[Any]) -> Any:
    """Return what the operation answers; give up when the client has gone or the daemon shuts down."""
    gone = asyncio.ensure_future(_disconnected(request))
    closing = asyncio.ensure_future(door.closing.wait())
    try:
        either: set[asyncio.Future[Any]] = {work, gone, closing}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if closing.done() and not work.done():
            await asyncio.wait({work}, timeout=1.0)
        if not work.done():
            raise TollboardError("the client has gone, or the daemon is shutting down")
        return work.result()
    finally:
        for task in (gone, closing, work):
            task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_stream(app: FastAPI, door: Door) -> None:
    @app.get(
        "/v1/events/stream",
        operation_id="events_stream",
        response_class=StreamingResponse,
        responses=_ANSWERS,
    )
    async def stream(
        request: Request,
        name: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = None,
        kind: Annotated[list[str] | None, Query(max_length=50)] = None,
        ref: Annotated[str | None, Query(max_length=64)] = None,
        after: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
    ) -> StreamingResponse:
        """Follow the feed as server-sent events; `Last-Event-ID` or `after` continues without gaps or repeats."""
        request.state.access.require(Capability.READ)
        last = request.headers.get("last-event-id")
        if last is not None:
            if not last.isascii() or not last.isdigit() or len(last) > 18:
                raise WireError("Last-Event-ID is the number of a feed item")
            after = int(last)
        if name is not None:
            await door.board.status(name)
        items = door.board.tail(name, kinds=tuple(kind or ()), ref=ref, after=after)
        return StreamingResponse(
            _sse(items, door), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )


async def _sse(items: AsyncIterator[FeedItem], door: Door) -> AsyncIterator[bytes]:
    """Yield the feed, a comment when nothing happens, and an end when the daemon shuts down."""
    following: asyncio.Future[FeedItem] | None = None
    closing = asyncio.ensure_future(door.closing.wait())
    try:
        yield b": following\n\n"
        while not closing.done():
            if following is None:
                following = asyncio.ensure_future(anext(items))
            either: set[asyncio.Future[Any]] = {following, closing}
            await asyncio.wait(either, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                item = following.result()
                following = None
                yield f"id: {item.seq}\nevent: {item.kind}\ndata: {_row(item)}\n\n".encode()
            elif not closing.done():
                yield b": waiting\n\n"
    finally:
        closing.cancel()
        if following is not None:
            following.cancel()
            await asyncio.wait({following})
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


def _row(item: FeedItem) -> str:
    row = {"seq": item.seq, "at": item.at, "session": item.session, "ref": item.ref, "kind": item.kind}
    return json.dumps({**row, "data": dict(item.data)}, ensure_ascii=False, separators=(",", ":"))


def _add_daemon_routes(app: FastAPI, door: Door) -> None:
    @app.get("/v1/health", operation_id="health", responses=_ANSWERS)
    async def health() -> JSONResponse:
        """Say who serves here."""
        return JSONResponse(door.health().model_dump())

    @app.post("/v1/shutdown", operation_id="shutdown", responses=_ANSWERS)
    async def shutdown(request: Request) -> JSONResponse:
        """End the daemon: turns in flight get a moment, queued prompts run after the next start."""
        request.state.access.require(Capability.ADMIN)
        door.shutdown()
        return JSONResponse({"stopping": True})


# -- errors --------------------------------------------------------------------------------


def _answer(error: TollboardError, status: int | None = None) -> JSONResponse:
    return JSONResponse(error_answer(error).model_dump(), status_code=status or status_of(error))


async def _on_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, TollboardError)
    if isinstance(exc, StaleOwner):
        # Another daemon owns the directory: nothing can be written here any more, so this one ends.
        request.app.state.door.shutdown()
    return _answer(exc)


async def _on_validation(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in exc.errors()[:5])
    return _answer(WireError(faults))


async def _on_http(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    return JSONResponse(
        ErrorAnswer.model_validate({"error": {"code": "not_found", "message": str(exc.detail)}}).model_dump(),
        status_code=exc.status_code, headers=exc.headers,
    )  # fmt: skip


async def _on_bug(_: Request, exc: Exception) -> JSONResponse:
    logger.error("a request failed with %s", type(exc).__name__, exc_info=exc)
    return _answer(TollboardError("the daemon has a fault; daemon.log says more"), 500)


# -- the door --------------------------------------------------------------------------------


class Gate:
    """Decides whether a request may come in, and as whom; bounds its body. Plain ASGI, so that streams pass through."""

    def __init__(self, app: Callable[[Scope, Receive, SendMessage], Awaitable[None]], door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        try:
            access = self._admit(scope, headers)
        except Denied as exc:
            status = 401 if "authorization" not in headers and "token" in str(exc) else 403
            response = _answer(exc, status)
            if status == 401:
                response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            await _answer(WireError(f"the body may have {MAX_BODY_BYTES:,} bytes"), 413)(scope, receive, send)
            return
        scope.setdefault("state", {})["access"] = access
        bounded = _Bounded(receive, send)
        try:
            await self._app(scope, bounded.receive, bounded.send)
        except _TooLarge:
            if not bounded.answered:
                await _answer(WireError(f"the body may have {MAX_BODY_BYTES:,} bytes"), 413)(
                    scope, receive, send
                )

    def _admit(self, scope: Scope, headers: dict[str, str]) -> Access:
        local = scope.get("server") is None or scope["server"][1] is None
        self._check_host(headers, local=local)
        caller = Caller(
            plain(headers.get(SURFACE_HEADER, "http")), plain(headers.get(CLIENT_HEADER, "unknown"))
        )
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and token:
            return read_token(self._door.secret, token.strip(), caller)
        if local:
            return Access(caller, ALL)
        raise Denied("a bearer token is needed here; it is in the file `token` of the state directory")

    def _check_host(self, headers: dict[str, str], *, local: bool) -> None:
        host = headers.get("host", "").lower()
        if not local and host not in self._door.hosts:
            raise Denied(f"the Host {host!r} is not one this daemon answers to")
        origin = headers.get("origin")
        if origin is not None and (local or origin.lower() not in {f"http://{host}", f"https://{host}"}):
            raise Denied(f"the Origin {origin!r} may not call this daemon")


class _TooLarge(Exception):
    """The body is longer than it said, or than it may be."""


class _Bounded:
    """Counts a body while it is read, whatever its length header said."""

    def __init__(self, receive: Receive, send: SendMessage) -> None:
        self._receive = receive
        self._send = send
        self._seen = 0
        self.answered = False

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > MAX_BODY_BYTES:
            raise _TooLarge
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.answered = True
        await self._send(message)
