"""What the real Claude Code says of a missing login, a refused key and no credit, and what comes of it (B08)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fakes.messages_api import Fail, MessagesAPI
from tollboard.backends._claude_events import Translator
from tollboard.backends._claude_login import our_words
from tollboard.backends.claude import ClaudeBackend
from tollboard.errors import BackendUnavailable, Unsupported
from tollboard.runtime.approval import Approve
from tollboard.runtime.event import ErrorEvent, Event, NoticeEvent, ResultEvent
from tollboard.testing.backend_contract import RecordingTurn, run_turn

BACKEND = ClaudeBackend()
CREDIT = (
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."
)


def of_the_program(options: dict[str, object], **env: str) -> dict[str, object]:
    """Return the options with the retries that the program makes by itself: ten."""
    given = options["env"]
    assert isinstance(given, dict)
    return {**options, "env": {**{k: v for k, v in given.items() if k != "CLAUDE_CODE_MAX_RETRIES"}, **env}}


async def said(options: dict[str, object], *texts: str) -> list[list[Event]]:
    session = await BACKEND.start_session(options)
    try:
        return [await run_turn(BACKEND, session, text, RecordingTurn(lambda _: Approve())) for text in texts]
    finally:
        await BACKEND.terminate_session(session)


def alarms(events: list[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, NoticeEvent) and event.alarm]


@pytest.mark.claude
@pytest.mark.slow
async def test_b08_a_refused_key_ends_the_turn_within_seconds_and_the_session_goes_on(
    claude_options: dict[str, object], messages_api: MessagesAPI
) -> None:
    refused, after = await said(of_the_program(claude_options), "fail 401", "say here")
    error = refused[-1]
    assert isinstance(error, ErrorEvent)
    assert "the key in ANTHROPIC_API_KEY was refused (status 401)" in error.message
    assert "run `tollboard login claude`" in error.message
    assert alarms(refused) == ["api_retry", "api_retry", "login"]
    assert len(messages_api.requests) <= 4, "it was not tried ten times"
    assert isinstance(after[-1], ResultEvent)
    assert after[-1].text == "here"


@pytest.mark.claude
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fail", "name", "told"),
    [
        (Fail(403, "forbidden"), "login", "was refused"),
        (Fail(400, CREDIT), "account", "no credit"),
    ],
)
async def test_b08_what_the_account_lacks_is_said_with_what_to_do(
    claude_options: dict[str, object], messages_api: MessagesAPI, fail: Fail, name: str, told: str
) -> None:
    messages_api.script(fail)
    (events,) = await said(of_the_program(claude_options), "go")
    error = events[-1]
    assert isinstance(error, ErrorEvent)
    assert told in error.message
    assert "tollboard login claude" in error.message
    assert "then send the prompt again" in error.message
    assert alarms(events) == [name]


@pytest.mark.claude
@pytest.mark.slow
async def test_b08_a_start_without_a_login_says_so_and_nothing_is_started(
    claude_options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    options = of_the_program(claude_options, ANTHROPIC_API_KEY="")
    for refused in (BACKEND.start_session, BACKEND.check_start):
        with pytest.raises(
            BackendUnavailable, match=r"no login: run `tollboard login claude`, or set ANTHROPIC_API"
        ):
            await refused(options)


@pytest.mark.claude
async def test_b08_the_login_is_the_program_s_own() -> None:
    program, *arguments = BACKEND.login_command()
    assert Path(program).name == "claude"
    assert arguments == ["auth", "login"]


def test_b08_a_backend_without_a_login_says_so() -> None:
    from tollboard.backends import load

    with pytest.raises(Unsupported, match="'echo' has no login"):
        load("echo").login_command()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("Not logged in · Please run /login", "Not logged in · run `tollboard login claude`"),
        (
            "Login expired. Run `claude auth login` to sign in",
            "Login expired. run `tollboard login claude` to sign in",
        ),
        ("run /loginfoo", "run /loginfoo"),
    ],
)
def test_b08_no_command_of_another_program_is_advised(theirs: str, ours: str) -> None:
    assert our_words(theirs) == ours


def test_b08_a_retry_is_told_with_the_time_of_the_next_try() -> None:
    line = {
        "type": "system", "subtype": "api_retry", "attempt": 3, "max_retries": 10, "retry_delay_ms": 2500,
        "error_status": 529, "error": "overloaded",
    }  # fmt: skip
    (notice,) = Translator(lambda: 1_000_000.0).events(line)
    assert isinstance(notice, NoticeEvent)
    assert (notice.retry_at, notice.alarm) == (1_000_002.5, True)
    clock = time.strftime("%H:%M:%S", time.localtime(1_000_002.5))
    assert notice.message == f"the API call failed (529); attempt 3 of 10 at {clock}, in 2.5 s"
