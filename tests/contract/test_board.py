"""One suite for everything that is a Board: the Switchboard in this process, and the Client over a daemon's socket.

Same verbs, arguments, results and errors. What only one of them does is tested where it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import tollboard.backends as backends
from tests.daemon.process import DaemonProcess
from tollboard.daemon.client import Client
from tollboard.errors import (
    AgentExists,
    AgentNotFound,
    AlreadyDecided,
    ApprovalNotFound,
    BackendUnavailable,
    Conflict,
    Invalid,
    InvalidDecision,
    InvalidName,
    InvalidOption,
    InvalidPath,
    InvalidPrompt,
    KeyReused,
    NotCancellable,
    NotFound,
    RequestNotFound,
    SessionBusy,
    SessionHalted,
    TollboardError,
    UnknownBackend,
)
from tollboard.fleet import records
from tollboard.fleet.board import MAX_FEED_PAGE, MAX_PAGE, MAX_PROMPT_BYTES, Board
from tollboard.fleet.records import Caller, FeedItem
from tollboard.fleet.switchboard import Switchboard
from tollboard.runtime.approval import Approve, Edit, Reject
from tollboard.store.store import Store

KINDS = ["switchboard", "client"]
ASKS = [{"approval": {"tool": "shell", "arguments": {"command": "ls"}}}, "done"]

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def opened(kind: str, home: Path) -> AsyncIterator[Board]:
    if kind == "client":
        with DaemonProcess(home):
            async with Client.connect(home, start=False, surface="test", client="contract") as client:
                yield client
        return
    store = await Store.open(home / "tollboard.db")
    try:
        async with await Switchboard.open(store, backends=backends) as board:
            yield board.on_behalf_of(Caller("test", "contract"))
    finally:
        await store.close()


@pytest.fixture(params=KINDS)
async def board(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Board]:
    async with opened(request.param, home) as one:
        yield one


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path


async def answer(board: Board, name: str, prompt: str, **options: Any) -> str:
    ref = await board.send(name, prompt, **options)
    await board.wait([ref], timeout=20)
    return ref


async def first(feed: AsyncIterator[FeedItem], kind: str) -> FeedItem:
    async with contextlib.aclosing(feed) as items:  # type: ignore[type-var]
        async for item in items:
            if item.kind == kind:
                return item
    raise AssertionError("the feed ended")


# -- the same verbs ---------------------------------------------------------------------------------------------------

VERBS = [name for name in vars(Board) if not name.startswith("_")]


@pytest.mark.parametrize("implementation", [Switchboard, Client])
@pytest.mark.parametrize("verb", VERBS)
def test_s20_the_signatures_are_the_boards(implementation: type, verb: str) -> None:
    theirs = getattr(implementation, verb)
    assert _written(theirs) == _written(getattr(Board, verb))
    assert theirs.__doc__


def _written(verb: Callable[..., Any]) -> str:
    return str(inspect.signature(verb)).replace("os.PathLike", "PathLike")


# -- the same results -------------------------------------------------------------------------------------------------


async def test_s01_a_session_begins_and_ends(board: Board, work: Path) -> None:
    started = await board.start_session("api", path=work, backend="echo", delay=0, watchdog_s=60.0)
    assert isinstance(started, records.SessionStatus)
    assert (started.name, started.path, started.backend, started.phase) == ("api", str(work), "echo", "idle")
    assert started.life is records.Life.LIVE
    assert await board.list_sessions() == (await board.status("api"),)
    assert await board.status(started.id) == await board.status("api")
    stopped = await board.stop_session("api")
    assert (stopped.session, stopped.id, stopped.failed) == ("api", started.id, ())
    assert await board.list_sessions() == ()
    assert [session.phase for session in await board.list_sessions(all=True)] == ["stopped"]
    assert await board.delete_session("api") == records.Deleted("api", started.id, 0)
    assert await board.list_sessions(all=True) == ()


async def test_what_a_session_was_started_with_can_be_asked(board: Board, work: Path) -> None:
    options = {"delay": 0, "chunks": 2, "watchdog_s": 60.0}
    started = await board.start_session("api", path=work, backend="echo", **options)
    asked = records.SessionDefinition("api", str(work), "echo", options)
    assert await board.definition("api") == asked
    assert str(options["watchdog_s"]) not in repr(asked)
    await board.stop_session("api")
    assert await board.definition(started.id) == asked
    with pytest.raises(AgentNotFound):
        await board.definition("nobody")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": "a/b"}, InvalidName),
        ({"backend": "nothing"}, UnknownBackend),
        ({"path": "/nowhere/at/all"}, InvalidPath),
        ({"path": ""}, InvalidPath),
        ({"path": "~nobody-of-that-name/x"}, InvalidPath),
        ({"colour": "green"}, InvalidOption),
        ({"watchdog_s": -1}, InvalidOption),
        ({"cwd": "/"}, Invalid),
        ({"backend": "claude", "env": {"API_KEY": "in plain text"}}, InvalidOption),
        ({"backend": "claude", "env": {"API_KEY": "$TOLLBOARD_TEST_NOT_SET"}}, InvalidOption),
        ({"backend": "claude", "cli_path": "/nowhere"}, BackendUnavailable),
        ({"backend": "scripted", "script": [{"colour": "green"}]}, InvalidOption),
        ({"backend": "model"}, InvalidOption),
    ],
)
async def test_a_start_can_be_checked_without_one(
    board: Board, work: Path, change: dict[str, Any], error: type[TollboardError]
) -> None:
    given: dict[str, Any] = {"name": "api", "path": work, "backend": "echo", **change}
    with pytest.raises(error):
        await board.check_session(given.pop("name"), **given)
    assert await board.list_sessions(all=True) == ()


async def test_a_check_finds_nothing_and_starts_nothing(board: Board, work: Path) -> None:
    asked = await board.check_session("api", path=work, backend="echo", delay=0.5)
    assert asked == records.SessionDefinition("api", str(work), "echo", {"delay": 0.5})
    assert await board.list_sessions(all=True) == ()
    await board.start_session("api", path=work, backend="echo")
    assert (await board.check_session("api", path=work, backend="echo")).session == "api"


async def test_a_path_may_be_relative_to_this_process(
    board: Board, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    assert (await board.start_session("here", path=".", backend="echo")).path == str(work)


async def test_a_path_up_from_a_link_goes_up_from_where_it_leads(
    board: Board, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (work / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    monkeypatch.chdir(work)
    started = await board.start_session("api", path="link/..", backend="echo")
    assert started.path == str(tmp_path / "elsewhere")


async def test_s02_a_prompt_and_what_became_of_it(board: Board, work: Path) -> None:
    await board.start_session("api", path=work, backend="echo")
    ref = await board.send("api", "hi \u2028 \U0001f600 \x00 there")
    report = await board.wait([ref], timeout=20)
    assert (report.pending, report.timed_out) == ((), False)
    poll = await board.poll("api", ref)
    assert report.done == (poll,)
    assert isinstance(poll, records.PollCompleted)
    assert poll.text == "echo: hi \u2028 \U0001f600 \x00 there"
    assert (poll.receipt.ref, poll.receipt.state, poll.receipt.outcome) == (
        ref, records.RequestState.ENDED, "completed",
    )  # fmt: skip
    assert (poll.entry.seq, poll.entry.status, poll.entry.ref) == (1, records.TurnStatus.OK, ref)


async def test_the_longest_prompt_goes_through(board: Board, work: Path) -> None:
    await board.start_session("api", path=work, backend="echo")
    for prompt in ("x" * (MAX_PROMPT_BYTES - 100), "\n" * (MAX_PROMPT_BYTES - 100) + ".", "\u20ac" * 340_000):
        poll = await board.poll("api", await answer(board, "api", prompt))
        assert isinstance(poll, records.PollCompleted)
        assert poll.text == f"echo: {prompt}"


async def test_s03_waiting_for_some_of_several(board: Board, work: Path) -> None:
    await board.start_session("slow", path=work, backend="echo", delay=600)
    await board.start_session("quick", path=work, backend="echo")
    refs = [await board.send(name, "x") for name in ("slow", "quick")]
    either = await board.wait(refs, mode="any", timeout=20)
    assert [poll.receipt.ref for poll in either.done] == [refs[1]]
    assert isinstance(either.pending[0], records.PollPending)
    both = await board.wait(refs, timeout=0)
    assert (len(both.done), len(both.pending), both.timed_out) == (1, 1, True)
    await board.interrupt("slow")  # the end need not wait for it


async def test_s18_a_key_stands_for_one_ref(board: Board, work: Path) -> None:
    await board.start_session("api", path=work, backend="echo")
    ref = await answer(board, "api", "x", key="k")
    assert await board.send("api", "x", key="k") == ref
    with pytest.raises(KeyReused):
        await board.send("api", "y", key="k")


async def test_s09_a_broadcast_has_an_item_for_each(board: Board, work: Path) -> None:
    for name in ("a", "b"):
        await board.start_session(name, path=work, backend="echo")
    everywhere = await board.broadcast("x")
    assert [(item.session, item.error) for item in everywhere] == [("a", None), ("b", None)]
    one, none = await board.broadcast("x", names=["a", "nobody"])
    assert one.ref is not None
    assert (none.session, none.ref, none.error) == ("nobody", None, "agent_not_found")


async def test_s04_s05_the_inbox_and_its_cursor(board: Board, work: Path) -> None:
    await board.start_session("api", path=work, backend="echo")
    for n in range(3):
        await answer(board, "api", f"p{n}")
    peek = await board.inbox()
    assert [entry.prompt for entry in peek.entries] == ["p0", "p1", "p2"]
    assert (peek.reader, peek.more, peek.approvals) == ("me", False, 0)
    assert [(s.session, s.unread, s.cursor, s.acked) for s in peek.sessions] == [("api", 3, 0, 0)]
    part = await board.inbox("api", ack=True, limit=2)
    assert ([entry.seq for entry in part.entries], part.more, part.sessions[0].acked) == ([1, 2], True, 2)
    assert [entry.seq for entry in (await board.inbox()).entries] == [3]
    assert len((await board.inbox(reader="you")).entries) == 3
    back = await board.ack("api", 1)
    assert (back.cursor, back.acked, back.unread) == (2, 1, 2)


async def test_v08_sessions_that_shared_a_name_are_counted_and_reached_apart(
    board: Board, work: Path
) -> None:
    for turns in (1, 3, 2):
        await board.start_session("api", path=work, backend="echo")
        for n in range(turns):
            await answer(board, "api", f"{turns}.{n}")
        if turns != 2:
            await board.stop_session("api")
    await board.ack("api@2", 1)
    every = await board.list_sessions(all=True)
    assert [(one.address, one.turns, one.unread) for one in every] == [
        ("api@1", 1, 1),
        ("api@2", 3, 2),
        ("api", 2, 2),
    ]
    assert [(one.address, one.unread) for one in await board.list_sessions()] == [("api", 2)]
    assert [one.unread for one in await board.list_sessions(all=True, reader="other")] == [1, 3, 2]
    parts = {part.session_id: part.unread for part in (await board.inbox()).sessions}
    for number, one in enumerate(every, 1):
        name = f"api@{number}"
        assert (await board.status(name)).id == one.id
        assert (await board.status(one.id)).address == one.address
        assert (await board.status(name)).unread == one.unread == parts[one.id]
        assert [part.unread for part in (await board.inbox(name)).sessions] == [one.unread]
        assert (await board.transcript(name)).total == one.turns
        await board.summary_update(name, name)
    assert [(await board.summary_get(f"api@{n}")).text for n in (1, 2, 3)] == ["api@1", "api@2", "api@3"]
    for wrong in ("api@0", "api@4", "api@x", "api@", "nobody@1", "@1", "api@²"):
        with pytest.raises(AgentNotFound):
            await board.status(wrong)
    assert (await board.delete_session("api@1")).turns == 1
    with pytest.raises(Conflict):
        await board.delete_session("api@2")  # the live one now
    assert (await board.list_sessions(all=True))[0].address == "api@1"


async def test_s04_an_inbox_can_be_waited_for(board: Board, work: Path) -> None:
    await board.start_session("api", path=work, backend="echo")
    assert (await board.inbox(wait=0)).entries == ()
    waiting = asyncio.ensure_future(board.inbox(wait=20))
    await answer(board, "api", "x")
    assert [entry.prompt for entry in (await waiting).entries] == ["x"]


async def test_s06_s25_summaries(board: Board, work: Path) -> None:
    await board.start_session("api", path=work, backend="echo")
    nothing = await board.summary_get("api")
    assert (nothing.version, nothing.text, nothing.at) == (0, "", None)
    one = await board.summary_update("api", "# one")
    await answer(board, "api", "x")
    two = await board.summary_update("api", "")
    assert (one.version, one.author, one.turns_since) == (1, "test:contract", 0)
    assert await board.summary_get("api") == two
    assert (await board.summary_get("api", version=1)).turns_since == 1
    assert [summary.text for summary in await board.summary_versions("api")] == ["# one", ""]


async def test_s07_transcripts_in_pages(board: Board, work: Path) -> None:
    await board.start_session("api", path=work, backend="echo")
    for n in range(3):
        await answer(board, "api", f"p{n}")
    last = await board.transcript("api", limit=2)
    assert ([entry.seq for entry in last.entries], last.total, last.next_before) == ([2, 3], 3, None)
    assert [entry.seq for entry in (await board.transcript("api", before=3)).entries] == [1, 2]
    assert (await board.transcript("api", limit=0)).entries == (await board.transcript("api")).entries


async def test_s08_interrupt_cancel_and_stop(board: Board, work: Path) -> None:
    await board.start_session("slow", path=work, backend="echo", delay=600)
    assert await board.interrupt("slow") == records.Interrupted("slow", False, None)
    refs = [await board.send("slow", f"p{n}", queue=True) for n in range(4)]
    receipt = await board.cancel("slow", refs[3])
    assert receipt.outcome == "cancelled"
    assert await board.interrupt("slow", ref=refs[1]) == records.Interrupted("slow", False, None)
    assert await board.interrupt("slow", ref=refs[0]) == records.Interrupted("slow", True, refs[0])
    queued = await board.poll("slow", refs[2])
    assert isinstance(queued, records.PollPending)
    assert queued.receipt.position == 1
    assert set((await board.stop_session("slow")).failed) == {refs[1], refs[2]}
    failed = await board.poll("slow", refs[1])
    assert isinstance(failed, records.PollFailed)
    assert failed.reason == "stopped"


async def test_s23_halt_and_resume(board: Board, work: Path) -> None:
    for name in ("a", "b"):
        await board.start_session(name, path=work, backend="echo")
    assert (await board.halt("a")).sessions == ("a",)
    assert (await board.halt(all=True)).sessions == ("b",)
    ref = await board.send("a", "x", queue=True)
    resumed = await board.resume(all=True)
    assert resumed.sessions == ("a", "b")
    assert [(held.ref, held.session, held.preview) for held in resumed.held] == [(ref, "a", "x")]
    assert (await board.wait([ref], timeout=20)).done


@pytest.mark.parametrize(
    ("decision", "state", "plain"),
    [
        (Approve(), "approved", {"type": "approve"}),
        ({"type": "approve"}, "approved", {"type": "approve"}),
        (Edit({"command": "pwd"}), "edited", {"type": "edit", "arguments": {"command": "pwd"}}),
        (Reject("no"), "rejected", {"type": "reject", "message": "no"}),
    ],
)
async def test_s14_s27_decisions(
    board: Board, work: Path, decision: Any, state: str, plain: dict[str, object]
) -> None:
    await board.start_session("asks", path=work, backend="scripted", script=[ASKS])
    ref = await board.send("asks", "x")
    await first(board.tail("asks", after=0), "approval.requested")
    (waiting,) = await board.approvals("asks")
    assert (waiting.tool, waiting.arguments, waiting.ref) == ("shell", {"command": "ls"}, ref)
    assert (await board.status("asks")).needs_decision
    decided = await board.decide(waiting.id, decision)
    assert (decided.state, decided.decided_by, decided.decision) == (state, "test:contract", plain)
    assert await board.approvals() == ()
    assert await board.approvals(all=True) == (decided,)
    with pytest.raises(AlreadyDecided):
        await board.decide(waiting.id, decision)


async def test_s10_the_feed_in_pages_and_live(board: Board, work: Path) -> None:
    await board.start_session("api", path=work, backend="echo")
    ref = await answer(board, "api", "x")
    done = await first(board.tail("api", ref=ref, after=0), "turn.completed")
    page = await board.events("api", limit=MAX_FEED_PAGE)
    assert page.items[-1] == done
    assert (page.last_seq, page.missed) == (done.seq, False)
    assert (await board.events(after=page.last_seq)).items == ()
    texts = await board.events("api", kinds=["text"], ref=ref)
    assert [item.data["text"] for item in texts.items] == ["echo: x"]
    live = board.tail("api", kinds=["turn.completed"])
    coming = asyncio.ensure_future(anext(live))
    refs = [ref]
    while not coming.done():  # over a socket, from now on begins when the daemon has heard of it
        refs.append(await answer(board, "api", "y"))
        await asyncio.wait({coming}, timeout=0.05)
    assert coming.result().ref in refs[1:]
    await live.aclose()  # type: ignore[attr-defined]


async def test_s16_what_one_surface_does_the_other_sees(home: Path, work: Path) -> None:
    with DaemonProcess(home):
        async with (
            Client.connect(home, start=False, surface="cli") as one,
            Client.connect(home, start=False, surface="mcp") as other,
        ):
            await one.start_session("api", path=work, backend="echo")
            ref = await other.send("api", "x")
            assert (await one.wait([ref], timeout=20)).done == (await other.wait([ref])).done
            await one.inbox(ack=True)
            assert (await other.inbox()).entries == ()
            assert await one.list_sessions() == await other.list_sessions()


async def test_backends_are_described(board: Board) -> None:
    found = {backend.name: backend for backend in await board.backends()}
    assert found["echo"].available
    assert {"claude", "scripted"} <= found.keys()


# -- the same errors --------------------------------------------------------------------------------------------------

Wrong = Callable[[Board, Path], Coroutine[Any, Any, Any]]
WRONG: dict[str, tuple[type[TollboardError], Wrong]] = {
    "start twice": (AgentExists, lambda b, w: b.start_session("api", path=w, backend="echo")),
    "start a bad name": (InvalidName, lambda b, w: b.start_session("a/b", path=w, backend="echo")),
    "start a long name": (InvalidName, lambda b, w: b.start_session("a" * 5000, path=w, backend="echo")),
    "start dots": (InvalidName, lambda b, w: b.start_session("..", path=w, backend="echo")),
    "start nowhere": (InvalidPath, lambda b, w: b.start_session("x", path=w / "none", backend="echo")),
    "start on a file": (InvalidPath, lambda b, w: b.start_session("x", path=__file__, backend="echo")),
    "start with an unknown option": (InvalidOption, lambda b, w: b.start_session("x", path=w, backend="echo", no=1)),
    "start with a bad option": (InvalidOption, lambda b, w: b.start_session("x", path=w, backend="echo", watchdog_s=0)),
    "start with a secret": (
        InvalidOption, lambda b, w: b.start_session("x", path=w, backend="echo", env={"API_KEY": "s"}),
    ),
    "start an unknown backend": (UnknownBackend, lambda b, w: b.start_session("x", path=w, backend="none")),
    "status of nobody": (AgentNotFound, lambda b, w: b.status("nobody")),
    "status of a bad name": (AgentNotFound, lambda b, w: b.status("../api")),
    "stop nobody": (AgentNotFound, lambda b, w: b.stop_session("nobody")),
    "delete a live one": (Conflict, lambda b, w: b.delete_session("api")),
    "send to a busy one": (SessionBusy, lambda b, w: b.send("slow", "x")),
    "send to a halted one": (SessionHalted, lambda b, w: b.send("halted", "x")),
    "send nothing": (InvalidPrompt, lambda b, w: b.send("api", "")),
    "send blanks": (InvalidPrompt, lambda b, w: b.send("api", " \n")),
    "send half a character": (InvalidPrompt, lambda b, w: b.send("api", "\ud800")),
    "send too much": (InvalidPrompt, lambda b, w: b.send("api", "x" * (MAX_PROMPT_BYTES + 1))),
    "send ten megabytes": (InvalidPrompt, lambda b, w: b.send("api", "x" * 10_000_000)),
    "send with a bad key": (Invalid, lambda b, w: b.send("api", "x", key="")),
    "send with a long key": (Invalid, lambda b, w: b.send("api", "x", key="k" * 201)),
    "poll an unknown ref": (RequestNotFound, lambda b, w: b.poll("api", "no-such-ref")),
    "poll a long ref": (RequestNotFound, lambda b, w: b.poll("api", "r" * 5000)),
    "wait for an unknown ref": (RequestNotFound, lambda b, w: b.wait(["no-such-ref"])),
    "wait for nothing": (Invalid, lambda b, w: b.wait([])),
    "wait for a text": (Invalid, lambda b, w: b.wait("text")),
    "wait too long": (Invalid, lambda b, w: b.wait(["x"], timeout=1e9)),
    "wait for less than nothing": (Invalid, lambda b, w: b.wait(["x"], timeout=-1.0)),
    "broadcast nothing": (InvalidPrompt, lambda b, w: b.broadcast("")),
    "broadcast to a text": (Invalid, lambda b, w: b.broadcast("x", names="api")),
    "cancel an unknown ref": (RequestNotFound, lambda b, w: b.cancel("api", "no-such-ref")),
    "inbox of nobody": (AgentNotFound, lambda b, w: b.inbox("nobody")),
    "inbox of a bad reader": (InvalidName, lambda b, w: b.inbox(reader="a b")),
    "inbox of none": (Invalid, lambda b, w: b.inbox(limit=0)),
    "inbox of too many": (Invalid, lambda b, w: b.inbox(limit=MAX_PAGE + 1)),
    "inbox for ever": (Invalid, lambda b, w: b.inbox(wait=1e9)),
    "ack beyond the end": (Invalid, lambda b, w: b.ack("api", 7)),
    "ack before the beginning": (Invalid, lambda b, w: b.ack("api", -1)),
    "ack far beyond": (Invalid, lambda b, w: b.ack("api", 10**30)),
    "transcript of nobody": (AgentNotFound, lambda b, w: b.transcript("nobody")),
    "transcript before the beginning": (Invalid, lambda b, w: b.transcript("api", before=0)),
    "summary of nobody": (AgentNotFound, lambda b, w: b.summary_get("nobody")),
    "summary that was never written": (NotFound, lambda b, w: b.summary_get("api", version=9)),
    "summary too long": (InvalidPrompt, lambda b, w: b.summary_update("api", "x" * 2_000_000)),
    "events of nobody": (AgentNotFound, lambda b, w: b.events("nobody")),
    "events of a text": (Invalid, lambda b, w: b.events(kinds="text")),
    "events without limit": (Invalid, lambda b, w: b.events(limit=0)),
    "interrupt nobody": (AgentNotFound, lambda b, w: b.interrupt("nobody")),
    "halt nothing": (Invalid, lambda b, w: b.halt()),
    "halt one and all": (Invalid, lambda b, w: b.halt("api", all=True)),
    "resume nobody": (AgentNotFound, lambda b, w: b.resume("nobody")),
    "approvals of nobody": (AgentNotFound, lambda b, w: b.approvals("nobody")),
    "decide on nothing": (ApprovalNotFound, lambda b, w: b.decide("none", Approve())),
    "decide something else": (InvalidDecision, lambda b, w: b.decide("none", {"type": "maybe"})),
    "tail of nobody": (AgentNotFound, lambda b, w: anext(b.tail("nobody"))),  # type: ignore[arg-type]
    "tail of a text": (Invalid, lambda b, w: _tail(b, kinds="text")),
}  # fmt: skip


OTHERWISE_SAID = {"send to a busy one", "poll a long ref", "wait for a text"}
"""The first names a ref, which differs; the others are refused before anything is looked up."""


async def _tail(board: Board, **wrong: Any) -> None:
    await anext(board.tail(**wrong))


async def test_s20_errors_are_the_same_here_and_there(home: Path, work: Path) -> None:
    said: dict[str, dict[str, TollboardError]] = {}
    for kind in KINDS:
        (home / kind).mkdir(mode=0o700)
        async with opened(kind, home / kind) as board:
            await board.start_session("api", path=work, backend="echo")
            await board.start_session("slow", path=work, backend="echo", delay=600)
            await board.send("slow", "x")
            await board.start_session("halted", path=work, backend="echo")
            await board.halt("halted")
            said[kind] = {name: await _error(wrong(board, work)) for name, (_, wrong) in WRONG.items()}
            await board.interrupt("slow")
    for name, (wanted, _) in WRONG.items():
        here, there = said["switchboard"][name], said["client"][name]
        assert type(here) is wanted, f"{name}: {here!r}"
        assert type(there) is wanted, f"{name}: {there!r}"
        if name not in OTHERWISE_SAID:
            assert str(there) == str(here), name


async def _error(wrong: Coroutine[Any, Any, Any]) -> TollboardError:
    try:
        return AssertionError(f"no error but {await wrong!r}")  # type: ignore[return-value]
    except TollboardError as exc:
        return exc


ODD: tuple[Any, ...] = (
    None, 5, -1, 10**30, 1.5, float("nan"), True, b"x", "", "x" * 5_000, "\ud800", [], [5], ["\ud800"], {}, {"a": 1},
    {"a": float("nan")}, object(),
)  # fmt: skip
GOOD: dict[str, Any] = {
    "name": "api", "prompt": "x", "text": "x", "ref": "r", "refs": ["r"], "approval_id": "x",
    "decision": {"type": "approve"}, "seq": 0, "backend": "echo",
}  # fmt: skip


def _calls() -> list[tuple[str, str, dict[str, Any]]]:
    """Return every verb with every argument wrong in every way."""
    found = []
    for verb in VERBS:
        parameters = list(inspect.signature(getattr(Board, verb)).parameters.values())[1:]
        wanted = {one.name: GOOD.get(one.name) for one in parameters if one.default is one.empty}
        for one in parameters:
            key = "option" if one.kind is one.VAR_KEYWORD else one.name
            found += [(verb, f"{verb}({key}={value!r:.40})", {**wanted, key: value}) for value in ODD]
    return found


async def _try(board: Board, verb: str, given: dict[str, Any], work: Path) -> str:
    """Return the class of the error, or that there was none."""
    given = {key: (work if key == "path" and value is None else value) for key, value in given.items()}
    given.pop("options", None)
    try:
        called = getattr(board, verb)(**given)
        await (anext(called) if verb == "tail" else called)
    except TollboardError as exc:
        return type(exc).__name__
    return "done"


async def test_s20_every_argument_that_is_wrong_is_the_same_error_here_and_there(
    home: Path, work: Path
) -> None:
    said: dict[str, dict[str, str]] = {}
    for kind in KINDS:
        (home / kind).mkdir(mode=0o700)
        async with opened(kind, home / kind) as board:
            await board.start_session("api", path=work, backend="echo")
            said[kind] = {}
            for verb, name, given in _calls():
                if verb == "tail" or (name.startswith(("wait(timeout", "inbox(wait")) and "nan" not in name):
                    continue  # these wait when nothing is wrong
                said[kind][name] = await _try(board, verb, given, work)
    differ = {name: (said["switchboard"][name], there) for name, there in said["client"].items()
              if there != said["switchboard"][name]}  # fmt: skip
    assert differ == {}
    assert "WireError" not in said["client"].values()
    assert len(said["client"]) > 500


async def test_a_request_that_has_ended_is_not_cancelled(board: Board, work: Path) -> None:
    await board.start_session("api", path=work, backend="echo")
    with pytest.raises(NotCancellable):
        await board.cancel("api", await answer(board, "api", "x"))


def test_every_record_is_frozen_and_slotted() -> None:
    for cls in vars(records).values():
        if inspect.isclass(cls) and is_dataclass(cls) and cls.__module__ == records.__name__:
            assert cls.__dataclass_params__.frozen, cls  # type: ignore[attr-defined]
            assert fields(cls)
            assert not hasattr(cls, "__dict__") or "__slots__" in vars(cls), cls
