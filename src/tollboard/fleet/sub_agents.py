"""The sub-agents of sessions, for their manager: listed, read, cancelled (A31). What they are is in the ledger."""

from __future__ import annotations

import contextlib

from tollboard.errors import AgentNotFound, StoreError, SubAgentNotFound
from tollboard.fleet.board import MAX_PAGE
from tollboard.fleet.ledger import Ledger
from tollboard.fleet.reading import whole
from tollboard.fleet.records import (
    SessionRecord,
    SubAgentCancelled,
    SubAgentMessages,
    SubAgentRecord,
    SubAgentState,
)
from tollboard.fleet.roster import Roster
from tollboard.runtime.runtime import Runtime

_BOUND = 2**62


class SubAgents:
    """Answers questions about sub-agents, and ends one without its session."""

    def __init__(self, roster: Roster, ledger: Ledger, runtime: Runtime) -> None:
        self._roster = roster
        self._ledger = ledger
        self._runtime = runtime

    async def list(self, record: SessionRecord, *, all: bool, limit: int) -> tuple[SubAgentRecord, ...]:
        """Return those of a session that have not ended, oldest first; with `all` the newest `limit` of every kind."""
        whole("limit", limit, 1, MAX_PAGE)
        return tuple(await self._ledger.sub_agents(record.id, every=all, limit=limit))

    async def messages(self, id: str, *, after: int, limit: int) -> SubAgentMessages:
        """Return one page of what a sub-agent was told and said. Raises SubAgentNotFound."""
        whole("after", after, 0, _BOUND)
        whole("limit", limit, 1, MAX_PAGE)
        record = await self._ledger.sub_agent(id)
        if record is None:
            raise SubAgentNotFound(
                f"there is no sub-agent {id!r}; `tollboard subagents NAME --all` shows a session's"
            )
        found = await self._ledger.sub_agent_messages(id, after=after, limit=limit + 1)
        shown = tuple(found[:limit])
        return SubAgentMessages(record, shown, shown[-1].number if len(found) > limit else None)

    async def cancel(self, id: str) -> SubAgentCancelled:
        """End one, and all below it; the one above is told and goes on. One that is gone or unknown is no error."""
        record = await self._ledger.sub_agent(id)
        if record is None:
            return SubAgentCancelled(id, acted=False, status=None)
        acted = False
        session = self._roster.find(record.session)
        if record.ended_at is None and session is not None and session.machine is not None:
            try:
                acted = await self._runtime.cancel_sub_agent(session.name, id)
            except AgentNotFound:
                acted = False  # the session was stopped in this moment, which ends it too
        return SubAgentCancelled(id, acted, await self._status(record, acted=acted))

    async def _status(self, record: SubAgentRecord, *, acted: bool) -> SubAgentState:
        if acted:
            with contextlib.suppress(StoreError):  # its end is written as soon as the disk lets it
                await self._ledger.flush()
        now = await self._ledger.sub_agent(record.id)
        return record.status if now is None else now.status
