"""The way from a client to the daemon: one HTTP connection pool over the unix socket, and a daemon if none runs.

`client` puts the verbs on it. What goes wrong here is DaemonUnreachable (DaemonFrozen if one is there all the same), or
the error that the daemon answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from tollboard.daemon.config import StateDirectory
from tollboard.errors import (
    DaemonError,
    DaemonFrozen,
    DaemonRunning,
    DaemonUnreachable,
    NotFound,
    TollboardError,
    WireError,
)
from tollboard.fleet.records import FeedItem

if TYPE_CHECKING:
    from tollboard.daemon.pulse import Pulse
    from tollboard.daemon.transport import Answer, SocketTransport, Stream
    from tollboard.operations.wire import DaemonHealth

logger = logging.getLogger("tollboard.client")

SILENCE_S = 4.0
"""How long a call may be silent before it is looked whether the daemon lives (`pulse`). The transport keeps idle
connections for longer, so that the next look takes the one of the last."""
LOOK_S = 10.0
"""How long a daemon may take to say that it is there: a slow one, on a machine under load, does not stand still."""
HEALTH_TIMEOUT_S = 20.0
"""The same for one that may just be starting; it answers when it is ready."""
STREAM_TIMEOUT_S = 60.0
"""How long a stream may be silent; a daemon that is well sends a word every 15 s."""
_SOON_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""How long it is waited, again and again, for a socket to be put back."""
_NOBODY_HEARD = (FileNotFoundError, ConnectionRefusedError)
"""What a call raises that found nobody to be made to."""
END_TIMEOUT_S = 60.0
"""How long a daemon that is about to end may take."""


class Connection:
    """Calls the daemon of one state directory, as one client. Open it first.

    A `lasting` one need not be opened: it finds or starts a daemon with its first call, and again whenever none is
    there. Its headers are made then, because a token may come from the daemon's own file.
    """

    def __init__(
        self, home: StateDirectory, headers: Callable[[], Mapping[str, str]], *, lasting: bool = False
    ) -> None:
        self.home = home
        self._headers = headers
        self._lasting = lasting
        self._ended = False
        self._reopening = asyncio.Lock()
        self._http: SocketTransport | None = None
        self._pulse: Pulse | None = None
        self._other: DaemonHealth | None = None
        """The daemon, if it is of another version than this program."""

    async def open(self, *, start: bool) -> None:
        """Reach the daemon; start it if none runs and `start` is true."""
        from tollboard.daemon.pulse import Pulse
        from tollboard.daemon.transport import SocketTransport

        self.home.check_socket_path()
        if self._http is None:
            self._http = SocketTransport(str(self.home.socket), {} if self._lasting else self._headers())
            self._pulse = Pulse(self._http, silence_s=SILENCE_S, look_s=LOOK_S)
        try:
            if not await self._answers() and not await self._found_again():
                if not start:
                    raise _unreachable(self.home, "nobody listens")
                await self._start()
            if self._lasting and self._http is not None:
                self._http.identify(self._headers())
        except BaseException:
            if not self._lasting:
                await self.close()
            raise

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        self._ended = True
        http, pulse, self._http, self._pulse = self._http, self._pulse, None, None
        if pulse is not None:
            pulse.close()
        if http is not None:
            await http.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed, or never opened although it must be."""
        return self._ended or (self._http is None and not self._lasting)

    async def is_served(self) -> bool:
        """Whether a daemon answers that is not about to end. Raises DaemonUnreachable once this client is closed."""
        try:
            return not (await self.health()).stopping
        except DaemonUnreachable:
            if self.closed:
                raise
            return False

    async def health(self, *, fate: Callable[[], str] = str) -> DaemonHealth:
        """Return who serves."""
        from tollboard.daemon.single import may_be_starting

        timeout_s = HEALTH_TIMEOUT_S if may_be_starting(self.home) else LOOK_S
        if self._http is None and self._lasting:
            await self._reopen()
        return _read_health(
            self.home, await self._request("GET", "/v1/health", b"", timeout_s=timeout_s, fate=fate)
        )

    async def _answers(self) -> bool:
        """Whether a daemon is there. Raises DaemonFrozen for one that is there and says nothing."""
        from tollboard.daemon.pulse import NOTHING_ASKED

        try:
            health = await self.health(fate=lambda: NOTHING_ASKED)
        except DaemonFrozen:
            raise  # a second one could not start beside it
        except DaemonUnreachable:
            return False
        self._compare_versions(health)
        return True

    async def _found_again(self) -> bool:
        """Whether a daemon answers that owns the directory and could not be reached: its socket was gone or replaced.

        It is told to look, and puts its socket back.
        """
        from tollboard.daemon.pulse import is_stopped
        from tollboard.daemon.single import owner_pid

        if (pid := owner_pid(self.home)) is None or is_stopped(pid):
            return False  # one that a person has stopped is not set going by us
        with suppress(OSError):
            os.kill(pid, signal.SIGCONT)
        for pause_s in _SOON_S:
            await asyncio.sleep(pause_s)  # nothing tells when a socket has come
            if await self._answers():
                return True
        return False

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
                if await self._found_again():
                    return
                if not await asyncio.to_thread(_wait_for_owner, self.home):
                    raise
                await start_daemon(self.home)
            await self.health()
        finally:
            os.close(lock)

    async def request(
        self, method: str, path: str, content: bytes = b"", *, timeout_s: float | None = None,
        fate: Callable[[], str] = str,
    ) -> bytes:  # fmt: skip
        """Return what the daemon answered; raise the error it answered with.

        Without a limit the answer is waited for as long as the daemon lives. `fate` says what is known of a call that
        is not answered, see `pulse.fate`.
        """
        if not self._lasting:
            return await self._request(method, path, content, timeout_s=timeout_s, fate=fate)
        if self._http is None:
            await self._reopen()
        try:
            return await self._request(method, path, content, timeout_s=timeout_s, fate=fate)
        except DaemonFrozen:
            raise  # it is there: a second one could not start beside it
        except DaemonUnreachable as lost:
            await self._reopen()
            self._check_repeatable(lost, fate())
        return await self._request(method, path, content, timeout_s=timeout_s, fate=fate)

    async def _reopen(self) -> None:
        """Find a daemon, or start one; of several calls that miss it at once, one does."""
        if self._ended:
            raise _closed()
        async with self._reopening:
            await self.open(start=True)

    def _check_repeatable(self, lost: DaemonUnreachable, fate: str) -> None:
        """Raise DaemonUnreachable if a call must not be made again because the daemon may have heard it."""
        from tollboard.daemon.pulse import KEYED

        if fate in ("", KEYED) or isinstance(lost.__cause__, _NOBODY_HEARD):
            return
        raise DaemonUnreachable(
            f"the daemon ended in the middle of this call, and another was started{fate}; look before you repeat it"
        ) from lost

    async def _request(
        self, method: str, path: str, content: bytes, *, timeout_s: float | None, fate: Callable[[], str]
    ) -> bytes:
        http, pulse = self._opened()
        watch = pulse if timeout_s is None else None
        try:
            answer = await http.request(method, path, content, timeout_s=timeout_s, watch=watch)
        except OSError as exc:
            raise self._lost(exc, fate) from exc
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
            if self._http is None and self._lasting:
                await self._reopen()
            http, _ = self._opened()
            async with http.stream("GET", target, timeout_s=STREAM_TIMEOUT_S) as stream:
                if stream.status != 200:
                    raise self._refused(Answer(stream.status, await stream.read(timeout_s=STREAM_TIMEOUT_S)))
                async with aclosing(_events(stream)) as events:
                    async for event in events:
                        yield event
        except OSError as exc:
            raise self._lost(exc) from None

    def _opened(self) -> tuple[SocketTransport, Pulse]:
        if self._http is None or self._pulse is None:
            raise _closed()
        return self._http, self._pulse

    def _lost(self, exc: OSError, fate: Callable[[], str] = str) -> DaemonUnreachable:
        from tollboard.daemon.pulse import frozen
        from tollboard.daemon.transport import Unanswered

        if isinstance(exc, Unanswered):
            return frozen(self.home, exc, fate())
        return _unreachable(self.home, type(exc).__name__)


def _closed() -> DaemonUnreachable:
    return DaemonUnreachable("this client is closed; connect again")


def _wait_for_owner(home: StateDirectory) -> bool:
    """Wait until the owner of the directory has ended; return whether it has."""
    from tollboard.daemon.single import owner_pid, wait_for_exit

    pid = owner_pid(home)
    return pid is None or wait_for_exit(pid, END_TIMEOUT_S)


def _unreachable(home: StateDirectory, why: str) -> DaemonUnreachable:
    from tollboard.daemon.single import owner_pid

    if (pid := owner_pid(home)) is not None:
        return DaemonUnreachable(
            f"the daemon (pid {pid}) owns {str(home.path)!r}, but nobody answers on {str(home.socket)!r} ({why}): it "
            "is starting, or ending, or its socket was removed, which it puts back within a second; try again, or end "
            "it with `tollboard shutdown`"
        )
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
