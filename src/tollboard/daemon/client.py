"""The Switchboard's verbs over the daemon's socket; starts the daemon if none runs.

    async with Client.connect() as board:
        ref = await board.send("api", "what files are here?")

One client is one person or program: `surface` and `client` are recorded with what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from tollboard.daemon.config import StateDirectory, state_directory
from tollboard.errors import DaemonError, DaemonUnreachable, TollboardError
from tollboard.fleet.board import DEFAULT_BACKEND, DEFAULT_READER, MAX_FEED_PAGE
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
    SessionStatus,
    StopReport,
    Summary,
    Transcript,
    WaitReport,
)
from tollboard.runtime.approval import Approve, Decision, Edit, Reject

if TYPE_CHECKING:
    import httpx

    from tollboard.operations.wire import DaemonHealth

BASE_URL = "http://tollboard"
CONNECT_TIMEOUT_S = 10.0
START_TIMEOUT_S = 60.0
SHUTDOWN_TIMEOUT_S = 60.0


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

    def __init__(self, home: StateDirectory, surface: str, client: str, token: str | None) -> None:
        self.home = home
        self._headers = {"x-tollboard-surface": surface, "x-tollboard-client": client}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._http: httpx.AsyncClient | None = None

    @classmethod
    def connect(
        cls, home: str | os.PathLike[str] | None = None, *, start: bool = True, surface: str = "python",
        client: str | None = None, token: str | None = None,
    ) -> Connecting:  # fmt: skip
        """Reach the daemon of a state directory; start it if none runs, unless `start` is false.

        `token` narrows what this client may do; over the socket none is needed. Raises DaemonUnreachable, or the error
        that kept the daemon from starting.
        """
        return Connecting(cls(state_directory(home), surface, client or _user(), token), start=start)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the daemon goes on. Idempotent."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def _open(self, *, start: bool) -> Client:
        import httpx

        if self._http is None:
            self.home.check_socket_path()
            transport = httpx.AsyncHTTPTransport(
                uds=str(self.home.socket), limits=httpx.Limits(max_connections=None)
            )
            timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
            self._http = httpx.AsyncClient(
                transport=transport,
                base_url=BASE_URL,
                headers=self._headers,
                timeout=timeout,
                trust_env=False,
            )
        try:
            await self.health()
        except DaemonUnreachable:
            if not start:
                await self.close()
                raise
            await self._start()
        return self

    async def _start(self) -> None:
        """Start the daemon, one client at a time: whoever waited for the lock finds it running."""
        from tollboard.daemon.single import start_lock

        self.home.prepare()
        lock = await asyncio.to_thread(start_lock, self.home)
        try:
            with contextlib.suppress(DaemonUnreachable):
                await self.health()
                return
            await start_daemon(self.home)
            await self.health()
        finally:
            os.close(lock)

    # -- the daemon itself --------------------------------------------------------------------------------

    async def health(self) -> DaemonHealth:
        """Return who serves: version, pid, uptime, state directory, TCP address if any."""
        from tollboard.operations.wire import DaemonHealth

        response = await self._request("GET", "/v1/health")
        return DaemonHealth.model_validate_json(response.content)

    async def shutdown(self) -> None:
        """End the daemon gracefully; returns when it has given the directory up."""
        from tollboard.daemon.single import wait_for_exit

        pid = (await self.health()).pid
        await self._request("POST", "/v1/shutdown")
        await self.close()
        if not await asyncio.to_thread(wait_for_exit, pid, SHUTDOWN_TIMEOUT_S):
            raise DaemonError(f"the daemon (pid {pid}) has not ended within {SHUTDOWN_TIMEOUT_S:g} s")

    # -- calls --------------------------------------------------------------------------------

    async def _request(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> httpx.Response:
        import httpx

        if self._http is None:
            raise DaemonUnreachable("this client is closed; connect again")
        try:
            content = None if body is None else json.dumps(body).encode()
            response = await self._http.request(method, path, content=content)
        except (httpx.TransportError, OSError) as exc:
            raise _unreachable(self.home, exc) from None
        except UnicodeEncodeError:
            raise TollboardError("the text is not valid Unicode") from None
        if response.status_code != 200:
            raise _error(response)
        return response

    async def _call(self, operation: str, /, **arguments: object) -> Any:
        from tollboard.operations.catalogue import OPERATIONS

        given = {key: value for key, value in arguments.items() if value is not None}
        response = await self._request("POST", f"/v1/{operation}", given)
        return OPERATIONS[operation].result.validate_json(response.content)

    # -- sessions --------------------------------------------------------------------------------

    async def start_session(
        self, name: str, *, path: str | os.PathLike[str], backend: str = DEFAULT_BACKEND, **options: object
    ) -> SessionStatus:
        """See `Board.start_session`. A relative path is this process's, not the daemon's."""
        real = os.path.abspath(os.path.expanduser(os.fspath(path)))
        return cast(
            "SessionStatus",
            await self._call("start_session", name=name, path=real, backend=backend, options=options),
        )

    async def list_sessions(self, *, all: bool = False) -> tuple[SessionStatus, ...]:
        """See `Board.list_sessions`."""
        return cast("tuple[SessionStatus, ...]", await self._call("list_sessions", all=all))

    async def status(self, name: str) -> SessionStatus:
        """See `Board.status`."""
        return cast("SessionStatus", await self._call("status", name=name))

    async def stop_session(self, name: str, *, drain: bool = False) -> StopReport:
        """See `Board.stop_session`."""
        return cast("StopReport", await self._call("stop_session", name=name, drain=drain))

    async def delete_session(self, name: str) -> Deleted:
        """See `Board.delete_session`."""
        return cast("Deleted", await self._call("delete_session", name=name))

    async def backends(self) -> tuple[BackendInfo, ...]:
        """See `Board.backends`."""
        return cast("tuple[BackendInfo, ...]", await self._call("backends"))

    # -- prompts --------------------------------------------------------------------------------

    async def send(self, name: str, prompt: str, *, queue: bool = False, key: str | None = None) -> str:
        """See `Board.send`."""
        return cast("str", await self._call("send", name=name, prompt=prompt, queue=queue, key=key))

    async def poll(self, name: str, ref: str) -> Poll:
        """See `Board.poll`."""
        return cast("Poll", await self._call("poll", name=name, ref=ref))

    async def wait(
        self, refs: Sequence[str], *, timeout: float | None = None, mode: Literal["all", "any"] = "all"
    ) -> WaitReport:
        """See `Board.wait`."""
        return cast("WaitReport", await self._call("wait", refs=_listed(refs), timeout=timeout, mode=mode))

    async def broadcast(
        self, prompt: str, *, names: Sequence[str] | None = None
    ) -> tuple[BroadcastItem, ...]:
        """See `Board.broadcast`."""
        items = await self._call("broadcast", prompt=prompt, names=None if names is None else _listed(names))
        return cast("tuple[BroadcastItem, ...]", items)

    async def cancel(self, name: str, ref: str) -> Receipt:
        """See `Board.cancel`."""
        return cast("Receipt", await self._call("cancel", name=name, ref=ref))

    # -- reading --------------------------------------------------------------------------------

    async def inbox(
        self, name: str | None = None, *, ack: bool = False, reader: str = DEFAULT_READER,
        wait: float | None = None, limit: int = 100,
    ) -> Inbox:  # fmt: skip
        """See `Board.inbox`."""
        return cast(
            "Inbox", await self._call("inbox", name=name, ack=ack, reader=reader, wait=wait, limit=limit)
        )

    async def ack(self, name: str, seq: int, *, reader: str = DEFAULT_READER) -> InboxSession:
        """See `Board.ack`."""
        return cast("InboxSession", await self._call("ack", name=name, seq=seq, reader=reader))

    async def transcript(
        self, name: str, *, limit: int | None = None, before: int | None = None
    ) -> Transcript:
        """See `Board.transcript`."""
        return cast("Transcript", await self._call("transcript", name=name, limit=limit, before=before))

    async def summary_get(self, name: str, *, version: int | None = None) -> Summary:
        """See `Board.summary_get`."""
        return cast("Summary", await self._call("summary_get", name=name, version=version))

    async def summary_update(self, name: str, text: str) -> Summary:
        """See `Board.summary_update`."""
        return cast("Summary", await self._call("summary_update", name=name, text=text))

    async def summary_versions(self, name: str) -> tuple[Summary, ...]:
        """See `Board.summary_versions`."""
        return cast("tuple[Summary, ...]", await self._call("summary_versions", name=name))

    async def events(
        self, name: str | None = None, *, kinds: Sequence[str] = (), ref: str | None = None, after: int = 0,
        limit: int = MAX_FEED_PAGE,
    ) -> FeedPage:  # fmt: skip
        """See `Board.events`."""
        page = await self._call("events", name=name, kinds=_listed(kinds), ref=ref, after=after, limit=limit)
        return cast("FeedPage", page)

    async def tail(
        self,
        name: str | None = None,
        *,
        kinds: Sequence[str] = (),
        ref: str | None = None,
        after: int | None = None,
    ) -> AsyncIterator[FeedItem]:
        """See `Board.tail`. Ends with DaemonUnreachable when the daemon does; go on with `after` once it is back."""
        import httpx

        if self._http is None:
            raise DaemonUnreachable("this client is closed; connect again")
        asked: dict[str, str | int | list[str]] = {"kind": _listed(kinds)}
        asked |= {
            key: value for key, value in (("name", name), ("ref", ref), ("after", after)) if value is not None
        }
        try:
            async with self._http.stream("GET", "/v1/events/stream", params=asked) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _error(response)
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        yield FeedItem(**json.loads(line[6:]))
        except (httpx.TransportError, OSError) as exc:
            raise _unreachable(self.home, exc) from None
        raise DaemonUnreachable("the daemon ended the stream: it is shutting down")

    # -- control --------------------------------------------------------------------------------

    async def interrupt(self, name: str, *, ref: str | None = None) -> Interrupted:
        """See `Board.interrupt`."""
        return cast("Interrupted", await self._call("interrupt", name=name, ref=ref))

    async def halt(self, name: str | None = None, *, all: bool = False) -> HaltReport:
        """See `Board.halt`."""
        return cast("HaltReport", await self._call("halt", name=name, all=all))

    async def resume(self, name: str | None = None, *, all: bool = False) -> HaltReport:
        """See `Board.resume`."""
        return cast("HaltReport", await self._call("resume", name=name, all=all))

    async def approvals(self, name: str | None = None, *, all: bool = False) -> tuple[ApprovalRecord, ...]:
        """See `Board.approvals`."""
        return cast("tuple[ApprovalRecord, ...]", await self._call("approvals", name=name, all=all))

    async def decide(self, approval_id: str, decision: Decision | Mapping[str, object]) -> ApprovalRecord:
        """See `Board.decide`."""
        record = await self._call("decide", approval_id=approval_id, decision=_plain_decision(decision))
        return cast("ApprovalRecord", record)


def _plain_decision(decision: Decision | Mapping[str, object]) -> Mapping[str, object]:
    match decision:
        case Approve():
            return {"type": "approve"}
        case Edit(arguments):
            return {"type": "edit", "arguments": dict(arguments)}
        case Reject(message):
            return {"type": "reject", "message": message}
        case _:
            return decision


def _listed(values: Sequence[str]) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


def _error(response: httpx.Response) -> TollboardError:
    from tollboard.operations.wire import rebuild_error

    try:
        return rebuild_error(response.json())
    except ValueError:
        return DaemonError(f"the daemon answered {response.status_code} without saying why")


def _unreachable(home: StateDirectory, exc: Exception) -> DaemonUnreachable:
    return DaemonUnreachable(
        f"no daemon answers on {str(home.socket)!r} ({type(exc).__name__}); any command starts one, "
        "and `tollboard doctor` says what is wrong"
    )


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


# -- starting a daemon --------------------------------------------------------------------------------


async def start_daemon(home: StateDirectory) -> None:
    """Start the daemon of a state directory, in the background, and wait until it is ready.

    Raises the error that kept it from starting.
    """
    ready, theirs = os.pipe()
    command = [sys.executable, "-m", "tollboard.daemon", "--home", str(home.path), "--ready-fd", str(theirs)]
    try:
        starter = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [*command, "--detach"], pass_fds=[theirs], cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    finally:
        os.close(theirs)
    # The daemon detaches itself: what we started ends at once, and no child of ours is left to be waited for.
    await asyncio.to_thread(starter.wait)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            word = (await asyncio.to_thread(_read_all, ready)).strip()
    except TimeoutError:
        raise DaemonError(
            f"the daemon did not start within {START_TIMEOUT_S:g} s; see {str(home.log)!r}"
        ) from None
    if word == "ready":
        return
    if not word:
        raise DaemonError(f"the daemon ended while it started; see {str(home.log)!r}")
    from tollboard.operations.wire import rebuild_error

    raise rebuild_error(json.loads(word))


def _read_all(fd: int) -> str:
    with os.fdopen(fd, "r") as pipe:
        return pipe.read()
