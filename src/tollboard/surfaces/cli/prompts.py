"""Commands that give work and ask for it: send, broadcast, poll, wait, cancel."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import (
    DaemonError,
    DaemonUnreachable,
    Invalid,
    RequestNotFound,
    SessionBusy,
    SessionHalted,
)
from tollboard.surfaces.cli import following
from tollboard.surfaces.cli.app import PROMPTS, Name, command
from tollboard.surfaces.cli.completion import complete_session
from tollboard.surfaces.cli.failures import DONE, FAILED, STOPPED_BY_USER, TIMED_OUT, complain
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Cell, Column, Output
from tollboard.surfaces.cli.text import one_line, span

if TYPE_CHECKING:
    from tollboard.fleet.board import Board
    from tollboard.fleet.records import BroadcastItem, Poll, Receipt, WaitReport

Ref = Annotated[str, typer.Argument(metavar="REF", help="What `send` printed.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", "-t", metavar="SECONDS", min=0, help="Wait at most so long (exit code 5)."),
]
PromptFile = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the prompt from a file.")
]
PROMPT_HELP = "The prompt; `-` reads standard input."


@command(PROMPTS)
def send(
    cli: Cli,
    name: Name,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help=PROMPT_HELP)] = None,
    file: PromptFile = None,
    queue: Annotated[
        bool, typer.Option("--queue", "-q", help="If the session is busy or halted, wait in its mailbox.")
    ] = False,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="An idempotency key: sent twice, it still runs once.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Show the answer as it arrives. Ctrl-C stops waiting, not the turn.")
    ] = False,
    timeout: Timeout = None,
) -> int:  # fmt: skip
    """Send a prompt; print its ref, or the answer with --wait.

    \b
    Example:
      tollboard send api "Run the tests"
      git diff | tollboard send review - --wait
    """
    text = read_prompt(prompt, file)
    if timeout is not None and not wait:
        raise Invalid("--timeout needs --wait")
    sent: list[str] = []

    async def work(board: Board) -> Poll | None:
        sent.append(await _accept(board, name, text, queue=queue, key=key))
        if not wait:
            return None
        try:
            return await following.follow(board, name, sent[0], cli.out, timeout=timeout)
        except DaemonError as lost:
            lost.add_note(f"the prompt is safe, see how it stands: tollboard poll {name} {sent[0]}")
            raise

    try:
        poll = cli.run(work)
    except KeyboardInterrupt:
        return _stopped_waiting(cli.out, name, sent, queued=queue)
    if poll is None:
        return cli.show({"session": name, "ref": sent[0]}, lambda out, _: out.line(sent[0]))
    return cli.show(poll, following.tell_end, exit_with=following.outcome(poll))


def read_prompt(prompt: str | None, file: Path | None, what: str = "prompt") -> str:
    """Return the text from the argument, a file or standard input; exactly one of them must be given."""
    if (prompt is None) == (file is None):
        raise Invalid(f"give the {what} as an argument, `-` for standard input, or --file")
    try:
        if file is not None and str(file) != "-":
            return file.read_text(encoding="utf-8")
        return prompt if prompt not in (None, "-") else sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise Invalid(f"the {what} is not UTF-8 text (byte {wrong.start})") from None
    except OSError as wrong:
        raise Invalid(f"the {what} file {str(file)!r} cannot be read: {wrong.strerror}") from None


async def _accept(board: Board, name: str, text: str, *, queue: bool, key: str | None) -> str:
    try:
        return await board.send(name, text, queue=queue, key=key)
    except SessionBusy as busy:
        # What is in the way is the next thing one wants to know.
        status = await board.status(name)
        ways = ["send it after that turn: --queue"]
        if status.needs_decision:
            ways.append(f"decide: tollboard approvals {name}")
        if status.in_flight:
            ways.append(f"wait: tollboard wait {status.in_flight}")
        busy.add_note("    or ".join([*ways, f"end it: tollboard interrupt {name}"]))
        raise
    except SessionHalted as halted:
        halted.add_note(f"release it: tollboard resume {name}    or hold the prompt until then: --queue")
        raise


def _stopped_waiting(out: Output, name: str, sent: Sequence[str], *, queued: bool) -> int:
    if out.json:
        return complain(
            out, "stopped", f"stopped waiting; sent: {', '.join(sent) or 'nothing'}", "", STOPPED_BY_USER
        )
    if not sent:
        out.beside(
            f"stopped before the daemon had answered; see whether it was sent: tollboard status {name}"
        )
        return STOPPED_BY_USER
    out.beside("")
    following.tell_going_on(out, name, sent[0], "stopped waiting", queued=queued)
    return STOPPED_BY_USER


@command(PROMPTS)
def broadcast(
    cli: Cli,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help=PROMPT_HELP)] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="NAME", help="Only this session. Repeatable.", autocompletion=complete_session),
    ] = None,
    file: PromptFile = None,
) -> int:  # fmt: skip
    """Queue a prompt on every live session.

    \b
    Example:
      tollboard broadcast "Commit what you have and stop"
      tollboard broadcast "Rebase on main" --to api --to web
    """
    text = read_prompt(prompt, file)
    items = cli.run(lambda board: board.broadcast(text, names=to or None))
    failed = any(item.error for item in items)
    return cli.show(items, _print_broadcast, exit_with=FAILED if failed else DONE)


def _print_broadcast(out: Output, items: Sequence[BroadcastItem]) -> None:
    if not items:
        out.beside("there is no live session")
        return
    rows = [
        (Cell(item.session, "bold"), Cell(f"{item.error}: {item.message}", "red") if item.error else str(item.ref))
        for item in items
    ]  # fmt: skip
    out.table((Column("SESSION"), Column("REF")), rows)


@command(PROMPTS)
def poll(cli: Cli, name: Name, ref: Ref) -> int:
    """Show the answer to a request, or where it is.

    \b
    Example:
      tollboard poll api 01997a3c-...
    """
    return cli.show(cli.run(lambda board: board.poll(name, ref)), print_poll)


def print_poll(out: Output, poll: Poll) -> None:
    """Print a request's answer, or where it is."""
    if poll.status == "completed":
        out.text(following.completed_text(poll))
        following.tell_end(out, poll)
    elif poll.status == "failed":
        out.line(f"{poll.reason}: {poll.detail}" if poll.detail else poll.reason, "red")
    else:
        out.line(where(poll.receipt))


def where(receipt: Receipt) -> str:
    """Return where a request is, in words; a state that was concluded is marked as such."""
    if receipt.state == "queued":
        text = f"queued, number {receipt.position}" if receipt.position else "queued"
    elif receipt.state == "started":
        text = "in flight"
    else:
        text = f"ended: {receipt.outcome}"
    return text + (" (inferred, not reported)" if receipt.inferred else "")


@command(PROMPTS)
def wait(
    cli: Cli,
    refs: Annotated[list[str], typer.Argument(metavar="REF", help="What `send` printed, of any sessions.")],
    any_: Annotated[bool, typer.Option("--any", help="Return when the first has ended.")] = False,
    timeout: Timeout = None,
) -> int:
    """Wait until requests have ended. Exit code 1 if one failed, 5 if time ran out.

    \b
    Example:
      tollboard wait $REF1 $REF2 --timeout 600
    """
    progress = following.Progress(cli.out, len(set(refs))) if cli.out.terminal_beside else None
    try:
        report = cli.run(
            lambda board: following.wait_for(
                board, refs, timeout=timeout, mode="any" if any_ else "all", each=progress
            )
        )
    except RequestNotFound as unknown:
        unknown.add_note("a ref is what `tollboard send` printed; the finished ones: tollboard inbox")
        raise
    except DaemonUnreachable as lost:
        lost.add_note(f"what was sent is safe; wait again: tollboard wait {' '.join(refs)}")
        raise
    except KeyboardInterrupt:
        why = "stopped waiting; the turns go on"
        if cli.out.json:
            return complain(cli.out, "stopped", why, "", STOPPED_BY_USER)
        cli.out.beside(why, "yellow")
        return STOPPED_BY_USER
    return cli.show(report, _print_waited, exit_with=_waited(report, any_=any_))


def _waited(report: WaitReport, *, any_: bool) -> int:
    if report.pending and not (any_ and report.done):
        return TIMED_OUT
    return FAILED if any(poll.status == "failed" for poll in report.done) else DONE


def _print_waited(out: Output, report: WaitReport) -> None:
    columns = (
        Column("SESSION"),
        Column("OUTCOME"),
        Column("TIME", right=True),
        Column("REF"),
        Column("ANSWER", gives="right"),
    )
    out.table(columns, [_waited_row(poll) for poll in (*report.done, *report.pending)])
    if report.pending and not report.done:
        out.beside("time is up; the turns go on", "yellow")


def _waited_row(poll: Poll) -> tuple[Cell | str, ...]:
    session = Cell(poll.receipt.session, "bold")
    if poll.status == "pending":
        return session, Cell(where(poll.receipt), "blue"), "-", poll.receipt.ref, ""
    took = span(poll.entry.duration_s) if poll.entry else "-"
    if poll.status == "completed":
        return session, Cell("completed", "green"), took, poll.receipt.ref, one_line(poll.text, 200)
    return session, Cell(poll.reason, "red"), took, poll.receipt.ref, one_line(poll.detail, 200)


@command(PROMPTS)
def cancel(cli: Cli, name: Name, ref: Ref) -> int:
    """Withdraw a queued request.

    \b
    Example:
      tollboard cancel api 01997a3c-...
    """
    receipt = cli.run(lambda board: board.cancel(name, ref))
    return cli.show(receipt, lambda out, _: out.line(f"withdrawn from {name}: {ref}", "green"))
