"""Why a model could not be asked, in words for people: what the provider said, without what the library below adds.

Pydantic AI's messages are written for those who program with it: they name its classes and advise its settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelRequestTimeout,
    ModelTimeoutError,
    UnexpectedModelBehavior,
    UsageLimitExceeded,
)

from tollboard.subagents.ends import CUT, REFUSED, Unusable
from tollboard.subagents.outcome import Cause

UNREADABLE = "the provider sent something that cannot be read as an answer; nothing of it was kept"
BROKEN = "the connection to the provider broke in the middle of the answer; nothing of it was kept"
UNREACHABLE = "the provider could not be reached: {why}"
LATE = "the provider did not answer in time"
MAX_WORDS = 2_000

_OVERFLOW = re.compile(
    r"context.{0,12}(length|window|size)|prompt.{0,3} (is|are) too (long|large)|input is too long"
    r"|too many (input )?tokens|(input|prompt) token count|maximum (prompt|input|context) length"
    r"|reduce the length of the (messages|input|prompt)"
    r"|exceeds? the (maximum|max|limit).{0,40}tokens|request_too_large|exceed_context_size|too large for model"
    r"|input (tokens )?exceed|tokens? (in|of) (the )?prompt",
    re.IGNORECASE,
)
"""How the providers and the compatible servers say that a conversation is too long for the model."""
_OVERFLOW_STATUS = (400, 413, 422, 500)
_RATE = re.compile(r"rate.?limit|per minute|\btpm\b|quota", re.IGNORECASE)
_LIMIT = re.compile(r"(\w+)_limit of ([\d.]+)")
_LIBRARY_ADVICE = re.compile(r"\s*(Did you mean '|Consider |See the docs|https://pydantic\.dev).*", re.DOTALL)


def reason_of(failure: BaseException) -> str:
    """Return why a model could not be asked, or what it answered cannot be used."""
    match failure:
        case Unusable():
            return str(failure)
        case UsageLimitExceeded():
            found = _LIMIT.search(str(failure))
            return (
                f"it reached its {found[1]}_limit of {found[2]}" if found else "it reached one of its limits"
            )
        case ModelTimeoutError() | ModelRequestTimeout():
            return LATE
        case ModelConnectionError():
            return BROKEN if failure.phase == "read" else UNREACHABLE.format(why=_root(failure))
        case ModelHTTPError():
            return f"the provider refused the request ({failure.status_code}): {words_of(failure)}"
        case ModelAPIError():
            return f"the provider reported an error: {words_of(failure)}"
        case ContentFilterError():
            return REFUSED.format(reason="content filter", said="")
        case UnexpectedModelBehavior():
            return CUT if "without content" in failure.message else UNREADABLE
    return f"{type(failure).__name__}: {failure}"


def cause_of(failure: BaseException) -> Cause:
    """Return the kind of a failure."""
    return Cause.LIMIT if isinstance(failure, UsageLimitExceeded) else Cause.MODEL


def is_overflow(failure: BaseException) -> bool:
    """Return whether a provider refused a request because the conversation is too long for the model."""
    if isinstance(failure, ModelContextWindowExceededError):
        return True
    if not isinstance(failure, ModelAPIError):
        return False
    status = getattr(failure, "status_code", None)
    if status == 413:
        return not _RATE.search(words_of(failure))  # some say 413 of a rate limit on tokens
    if status is not None and status not in _OVERFLOW_STATUS:
        return False
    said = f"{failure.provider_error_code or ''} {failure.provider_error_type or ''} {words_of(failure)}"
    return bool(_OVERFLOW.search(said)) and not _RATE.search(said)


def words_of(failure: ModelAPIError) -> str:
    """Return what the provider said, as short as it can be found."""
    found = _message(failure.body)
    text = found or _LIBRARY_ADVICE.sub("", failure.message)
    return text.strip()[:MAX_WORDS] or "it gave no reason"


def _message(body: object) -> str:
    if isinstance(body, str | bytes):
        try:
            return _message(json.loads(body)) or str(body)
        except ValueError:
            return body if isinstance(body, str) else body.decode(errors="replace")
    if isinstance(body, list) and body:
        return _message(body[0])
    if not isinstance(body, Mapping):
        return ""
    for name in ("error", "message", "detail"):
        if isinstance(value := body.get(name), str) and value:
            return value
        if isinstance(value, Mapping | list) and (found := _message(value)):
            return found
    return ""


def _root(failure: BaseException) -> str:
    """Return what the deepest cause says: the outer ones only say that a connection failed."""
    deepest: BaseException = failure
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    return str(deepest) or type(deepest).__name__
