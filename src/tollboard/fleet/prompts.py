"""Prompts on their way in, and what became of them: send, broadcast, poll, wait, cancel."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from tollboard.errors import (
    Invalid,
    InvalidPath,
    KeyReused,
    NotCancellable,
    RequestNotFound,
    SessionBusy,
    SessionHalted,
    StoreError,
    TimedOut,
    TollboardError,
)
from tollboard.fleet import receipts
from tollboard.fleet.board import MAX_WAIT_S
from tollboard.fleet.ledger import Commit, Ledger
from tollboard.fleet.records import BroadcastItem, Poll, PollPending, WaitReport
from tollboard.fleet.roster import Roster
from tollboard.fleet.session_agent import LiveSession
from tollboard.ids import new_ref
from tollboard.runtime.approvals import UNDECIDED, expire_unasked
from tollboard.runtime.legal import LIVE
from tollboard.runtime.results import Failed, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase

MAX_KEY = 200
MAX_REFS = 10_000
SETTLE_S = 10.0
"""How long a prompt that could not be kept may take to leave its session."""

Check = Callable[[], None]
Mode = Literal["all", "any"]


class Prompts:
    """Accepts prompts and answers for them."""

    def __init__(self, roster: Roster, ledger: Ledger, runtime: Runtime) -> None:
        self._roster = roster
        self._ledger = ledger
        self._runtime = runtime
        self._keys: dict[tuple[str, str], asyncio.Future[None]] = {}

    # -- send

    async def send(self, name: str, prompt: str, queue: bool, key: str | None, check: Check) -> str:
        """Accept one prompt. `check` raises when nothing is accepted any more."""
        self._roster.settings.check_prompt(prompt)
        if key is not None:
            return await self._send_once(self._roster.get(name), prompt, queue, key, check)
        return await self._send(self._roster.live(name), prompt, queue, None)

    async def _send(self, session: LiveSession, prompt: str, queue: bool, key: str | None) -> str:
        if not queue:
            refuse_busy(session)
        return await self._accept(session, prompt, key)

    async def _send_once(self, session: LiveSession, prompt: str, queue: bool, key: str, check: Check) -> str:
        """Return the ref this key stands for, or make one; two sends with one key take turns (S18)."""
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY or not key.isprintable():
            raise Invalid(f"an idempotency key is 1 to {MAX_KEY} printable characters")
        slot = (session.id, key)
        while (other := self._keys.get(slot)) is not None:
            await asyncio.shield(other)
        gate = self._keys[slot] = asyncio.get_running_loop().create_future()
        try:
            stored = await self._ledger.request_by_key(session.id, key)
            if stored is None:
                check()
                # Found again by id: it may have died or gone while the store was asked.
                return await self._send(self._roster.live(session.id), prompt, queue, key)
            if stored.prompt != prompt:
                raise KeyReused(f"the key {key!r} was used with another prompt, as request {stored.ref}")
            return stored.ref
        finally:
            del self._keys[slot]
            gate.set_result(None)

    async def _accept(self, session: LiveSession, prompt: str, key: str | None) -> str:
        """Accept and make durable. Nothing is awaited between the checks before this and the acceptance (E35)."""
        machine = session.machine
        assert machine is not None  # `live` says so
        self._check_directory(session)
        ref = new_ref()
        if key is not None:
            session.journal.keyed(ref, key)
        commit = self._runtime.accept(machine, prompt, on_complete=self._roster.tell_ended, ref=ref).commit
        if commit is not None:
            await self._kept(ref, commit, gated=key is not None)
        return ref

    def _check_directory(self, session: LiveSession) -> None:
        """Raise InvalidPath when the session's directory is not there: it cannot be given another one."""
        path = session.record.path
        if not os.path.isdir(path):
            raise InvalidPath(
                f"the working directory {path!r} of session {session.name!r} is not there any more; put it back, "
                "or stop the session and start one elsewhere"
            )
        self._roster.settings.check_path(path)

    async def _kept(self, ref: str, commit: Commit, *, gated: bool) -> None:
        """Wait for the acceptance to be durable. One that is not is taken back, though its caller may have gone."""
        kept = asyncio.ensure_future(self._keep(ref, commit))
        kept.add_done_callback(_seen)
        try:
            await asyncio.shield(kept)
        except asyncio.CancelledError:
            if gated:
                await asyncio.wait([kept])  # until it is known, the next send with this key must wait
            raise

    async def _keep(self, ref: str, commit: Commit) -> None:
        try:
            await commit
        except TollboardError:
            if not self._runtime.withdraw(ref, Reason.STORE_FAILED):
                await self._left(ref)
            raise

    async def _left(self, ref: str) -> None:
        """Wait until a request that reached its turn has left it: a session must not stay busy with what is not."""
        with contextlib.suppress(RequestNotFound, TimedOut):
            await self._runtime.wait(ref, SETTLE_S)

    async def broadcast(self, prompt: str, names: Sequence[str] | None) -> tuple[BroadcastItem, ...]:
        """Queue a prompt on many sessions; what one of them refuses is its own affair."""
        self._roster.settings.check_prompt(prompt)
        if isinstance(names, str):
            raise Invalid("names is a list of names, not one text")
        targets = [session.name for session in self._roster] if names is None else list(dict.fromkeys(names))
        return tuple(await asyncio.gather(*(self._broadcast_to(name, prompt) for name in targets)))

    async def _broadcast_to(self, name: str, prompt: str) -> BroadcastItem:
        try:
            ref = await self._accept(self._roster.live(name), prompt, None)
        except TollboardError as exc:
            return BroadcastItem(name, None, exc.code, str(exc))
        return BroadcastItem(name, ref, None, None)

    # -- cancel

    async def cancel(self, session: LiveSession, ref: str) -> None:
        """Withdraw a queued request, also of a session that is dead."""
        await forget_failures(self._ledger)
        machine = session.machine
        waits = [request for request in session.waiting if request.ref == ref]
        if machine is not None and self._runtime.refs.get(ref) is machine:
            machine.cancel(ref)
        elif waits:
            session.waiting.remove(waits[0])
            expire_unasked(session.journal, self._runtime.telemetry, waits[0], UNDECIDED)
            commit = session.journal.finished(waits[0], Failed(Reason.CANCELLED), 0.0)
            _ = self._runtime.spawn(self._ended(commit))
        else:
            poll = await receipts.poll_one(self._roster, self._ledger, session.id, session.name, ref)
            raise NotCancellable(
                f"request {ref} is {poll.receipt.outcome or poll.receipt.state.value} already"
            )
        await self._ledger.flush()

    async def _ended(self, commit: Any) -> None:
        if commit is not None:
            await commit  # also one that has to be written again
        self._roster.tell_ended()

    # -- wait

    async def wait(
        self, refs: Sequence[str], timeout: float | None, mode: Mode, closed: asyncio.Event
    ) -> WaitReport:
        """Wait until all or any of the requests have ended, the time is up, or the fleet is closed."""
        _check_wait(refs, timeout, mode)
        timed_out = False
        news = self._roster.endings
        polled = await self._look(refs)
        try:
            async with asyncio.timeout(timeout):
                while not _enough(polled, mode) and not closed.is_set():
                    await self._changed(polled, mode, news, closed)
                    news = self._roster.endings
                    polled = await self._look(refs)
        except TimeoutError:
            timed_out = True
            polled = await self._look(refs)
        done = tuple(poll for poll in polled if not isinstance(poll, PollPending))
        pending = tuple(poll for poll in polled if isinstance(poll, PollPending))
        return WaitReport(done, pending, timed_out and bool(pending))

    async def _look(self, refs: Sequence[str]) -> list[Poll]:
        return await receipts.poll_all(self._roster, self._ledger, refs)

    async def _changed(
        self, polled: Sequence[Poll], mode: Mode, news: asyncio.Event, closed: asyncio.Event
    ) -> None:
        """Return when it is worth looking again."""
        refs = [poll.receipt.ref for poll in polled if isinstance(poll, PollPending)]
        in_hand = [ref for ref in refs if receipts.holder(self._roster, ref) is not None]
        waits: list[Coroutine[Any, Any, Any]] = [closed.wait()]
        if in_hand:
            waits.append(
                self._runtime.wait_all(in_hand) if mode == "all" else self._runtime.wait_any(in_hand)
            )
        if not in_hand or (mode == "any" and len(in_hand) < len(refs)):
            # What no agent has in hand is being withdrawn, or waits for a session that is dead.
            waits.append(news.wait())
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            # RequestNotFound: it ended before the wait began; the next look shows how.
            await asyncio.gather(*tasks, return_exceptions=True)


def refuse_busy(session: LiveSession) -> None:
    """Raise SessionHalted or SessionBusy unless a prompt would start at once (S02)."""
    machine = session.machine
    assert machine is not None  # `live` says so
    if machine.phase not in LIVE:
        return  # the machine says what it is instead
    if machine.halted:
        raise SessionHalted(
            f"session {session.name!r} is halted; resume it, or queue the prompt until it is resumed"
        )
    if machine.phase is not Phase.IDLE or machine.mailbox:
        waiting = " and waits for a decision" if machine.approvals else ""
        raise SessionBusy(
            f"session {session.name!r} is working on {machine.in_flight() or 'its queue'}{waiting}; "
            "wait for it, interrupt it, or queue the prompt"
        )


async def forget_failures(ledger: Ledger) -> None:
    """Let the next flush answer only for what is written from now on, not for what failed before."""
    with contextlib.suppress(StoreError):
        await ledger.flush()


def _seen(kept: asyncio.Future[None]) -> None:
    """Take note of how it ended: if nobody waits any more, that is not to be reported as lost."""
    if not kept.cancelled():
        kept.exception()


def _enough(polled: Sequence[Poll], mode: Mode) -> bool:
    ended = (not isinstance(poll, PollPending) for poll in polled)
    return all(ended) if mode == "all" else any(ended)


def _check_wait(refs: Sequence[str], timeout: float | None, mode: str) -> None:
    if isinstance(refs, str) or not refs or len(refs) > MAX_REFS:
        raise Invalid(f"wait takes a list of 1 to {MAX_REFS:,} refs")
    if mode not in ("all", "any"):
        raise Invalid(f"mode is {mode!r}: use all or any")
    if timeout is not None and not 0 <= timeout <= MAX_WAIT_S:
        raise Invalid(f"timeout is {timeout!r}: it must be between 0 and {MAX_WAIT_S:g} seconds")
