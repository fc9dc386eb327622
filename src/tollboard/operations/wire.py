"""Between values and JSON: results, errors and their HTTP status, and errors rebuilt on the other side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tollboard import errors
from tollboard.errors import TollboardError, WireError
from tollboard.operations.arguments import Arguments
from tollboard.operations.catalogue import AnyOperation

STATUS: dict[type[TollboardError], int] = {
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Invalid: 422,
    errors.Denied: 403,
    errors.Overloaded: 429,
    errors.RateLimited: 429,
    errors.TimedOut: 408,
    errors.TurnFailed: 409,
    errors.BackendError: 424,
    errors.Unsupported: 409,
    errors.StoreError: 507,
    errors.DaemonError: 503,
    errors.TollboardError: 409,
}
"""By the nearest class; 507 and 503 are the daemon's honest "not now", never the answer to bad input."""


STREAM_ERROR = "stream-error"
"""The event that ends a stream early; its data is an ErrorAnswer. No kind of the feed is called so."""


class DaemonHealth(BaseModel):
    """Who serves: `tcp` is the address of the TCP door, if it is open."""

    model_config = ConfigDict(frozen=True)

    version: str
    pid: int
    uptime_s: float
    home: str
    tcp: str | None
    stopping: bool
    problem: str | None = None
    """What keeps the database from being used: damage, a full disk, a file that was moved away."""


class ErrorBody(BaseModel):
    """What went wrong: a stable code, what happened and what to do, and numbers where there are some."""

    code: str
    message: str
    data: dict[str, Any] = {}


class ErrorAnswer(BaseModel):
    """The body of every answer that is not a result."""

    error: ErrorBody


def status_of(error: TollboardError) -> int:
    """Return the HTTP status of an error."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_answer(error: TollboardError) -> ErrorAnswer:
    """Return an error as it travels: what it was made from beside its message."""
    return ErrorAnswer(error=ErrorBody(code=error.code, message=str(error), data=_made_from(error)))


def _made_from(error: TollboardError) -> dict[str, Any]:
    return {name: value for name, value in vars(error).items() if not name.startswith("_")}


def rebuild_error(answer: object) -> TollboardError:
    """Return the error that an answer carries, as the class it was; an unknown code becomes TollboardError."""
    try:
        body = ErrorAnswer.model_validate(answer).error
    except ValidationError:
        return TollboardError(
            f"the daemon answered what this client does not understand: {str(answer)[:200]}"
        )
    cls = errors.by_code().get(body.code, TollboardError)
    try:
        return cls(**body.data) if body.data else cls(body.message)
    except (TypeError, ValueError):
        # A class of that code takes other things here than there: another version answered.
        return TollboardError(body.message)


def parse_arguments(operation: AnyOperation, given: object) -> Arguments:
    """Return the checked arguments of an operation.

    Raises WireError that names each fault and quotes no value; or, for a name that nothing can have, the error that
    nothing has it, such as RequestNotFound.
    """
    return check(operation.name, operation.arguments, given)


def check(name: str, wanted: type[Arguments], given: object) -> Arguments:
    """Return the arguments as the model that is wanted. Raises WireError, see `parse_arguments`."""
    try:
        return wanted.model_validate(given)
    except ValidationError as exc:
        faults = describe(exc.errors(include_input=False), wanted.model_fields)
        raise WireError(f"{name}: {faults}") from None


def describe(faults: Sequence[Any], known: Iterable[str]) -> str:
    """Return what is wrong with each argument, in one line; for an unknown one, which are known."""
    shown = [f"{_place(fault)}: {_fault(fault, known)}" for fault in faults[:5]]
    more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
    return "; ".join(shown) + more


def _place(fault: Mapping[str, Any]) -> str:
    return ".".join(str(part)[:60] for part in fault["loc"]) or "body"


def _fault(fault: Mapping[str, Any], known: Iterable[str]) -> str:
    match fault["type"]:
        case "extra_forbidden":
            return f"there is no such argument; known are: {', '.join(known) or 'none'}"
        case "model_type":
            return "the arguments are an object"
    return str(fault["msg"])
