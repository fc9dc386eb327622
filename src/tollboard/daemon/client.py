"""The Switchboard's verbs over the daemon's socket; starts the daemon if none runs.

    async with Client.connect() as board:
        ref = await board.send("api", "what files are here?")

`board.pools` has the verbs of pools. One client is one person or program: `surface` and `client` are recorded with
what it does.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from tollboard.daemon.config import StateDirectory, absolute, state_directory
from tollboard.daemon.connection import END_TIMEOUT_S, Connection, logger
from tollboard.daemon.following import follow
from tollboard.daemon.pool_client import PoolClient
from tollboard.errors import DaemonError, Denied, Invalid, WireError
from tollboard.fleet.board import DEFAULT_BACKEND, DEFAULT_READER, MAX_FEED_PAGE, MAX_PAGE, MAX_PROMPT_BYTES
from tollboard.fleet.checking import checked
from tollboard.fleet.records import (
    ApprovalRecord,
    BackendInfo,
    BroadcastItem,
    Deleted,
    FeedItem,
    FeedPage,
    HaltReport,
    Inbox,
    InboxSession,
    Interrupted,
    Poll,
    Receipt,
    SessionDefinition,
    SessionStatus,
    StopReport,
    SubAgentCancelled,
    SubAgentMessages,
    SubAgentRecord,
    Summary,
    Transcript,
    WaitReport,
)
from tollboard.fleet.settings import FleetSettings
from tollboard.operations.access import plain
from tollboard.runtime.approval import Decision, plain_decision

if TYPE_CHECKING:
    from tollboard.operations.wire import DaemonHealth


Token = str | Callable[[], str]
"""What narrows a client, or what makes it."""


class Connecting:
    """What `Client.connect` returns: await it for a client, or enter it to have it closed as well."""

    def __init__(self, client: Client, *, start: bool) -> None:
        self._client = client
        self._start = start

    def __await__(self) -> Any:
        return self._client._open(start=self._start).__await__()

    async def __aenter__(self) -> Client:
        return await self._client._open(start=self._start)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._client.close()


class Client:
    """Implements `Board` against a daemon. Make it with `connect`."""

    def __init__(
        self, home: StateDirectory, surface: str, client: str, token: Token | None, *, lasting: bool = False
    ) -> None:
        self.home = home
        self.on_notice: Callable[[str], None] = logger.info
        """Hears in a line what a person should know while something goes on by itself."""
        if callable(token):
            make = token
            self._connection = Connection(home, lambda: _headers(surface, client, make()), lasting=lasting)
        else:
            headers = _headers(surface, client, token)
            self._connection = Connection(home, lambda: headers, lasting=lasting)
        self.pools = PoolClient(self._call)

    @classmethod
    def connect(
        cls, home: str | os.PathLike[str] | None = None, *, start: bool = True, surface: str = "python",
        client: str | None = None, token: str | None = None,
    ) -> Connecting:  # fmt: skip
        """Reach the daemon of a state directory; start it if none runs, unless `start` is false.

        `token` narrows what this client may do; over the socket none is needed. Raises DaemonUnreachable, or the error
        that kept the daemon from starting. Every verb raises DaemonFrozen when the daemon stands still meanwhile.
        """
        return Connecting(cls(state_directory(home), surface, client or _user(), token), start=start)

    @classmethod
    def open(cls, home: str | os.PathLike[str] | None = None) -> Connecting:
        """Reach the daemon of a state directory: `connect`, under the name that `Switchboard` has for it."""
        return cls.connect(home)

    @classmethod
    def lasting(
        cls, home: str | os.PathLike[str] | None = None, *, surface: str = "python", client: str | None = None,
        token: Token | None = None,
    ) -> Client:  # fmt: skip
        """Return a client that reaches a daemon with its first call, and starts one whenever none runs.

        For programs that nobody starts anew. A daemon that dies in the middle of a call is replaced too; the call is
        made again if it only reads, else it raises DaemonUnreachable and says that it may have been done. `token` may
        be a function: it is called each time a daemon was found or started.
        """
        return cls(state_directory(home), surface, client or _user(), token, lasting=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the daemon goes on. Idempotent."""
        await self._connection.close()

    async def _open(self, *, start: bool) -> Client:
        await self._connection.open(start=start)
        return self

    def _notice(self, text: str) -> None:
        self.on_notice(text)

    # -- the daemon itself --------------------------------------------------------------------------------

    async def health(self) -> DaemonHealth:
        """Return who serves: version, pid, uptime, state directory, TCP address if any."""
        return await self._connection.health()

    async def shutdown(self) -> None:
        """End the daemon gracefully; returns when it has given the directory up."""
        from tollboard.daemon.pulse import UNSURE, remedies
        from tollboard.daemon.single import wait_for_exit

        pid = (await self.health()).pid
        await self._connection.request("POST", "/v1/shutdown", fate=lambda: UNSURE)
        await self.close()
        if not await asyncio.to_thread(wait_for_exit, pid, END_TIMEOUT_S):
            raise DaemonError(
                f"the daemon (pid {pid}) has not ended within {END_TIMEOUT_S:g} s; {remedies(self.home, pid)}"
            )

    async def _call(self, operation: str, /, **arguments: object) -> Any:
        from pydantic import ValidationError

        from tollboard.operations.catalogue import OPERATIONS

        def known() -> str:
            from tollboard.daemon.pulse import fate

            return fate(OPERATIONS[operation], given)

        given = {key: value for key, value in arguments.items() if value is not None}
        content = await self._connection.request("POST", f"/v1/{operation}", _body(given), fate=known)
        try:
            return OPERATIONS[operation].result.validate_json(content)
        except ValidationError:
            raise self._connection.misunderstood(f"to {operation}") from None

    # -- sessions --------------------------------------------------------------------------------

    @checked
    async def start_session(
        self, name: str, *, path: str | os.PathLike[str], backend: str = DEFAULT_BACKEND, **options: object
    ) -> SessionStatus:
        """See `Board.start_session`. A relative path is this process's, not the daemon's."""
        real = absolute(path)
        return cast(
            "SessionStatus",
            await self._call("start_session", name=name, path=real, backend=backend, options=options),
        )

    @checked
    async def check_session(
        self, name: str, *, path: str | os.PathLike[str], backend: str = DEFAULT_BACKEND, **options: object
    ) -> SessionDefinition:
        """See `Board.check_session`. A relative path is this process's, not the daemon's."""
        real = absolute(path)
        return cast(
            "SessionDefinition",
            await self._call("check_session", name=name, path=real, backend=backend, options=options),
        )

    @checked
    async def list_sessions(
        self, *, all: bool = False, reader: str = DEFAULT_READER
    ) -> tuple[SessionStatus, ...]:
        """See `Board.list_sessions`."""
        found = await self._call("list_sessions", all=all, reader=reader)
        return cast("tuple[SessionStatus, ...]", found)

    @checked
    async def status(self, name: str, *, reader: str = DEFAULT_READER) -> SessionStatus:
        """See `Board.status`."""
        return cast("SessionStatus", await self._call("status", name=name, reader=reader))

    @checked
    async def definition(self, name: str) -> SessionDefinition:
        """See `Board.definition`."""
        return cast("SessionDefinition", await self._call("definition", name=name))

    @checked
    async def stop_session(self, name: str, *, drain: bool = False) -> StopReport:
        """See `Board.stop_session`."""
        return cast("StopReport", await self._call("stop_session", name=name, drain=drain))

    @checked
    async def delete_session(self, name: str) -> Deleted:
        """See `Board.delete_session`."""
        return cast("Deleted", await self._call("delete_session", name=name))

    async def backends(self) -> tuple[BackendInfo, ...]:
        """See `Board.backends`."""
        return cast("tuple[BackendInfo, ...]", await self._call("backends"))

    # -- prompts --------------------------------------------------------------------------------

    @checked
    async def send(self, name: str, prompt: str, *, queue: bool = False, key: str | None = None) -> str:
        """See `Board.send`."""
        return cast("str", await self._call("send", name=name, prompt=_prompt(prompt), queue=queue, key=key))

    @checked
    async def poll(self, name: str, ref: str) -> Poll:
        """See `Board.poll`."""
        return cast("Poll", await self._call("poll", name=name, ref=ref))

    @checked
    async def wait(
        self, refs: Sequence[str], *, timeout: float | None = None, mode: Literal["all", "any"] = "all"
    ) -> WaitReport:
        """See `Board.wait`."""
        return cast(
            "WaitReport", await self._call("wait", refs=_listed("refs", refs), timeout=timeout, mode=mode)
        )

    @checked
    async def broadcast(
        self, prompt: str, *, names: Sequence[str] | None = None
    ) -> tuple[BroadcastItem, ...]:
        """See `Board.broadcast`."""
        listed = None if names is None else _listed("names", names)
        items = await self._call("broadcast", prompt=_prompt(prompt), names=listed)
        return cast("tuple[BroadcastItem, ...]", items)

    @checked
    async def cancel(self, name: str, ref: str) -> Receipt:
        """See `Board.cancel`."""
        return cast("Receipt", await self._call("cancel", name=name, ref=ref))

    # -- reading --------------------------------------------------------------------------------

    @checked
    async def inbox(
        self, name: str | None = None, *, ack: bool = False, reader: str = DEFAULT_READER,
        wait: float | None = None, limit: int = 100,
    ) -> Inbox:  # fmt: skip
        """See `Board.inbox`."""
        return cast(
            "Inbox", await self._call("inbox", name=name, ack=ack, reader=reader, wait=wait, limit=limit)
        )

    @checked
    async def ack(self, name: str, seq: int, *, reader: str = DEFAULT_READER) -> InboxSession:
        """See `Board.ack`."""
        return cast("InboxSession", await self._call("ack", name=name, seq=seq, reader=reader))

    @checked
    async def transcript(
        self, name: str, *, limit: int | None = None, before: int | None = None
    ) -> Transcript:
        """See `Board.transcript`."""
        return cast("Transcript", await self._call("transcript", name=name, limit=limit, before=before))

    @checked
    async def summary_get(self, name: str, *, version: int | None = None) -> Summary:
        """See `Board.summary_get`."""
        return cast("Summary", await self._call("summary_get", name=name, version=version))

    @checked
    async def summary_update(self, name: str, text: str) -> Summary:
        """See `Board.summary_update`."""
        return cast("Summary", await self._call("summary_update", name=name, text=_summary(text)))

    @checked
    async def summary_versions(self, name: str) -> tuple[Summary, ...]:
        """See `Board.summary_versions`."""
        return cast("tuple[Summary, ...]", await self._call("summary_versions", name=name))

    @checked
    async def events(
        self, name: str | None = None, *, kinds: Sequence[str] = (), ref: str | None = None, after: int = 0,
        limit: int = MAX_FEED_PAGE,
    ) -> FeedPage:  # fmt: skip
        """See `Board.events`."""
        page = await self._call(
            "events", name=name, kinds=_listed("kinds", kinds), ref=ref, after=after, limit=limit
        )
        return cast("FeedPage", page)

    async def tail(
        self,
        name: str | None = None,
        *,
        kinds: Sequence[str] = (),
        ref: str | None = None,
        after: int | None = None,
    ) -> AsyncIterator[FeedItem]:
        """See `Board.tail`. From now on means from the first item asked for.

        Goes on after a restart of the daemon where it was, without gaps or repeats, and waits for a daemon meanwhile;
        `on_notice` hears of it. Raises DaemonUnreachable only when there was none at the beginning.
        """
        asked: dict[str, str | int | list[str]] = {"kind": _listed("kinds", kinds)}
        asked |= {key: value for key, value in (("name", name), ("ref", ref)) if value is not None}
        async with aclosing(follow(self._connection, asked, after, self._notice)) as items:
            async for item in items:
                yield item

    # -- control --------------------------------------------------------------------------------

    @checked
    async def interrupt(self, name: str, *, ref: str | None = None) -> Interrupted:
        """See `Board.interrupt`."""
        return cast("Interrupted", await self._call("interrupt", name=name, ref=ref))

    @checked
    async def halt(self, name: str | None = None, *, all: bool = False) -> HaltReport:
        """See `Board.halt`."""
        return cast("HaltReport", await self._call("halt", name=name, all=all))

    @checked
    async def resume(self, name: str | None = None, *, all: bool = False) -> HaltReport:
        """See `Board.resume`."""
        return cast("HaltReport", await self._call("resume", name=name, all=all))

    @checked
    async def approvals(self, name: str | None = None, *, all: bool = False) -> tuple[ApprovalRecord, ...]:
        """See `Board.approvals`."""
        return cast("tuple[ApprovalRecord, ...]", await self._call("approvals", name=name, all=all))

    @checked
    async def subagents(
        self, name: str, *, all: bool = False, limit: int = MAX_PAGE
    ) -> tuple[SubAgentRecord, ...]:
        """See `Board.subagents`."""
        found = await self._call("subagents", name=name, all=all, limit=limit)
        return cast("tuple[SubAgentRecord, ...]", found)

    @checked
    async def subagent_messages(self, id: str, *, after: int = 0, limit: int = MAX_PAGE) -> SubAgentMessages:
        """See `Board.subagent_messages`."""
        found = await self._call("subagent_messages", id=id, after=after, limit=limit)
        return cast("SubAgentMessages", found)

    @checked
    async def cancel_subagent(self, id: str) -> SubAgentCancelled:
        """See `Board.cancel_subagent`."""
        return cast("SubAgentCancelled", await self._call("cancel_subagent", id=id))

    @checked
    async def decide(self, approval_id: str, decision: Decision | Mapping[str, object]) -> ApprovalRecord:
        """See `Board.decide`."""
        record = await self._call("decide", approval_id=approval_id, decision=_plain_decision(decision))
        return cast("ApprovalRecord", record)


def _plain_decision(decision: Decision | Mapping[str, object]) -> Mapping[str, object]:
    return decision if isinstance(decision, Mapping) else plain_decision(decision)


def _listed(what: str, values: Sequence[str]) -> list[str]:
    if isinstance(values, str):
        raise Invalid(f"{what} is a list of {what}, not one text")
    return list(values)


def _prompt(text: str) -> str:
    """Return a prompt that can be sent; its length is judged here, a body that is too long never arrives."""
    return FleetSettings().check_prompt(text) if isinstance(text, str) and _is_long(text) else text


def _summary(text: str) -> str:
    return FleetSettings().check_summary(text) if isinstance(text, str) and _is_long(text) else text


def _is_long(text: str) -> bool:
    return len(text) > MAX_PROMPT_BYTES // 4


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _body(given: Mapping[str, object]) -> bytes:
    """Return the arguments as JSON. Raises WireError for what JSON has no word for."""
    try:
        return _encode(given).encode()
    except UnicodeEncodeError:
        return json.dumps(
            given
        ).encode()  # half a character, as an escape: the daemon says what it thinks of it
    except (TypeError, ValueError, RecursionError) as exc:
        raise WireError(f"the arguments cannot be sent as JSON: {exc}") from None


def _headers(surface: str, client: str, token: str | None) -> dict[str, str]:
    headers = {"x-tollboard-surface": plain(surface), "x-tollboard-client": plain(client)}
    if token is not None:
        if not token.isascii() or not token.isprintable():
            raise Denied("the token is not one of ours: it has characters that no token has")
        headers["authorization"] = f"Bearer {token}"
    return headers


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
