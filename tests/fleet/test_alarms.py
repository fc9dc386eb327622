"""What keeps a session from its work is shown beside it, while it lasts (B08)."""

from __future__ import annotations

import pytest

from tests.fleet.world import Fleet
from tollboard.runtime.event import NoticeEvent

LOGIN = NoticeEvent("login", "no login: run `tollboard login claude`", alarm=True)
RETRY = NoticeEvent(
    "api_retry", "the API call failed (529); attempt 1 of 10 at 12:00:03", alarm=True, retry_at=1.0
)


@pytest.mark.parametrize("notice", [LOGIN, RETRY])
async def test_b08_an_alarm_is_in_status_and_list_until_a_turn_completes(
    fleet: Fleet, notice: NoticeEvent
) -> None:
    await fleet.start("api", backend="gated")
    fleet.gated.notice = notice
    ref = await fleet.board.send("api", "go")
    await fleet.gated.reached(ref)
    assert (await fleet.board.status("api")).alarms == (notice.message,)
    assert [one.alarms for one in await fleet.board.list_sessions()] == [(notice.message,)]
    fleet.gated.let_go(ref)
    await fleet.done(ref)
    assert (await fleet.board.status("api")).alarms == ()


@pytest.mark.parametrize(("notice", "stays"), [(LOGIN, True), (RETRY, False)])
async def test_b08_after_a_turn_that_failed_only_what_a_person_must_mend_is_left(
    fleet: Fleet, notice: NoticeEvent, stays: bool
) -> None:
    await fleet.start("api", backend="gated")
    fleet.gated.notice = notice
    ref = await fleet.board.send("api", "go")
    await fleet.gated.reached(ref)
    await fleet.board.interrupt("api")
    await fleet.done(ref)
    assert (await fleet.board.status("api")).alarms == ((notice.message,) if stays else ())


async def test_b08_a_notice_that_is_no_alarm_is_only_in_the_feed(fleet: Fleet) -> None:
    await fleet.start("api", backend="gated")
    fleet.gated.notice = NoticeEvent("compacted", "shortened")
    ref = await fleet.board.send("api", "go")
    await fleet.gated.reached(ref)
    assert (await fleet.board.status("api")).alarms == ()
    fleet.gated.let_go(ref)
    await fleet.done(ref)
    notices = [item.data for item in (await fleet.board.events("api")).items if item.kind == "notice"]
    assert notices == [{"name": "compacted", "message": "shortened"}]
