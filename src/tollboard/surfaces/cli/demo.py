"""The command `demo`: the main job, through a real daemon in a directory of its own, each promise checked.

Whoever watches sees commands to type and what they really say; the checks between them are what the demo fails by.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.surfaces.cli.app import DAEMON, command
from tollboard.surfaces.cli.failures import DONE, FAILED, STOPPED_BY_USER, complain
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.stage import DoesNotHold, Stage
from tollboard.surfaces.cli.text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tollboard.fleet.board import Board
    from tollboard.fleet.records import ApprovalRecord, Entry, FeedItem

SLOW_S = 0.6
"""How long a turn of the slow session takes: long enough to catch it in flight, short enough to watch."""

SCRIPT = [{"approval": {"tool": "shell", "arguments": {"command": "git push origin main"}}}]


@command(DAEMON)
def demo(
    cli: Cli,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the directory afterwards.")] = False,
) -> int:
    """Show the main job in a temporary directory; needs no account.

    \b
    Example:
      tollboard demo
    """
    # Short: the path of a unix socket has room for about a hundred bytes.
    home = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp" if Path("/tmp").is_dir() else None))
    stage = Stage(home, quiet=cli.out.json)
    begun = time.monotonic()
    remove = False
    try:
        with stage.directory_of_its_own():
            try:
                _play(stage)
            finally:
                stage.close()
        remove = not keep
        return _praise(cli, stage, time.monotonic() - begun)
    except DoesNotHold as wrong:
        return complain(cli.out, "demo_failed", f"this does not hold: {wrong}", f"look into {home}", FAILED)
    except KeyboardInterrupt:
        remove = not keep
        return STOPPED_BY_USER
    finally:
        if remove:
            shutil.rmtree(home, ignore_errors=True)
        else:
            cli.out.beside(f"the directory is kept: {home}")


def _praise(cli: Cli, stage: Stage, took_s: float) -> int:
    if cli.out.json:
        cli.out.document({"ok": True, "seconds": round(took_s, 2), "steps": stage.typed, "held": stage.held})
        return DONE
    cli.out.line()
    cli.out.line(
        f"All of it held: {count(len(stage.held), 'check')}, {count(len(stage.typed), 'command')}, "
        f"{took_s:.1f} s. Nothing was lost, nothing ran twice.",
        "bold green",
    )
    cli.out.line("Now your own: tollboard start NAME --path DIRECTORY, and tollboard send NAME PROMPT --wait")
    return DONE


def _play(stage: Stage) -> None:
    if not stage.quiet:
        stage.heading("A state directory for this demo only")
        stage.note(f"export TOLLBOARD_HOME={stage.home}")
    _two_sessions(stage)
    _prompts(stage)
    _inbox(stage)
    _summary(stage)
    _broadcast(stage)
    _interrupt(stage)
    _approval(stage)
    _halt(stage)
    _kill(stage)


def _two_sessions(stage: Stage) -> None:
    stage.heading("Two agents on two directories (the first command starts the daemon)")
    for name in ("api", "docs"):
        (stage.home / "src" / name).mkdir(parents=True)
    path = str(stage.home / "src")
    stage.types("start", "api", "--path", f"{path}/api", "--backend", "echo")
    stage.types(
        "start", "docs", "--path", f"{path}/docs", "--backend", "echo",
        "--option", f"delay={SLOW_S}", "--option", "chunks=4",
    )  # fmt: skip
    stage.types("list")
    stage.daemon()
    sessions = stage.ask(lambda board: board.list_sessions())
    stage.holds(
        [one.path for one in sessions] == [f"{path}/api", f"{path}/docs"], "each sits on its own directory"
    )


def _prompts(stage: Stage) -> None:
    stage.heading("Prompts do not block; a busy session says so, unless you queue")
    first = stage.types("send", "api", "Which tests fail?")
    second = stage.types("send", "docs", "Write the changelog")
    stage.types("poll", "docs", second)
    stage.types("send", "docs", "And the README", expect=4)
    third = stage.types("send", "docs", "And the README", "--queue")
    stage.types("wait", first, second, third)
    stage.types("poll", "api", first)
    done = stage.ask(lambda board: board.wait([first, second, third], timeout=0))
    texts = [poll.text for poll in done.done if poll.status == "completed"]
    stage.holds(
        texts == ["echo: Which tests fail?", "echo: Write the changelog", "echo: And the README"],
        "every prompt got its own answer, in order",
    )


def _inbox(stage: Stage) -> None:
    stage.heading("The inbox: peek moves nothing, ack moves to exactly what was shown")
    stage.types("inbox")
    peeked = stage.ask(lambda board: board.inbox())
    stage.holds(len(peeked.entries) == 3, "after the peek all three turns are still unread")
    stage.types("inbox", "--ack")
    stage.types("inbox")
    stage.holds(not stage.ask(lambda board: board.inbox()).entries, "after the ack nothing is")


def _summary(stage: Stage) -> None:
    stage.heading("Your own notes on a session; no agent writes them")
    stage.types("summary", "set", "api", "Two tests fail. Next: the migration.")
    stage.types("summary", "get", "api")
    stage.holds(
        stage.ask(lambda board: board.summary_get("api")).version == 1,
        "the summary is kept, with its version",
    )


def _broadcast(stage: Stage) -> None:
    stage.heading("One prompt to all")
    stage.types("broadcast", "Commit what you have")
    stage.types("inbox", "--wait", "5")
    stage.ask(lambda board: _idle(board, "docs"))
    last = [stage.ask(lambda board, n=name: _last(board, n)) for name in ("api", "docs")]  # type: ignore[misc]
    stage.holds(
        all(entry.prompt == "Commit what you have" and entry.status == "ok" for entry in last),
        "both sessions did it",
    )


def _interrupt(stage: Stage) -> None:
    stage.heading("Interrupt a slow turn")
    ref = stage.types("send", "docs", "Rewrite everything")
    stage.types("interrupt", "docs")
    stage.types("poll", "docs", ref)
    poll = stage.ask(lambda board: board.poll("docs", ref))
    stage.holds(poll.status == "failed" and poll.reason == "interrupted", "that turn ended as interrupted")


def _approval(stage: Stage) -> None:
    stage.heading("A guarded call waits for a person")
    stage.types(
        "start", "deploy", "--path", str(stage.home / "src" / "api"), "--backend", "scripted",
        "--option", f"script={json.dumps(SCRIPT)}",
    )  # fmt: skip
    ref = stage.types("send", "deploy", "Ship it")
    waiting = stage.ask(_first_approval)
    stage.types("approvals")
    stage.types("approve", waiting.id)
    stage.types("wait", ref)
    decided = stage.ask(lambda board: board.approvals(all=True))
    stage.holds(
        [one.state for one in decided] == ["approved"] and str(decided[0].decided_by).startswith("cli:"),
        "the call ran once approved, and it is on record who approved it",
    )


def _halt(stage: Stage) -> None:
    stage.heading("Halt the fleet; what is queued is held, and runs after resume")
    stage.types("halt", "--all")
    ref = stage.types("send", "api", "Run the migration", "--queue")
    stage.types("list")
    held = stage.ask(lambda board: board.poll("api", ref))
    stage.holds(held.status == "pending" and held.receipt.state == "queued", "while halted it waits")
    stage.types("resume", "--all")
    stage.types("wait", ref)


def _kill(stage: Stage) -> None:
    stage.heading("Kill the daemon in mid-turn, with prompts queued")
    before = {name: stage.ask(lambda board, n=name: _history(board, n)) for name in ("api", "docs", "deploy")}  # type: ignore[misc]
    prompts = ["Rename the module", "Update the imports", "Tag the release"]
    refs = [stage.types("send", "docs", prompt, "--queue") for prompt in prompts]
    first_daemon = stage.daemon()
    stage.kills(first_daemon)
    stage.heading("The next command starts it again; what was queued runs, what was in flight is marked")
    stage.types("list")
    stage.types("wait", *refs, expect=1)
    stage.types("transcript", "docs", "--limit", "3")
    stage.holds(stage.daemon() != first_daemon, "another daemon has taken over")
    after = {name: stage.ask(lambda board, n=name: _history(board, n)) for name in before}  # type: ignore[misc]
    _prove(stage, before, after, refs)


def _prove(
    stage: Stage,
    before: dict[str, Sequence[Entry]],
    after: dict[str, Sequence[Entry]],
    refs: Sequence[str],
) -> None:
    new = after["docs"][len(before["docs"]) :]
    stage.holds(
        [entry.ref for entry in new] == list(refs), "every ref that was given out has its turn, in order"
    )
    broken = [entry.status for entry in new if entry.status != "ok"]
    stage.holds(broken == ["interrupted"], "the turn in flight is marked interrupted, and only that one")
    stage.holds(
        all(entry.text == f"echo: {entry.prompt}" for entry in new if entry.status == "ok"),
        "the queued prompts ran after the restart",
    )
    stage.holds(
        all(list(after[name][: len(before[name])]) == list(before[name]) for name in before),
        "all earlier turns are there, unchanged",
    )
    stage.holds(
        all([entry.seq for entry in turns] == list(range(1, len(turns) + 1)) for turns in after.values()),
        "every history is gapless from 1",
    )
    ended = Counter(entry.ref for turns in after.values() for entry in turns)
    begun = Counter(item.ref for item in stage.ask(_starts))
    stage.holds(
        begun == ended and set(begun.values()) == {1}, "nothing ran twice: each began once, ended once"
    )


async def _starts(board: Board) -> Sequence[FeedItem]:
    return (await board.events(kinds=("turn.started",))).items


async def _history(board: Board, name: str) -> Sequence[Entry]:
    return (await board.transcript(name)).entries


async def _last(board: Board, name: str) -> Entry:
    return (await board.transcript(name, limit=1)).entries[-1]


async def _idle(board: Board, name: str) -> None:
    """Wait until a session has nothing to do."""
    while (status := await board.status(name)).in_flight is not None:
        await board.wait([status.in_flight], timeout=10)


async def _first_approval(board: Board) -> ApprovalRecord:
    """Wait until something waits for a decision."""
    async for _ in board.tail(kinds=("approval.requested",), after=0):
        break
    return (await board.approvals())[0]
