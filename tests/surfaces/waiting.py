"""Calls that wait for a person, over a plain connection to a daemon."""

from __future__ import annotations

from pathlib import Path

from tollboard import sync
from tollboard.fleet.records import ApprovalRecord

THEN = "{decision} {arguments} {message}"


def asks(board: sync.Board, path: Path, name: str, **approval: object) -> str:
    """Start a session that asks with each prompt; return the first one's ref once it waits."""
    request = {"tool": "shell", "arguments": {"command": "ls"}, **approval}
    script = [{"approval": request, "then": THEN}]
    board.start_session(name, path=path, backend="scripted", script=script, repeat=True)
    ref = board.send(name, "go")
    asked(board, name)
    return ref


def asked(board: sync.Board, name: str) -> None:
    """Return once the session has asked."""
    for item in board.tail(name, kinds=("approval.requested",), after=0):
        assert item.kind == "approval.requested"
        return


def decided(board: sync.Board, name: str) -> ApprovalRecord:
    """Return the session's newest approval."""
    return board.approvals(name, all=True)[-1]


def said(board: sync.Board, ref: str) -> str:
    """Return the answer to a prompt."""
    return str(board.wait([ref], timeout=20).done[0].text)
