"""The names one can type at the prompt: every verb of the board, and what only a prompt needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tollboard.daemon.client import Client
from tollboard.errors import TollboardError
from tollboard.fleet.board import Board
from tollboard.fleet.records import FeedItem
from tollboard.runtime.approval import Approve, Edit, Reject
from tollboard.runtime.question import Answer
from tollboard.surfaces.cli.text import clock, one_line

HELP = """The fleet is at hand as `board`, and its verbs by name. Put `await` before each:

  await start_session("api", path=".", backend="echo")      await list_sessions()
  ref = await send("api", "what files are here?")           await poll("api", ref)
  await wait([ref])                                         await inbox("api", ack=True)
  await transcript("api")                                   await summary_update("api", "notes")
  await interrupt("api")   await halt("api")   await resume("api")   await stop_session("api")
  await approvals()                                         await decide(id, Approve())
                                                            await decide(id, Answer("Beta"))
  await subagents("api")                                    await cancel_subagent(id)
  await pools.start("p", 3, path=".", backend="echo")       await pools.submit("p", ["a", "b"])

  tail("api")      show what happens while you type; tail() for all sessions, untail() to stop
  help_board()     this; send? and the like for one verb. Tab completes names of sessions.

Leaving the prompt (Ctrl-D) leaves the fleet at work."""


class Tails:
    """The feeds that are shown while one types."""

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._tasks: dict[str | None, asyncio.Task[None]] = {}

    def tail(self, name: str | None = None) -> None:
        """Show what happens in a session, or in all of them, above the prompt."""
        if name not in self._tasks:
            self._tasks[name] = self._loop.create_task(self._follow(name))

    def untail(self) -> None:
        """Show no more of it."""
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()

    async def _follow(self, name: str | None) -> None:
        try:
            async for item in self._client.tail(name):
                print(line_of(item), flush=True)
        except TollboardError as error:
            print(f"the tail ended: {error}", flush=True)
        finally:
            self._tasks.pop(name, None)


def line_of(item: FeedItem) -> str:
    """Return a feed item on one line."""
    data = ", ".join(f"{key}={value}" for key, value in item.data.items())
    return f"{clock(item.at)} {item.session} {item.kind} {one_line(data, 100)}".rstrip()


def names_of(client: Client, tails: Tails) -> dict[str, Any]:
    """Return what can be typed."""
    verbs = {
        name: getattr(client, name)
        for name, verb in vars(Board).items()
        if not name.startswith("_") and callable(verb) and name != "tail"
    }
    show_help: Callable[[], None] = lambda: print(HELP)  # noqa: E731 # a name at the prompt
    return {
        **verbs, "board": client, "pools": client.pools, "tail": tails.tail, "untail": tails.untail,
        "help_board": show_help, "Answer": Answer, "Approve": Approve, "Edit": Edit, "Reject": Reject,
    }  # fmt: skip
