"""The way from a client to the daemon: one HTTP connection pool over the unix socket, and a daemon if none runs.

`client` puts the verbs on it. What goes wrong here is DaemonUnreachable, or the error that the daemon answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from tollboard.daemon.config import StateDirectory
from tollboard.errors import (
    DaemonError,
    DaemonRunning,
    DaemonUnreachable,
    NotFound,
    TollboardError,
    WireError,
)
from tollboard.fleet.records import FeedItem

if TYPE_CHECKING:
    from tollboard.daemon.transport import Answer, SocketTransport, Stream
    from tollboard.operations.wire import DaemonHealth

logger = logging.getLogger("tollboard.client")

HEALTH_TIMEOUT_S = 20.0
"""How long a daemon may take to say that it is there; one that is just starting answers when it is ready."""
STREAM_TIMEOUT_S = 60.0
"""How long a stream may be silent; a daemon that is well sends a word every 15 s."""
END_TIMEOUT_S = 60.0
"""How long a daemon that is about to end may take."""


class Connection:
    """Calls the daemon of one state directory, as one client. Open it first."""

    def __init__(self, home: StateDirectory, headers: Mapping[str, str]) -> None:
        self.home = home
        self._headers = dict(headers)
        self._http: SocketTransport | None = None
        self._other: DaemonHealth | None = None
        """The daemon, if it is of another version than this program."""

    async def open(self, *, start: bool) -> None:
        """Reach the daemon; start it if none runs and `start` is true."""
        from tollboard.daemon.transport import SocketTransport

        self.home.check_socket_path()
        if self._http is None:
            self._http = SocketTransport(str(self.home.socket), self._headers)
        try:
            if not await self._answers():
                if not start:
                    raise _unreachable(self.home, "nobody listens")
                await self._start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed, or never opened."""
        return self._http is None

    async def is_served(self) -> bool:
        """Whether a daemon answers that is not about to end. Raises DaemonUnreachable once this client is closed."""
        try:
            return not (await self.health()).stopping
        except DaemonUnreachable:
            if self.closed:
                raise
            return False

    async def health(self) -> DaemonHealth:
        """Return who serves."""
        return _read_health(self.home, await self.request("GET", "/v1/health", timeout_s=HEALTH_TIMEOUT_S))

    async def _answers(self) -> bool:
        """Whether a daemon is there. Raises DaemonUnreachable for one that is there and says nothing."""
        try:
            health = await self.health()
        except DaemonUnreachable as exc:
            if isinstance(exc.__cause__, TimeoutError):
                raise
            return False
        self._compare_versions(health)
        return True

    def _compare_versions(self, health: DaemonHealth) -> None:
        import tollboard

        self._other = None if health.version == tollboard.__version__ else health
        if self._other is not None:
            logger.warning(
                "the daemon (pid %d) is Tollboard %s, this is %s; `tollboard shutdown` ends it, and the next command "
                "starts the new one", health.pid, health.version, tollboard.__version__,
            )  # fmt: skip

    def misunderstood(self, what: str) -> DaemonError:
        """Return the error for an answer that makes no sense here: mostly a daemon of another version."""
        import tollboard

        other = self._other
        who = (
            ""
            if other is None
            else f" (pid {other.pid}) is Tollboard {other.version}, this is {tollboard.__version__}"
        )
        return DaemonError(
            f"the daemon{who}{' and' if who else ''} gave an answer that this program does not understand ({what}); "
            "end it with `tollboard shutdown` and try again: the next command starts one of this version"
        )

    async def _start(self) -> None:
        """Start the daemon, one client at a time: whoever waited for the lock finds it running."""
        from tollboard.daemon.single import start_lock
        from tollboard.daemon.starting import start_daemon

        self.home.prepare()
        lock = await asyncio.to_thread(start_lock, self.home)
        try:
            if await self._answers():
                return
            try:
                await start_daemon(self.home)
            except DaemonRunning:
                # Somebody owns the directory and nobody answered: it came up just now, or is about to end.
                if await self._answers():
                    return
                if not await asyncio.to_thread(_wait_for_owner, self.home):
                    raise
                await start_daemon(self.home)
            await self.health()
        finally:
            os.close(lock)

    async def request(
        self, method: str, path: str, content: bytes = b"", *, timeout_s: float | None = None
    ) -> bytes:
        """Return what the daemon answered; raise the error it answered with."""
        try:
            answer = await self._opened().request(method, path, content, timeout_s=timeout_s)
        except OSError as exc:
            raise self._lost(exc) from exc
        if answer.status != 200:
            raise self._refused(answer)
        return answer.content

    def _refused(self, answer: Answer) -> TollboardError:
        """Return the error that was answered; between versions, what is said of a call that only one of them knows."""
        error = _error(answer)
        if self._other is not None and (
            isinstance(error, WireError) or type(error) in (NotFound, TollboardError)
        ):
            return self.misunderstood(str(error))
        return error

    async def stream(
        self, query: Mapping[str, str | int | list[str]]
    ) -> AsyncGenerator[tuple[int, FeedItem | None], None]:
        """Yield the items of the feed with their numbers until the stream ends; first the number it begins after.

        Raises the error that ends it, if one does.
        """
        from tollboard.daemon.transport import Answer

        target = f"/v1/events/stream?{urlencode(query, doseq=True)}"
        try:
            async with self._opened().stream("GET", target, timeout_s=STREAM_TIMEOUT_S) as stream:
                if stream.status != 200:
                    raise self._refused(Answer(stream.status, await stream.read(timeout_s=STREAM_TIMEOUT_S)))
                async with aclosing(_events(stream)) as events:
                    async for event in events:
                        yield event
        except OSError as exc:
            raise self._lost(exc) from None

    def _opened(self) -> SocketTransport:
        if self._http is None:
            raise DaemonUnreachable("this client is closed; connect again")
        return self._http

    def _lost(self, exc: OSError) -> DaemonUnreachable:
        if not isinstance(exc, TimeoutError):
            return _unreachable(self.home, type(exc).__name__)
        from tollboard.daemon.single import owner_pid

        return DaemonUnreachable(
            f"the daemon (pid {owner_pid(self.home) or 'unknown'}) is there but does not answer; if it hangs, end "
            "that process, or take the state directory from it with `tollboard serve --take-over`"
        )


def _wait_for_owner(home: StateDirectory) -> bool:
    """Wait until the owner of the directory has ended; return whether it has."""
    from tollboard.daemon.single import owner_pid, wait_for_exit

    pid = owner_pid(home)
    return pid is None or wait_for_exit(pid, END_TIMEOUT_S)


def _unreachable(home: StateDirectory, why: str) -> DaemonUnreachable:
    return DaemonUnreachable(
        f"no daemon answers on {str(home.socket)!r} ({why}); any command starts one, "
        "and `tollboard doctor` says what is wrong"
    )


def _error(answer: Answer) -> TollboardError:
    from tollboard.operations.wire import rebuild_error

    try:
        return rebuild_error(json.loads(answer.content))
    except ValueError:
        return DaemonError(f"the daemon answered {answer.status} without saying why")


async def _events(stream: Stream) -> AsyncGenerator[tuple[int, FeedItem | None], None]:
    """Yield the events of a stream with their numbers; one that is only a number has no item."""
    from tollboard.operations.wire import STREAM_ERROR, rebuild_error

    fields: dict[str, str] = {}
    async for line in _lines(stream):
        if line:
            name, _, fields[name] = line.partition(": ")
            continue
        if "data" in fields:
            row = json.loads(fields["data"])
            if fields["event"] == STREAM_ERROR:
                raise rebuild_error(row)
            yield row["seq"], FeedItem(**row)
        elif "id" in fields:
            yield int(fields["id"]), None
        fields = {}


async def _lines(stream: Stream) -> AsyncGenerator[str, None]:
    rest = b""
    async for piece in stream.pieces(timeout_s=STREAM_TIMEOUT_S):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode()


def _read_health(home: StateDirectory, content: bytes) -> DaemonHealth:
    """Return who serves. One of another version may say it otherwise: it must still be found, and be ended."""
    from pydantic import ValidationError

    from tollboard.daemon.single import owner_pid
    from tollboard.operations.wire import DaemonHealth

    try:
        return DaemonHealth.model_validate_json(content)
    except ValidationError:
        pass
    try:
        found = json.loads(content)
        version = str(found["version"])
    except (ValueError, TypeError, KeyError):
        raise DaemonError(
            f"what answers on {str(home.socket)!r} is no Tollboard daemon; end that program, then try again"
        ) from None
    pid = found.get("pid")
    return DaemonHealth(
        version=version, pid=pid if isinstance(pid, int) else owner_pid(home) or 0, uptime_s=0.0,
        home=str(home.path), tcp=None, stopping=found.get("stopping") is True,
    )  # fmt: skip
