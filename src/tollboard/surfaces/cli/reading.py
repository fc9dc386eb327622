"""Commands that read: inbox, ack, transcript, tail."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tollboard.errors import Invalid
from tollboard.surfaces.cli.app import READING, AnyName, Name, command
from tollboard.surfaces.cli.completion import complete_kind
from tollboard.surfaces.cli.failures import DONE, STOPPED_BY_USER
from tollboard.surfaces.cli.following import cost_of
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Output, paint
from tollboard.surfaces.cli.text import clock, count, exact, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tollboard.daemon.client import Client
    from tollboard.fleet.board import Board
    from tollboard.fleet.records import Entry, FeedItem, Inbox, InboxSession, Transcript

Reader = Annotated[
    str,
    typer.Option("--reader", "-r", metavar="READER", help="Whose cursor; each reader has one of its own."),
]

_STATUS_STYLES = {"ok": "green", "failed": "red", "interrupted": "yellow"}


@command(READING)
def inbox(
    cli: Cli,
    name: AnyName = None,
    ack: Annotated[bool, typer.Option("--ack", help="Mark what is shown as read.")] = False,
    reader: Reader = "me",
    wait: Annotated[
        float | None, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait so long for something new.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=200, help="Show at most so many.")
    ] = 100,
) -> int:  # fmt: skip
    """Show the finished turns you have not acknowledged.

    \b
    Example:
      tollboard inbox
      tollboard inbox api --ack
    """
    found = cli.run(lambda board: board.inbox(name, ack=ack, reader=reader, wait=wait, limit=limit))
    return cli.show(found, _print_inbox)


def _print_inbox(out: Output, inbox: Inbox) -> None:
    for entry in inbox.entries:
        print_entry(out, entry, named=True)
    for part in inbox.sessions:
        if part.unread and part.summary.text:
            stale = f", {count(part.summary.turns_since, 'turn')} ago" if part.summary.turns_since else ""
            out.line(f"{part.session}, summary{stale}: {one_line(part.summary.text, 200)}", "dim")
    unread = sum(part.unread for part in inbox.sessions)
    if not inbox.entries:
        out.beside("nothing new")
    elif any(part.acked != part.cursor for part in inbox.sessions):
        out.beside(f"{count(len(inbox.entries), 'turn')} acknowledged")
    else:
        out.beside(f"{count(unread, 'unread turn')}; mark as read: tollboard inbox --ack")
    if inbox.more:
        out.beside(
            f"there is more than these {len(inbox.entries)}: acknowledge and ask again, or raise --limit"
        )
    if inbox.approvals:
        verb = "waits" if inbox.approvals == 1 else "wait"
        out.beside(f"{count(inbox.approvals, 'approval')} {verb}: tollboard approvals", "yellow")


def print_entry(out: Output, entry: Entry, *, named: bool) -> None:
    """Print one finished turn: how it ended, what was asked, what was answered."""
    who = f"{entry.session} " if named else ""
    mark = {"ok": "✓", "failed": "✗", "interrupted": "!"}[entry.status]
    style = _STATUS_STYLES[entry.status]
    out.line(
        f"{mark} {who}#{entry.seq} {entry.status} · {out.time(entry.completed_at)} · {cost_of(entry)} · {entry.ref}",
        f"{style} bold",
    )
    # Nobody asked for what the agent did by itself: what is shown then is why it did.
    sign = "~" if entry.origin == "agent" else ">"
    for line in entry.prompt.rstrip("\n").split("\n"):
        out.line(f"  {sign} {line}", "dim")
    if entry.text:
        for line in entry.text.rstrip("\n").split("\n"):
            out.line(f"  {line}")
    if entry.note:
        out.line(f"  ({entry.note})", "yellow")
    if entry.error:
        out.line(f"  {entry.error}", style)
    out.line()


@command(READING)
def ack(
    cli: Cli,
    name: Name,
    seq: Annotated[int, typer.Argument(metavar="SEQ", min=0, help="The last turn that is read; 0 for none.")],
    reader: Reader = "me",
) -> int:
    """Set where a reader stands in a session, forward or back.

    \b
    Example:
      tollboard ack api 12
    """
    return cli.show(cli.run(lambda board: board.ack(name, seq, reader=reader)), _print_acked)


def _print_acked(out: Output, part: InboxSession) -> None:
    out.line(f"{part.session}: read up to turn {part.acked}, {part.unread} unread", "green")


@command(READING)
def transcript(
    cli: Cli,
    name: Name,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="Show the last so many turns.")
    ] = 10,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show all turns.")] = False,
) -> int:
    """Show the turns of a session, a stopped one too.

    \b
    Example:
      tollboard transcript api --limit 3
    """
    found = cli.run(lambda board: read_transcript(board, name, None if every else limit))
    return cli.show(found, _print_transcript)


async def read_transcript(board: Board, name: str, limit: int | None) -> Transcript:
    """Return the last `limit` turns, or all, as one transcript, whatever the size of a page."""
    from dataclasses import replace

    page = await board.transcript(name, limit=limit)
    entries = list(page.entries)
    while page.next_before is not None and (limit is None or len(entries) < limit):
        left = None if limit is None else limit - len(entries)
        page = await board.transcript(name, limit=left, before=page.next_before)
        entries[:0] = page.entries
    return replace(page, entries=tuple(entries))


def _print_transcript(out: Output, found: Transcript) -> None:
    for entry in found.entries:
        print_entry(out, entry, named=False)
    shown = len(found.entries)
    if shown < found.total:
        out.beside(f"the last {shown} of {count(found.total, 'turn')}; all: --all")
    elif not shown:
        out.beside("no turns yet")


@command(READING)
def tail(
    cli: Cli,
    name: AnyName = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind", "-k", metavar="KIND", help="Only items of this kind. Repeatable.", autocompletion=complete_kind
        ),
    ] = None,
    after: Annotated[
        int | None, typer.Option("--after", metavar="SEQ", min=0, help="Begin after this number, 0 for all.")
    ] = None,
) -> int:  # fmt: skip
    """Follow what happens, a line for each event, until Ctrl-C.

    \b
    Example:
      tollboard tail api --kind text
      tollboard tail --after 0 --json
    """

    _check_kinds(kind or ())

    async def follow(board: Client) -> None:
        board.on_notice = cli.out.notice
        feed = cast("AsyncGenerator[FeedItem]", board.tail(name, kinds=tuple(kind or ()), after=after))
        async with aclosing(feed):
            async for item in feed:
                if cli.out.json:
                    cli.out.json_line(item)
                else:
                    print_item(cli.out, item)

    try:
        cli.run(follow)
    except KeyboardInterrupt:
        return STOPPED_BY_USER
    return DONE


def _check_kinds(kinds: Sequence[str]) -> None:
    """Raise Invalid for one that no item will ever have: it would be waited for without a word."""
    from tollboard.fleet.records import FEED_KINDS

    if unknown := [kind for kind in kinds if kind not in FEED_KINDS]:
        raise Invalid(f"there is no kind {unknown[0]!r} of items; there are: {', '.join(FEED_KINDS)}")


def print_item(out: Output, item: FeedItem) -> None:
    """Print one item of the feed on one line."""
    at = clock(item.at) if out.terminal else exact(item.at)
    head = paint(f"{item.seq:>6}  {at}", "dim", sys.stdout)
    session = paint(f"{item.session:<12}", "bold", sys.stdout)
    out.labelled(f"{head}  {session}  {item.kind:<18}  ", one_line(describe(item.data)))
    sys.stdout.flush()


def describe(data: object) -> str:
    """Return the data of an item in short: its text if that is all, else `key=value` pairs."""
    if not isinstance(data, dict):
        return "" if not data else str(data)
    if set(data) <= {"text", "message"} and "text" in data:
        return str(data["text"])
    return " ".join(f"{key}={_value(value)}" for key, value in data.items() if value not in (None, "", ()))


def _value(value: object) -> str:
    if isinstance(value, str):
        return value if value and not set(value) & set(" \t\n\"'=") else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Sequence):
        return ",".join(map(str, value))
    return json.dumps(value, ensure_ascii=False, default=str)
