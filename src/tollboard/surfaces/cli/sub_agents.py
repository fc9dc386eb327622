"""Commands for the sub-agents of a session: subagents, subagent messages, subagent cancel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import SubAgentNotFound
from tollboard.surfaces.cli.app import CONTROL, READING, Group, Name, app, command, show_help
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Cell, Column, Output
from tollboard.surfaces.cli.text import one_line

if TYPE_CHECKING:
    from tollboard.fleet.board import Board
    from tollboard.fleet.records import SubAgentCancelled, SubAgentMessages, SubAgentRecord

WHOLE_ID = 36
SHORTEST_END = 6
STYLES = {
    "running": "blue", "interrupted": "yellow bold", "completed": "green", "failed": "red", "cancelled": "magenta",
}  # fmt: skip

group = typer.Typer(
    name="subagent", cls=Group, help="Read or end one sub-agent of a session.", rich_markup_mode=None
)
group.callback(invoke_without_command=True)(show_help)
app.add_typer(group, rich_help_panel=CONTROL)

Id = Annotated[str, typer.Argument(metavar="ID", help="The sub-agent's id, or its last 6 characters.")]


@command(READING)
def subagents(
    cli: Cli,
    name: Name,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show those that have ended too.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=200, help="Show the newest N.")
    ] = 50,
) -> int:
    """Show the sub-agents of a session.

    \b
    Example:
      tollboard subagents api
      tollboard subagents api --all
    """
    found = cli.run(lambda board: board.subagents(name, all=every, limit=limit))
    return cli.show(found, lambda out, records: _print_list(out, records, name, every=every))


def _print_list(out: Output, found: Sequence[SubAgentRecord], name: str, *, every: bool) -> None:
    if not found:
        ended = f"none is at work; ended ones too: tollboard subagents {name} --all"
        out.beside("it has had no sub-agents" if every else ended)
        return
    columns = (
        Column("ID"),
        Column("SUB-AGENT"),
        Column("STATE"),
        Column("CALLS", right=True),
        Column("BEGAN"),
        Column("TASK", gives="right"),
    )
    rows = [
        (
            Cell(record.id, "dim"),
            record.path,
            Cell(record.status, STYLES[record.status]),
            str(record.turns),
            out.time(record.started_at),
            one_line(record.instructions),
        )
        for record in found
    ]
    out.table(columns, rows)


@command(None, name="messages", to=group)
def messages(
    cli: Cli,
    sub_agent: Id,
    after: Annotated[
        int, typer.Option("--after", metavar="NUMBER", min=0, help="Begin after this message.")
    ] = 0,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=200, help="Show so many.")
    ] = 200,
) -> int:
    """Show what a sub-agent was told and said.

    \b
    Example:
      tollboard subagent messages 3f9ac1
    """

    async def work(board: Board) -> SubAgentMessages:
        return await board.subagent_messages(await find(board, sub_agent), after=after, limit=limit)

    return cli.show(cli.run(work), _print_messages)


def _print_messages(out: Output, page: SubAgentMessages) -> None:
    record = page.sub_agent
    out.field("sub-agent", record.path, "bold")
    out.field("session", record.session)
    out.field("state", record.status, STYLES[record.status])
    out.field("model calls", record.turns)
    if record.error:
        out.field("error", record.error, "red")
    out.line()
    for message in page.messages:
        who = f"{message.role.replace('_', ' ')} {message.tool}".rstrip()
        out.line(f"#{message.number} {who}", "bold")
        for line in message.text.rstrip("\n").split("\n"):
            out.line(f"  {line}")
    if page.next_after is not None:
        out.beside(f"there is more: --after {page.next_after}")


@command(None, name="cancel", to=group)
def cancel(cli: Cli, sub_agent: Id) -> int:
    """End a sub-agent and all below it; the one above is told and goes on.

    \b
    Example:
      tollboard subagent cancel 3f9ac1
    """

    async def work(board: Board) -> SubAgentCancelled:
        try:
            whole = await find(board, sub_agent)
        except SubAgentNotFound:
            whole = sub_agent  # one that is gone is no error
        return await board.cancel_subagent(whole)

    return cli.show(cli.run(work), _print_cancelled)


def _print_cancelled(out: Output, done: SubAgentCancelled) -> None:
    if done.acted:
        out.line(f"cancelled: {done.id}", "green")
    elif done.status is None:
        out.beside(f"no sub-agent has the id {done.id}; nothing to cancel")
    else:
        out.beside(f"it is not at work: {done.status}")


async def find(board: Board, given: str) -> str:
    """Return the id, or that of the only sub-agent whose id ends so, of any session."""
    if len(given) >= WHOLE_ID:
        return given
    ends: set[str] = set()
    if len(given) >= SHORTEST_END:
        for status in await board.list_sessions(all=True):
            records = await board.subagents(status.id, all=True)
            ends |= {record.id for record in records if record.id.endswith(given)}
    if len(ends) == 1:
        return ends.pop()
    what = "no sub-agent has the id" if not ends else "give more of the id, several end with"
    raise SubAgentNotFound(f"{what} {given!r}")
