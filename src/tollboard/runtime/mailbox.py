"""Requests that wait for one agent, bounded by count and bytes (R30). Exists only while something waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from tollboard.errors import Overloaded
from tollboard.runtime.request import Request


class Mailbox:
    """A FIFO of requests."""

    __slots__ = ("bytes", "items")

    def __init__(self) -> None:
        self.items: deque[Request] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.items)

    def put(self, request: Request, max_items: int, max_bytes: int) -> None:
        """Append a request; raise Overloaded, with nothing changed, when a bound would be passed."""
        items, size = self.items, self.bytes + request.size
        if len(items) >= max_items:
            raise Overloaded("mailbox", limit=max_items, size=len(items) + 1, unit="prompts")
        if size > max_bytes:
            raise Overloaded("mailbox", limit=max_bytes, size=size, unit="bytes")
        items.append(request)
        self.bytes = size

    def take(self) -> Request:
        """Remove and return the oldest request."""
        request = self.items.popleft()
        self.bytes -= request.size
        return request

    def remove(self, ref: str) -> Request | None:
        """Remove and return the request with this ref, or return `None`."""
        for request in self.items:
            if request.ref == ref:
                self.items.remove(request)
                self.bytes -= request.size
                return request
        return None

    def position(self, ref: str) -> int | None:
        """Return how many requests stand before and including this one, or `None`."""
        for index, request in enumerate(self.items, start=1):
            if request.ref == ref:
                return index
        return None
