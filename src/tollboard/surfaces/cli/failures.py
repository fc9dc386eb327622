"""From an error to what a person reads and a script tests: exit codes, the next step, the `error` document."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

from tollboard import errors
from tollboard.surfaces.cli.output import Output, paint, write_beside
from tollboard.surfaces.cli.text import safe

DONE, FAILED, MISUSED, NOT_FOUND, BUSY, TIMED_OUT, STOPPED_BY_USER = 0, 1, 2, 3, 4, 5, 130

READER_GONE = 141
"""What a shell reports for a program that SIGPIPE ended."""

# From the narrow to the wide; the first class that fits decides.
EXIT_CODES: tuple[tuple[type[errors.TollboardError], int], ...] = (
    (errors.NotFound, NOT_FOUND),
    (errors.SessionBusy, BUSY),
    (errors.SessionHalted, BUSY),
    (errors.AgentBusy, BUSY),
    (errors.Draining, BUSY),
    (errors.Overloaded, BUSY),
    (errors.Invalid, MISUSED),
    (errors.TimedOut, TIMED_OUT),
    (errors.TollboardError, FAILED),
)

DOCTOR = "look closer: tollboard doctor"
SEE_WHY = "see why: tollboard status NAME; end it: tollboard stop NAME"
ASK_ANOTHER = "use a client whose token has the capability"
_GENERAL = ("", DOCTOR, SEE_WHY, ASK_ANOTHER)
"""Better than nothing: what a message itself advises is better."""

HINTS: dict[type[errors.TollboardError], str] = {
    errors.AgentDead: SEE_WHY,
    errors.PoolNotFound: "see the pools: tollboard pool list (stopped ones too: --all)",
    errors.PoolExists: "choose another name, or end the other one: tollboard pool stop NAME",
    errors.PoolStopped: "see the pools: tollboard pool list",
    errors.AgentNotFound: "see the sessions: tollboard list (stopped ones too: --all)",
    errors.RequestNotFound: "refs belong to one session: check the name, or see tollboard transcript NAME",
    errors.ApprovalNotFound: "see what waits: tollboard approvals",
    errors.SubAgentNotFound: "see a session's: tollboard subagents NAME --all",
    errors.AgentExists: "choose another name, or end the other one: tollboard stop NAME",
    errors.SessionBusy: "send it after the turn in flight: --queue",
    errors.SessionHalted: "release it: tollboard resume NAME    or hold the prompt until then: --queue",
    errors.AnswerNeeded: "answer it: tollboard answer ID --choose N    or: tollboard answer ID TEXT\n"
    "refuse it: tollboard reject ID -m WHY",
    errors.AlreadyDecided: "see how it ended: tollboard approvals --all",
    errors.KeyReused: "use another --key for another prompt",
    errors.NotCancellable: "end the turn in flight with: tollboard interrupt NAME",
    errors.UnknownBackend: "see the backends: tollboard backends",
    errors.BackendUnavailable: DOCTOR,
    errors.Denied: ASK_ANOTHER,
    errors.StoreCorrupt: DOCTOR,
    errors.StoreUnavailable: DOCTOR,
    errors.DaemonRunning: "end the other one with: tollboard shutdown, or use another --home",
    errors.DaemonUnreachable: DOCTOR,
    errors.DaemonError: DOCTOR,
}


def exit_code(error: errors.TollboardError) -> int:
    """Return the exit code an error means."""
    return next(code for cls, code in EXIT_CODES if isinstance(error, cls))


def hint(error: errors.TollboardError) -> str:
    """Return what to do next: the notes the command added, else what the class of error suggests."""
    if notes := getattr(error, "__notes__", None):
        return "\n".join(notes)
    return next((HINTS[cls] for cls in type(error).__mro__ if cls in HINTS), "")


def report(error: errors.TollboardError, out: Output) -> int:
    """Print an error and return its exit code: on one line what happened, on the next what to do."""
    message = str(error) or (type(error).__doc__ or "")
    if out.json or isinstance(error, errors.WireError | errors.InvalidFleet):
        return complain(out, error.code, message, hint(error), exit_code(error))
    what, advice = parted(message)
    better = hint(error)  # commands, where the message has words
    if isinstance(error, errors.DaemonFrozen) and better not in _GENERAL:
        better += f"\n{advice}"  # the commands, too, need a daemon that answers
    return complain(
        out, error.code, what, advice if better in _GENERAL and advice else better, exit_code(error)
    )


_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|; """)


def parted(message: str) -> tuple[str, str]:
    """Return what a message says happened, and what it says to do: our messages part the two with a semicolon."""
    for found in _QUOTED.finditer(message):
        if found[0] == "; ":
            return message[: found.start()], message[found.end() :]
    return message, ""


def complain(out: Output, code: str, message: str, advice: str, exit_with: int) -> int:
    """Print what went wrong and what to do: on standard error, or as the one document with --json."""
    if out.json:
        out.document({"error": {"code": code, "message": message, "hint": advice or None}})
        return exit_with
    word = paint("error:", "bold red", sys.stderr)
    write_beside(f"{word} {safe(message)}\n")
    for line in advice.splitlines():
        write_beside(f"{paint('  →', 'cyan', sys.stderr)} {safe(line)}\n")
    return exit_with


def stopped(out: Output, what: str = "what was asked for may be done all the same") -> int:
    """Return the exit code of Ctrl-C; with --json there is a document all the same."""
    if out.json:
        return complain(out, "stopped", f"stopped waiting; {what}", "", STOPPED_BY_USER)
    return STOPPED_BY_USER


def reader_gone() -> int:
    """Return the exit code for output that nobody reads any more (`head`, a pager that was left)."""
    forget(sys.stdout)
    return READER_GONE


def forget(stream: TextIO) -> None:
    """Let what is still to be written go nowhere: Python would complain once more when it flushes at its end."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
