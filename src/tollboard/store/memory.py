"""What the backend of one session remembers, kept in the store; light, like the journal that hands it out."""

from __future__ import annotations

from collections.abc import Mapping

from tollboard.store.queries import FORGET, KEEP, MEMORY
from tollboard.store.reader import Reader, Row
from tollboard.store.write import Group, Write
from tollboard.store.writer import Writer

_LAST = chr(0x10FFFF)


class StoreMemory:
    """Implements Memory for one session."""

    __slots__ = ("_reader", "_session_id", "_writer")

    def __init__(self, session_id: str, writer: Writer, reader: Reader) -> None:
        self._session_id = session_id
        self._writer = writer
        self._reader = reader

    async def load(self, prefix: str = "") -> Mapping[str, str]:
        """Return the texts whose names begin so, ordered by name. Sees whatever was saved and awaited."""
        return dict(
            await self._reader.all(
                MEMORY, _pair, session_id=self._session_id, low=prefix, high=f"{prefix}{_LAST}"
            )
        )

    def save(self, texts: Mapping[str, str | None]) -> Write:
        """Keep these texts, forget those that are `None`: all of it or nothing."""
        return self._writer.submit(
            Group([self._write(name, text) for name, text in texts.items()]), must=True
        )

    def _write(self, name: str, text: str | None) -> Write:
        if text is None:
            return Write(FORGET.sql, FORGET.bind(session_id=self._session_id, name=name))
        return Write(KEEP.sql, KEEP.bind(session_id=self._session_id, name=name, text=text))


def _pair(row: Row) -> tuple[str, str]:
    return row[0], row[1]
