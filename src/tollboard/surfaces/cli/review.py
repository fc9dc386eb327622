"""The walk of `tollboard review`: what waits for a decision, put to a person at the terminal one after the other.

The feed tells of new questions and of those that were decided elsewhere; what to ask next is read from the board each
time, so nothing is asked that no longer waits. An answer counts only for the question it was typed under.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from tollboard.errors import (
    AlreadyDecided,
    ApprovalNotFound,
    DaemonFrozen,
    DaemonUnreachable,
    NotFound,
    TollboardError,
)
from tollboard.runtime.approval import APPROVE, EDIT, REJECT, Approve, Reject
from tollboard.runtime.question import ANSWER, Answer, Question, Reply
from tollboard.surfaces.cli.answering import typed_reply
from tollboard.surfaces.cli.approvals import edited
from tollboard.surfaces.cli.failures import report
from tollboard.surfaces.cli.keyboard import Keyboard
from tollboard.surfaces.cli.output import Output, paint, write
from tollboard.surfaces.cli.question import (
    Line,
    changed_lines,
    fitted,
    needs_root,
    print_lines,
    question,
    question_lines,
)
from tollboard.surfaces.cli.text import count, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tollboard.daemon.client import Client
    from tollboard.fleet.records import ApprovalRecord, FeedItem

T = TypeVar("T")

ASKED, DECIDED = "approval.requested", "approval.decided"
SKIP, QUIT, WHOLE = "skip", "quit", "whole"
SKIPPED = "skipped"
MEANINGS = {
    APPROVE: "let it run as it was asked",
    ANSWER: "answer it; what you type here that is none of these words is your answer too",
    EDIT: "change its arguments in your editor, then let it run",
    REJECT: "do not let it run, and say why",
    SKIP: "leave it open and go on",
    QUIT: "leave it open and end (or Ctrl-D)",
}
_STYLES = {"rejected": "yellow", SKIPPED: "dim"}
_NO_KIND = ("none",)
_OURS_LINES, _LEAST_LINES = 5, 5
"""How much of a screen is not for the question, and how much of it is shown at least."""


class _Gone(Exception):
    """The question was decided elsewhere, or its turn has ended."""


class _Left(Exception):
    """The person wants no more."""


class Review:
    """One walk. In `tally` it counts what became of the questions."""

    def __init__(self, board: Client, out: Output, name: str | None, tally: Counter[str]) -> None:
        self._tally = tally
        self._board = board
        self._out = out
        self._name = name
        self._keyboard = Keyboard()
        self._feed = _Feed(board, name)
        self._skipped: set[str] = set()
        board.on_notice = self._notice

    def _notice(self, text: str) -> None:
        self._out.notice(text)
        self._feed.tell()

    async def run(self, *, follow: bool) -> None:
        """Ask until nothing is left, or with `follow` until the person has enough."""
        async with self._feed.followed():
            with suppress(_Left):
                while True:
                    news = self._feed.news  # taken first: what comes while the board is read is not missed
                    waiting = await self._open()
                    if waiting:
                        await self._put(waiting[0], len(waiting))
                    elif waiting is None:
                        await self._feed.or_failure(news.wait())
                    elif follow:
                        await self._idle(news)
                    else:
                        return

    async def one(self, record: ApprovalRecord) -> None:
        """Ask about this one only."""
        async with self._feed.followed():
            with suppress(_Left):
                await self._put(record, 1)

    async def _open(self) -> list[ApprovalRecord] | None:
        """Return what waits and was not skipped, oldest first; `None` while no daemon answers."""
        while True:
            try:
                records = await self._board.approvals(self._name)
                break
            except DaemonFrozen:
                continue  # if it goes on before whoever follows the feed notices, nothing is said of that
            except DaemonUnreachable:
                return None  # whoever follows the feed says so, and when one is back
        return [record for record in records if record.id not in self._skipped]

    async def _idle(self, news: asyncio.Event) -> None:
        """Wait for something new; the person may leave meanwhile."""
        self._out.beside("nothing waits; what comes is shown here, Ctrl-C ends it")
        with suppress(_Gone):
            while True:
                typed = await self._line(news.wait())
                if typed is None or typed.strip().lower() in (QUIT, QUIT[0]):
                    raise _Left

    # -- one question

    async def _put(self, record: ApprovalRecord, waiting: int) -> None:
        """Put one question, do what is said, and say what became of it."""
        page = _Page(self._out, await self._described(record))
        self._out.line()
        if waiting > 1:
            self._out.line(f"{waiting} wait; this is the oldest", "dim")
        page.turn()
        try:
            state = await self._settled(record, page)
        except _Gone:
            await self._tell_gone(record)
            return
        self._tally[state] += 1
        if state == SKIPPED:
            self._skipped.add(record.id)
        self._out.line(f"{state}: {one_line(record.tool)} of {record.session}", _STYLES.get(state, "green"))

    async def _described(self, record: ApprovalRecord) -> list[Line]:
        root: Path | None = None
        columns = shutil.get_terminal_size().columns
        if record.questions:
            return list(fitted(question(record, self._out.time, list(question_lines(record))), columns))
        if needs_root(record.arguments):
            with suppress(NotFound, DaemonUnreachable):
                root = Path((await self._board.status(record.session)).path)
        arguments = list(changed_lines(record.arguments, root))
        return list(fitted(question(record, self._out.time, arguments), columns))

    async def _settled(self, record: ApprovalRecord, page: _Page) -> str:
        """Ask until something is decided, or it is skipped; return approved, edited, rejected or skipped."""
        # A plan may be approved or rejected as a call is: then there is nothing more to answer.
        kinds = (APPROVE, EDIT, REJECT) if APPROVE in record.allowed else (ANSWER, EDIT, REJECT)
        choices = [*(kind for kind in kinds if kind in record.allowed), SKIP, QUIT]
        self._keyboard.forget()
        while True:
            chosen = await self._chosen(record, page, choices)
            if chosen == QUIT:
                raise _Left
            if chosen == SKIP:
                return SKIPPED
            with self._refusals_told():
                decided = await self._decided(record, chosen)
                if decided is not None:
                    return str(decided.state)

    @contextmanager
    def _refusals_told(self) -> Iterator[None]:
        """Say why a decision could not be taken; the question stays open. Raises _Gone when it is no longer asked."""
        try:
            yield
        except (AlreadyDecided, ApprovalNotFound):
            raise _Gone from None
        except TollboardError as error:
            report(error, self._out)

    async def _decided(self, record: ApprovalRecord, chosen: str) -> ApprovalRecord | None:
        if chosen == APPROVE:
            return await self._board.decide(record.id, Approve())
        if chosen == ANSWER or chosen not in MEANINGS:
            answer = await self._answer(record, "" if chosen == ANSWER else chosen)
            return None if answer is None else await self._board.decide(record.id, answer)
        if chosen == EDIT:
            with self._keyboard.lent():
                decided = await edited(self._board, record)
            if decided is None:
                self._out.beside("nothing was changed, so nothing is decided")
            return decided
        why = await self._typed("why? The agent reads it. Enter: no reason, Ctrl-D: back > ", record)
        return None if why is None else await self._board.decide(record.id, Reject(why.strip()))

    async def _answer(self, record: ApprovalRecord, typed: str) -> Answer | None:
        """Return what the person says to each question, `None` if they went back. `typed`: said to the only one."""
        if typed:
            return Answer(answers={record.questions[0].id: typed_reply(record.questions[0], typed)})
        replies: dict[str, Reply] = {}
        for each in record.questions:
            line = await self._reply_line(each, record)
            if line is None:
                return None
            if line.strip():
                replies[each.id] = typed_reply(each, line)
        return Answer(answers=replies)

    async def _reply_line(self, asked: Question, record: ApprovalRecord) -> str | None:
        what = "numbers, commas between" if asked.multiple else "number" if asked.options else ""
        ways = " or ".join(way for way in (what, "your own words" if asked.free_text else "") if way)
        prompt = f"{one_line(asked.header or asked.id)}: {ways}. Ctrl-D: back > "
        if not asked.secret:
            return await self._typed(prompt, record)
        with self._keyboard.hidden():
            typed = await self._typed(prompt, record)
        self._out.line()
        return typed

    async def _chosen(self, record: ApprovalRecord, page: _Page, choices: Sequence[str]) -> str:
        """Return one of the choices; show more of the question, or what the choices mean, when asked to."""
        prompt = " ".join(f"[{choice[0]}]{choice[1:]}" for choice in choices) + " ? "
        while True:
            if page.left:
                self._out.beside(f"{count(page.left, 'more line')}: Enter shows them, w all of them")
            typed = await self._typed(prompt, record)
            word = QUIT if typed is None else typed.strip().lower()
            if page.left and word in ("", WHOLE, WHOLE[0]):
                page.turn(whole=bool(word))
            elif page.left and word == APPROVE[0] and APPROVE in choices:
                self._out.beside(f"not all of it was shown; to approve all the same type {APPROVE!r} in full")
            elif chosen := next((choice for choice in choices if word in (choice, choice[0])), None):
                return chosen
            elif ANSWER in choices and len(record.questions) == 1 and word and word not in MEANINGS:
                return (typed or "").strip()
            else:
                for choice in choices:
                    self._out.beside(f"{choice[0]}  {MEANINGS[choice]}")

    async def _tell_gone(self, record: ApprovalRecord) -> None:
        """Say how it was decided, and make sure that what is typed next is not for another question."""
        found: ApprovalRecord | None = None
        with suppress(TollboardError):
            every = await self._board.approvals(record.session, all=True)
            found = next((one for one in every if one.id == record.id), None)
        if found is None:
            said = "this call is not asked about any more: it went with its session"
        elif found.state == "expired":
            said = f"this call is not asked about any more: {found.decided_by}"
        else:
            said = f"{found.decided_by} {found.state} this call meanwhile"
        self._out.line(said, "yellow")
        if await self._open():
            self._keyboard.forget()
            if await self._typed("Enter goes on to the next > ") is None:
                raise _Left

    # -- what is typed

    async def _typed(self, prompt: str, record: ApprovalRecord | None = None) -> str | None:
        """Return the line typed behind a prompt, `None` for Ctrl-D. Raises _Gone when the question no longer stands."""
        write(sys.stdout, paint(prompt, "bold", sys.stdout))
        sys.stdout.flush()
        try:
            typed = await self._line(None if record is None else self._feed.decided(record.id))
        except BaseException:
            self._out.line()
            raise
        if typed is None:
            self._out.line()
        return typed

    async def _line(self, unless: Awaitable[object] | None) -> str | None:
        """Return the next line. Raises _Gone if `unless` comes first, and the failure of the feed."""
        typing = asyncio.ensure_future(self._keyboard.line())
        others = [] if unless is None else [asyncio.ensure_future(unless)]
        try:
            await self._feed.or_failure(asyncio.wait([typing, *others], return_when=asyncio.FIRST_COMPLETED))
            if any(other.done() for other in others):
                raise _Gone
            return typing.result()
        finally:
            for task in (typing, *others):
                task.cancel()
            await asyncio.wait([typing, *others])


class _Feed:
    """What the feed tells of approvals."""

    def __init__(self, board: Client, name: str | None) -> None:
        self.news = asyncio.Event()
        """Set, and replaced by a new one, when something was asked or decided, or the daemon went or came back."""
        self._board = board
        self._name = name
        self._decided: set[str] = set()
        self._following: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Follow it meanwhile, from now on."""
        after = (await self._board.events(kinds=_NO_KIND, limit=1)).last_seq
        self._following = following = asyncio.create_task(self._follow(after))
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def _follow(self, after: int) -> None:
        items = self._board.tail(self._name, kinds=(ASKED, DECIDED), after=after)
        async with aclosing(cast("AsyncGenerator[FeedItem]", items)) as feed:
            async for item in feed:
                if item.kind == DECIDED:
                    self._decided.add(str(item.data.get("approval")))
                self.tell()

    def tell(self) -> None:
        """Wake whoever waits for news."""
        news, self.news = self.news, asyncio.Event()
        news.set()

    async def decided(self, id: str) -> None:
        """Return once this one was decided or has expired."""
        while id not in self._decided:
            await self.news.wait()

    async def or_failure(self, work: Awaitable[T]) -> T:
        """Return what the work returns, or raise why the feed cannot be followed, whichever comes first."""
        assert self._following is not None
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait([working, self._following], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            self._following.result()
            raise DaemonUnreachable("the daemon tells nothing any more")
        finally:
            working.cancel()


class _Page:
    """A question of any length, shown a screen at a time."""

    def __init__(self, out: Output, lines: Sequence[Line]) -> None:
        self._out = out
        self._lines = list(lines)
        self._room = max(_LEAST_LINES, shutil.get_terminal_size().lines - _OURS_LINES)

    @property
    def left(self) -> int:
        """How many lines were not shown yet."""
        return len(self._lines)

    def turn(self, *, whole: bool = False) -> None:
        """Show the next screen of it, or all that is left."""
        shown = len(self._lines) if whole else self._room
        print_lines(self._out, self._lines[:shown])
        del self._lines[:shown]
