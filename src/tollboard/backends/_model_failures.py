"""What a model's failure means for another try, from Pydantic AI's kinds of errors; what they say is not looked at."""

from __future__ import annotations

from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelRequestTimeout,
    ModelServerError,
    ModelUnavailableError,
    UserError,
)

from tollboard.runtime.event import ErrorCause

_LATER_STATUS = frozenset({408, 409, 425, 429})
"""Client errors that pass; those from 500 on do too."""
TOO_LARGE = 413


def error_cause(failure: BaseException) -> ErrorCause | None:
    """Return why a model could not be asked; `None` for what its provider has not said."""
    match failure:
        case ModelContextWindowExceededError():
            return ErrorCause.OVERFLOW
        case ModelQuotaExceededError() | ModelRequestRejectedError() | UserError():
            return ErrorCause.REFUSED
        case (
            ModelRateLimitError()
            | ModelUnavailableError()
            | ModelServerError()
            | ModelConnectionError()
            | ModelRequestTimeout()
        ):
            return ErrorCause.OVERLOADED
        case ModelHTTPError(status_code=status):
            if status == TOO_LARGE:
                return ErrorCause.OVERFLOW
            passes = status >= 500 or status in _LATER_STATUS
            return ErrorCause.OVERLOADED if passes else ErrorCause.REFUSED
    return None


def retry_after_s(failure: BaseException) -> float | None:
    """Return how many seconds the provider asks to wait."""
    return failure.retry_after if isinstance(failure, ModelAPIError) else None
