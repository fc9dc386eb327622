"""What changed, for hosts that want to be told: the feed of the fleet, as changes of resources, in both eras.

The feed is followed only while somebody listens. There is no replay: who begins to listen reads once more afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
)

from tollboard.errors import TollboardError
from tollboard.fleet.board import Board
from tollboard.fleet.records import FeedItem
from tollboard.surfaces.mcp.resources import SCHEME

KINDS = (
    "session.started", "session.stopped", "session.died", "settings", "queued", "cancelled", "turn.started",
    "turn.rejected", "turn.completed", "turn.failed", "approval.requested", "approval.decided", "halted", "resumed",
)  # fmt: skip
"""Items that change a resource; pieces of text and calls of tools do not."""
_ENDS = ("turn.completed", "turn.failed", "turn.rejected")
_LIST = ("session.started", "session.stopped", "session.died")
_NONE = ("none",)


def touched(item: FeedItem) -> Iterator[str]:
    """Yield the resources that a feed item has changed."""
    yield f"{SCHEME}sessions"
    yield f"{SCHEME}sessions/{item.session}"
    if item.kind in _ENDS:
        yield f"{SCHEME}sessions/{item.session}/transcript"
        yield f"{SCHEME}inbox"
    if item.kind.startswith("approval."):
        yield f"{SCHEME}approvals"


class News:
    """Implements the SDK's SubscriptionBus over the feed."""

    def __init__(self, fleet: Board) -> None:
        self._fleet = fleet
        self._bus = InMemorySubscriptionBus()
        self._listening = 0
        self._following: asyncio.Task[None] | None = None
        self._beginning = asyncio.Lock()

    async def begin(self) -> None:
        """Follow the feed from now on, if nobody made it do so already; called before a listener subscribes."""
        async with self._beginning:
            if self._following is None or self._following.done():
                now = (await self._fleet.events(kinds=_NONE, limit=1)).last_seq
                self._following = asyncio.create_task(self._follow(now))

    async def publish(self, event: ServerEvent) -> None:
        """Tell every listener."""
        await self._bus.publish(event)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Add a listener and return what removes it; with the last one the feed is let go."""
        leave = self._bus.subscribe(listener)
        self._listening += 1
        left = False

        def unsubscribe() -> None:
            nonlocal left
            if left:
                return
            left = True
            leave()
            self._listening -= 1
            if not self._listening:
                self.close()

        return unsubscribe

    def close(self) -> None:
        """Follow the feed no more."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()

    async def _follow(self, after: int) -> None:
        try:
            async for item in self._fleet.tail(kinds=KINDS, after=after):
                for uri in touched(item):
                    await self.publish(ResourceUpdated(uri=uri))
                if item.kind in _LIST:
                    await self.publish(ResourcesListChanged())
        except TollboardError:
            return  # the daemon is going down; who listens finds out with the next call
