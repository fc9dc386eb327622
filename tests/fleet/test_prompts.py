"""Prompts on their way in: busy, halted, queued, once only, and what is said of them."""

from __future__ import annotations

import asyncio

import pytest

from tests.fleet.world import Fleet, completed, failed
from tollboard.errors import (
    AgentDead,
    Invalid,
    InvalidPrompt,
    KeyReused,
    NotCancellable,
    Overloaded,
    RequestNotFound,
    SessionBusy,
    SessionHalted,
    StoreUnavailable,
)
from tollboard.fleet.records import PollPending, RequestState

# -- send


async def test_s02_an_idle_session_takes_a_prompt_and_answers(fleet: Fleet) -> None:
    await fleet.start()
    ref = await fleet.board.send("api", "hello")
    await fleet.done(ref)
    poll = await completed(fleet.board, "api", ref)
    assert poll.text == "echo: hello"
    assert poll.entry.seq == 1
    assert await completed(fleet.board, "api", ref) == poll, "a poll is repeatable"


async def test_s02_a_busy_session_refuses_unless_told_to_queue(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    first = await fleet.board.send("api", "one")
    with pytest.raises(SessionBusy, match=first):
        await fleet.board.send("api", "two")
    second = await fleet.board.send("api", "two", queue=True)
    fleet.gated.gate.set()
    await fleet.done(first, second)
    assert fleet.gated.prompts == ["one", "two"]


async def test_s02_a_halted_session_refuses_unless_told_to_queue(fleet: Fleet) -> None:
    await fleet.start()
    await fleet.board.halt("api")
    with pytest.raises(SessionHalted):
        await fleet.board.send("api", "one")
    ref = await fleet.board.send("api", "one", queue=True)
    assert isinstance(await fleet.board.poll("api", ref), PollPending)
    await fleet.board.resume("api")
    await fleet.done(ref)


async def test_e35_of_two_concurrent_sends_one_is_refused(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    results = await asyncio.gather(
        *(fleet.board.send("api", f"p{n}") for n in range(5)), return_exceptions=True
    )
    assert [type(result) for result in results[1:]] == [SessionBusy] * 4
    assert isinstance(results[0], str)
    await fleet.gated.running.wait()
    assert (await fleet.board.status("api")).queued == 0


async def test_e49_refs_never_come_twice(fleet: Fleet) -> None:
    await fleet.start()
    refs = [await fleet.run("api", "x") for _ in range(5)]
    await fleet.kill()
    refs += [await fleet.run("api", "x") for _ in range(5)]
    assert len(set(refs)) == 10


async def test_u11_a_queue_is_bounded_and_says_so(fleet: Fleet) -> None:
    await fleet.start(backend="gated", max_queued=2)
    await fleet.board.send("api", "one")
    await fleet.gated.running.wait()
    for n in range(2):
        await fleet.board.send("api", f"q{n}", queue=True)
    with pytest.raises(Overloaded, match="3 of 2"):
        await fleet.board.send("api", "q3", queue=True)
    assert (await fleet.board.status("api")).queued == 2


@pytest.mark.parametrize("prompt", ["", "  \n", "x" * (10 * 1024 * 1024), "lone \ud800 surrogate", 7, None])
async def test_s02_bad_prompts_are_refused_without_quoting_them(fleet: Fleet, prompt: str) -> None:
    await fleet.start()
    for call in (fleet.board.send("api", prompt), fleet.board.broadcast(prompt)):
        with pytest.raises(InvalidPrompt) as refused:
            await call
        assert len(str(refused.value)) < 200
    assert (await fleet.board.status("api")).turns == 0


async def test_s02_control_characters_are_only_text(fleet: Fleet) -> None:
    await fleet.start()
    prompt = "bell \a escape \x1b[31m nul \0 é 🦉 \u2028"
    ref = await fleet.run("api", prompt)
    await fleet.kill()
    poll = await completed(fleet.board, "api", ref)
    assert poll.entry.prompt == prompt
    assert poll.text == f"echo: {prompt}"


async def test_s03_text_that_is_not_unicode_is_kept_as_well_as_it_can_be(fleet: Fleet) -> None:
    tail = fleet.board.tail(kinds=["text"])
    await fleet.start(backend="scripted", script=[{"invalid_utf8": True}])
    ref = await fleet.run("api", "x")
    text = (await completed(fleet.board, "api", ref)).text
    text.encode()
    assert "broken" in text
    shown = await anext(tail)
    str(shown.data["text"]).encode()


# -- once only


async def test_s18_the_same_key_gives_the_same_ref(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    ref = await fleet.board.send("api", "one", key="k")
    assert await fleet.board.send("api", "one", key="k") == ref, "although it is busy now"
    with pytest.raises(KeyReused, match=ref):
        await fleet.board.send("api", "two", key="k")
    fleet.gated.gate.set()
    await fleet.done(ref)
    board = await fleet.kill()
    assert await board.send("api", "one", key="k") == ref
    with pytest.raises(KeyReused):
        await board.send("api", "two", key="k")
    assert fleet.gated.prompts == []


async def test_s18_keys_belong_to_one_session(fleet: Fleet) -> None:
    for name in ("a", "b"):
        await fleet.start(name)
    assert await fleet.board.send("a", "x", key="k") != await fleet.board.send("b", "y", key="k")


async def test_s18_concurrent_sends_with_one_key_are_one(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = await asyncio.gather(*(fleet.board.send("api", "x", queue=True, key="k") for _ in range(20)))
    assert len(set(refs)) == 1
    other = await asyncio.gather(
        *(fleet.board.send("api", f"p{n}", queue=True, key="k2") for n in range(5)), return_exceptions=True
    )
    assert [type(result) for result in other] == [str, *[KeyReused] * 4]


async def test_s18_a_key_whose_first_send_failed_is_free(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    fleet.fill_disk()
    results = await asyncio.gather(
        *(fleet.board.send("api", "x", queue=True, key="k") for _ in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    fleet.free_disk()
    ref = await fleet.board.send("api", "another", key="k")
    fleet.gated.gate.set()
    await fleet.done(ref)
    assert fleet.gated.prompts == ["another"]


async def test_s18_a_sender_that_gives_up_and_tries_again_gets_the_same_ref(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    first = asyncio.ensure_future(fleet.board.send("api", "x", key="k"))
    while not fleet.board._prompts._keys or fleet.board._roster.get("api").status().in_flight is None:
        await asyncio.sleep(0)
    first.cancel()
    ref = await fleet.board.send("api", "x", key="k")
    assert (await fleet.board.status("api")).in_flight == ref
    with pytest.raises(asyncio.CancelledError):
        await first


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb", 5])
async def test_s18_bad_keys_are_refused(fleet: Fleet, key: str) -> None:
    await fleet.start()
    with pytest.raises(Invalid, match="idempotency key"):
        await fleet.board.send("api", "x", key=key)


async def test_s18_a_key_is_known_although_the_session_died(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    ref = await fleet.board.send("api", "x", key="k")
    fleet.work.rmdir()
    board = await fleet.kill()
    assert await board.send("api", "x", key="k") == ref
    with pytest.raises(AgentDead):
        await board.send("api", "x", key="new")


# -- the disk


async def test_s02_a_prompt_that_cannot_be_kept_is_not_accepted(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    fleet.fill_disk()
    with pytest.raises(StoreUnavailable):
        await fleet.board.send("api", "x")
    status = await fleet.board.status("api")
    assert (status.phase, status.queued, status.in_flight) == ("idle", 0, None)
    fleet.free_disk()
    ref = await fleet.board.send("api", "y")
    await fleet.gated.running.wait()
    fleet.fill_disk()
    with pytest.raises(StoreUnavailable):
        await fleet.board.send("api", "z", queue=True)
    assert (await fleet.board.status("api")).queued == 0
    fleet.free_disk()
    fleet.gated.gate.set()
    await fleet.done(ref)
    await fleet.run("api", "w")
    assert fleet.gated.prompts == ["y", "w"]
    assert [e.prompt for e in (await fleet.board.transcript("api")).entries] == ["y", "w"]


async def test_s02_a_prompt_that_cannot_be_kept_is_taken_back_though_its_sender_has_gone(
    fleet: Fleet,
) -> None:
    await fleet.start(backend="gated")
    await fleet.board.halt("api")
    fleet.fill_disk()
    sending = asyncio.ensure_future(fleet.board.send("api", "x", queue=True))
    await asyncio.sleep(0)
    assert fleet.board._roster.get("api").status().queued == 1
    sending.cancel()
    with pytest.raises(StoreUnavailable):
        await fleet.store.flush()
    assert (await fleet.board.status("api")).queued == 0


@pytest.mark.slow
async def test_s22_a_turn_whose_end_cannot_be_kept_is_pending_until_it_is(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    ref = await fleet.board.send("api", "x")
    await fleet.gated.running.wait()
    fleet.fill_disk()
    fleet.gated.gate.set()
    report = await fleet.board.wait([ref], timeout=0.05)
    assert report.timed_out
    assert (await fleet.board.poll("api", ref)).receipt.state is RequestState.STARTED
    assert (await fleet.board.status("api")).in_flight == ref
    assert (await fleet.board.status("api")).turns == 0
    fleet.free_disk()
    await fleet.done(ref)
    assert (await completed(fleet.board, "api", ref)).text == "done: x"
    assert (await fleet.board.status("api")).turns == 1


# -- receipts


async def test_s22_a_receipt_tells_the_way_of_a_request(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(3)]
    await fleet.gated.running.wait()
    receipts = [(await fleet.board.poll("api", ref)).receipt for ref in refs]
    assert [r.state for r in receipts] == [RequestState.STARTED, RequestState.QUEUED, RequestState.QUEUED]
    assert [r.position for r in receipts] == [None, 1, 2]
    assert [r.started_at is not None for r in receipts] == [True, False, False]
    assert [r.outcome for r in receipts] == [None] * 3
    fleet.gated.gate.set()
    await fleet.done(*refs)
    for ref, before in zip(refs, receipts, strict=True):
        after = (await fleet.board.poll("api", ref)).receipt
        assert after.accepted_at == before.accepted_at
        assert after.started_at is not None
        assert after.ended_at is not None
        assert after.accepted_at <= after.started_at <= after.ended_at
        assert (after.state, after.outcome, after.inferred) == (RequestState.ENDED, "completed", False)


# -- cancel


async def test_u12_a_queued_request_can_be_withdrawn(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(3)]
    await fleet.gated.running.wait()
    receipt = await fleet.board.cancel("api", refs[1])
    assert (receipt.state, receipt.outcome) == (RequestState.ENDED, "cancelled")
    with pytest.raises(NotCancellable, match="cancelled"):
        await fleet.board.cancel("api", refs[1])
    with pytest.raises(NotCancellable, match="interrupt"):
        await fleet.board.cancel("api", refs[0])
    fleet.gated.gate.set()
    await fleet.done(*refs)
    with pytest.raises(NotCancellable, match="completed"):
        await fleet.board.cancel("api", refs[0])
    with pytest.raises(RequestNotFound):
        await fleet.board.cancel("api", "nonsense")
    assert fleet.gated.prompts == ["p0", "p2"]
    assert (await failed(fleet.board, "api", refs[1])).entry is None


@pytest.mark.slow
async def test_u12_a_cancel_that_could_not_be_written_says_so(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(2)]
    await fleet.gated.running.wait()
    fleet.fill_disk()
    with pytest.raises(StoreUnavailable):
        await fleet.board.cancel("api", refs[1])
    assert isinstance(await fleet.board.poll("api", refs[1]), PollPending)
    fleet.free_disk()
    await fleet.done(refs[1])
    assert (await failed(fleet.board, "api", refs[1])).reason == "cancelled"


async def test_s23_an_earlier_failure_is_not_blamed_on_a_later_verb(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(2)]
    # Until its turn has begun, a full disk ends the first request, and the second is in flight instead of queued.
    await fleet.gated.running.wait()
    fleet.fill_disk()
    fleet.board._tail.write("s", "api", "notice", {})
    with pytest.raises(StoreUnavailable):
        await fleet.store.flush()
    fleet.board._tail.write("s", "api", "notice", {})
    fleet.store._writer.note_failure(StoreUnavailable("long ago"))
    fleet.free_disk()
    assert (await fleet.board.cancel("api", refs[1])).outcome == "cancelled"
    fleet.store._writer.note_failure(StoreUnavailable("long ago"))
    assert (await fleet.board.halt("api")).sessions == ("api",)


# -- broadcast


async def test_s09_a_broadcast_reaches_every_session_and_loses_none(fleet: Fleet) -> None:
    await fleet.start("busy", backend="gated")
    for name in ("idle", "halted", "full"):
        await fleet.start(name, **({"max_queued": 0} if name == "full" else {}))
    await fleet.board.send("busy", "x")
    await fleet.board.halt("halted")
    await fleet.board.halt("full")
    items = {item.session: item for item in await fleet.board.broadcast("to all")}
    assert list(items) == ["busy", "idle", "halted", "full"]
    assert (items["full"].ref, items["full"].error) == (None, "overloaded")
    fleet.gated.gate.set()
    await fleet.board.resume("halted")
    await fleet.done(*(item.ref for item in items.values() if item.ref is not None))
    assert fleet.gated.prompts == ["x", "to all"]


async def test_s09_a_broadcast_to_some_names_reports_each(fleet: Fleet) -> None:
    await fleet.start("a")
    await fleet.start("b")
    items = await fleet.board.broadcast("x", names=["b", "no", "b"])
    assert [(item.session, item.error) for item in items] == [("b", None), ("no", "agent_not_found")]
    assert await fleet.board.broadcast("x", names=[]) == ()
    with pytest.raises(Invalid):
        await fleet.board.broadcast("x", names="ab")


# -- wait


async def test_s02_wait_returns_what_is_done_and_what_is_not(fleet: Fleet) -> None:
    await fleet.start("a")
    await fleet.start("b", backend="gated")
    fast = await fleet.board.send("a", "x")
    slow = await fleet.board.send("b", "y")
    report = await fleet.board.wait([fast, slow], mode="any", timeout=10)
    assert [poll.receipt.ref for poll in report.done] == [fast]
    assert not report.timed_out
    report = await fleet.board.wait([slow, fast], timeout=0.01)
    assert [poll.receipt.ref for poll in report.pending] == [slow]
    assert report.timed_out
    assert (await fleet.board.wait([slow], timeout=0)).timed_out
    waiting = asyncio.ensure_future(fleet.board.wait([slow, slow, fast]))
    fleet.gated.gate.set()
    assert len((await waiting).done) == 3


async def test_s02_wait_refuses_what_it_cannot_wait_for(fleet: Fleet) -> None:
    with pytest.raises(RequestNotFound):
        await fleet.board.wait(["nonsense"])
    for refs, options in (
        ([], {}), ("abc", {}), (["x"] * 10_001, {}), (["x"], {"mode": "some"}), (["x"], {"timeout": -1}),
        (["x"], {"timeout": float("nan")}),
    ):  # fmt: skip
        with pytest.raises(Invalid):
            await fleet.board.wait(refs, **options)  # type: ignore[arg-type]


async def test_s02_wait_ends_with_a_request_that_is_withdrawn_or_stopped(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(3)]
    cancelled = asyncio.ensure_future(fleet.board.wait([refs[1]]))
    everything = asyncio.ensure_future(fleet.board.wait(refs))
    await asyncio.sleep(0)
    await fleet.board.cancel("api", refs[1])
    assert len((await cancelled).done) == 1
    await fleet.board.stop_session("api")
    assert len((await everything).done) == 3


@pytest.mark.parametrize("mode", ["all", "any"])
async def test_u05_wait_on_a_dead_session_ends_when_its_queue_does(fleet: Fleet, mode: str) -> None:
    await fleet.start(backend="gated")
    await fleet.board.halt("api")
    ref = await fleet.board.send("api", "x", queue=True)
    fleet.work.rmdir()
    board = await fleet.kill()
    await fleet.shelf.gated.start_session({})
    poll = await board.poll("api", ref)
    assert (poll.receipt.state, poll.receipt.position) == (RequestState.QUEUED, 1)
    assert (await board.status("api")).queued == 1
    assert (await board.wait([ref], timeout=0.01)).timed_out
    waiting = asyncio.ensure_future(board.wait([ref], mode=mode))  # type: ignore[arg-type]
    fleet.work.mkdir()
    fleet.gated.gate.set()
    await board.resume("api")
    assert len((await waiting).done) == 1


async def test_s02_wait_any_of_a_dead_and_a_living_session(fleet: Fleet) -> None:
    other = fleet.path.parent / "other"
    other.mkdir()
    await fleet.board.start_session("dead", path=other, backend="echo")
    await fleet.board.halt("dead")
    dead = await fleet.board.send("dead", "x", queue=True)
    other.rmdir()
    board = await fleet.kill()
    await fleet.start("live", backend="gated")
    live = await board.send("live", "y")
    waiting = asyncio.ensure_future(board.wait([dead, live], mode="any"))
    await fleet.gated.running.wait()
    assert (await board.cancel("dead", dead)).outcome == "cancelled"
    assert [poll.receipt.ref for poll in (await waiting).done] == [dead]


async def test_u10_prompts_of_several_senders_never_mix(fleet: Fleet) -> None:
    await fleet.start()
    prompts = [f"sender {n} says {'x' * n}" for n in range(30)]
    refs = await asyncio.gather(*(fleet.board.send("api", prompt, queue=True) for prompt in prompts))
    await fleet.done(*refs)
    for prompt, ref in zip(prompts, refs, strict=True):
        assert (await completed(fleet.board, "api", ref)).text == f"echo: {prompt}"
