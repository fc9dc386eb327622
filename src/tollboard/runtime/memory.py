"""What a backend wants kept of a session between turns: named texts, durable in the order they are saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tollboard.runtime.journal import Commit


class Memory(Protocol):
    """The memory of one session. Names are paths such as `main/m/000001`; texts are the backend's own."""

    async def load(self, prefix: str = "") -> Mapping[str, str]:
        """Return the texts whose names begin so, ordered by name."""

    def save(self, texts: Mapping[str, str | None]) -> Commit | None:
        """Keep these texts, `None` forgets one: all of it or nothing.

        Synchronous, in the order of the calls. Returns what to await until it is durable; raises StoreError there.
        """


class DictMemory:
    """A memory that ends with its process."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    async def load(self, prefix: str = "") -> Mapping[str, str]:
        """Return the texts whose names begin so."""
        return {name: text for name, text in sorted(self._texts.items()) if name.startswith(prefix)}

    def save(self, texts: Mapping[str, str | None]) -> None:
        """Keep these texts."""
        for name, text in texts.items():
            if text is None:
                self._texts.pop(name, None)
            else:
                self._texts[name] = text
