"""Commands for decisions: approvals, approve, edit, reject."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import ApprovalNotFound, InvalidDecision
from tollboard.runtime.approval import Approve, Decision, Edit, Reject
from tollboard.surfaces.cli.app import APPROVALS, AnyName, command
from tollboard.surfaces.cli.completion import complete_approval
from tollboard.surfaces.cli.editor import edit_text
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Output, plain

if TYPE_CHECKING:
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

_STATE_STYLES = {"pending": "yellow", "rejected": "red", "expired": "dim"}


@command(APPROVALS)
def approvals(
    cli: Cli,
    name: AnyName = None,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show answered and expired ones too.")] = False,
) -> int:
    """Show the calls that wait for a decision, with their arguments.

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
    elif any(record.state == "pending" for record in found):
        out.beside("answer: tollboard approve ID · edit ID --arguments JSON · reject ID -m WHY")


def print_approval(out: Output, record: ApprovalRecord) -> None:
    """Print one approval: who wants to do what, with every argument in full."""
    out.line(f"{record.session} wants to use {record.tool}", "bold")
    out.field("id", record.id)
    out.field("state", record.state, _STATE_STYLES.get(record.state, "green"))
    out.field("asked", out.time(record.requested_at))
    if record.path != record.session:
        out.field("by", record.path)
    if record.display:
        _block(out, "shown as", record.display)
    for key, value in record.arguments.items():
        _block(out, key, value if isinstance(value, str) else json.dumps(plain(value), indent=2))
    if not record.arguments:
        out.field("arguments", "none")
    if record.state == "pending":
        out.field("allowed", ", ".join(record.allowed))
    elif record.decided_by:
        out.field("by", f"{record.decided_by}, {out.time(record.decided_at)}")
    if record.decision:
        for key, value in record.decision.items():
            if key != "type" and value:
                _block(out, key, value if isinstance(value, str) else json.dumps(plain(value), indent=2))
    out.line()


def _block(out: Output, name: str, text: str) -> None:
    """Print a text of any length under its name: nothing of what somebody decides on is cut."""
    first, *rest = text.rstrip("\n").split("\n")
    out.field(name, first)
    for line in rest:
        out.field("", line)


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
        str | None, typer.Option("--arguments", "-a", metavar="JSON", help="Without it $EDITOR opens.")
    ] = None,
) -> int:
    """Let a call run with other arguments.

    \b
    Example:
      tollboard edit 01997a3c-... --arguments '{"command": "ls"}'
    """
    if arguments is None:
        record = cli.run(lambda board: _find(board, approval))
        arguments = edit_text(
            json.dumps(plain(record.arguments), indent=2, ensure_ascii=False), suffix=".json"
        )
        if arguments is None:
            raise typer.Abort
        approval = record.id
    return _decide(cli, approval, Edit(_object(arguments)))


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError as wrong:
        raise InvalidDecision(f"--arguments is not JSON: {wrong}") from None
    if not isinstance(value, dict):
        raise InvalidDecision(f"--arguments must be a JSON object, not {type(value).__name__}")
    return value


@command(APPROVALS)
def reject(
    cli: Cli,
    approval: Id,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="Why; the agent reads it.")
    ] = "",
) -> int:
    """Refuse a call.

    \b
    Example:
      tollboard reject 01997a3c-... -m "Not on a Friday"
    """
    return _decide(cli, approval, Reject(message))


def _decide(cli: Cli, approval: str, decision: Decision) -> int:
    async def work(board: Board) -> ApprovalRecord:
        whole = approval if len(approval) == WHOLE_ID else (await _find(board, approval)).id
        return await board.decide(whole, decision)

    return cli.show(cli.run(work), _print_decided)


async def _find(board: Board, given: str) -> ApprovalRecord:
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
