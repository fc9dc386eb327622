"""Commands for decisions: approvals, review, approve, edit, reject, answer."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import AlreadyDecided, ApprovalNotFound, Invalid, InvalidDecision
from tollboard.runtime.approval import EDIT, Approve, Decision, Edit, Reject
from tollboard.surfaces.cli import question
from tollboard.surfaces.cli.app import APPROVALS, AnyName, command
from tollboard.surfaces.cli.completion import complete_approval
from tollboard.surfaces.cli.editor import edit_arguments, parse_arguments
from tollboard.surfaces.cli.failures import DONE, STOPPED_BY_USER
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Output

if TYPE_CHECKING:
    from tollboard.daemon.client import Client
    from tollboard.fleet.board import Board
    from tollboard.fleet.records import ApprovalRecord

WHOLE_ID = 36
SHORTEST_END = 6
"""An id's last characters are random; its first ones are a time, and a newer approval may share them."""

Id = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The approval's id, or its last 6 characters.", autocompletion=complete_approval
    ),
]


@command(APPROVALS)
def approvals(
    cli: Cli,
    name: AnyName = None,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show answered and expired ones too.")] = False,
) -> int:
    """Show the calls and questions that wait for a person, in full.

    \b
    Example:
      tollboard approvals
    """
    return cli.show(cli.run(lambda board: board.approvals(name, all=every)), _print_approvals)


def _print_approvals(out: Output, found: Sequence[ApprovalRecord]) -> None:
    for record in found:
        print_approval(out, record)
    if not found:
        out.beside("nothing waits for a decision")
    elif waiting := [record for record in found if record.state == "pending"]:
        asked = any(record.kind == "question" for record in waiting)
        out.beside(
            "decide: tollboard approve ID · edit ID · reject ID -m WHY"
            + (" · answer ID --choose N or TEXT" if asked else "")
            + ", or one after the other: tollboard review"
        )


def print_approval(out: Output, record: ApprovalRecord) -> None:
    """Print one approval: who wants to do what, with every argument in full."""
    lines = question.approval(record, out.time)
    if out.terminal:
        lines = question.fitted(lines, shutil.get_terminal_size().columns)
    question.print_lines(out, lines)
    out.line()


@command(APPROVALS)
def review(
    cli: Cli,
    name: AnyName = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="When nothing is left, wait for what comes, until Ctrl-C.")
    ] = False,
) -> int:
    """Decide what waits, one after the other, at the terminal.

    \b
    Example:
      tollboard review
      tollboard review api --follow
    """
    if cli.out.json or not (sys.stdin.isatty() and cli.out.terminal):
        raise Invalid(
            "review asks a person at a terminal; a script takes `approvals --json`, then `approve`, `edit`, `reject` "
            "or `answer`"
        )
    tally: Counter[str] = Counter()

    async def work(board: Client) -> None:
        from tollboard.surfaces.cli.review import Review

        await Review(board, cli.out, name, tally).run(follow=follow)

    try:
        cli.run(work)
    except KeyboardInterrupt:
        _print_tally(cli.out, tally)
        return STOPPED_BY_USER
    _print_tally(cli.out, tally)
    return DONE


def _print_tally(out: Output, tally: Counter[str]) -> None:
    told = ", ".join(f"{number} {state}" for state, number in sorted(tally.items()))
    out.beside(told or "nothing was decided")


@command(APPROVALS)
def approve(cli: Cli, approval: Id) -> int:
    """Let a call run as it was asked.

    \b
    Example:
      tollboard approve 01997a3c-...
    """
    return _decide(cli, approval, Approve())


@command(APPROVALS)
def edit(
    cli: Cli,
    approval: Id,
    arguments: Annotated[
        str | None,
        typer.Option("--arguments", "-a", metavar="JSON", help="Without it $EDITOR opens, until they fit."),
    ] = None,
) -> int:
    """Let a call run with other arguments.

    \b
    Example:
      tollboard edit 4fa203
      tollboard edit 01997a3c-... --arguments '{"command": "ls"}'
    """
    if arguments is not None:
        return _decide(cli, approval, Edit(parse_arguments(arguments)))

    async def work(board: Board) -> ApprovalRecord | None:
        record = await find(board, approval)
        if record.state != "pending":
            raise AlreadyDecided(f"approval {record.id} is {record.state} already, by {record.decided_by}")
        if EDIT not in record.allowed:
            raise InvalidDecision(f"{record.tool!r} allows only: {', '.join(record.allowed)}")
        return await edited(board, record)

    decided = cli.run(work)
    if decided is None:
        raise typer.Abort
    return cli.show(decided, _print_decided)


async def edited(board: Board, record: ApprovalRecord) -> ApprovalRecord | None:
    """Open the editor with the arguments and decide with what is left in it; `None` if they were not changed."""
    head = [f"{record.session} wants to use {record.tool}", *([record.path] if "/" in record.path else [])]
    return await edit_arguments(
        record.arguments, head, lambda changed: board.decide(record.id, Edit(changed))
    )


@command(APPROVALS)
def reject(
    cli: Cli,
    approval: Id,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="Why; the agent reads it.")
    ] = "",
) -> int:
    """Refuse a call, or to answer a question.

    \b
    Example:
      tollboard reject 01997a3c-... -m "Not on a Friday"
    """
    return _decide(cli, approval, Reject(message))


@command(APPROVALS)
def answer(
    cli: Cli,
    approval: Id,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="Your own words; - reads standard input.", show_default=False),
    ] = None,
    choose: Annotated[
        list[str] | None,
        typer.Option(
            "--choose", "-c", metavar="[QUESTION=]N",
            help="An option, by number or label; again for several. With several questions: which one, =, the option.",
        ),
    ] = None,
    reply: Annotated[
        list[str] | None,
        typer.Option("--reply", metavar="QUESTION=TEXT", help="Your own words to one of several questions."),
    ] = None,
) -> int:  # fmt: skip
    """Answer a question of an agent.

    \b
    Example:
      tollboard answer 4fa203 --choose 2
      tollboard answer 4fa203 "the one by the sea"
      tollboard answer 4fa203 --choose store=2 --choose extras=1 --choose extras=3
    """
    from tollboard.surfaces.cli.answering import given_answer

    said = sys.stdin.buffer.read().decode("utf-8", "replace").strip() if text == "-" else text

    async def work(board: Client) -> ApprovalRecord | None:
        record = await find(board, approval)
        if said is None and not choose and not reply:
            return await _asked_at_terminal(cli, board, record)
        return await board.decide(record.id, given_answer(record, said or "", choose or (), reply or ()))

    decided = cli.run(work)
    if decided is None:
        raise typer.Abort
    return cli.show(decided, _print_decided)


async def _asked_at_terminal(cli: Cli, board: Client, record: ApprovalRecord) -> ApprovalRecord | None:
    """Put one approval to the person at the terminal; `None` if it was left open."""
    if record.state != "pending":
        raise AlreadyDecided(f"approval {record.id} is {record.state} already, by {record.decided_by}")
    if cli.out.json or not (sys.stdin.isatty() and cli.out.terminal):
        raise Invalid(
            f"nothing to answer with; give TEXT or --choose: tollboard answer {record.id} "
            + (question.how_to_answer(record.questions) if record.questions else "TEXT")
        )
    from tollboard.surfaces.cli.review import Review

    await Review(board, cli.out, record.session, Counter()).one(record)
    decided = await find(board, record.id)
    return None if decided.state == "pending" else decided


def _decide(cli: Cli, approval: str, decision: Decision) -> int:
    async def work(board: Board) -> ApprovalRecord:
        whole = approval if len(approval) == WHOLE_ID else (await find(board, approval)).id
        return await board.decide(whole, decision)

    return cli.show(cli.run(work), _print_decided)


async def find(board: Board, given: str) -> ApprovalRecord:
    """Return the approval with that id, or the only one that waits whose id ends so."""
    found = await board.approvals(all=True)
    exact = [record for record in found if record.id == given]
    if exact:
        return exact[0]
    ends = [record for record in found if record.id.endswith(given) and record.state == "pending"]
    if len(given) >= SHORTEST_END and len(ends) == 1:
        return ends[0]
    what = "no approval has the id" if not ends else "give more of the id, several end with"
    raise ApprovalNotFound(f"{what} {given!r}")


def _print_decided(out: Output, record: ApprovalRecord) -> None:
    style = "yellow" if record.state == "rejected" else "green"
    out.line(f"{record.state}: {record.tool} of {record.session}", style)
