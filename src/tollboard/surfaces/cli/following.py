"""Following requests to their end: one turn's text as it arrives, and several requests until they are done.

Used by `send --wait` and `wait`. Stopping to follow never stops the turn.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal, cast

from tollboard.surfaces.cli.failures import DONE, FAILED, TIMED_OUT
from tollboard.surfaces.cli.output import Output
from tollboard.surfaces.cli.text import count, span

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tollboard.fleet.board import Board
    from tollboard.fleet.records import Entry, FeedItem, Poll, PollCompleted, PollFailed, WaitReport

TEXT = "text"
ASKED = "approval.requested"
KINDS = (TEXT, ASKED, "notice")
_PATIENCE_S = 3_000.0
"""One call waits so long at most; without a limit of the user's the next call follows."""


class TurnText:
    """Prints the feed items of one turn, each once, and remembers what was said."""

    def __init__(self, out: Output) -> None:
        self.out = out
        self.seen = 0
        self.said = ""
        self._message: object = None

    def take(self, items: Iterable[FeedItem]) -> None:
        """Print the items that were not printed yet."""
        for item in items:
            if item.seq <= self.seen:
                continue
            self.seen = item.seq
            if item.kind == TEXT:
                self._say(str(item.data.get("text", "")), item.data.get("message"))
            elif item.kind == ASKED:
                self._tell(f"{item.session} needs a decision: tollboard approvals")
            elif item.data.get("message"):
                self._tell(f"{item.data.get('name', 'notice')}: {item.data['message']}")

    def finish(self, text: str) -> None:
        """Print the answer, or what of it the stream has not shown, and end the line."""
        if not _same(self.said, text):
            self._end_line()
            self._write(text)
        self._end_line()

    def _say(self, text: str, message: object) -> None:
        if self.said and message != self._message:
            self._end_line()
        self._message = message
        self._write(text)

    def _write(self, text: str) -> None:
        self.out.text(text)
        self.said += text

    def _tell(self, text: str) -> None:
        self._end_line()
        self.out.beside(text, "yellow")

    def _end_line(self) -> None:
        if self.said and not self.said.endswith("\n"):
            self._write("\n")


def _same(said: str, text: str) -> bool:
    """Tell whether the stream has already shown the answer; its pieces may be broken into lines otherwise."""
    return "".join(said.split()).endswith("".join(text.split())) if text.strip() else True


async def follow(board: Board, name: str, ref: str, out: Output, *, timeout: float | None) -> Poll:
    """Print a turn's text as it arrives and return how the request stands at its end, or when time has run out."""
    shown = TurnText(out)
    if out.json:
        await _wait_one(board, ref, timeout)
        return await board.poll(name, ref)
    import asyncio

    stream = asyncio.create_task(_stream(board, name, ref, shown))
    try:
        await _wait_one(board, ref, timeout)
    finally:
        stream.cancel()
        await asyncio.wait([stream])
    poll = await board.poll(name, ref)
    if poll.status != "pending":
        # The turn's text was committed before its end, but the stream may lag behind: read what it has not brought.
        async for items in _pages(board, name, ref, shown):
            shown.take(items)
        shown.finish(poll.text if poll.status == "completed" else "")
    return poll


async def _stream(board: Board, name: str, ref: str, shown: TurnText) -> None:
    feed = cast("AsyncGenerator[FeedItem]", board.tail(name, ref=ref, kinds=KINDS, after=0))
    async with aclosing(feed):
        async for item in feed:
            shown.take([item])


async def _pages(board: Board, name: str, ref: str, shown: TurnText) -> AsyncIterator[Sequence[FeedItem]]:
    after = shown.seen
    while True:
        page = await board.events(name, ref=ref, kinds=KINDS, after=after)
        yield page.items
        if page.last_seq <= after or not page.items:
            return
        after = page.last_seq


async def _wait_one(board: Board, ref: str, timeout: float | None) -> None:
    await wait_for(board, [ref], timeout=timeout, mode="all")


async def wait_for(
    board: Board,
    refs: Sequence[str],
    *,
    timeout: float | None,
    mode: Literal["all", "any"],
    each: Progress | None = None,
) -> WaitReport:
    """Wait as `Board.wait` does, without its upper limit, and tell of each request that ends."""
    until = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _PATIENCE_S if until is None else min(_PATIENCE_S, max(0.0, until - time.monotonic()))
        step: Literal["all", "any"] = mode
        asked = refs
        if each is not None and mode == "all":
            # One call per request that ends, so that each is told of when it does.
            step, asked = "any", [ref for ref in refs if ref not in each.ended] or refs
        report = await board.wait(asked, timeout=left, mode=step)
        if each is not None:
            each.take(report.done)
        if _over(report, refs, mode, each) or (until is not None and time.monotonic() >= until):
            return report if asked is refs else await board.wait(refs, timeout=0, mode=mode)


def _over(report: WaitReport, refs: Sequence[str], mode: str, each: Progress | None) -> bool:
    if mode == "any":
        return bool(report.done)
    return not report.pending if each is None else len(each.ended) >= len(set(refs))


class Progress:
    """Tells beside the output which requests have ended."""

    def __init__(self, out: Output, total: int) -> None:
        self.out = out
        self.total = total
        self.ended: set[str] = set()

    def take(self, done: Iterable[Poll]) -> None:
        """Tell of those that were not told of yet."""
        for poll in done:
            if poll.receipt.ref not in self.ended:
                self.ended.add(poll.receipt.ref)
                word = "done" if poll.status == "completed" else getattr(poll, "reason", "failed")
                self.out.beside(f"{len(self.ended)} of {self.total}  {poll.receipt.session}: {word}")


def outcome(poll: Poll) -> int:
    """Return the exit code for a request one has waited for."""
    return {"completed": DONE, "failed": FAILED, "pending": TIMED_OUT}[poll.status]


def tell_end(out: Output, poll: Poll) -> None:
    """Say beside the answer how the turn ended, and what to do when it did not end well."""
    if poll.status == "pending":
        name, ref = poll.receipt.session, poll.receipt.ref
        if poll.receipt.state == "queued":
            out.beside(f"time is up; the prompt is still queued for {name}", "yellow")
            out.beside(f"  → see it: tollboard wait {ref}    or withdraw it: tollboard cancel {name} {ref}")
        else:
            tell_going_on(out, name, ref, "time is up")
    elif poll.status == "completed":
        if poll.entry.note:
            out.beside(f"{poll.receipt.session}: {poll.entry.note}", "yellow")
        out.beside(f"{poll.receipt.session} · turn {poll.entry.seq} · {cost_of(poll.entry)}")
    else:
        tell_failure(out, poll)


def tell_failure(out: Output, poll: PollFailed) -> None:
    """Say why a request ended without an answer."""
    detail = f": {poll.detail}" if poll.detail else ""
    out.beside(f"{poll.receipt.session}: the turn ended with {poll.reason}{detail}", "red")


def tell_going_on(out: Output, name: str, ref: str, why: str, *, queued: bool = False) -> None:
    """Say that the turn goes on although nobody waits, and how to see or end it; `queued`: it may not have begun."""
    out.beside(f"{why}; the turn of {name} goes on", "yellow")
    ways = [f"see it: tollboard wait {ref}", f"end it: tollboard interrupt {name} --ref {ref}"]
    if queued:
        ways.append(f"withdraw it while it is queued: tollboard cancel {name} {ref}")
    out.beside(f"  → {'    or '.join(ways)}")


def cost_of(entry: Entry) -> str:
    """Return a turn's time, tokens and cost; what was not reported is left out, never shown as zero."""
    parts = [span(entry.duration_s)]
    usage = entry.usage
    if usage is not None and usage.output_tokens is not None:
        parts.append(count(usage.output_tokens, "token") + " out")
    if usage is not None and usage.cost_usd is not None:
        parts.append(f"${usage.cost_usd:.4f}")
    if entry.attempt > 1:
        parts.append(f"attempt {entry.attempt}")
    return " · ".join(parts)


def completed_text(poll: PollCompleted) -> str:
    """Return the answer with a line's end."""
    return poll.text if poll.text.endswith("\n") else poll.text + "\n"
