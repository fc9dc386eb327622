"""One run of a command: where the state is, how to print, and the way to the board. Every command gets one first."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tollboard.errors import AgentDead, AgentNotFound, TollboardError
from tollboard.surfaces.cli import connection
from tollboard.surfaces.cli.failures import DONE
from tollboard.surfaces.cli.output import Output

if TYPE_CHECKING:
    from tollboard.daemon.client import Client

T = TypeVar("T")


class Cli:
    """What a command needs: `home`, `out`, and `run` to do something with the board."""

    def __init__(self, *, home: Path | None = None, json: bool = False) -> None:
        self.home = home
        self.out = Output(json=json)

    def board(self, *, start: bool = True) -> AbstractAsyncContextManager[Client]:
        """Return the board, to be entered; starts a daemon if none runs unless told not to."""
        return connection.open_board(self.home, start=start)

    def run(self, work: Callable[[Client], Awaitable[T]], *, start: bool = True) -> T:
        """Open the board, do the work and return its result. An unknown name gets the near ones as a hint."""
        import asyncio  # a quarter of what `--help` may cost

        async def opened() -> T:
            async with self.board(start=start) as board:
                try:
                    return await work(board)
                except AgentNotFound as error:
                    await _suggest_names(board, error)
                    raise

        return asyncio.run(opened())

    def show(self, value: T, render: Callable[[Output, T], None], *, exit_with: int = DONE) -> int:
        """Print the result, as a document with --json, and return the exit code."""
        if self.out.json:
            self.out.document(value)
        else:
            render(self.out, value)
        return exit_with


async def _suggest_names(board: Client, error: AgentNotFound) -> None:
    if isinstance(error, AgentDead) or getattr(error, "__notes__", None):
        return
    with suppress(TollboardError):
        names = [session.name for session in await board.list_sessions(all=True)]
        asked = re.findall(r"'([^']+)'", str(error))
        if ended := next((name for name in asked if name in names), None):
            error.add_note(
                f"it is stopped; read it: tollboard transcript {ended}    or begin anew: tollboard start {ended}"
            )
            return
        near = [name for word in asked for name in get_close_matches(word, names, n=3, cutoff=0.6)]
        if near:
            error.add_note(f"did you mean {', '.join(dict.fromkeys(near))}?")
        elif not names:
            error.add_note("there is no session yet: tollboard start NAME --path DIRECTORY")
