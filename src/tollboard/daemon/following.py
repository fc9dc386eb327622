"""Following the feed over restarts of the daemon: what `Client.tail` does.

The daemon numbers what it tells, and says first where it begins; so whoever loses it can go on after the last number,
without gaps or repeats, once a daemon is back. None is started here: `tollboard shutdown` would not last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from tollboard.daemon.connection import Connection
from tollboard.errors import DaemonUnreachable
from tollboard.fleet.records import FeedItem

FIRST_LOOK_S, LONGEST_LOOK_S = 0.05, 1.0
"""How often it is looked whether a daemon is back: at first, and after a while."""
GONE = (
    "the daemon does not answer any more; following goes on by itself once one does (any command starts it)"
)
BACK = "a daemon answers; following goes on where it was"

Notice = Callable[[str], None]
Query = Mapping[str, str | int | list[str]]


async def follow(
    connection: Connection, query: Query, after: int | None, notice: Notice
) -> AsyncGenerator[FeedItem, None]:
    """Yield the items of the feed for as long as they are asked for; `notice` hears of a daemon that goes and comes.

    Raises DaemonUnreachable if there is no daemon at the beginning, or once the client is closed. One that hangs is
    waited for as well: another may take its place.
    """
    seq = after
    while True:
        asked = query if seq is None else {**query, "after": seq}
        try:
            async with aclosing(connection.stream(asked)) as stream:
                async for number, item in stream:
                    seq = number
                    if item is not None:
                        yield item
        except DaemonUnreachable:
            if seq is None or connection.closed:
                raise
        if seq is None:
            raise DaemonUnreachable("the daemon ended the stream: it is shutting down")
        notice(GONE)
        await _back(connection)
        notice(BACK)


async def _back(connection: Connection) -> None:
    """Wait until a daemon answers that is not about to end."""
    pause_s = FIRST_LOOK_S
    while not await connection.is_served():
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_LOOK_S)
