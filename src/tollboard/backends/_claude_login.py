"""What keeps Claude Code from its API for good (no login, a refused key, no credit), and what to do about it (B08).

The program tries a refused key ten times in three minutes, and its advice names commands of its own screen, which does
not exist here. Both are put right from its lines; all here is pure.
"""

from __future__ import annotations

import re

from tollboard.backends._claude_events import Line
from tollboard.runtime.event import NoticeEvent

LOGIN = "tollboard login claude"
KEY = "ANTHROPIC_API_KEY"
NO_LOGIN = (
    f"Claude Code has no login: run `{LOGIN}`, or set {KEY} where the daemon runs (`tollboard shutdown`, then any "
    "command with the variable set starts it anew)"
)
TRIES = 2
"""Calls that must be refused before the turn is given up: a login that has just been renewed may need a second one."""

LOGIN_ERRORS = frozenset({"authentication_failed", "oauth_org_not_allowed", "verification_required"})
ACCOUNT_ERRORS = frozenset({"billing_error", "account_on_hold"})

_REFUSED = frozenset({401, 403})
_UNPAID = frozenset({402})
_ADVICE = re.compile(r"(?:please\s+)?run (?:`claude auth login`|`?/login\b`?)", re.IGNORECASE)


def in_vain(line: Line, key_source: str) -> NoticeEvent | None:
    """Return what a person must know if a line tells of a retry that cannot help: the same will be refused again."""
    if line.get("type") != "system" or line.get("subtype") != "api_retry":
        return None
    attempt = line.get("attempt")
    if not isinstance(attempt, int) or attempt < TRIES:
        return None
    return trouble(line.get("error"), line.get("error_status"), "", key_source)


def trouble(error: object, status: object, said: str, key_source: str) -> NoticeEvent | None:
    """Return what a person must know if the provider will not answer until they do something; `None` otherwise.

    `error` and `status` are what the program calls it, `said` is its text, `key_source` where its key came from.
    """
    because = f" ({said})" if said else f" (status {status})" if status else ""
    if error in ACCOUNT_ERRORS or status in _UNPAID:
        return NoticeEvent(
            "account",
            f"the account has no credit, or is on hold{because}; add credit or change the account (`{LOGIN}`), then "
            "send the prompt again",
            alarm=True,
        )
    if error not in LOGIN_ERRORS and status not in _REFUSED:
        return None
    if key_source in ("", "none"):
        return NoticeEvent("login", f"{NO_LOGIN}; then send the prompt again", alarm=True)
    if key_source == KEY:
        what = (
            f"the key in {KEY} was refused{because}; set a valid one where the daemon runs, or run `{LOGIN}`"
        )
    else:
        what = f"the login was refused{because}; run `{LOGIN}`"
    return NoticeEvent("login", f"{what}; then send the prompt again", alarm=True)


def our_words(text: str) -> str:
    """Return what the program said with our command where it advises one of its own."""
    return _ADVICE.sub(f"run `{LOGIN}`", text)
