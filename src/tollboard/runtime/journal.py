"""What must be remembered, and when: the contract between one agent and whatever keeps its requests.

The runtime calls these methods synchronously, from the loop, in the order things happen; an implementation must keep
that order. Each returns something to await until it is durable, or `None` when there is nothing to wait for.
The written rule is: commit, then resolve, then emit. A turn waits for `started` before the backend sees the
prompt (nothing runs twice unasked) and for `finished` before its ref resolves (a result that was shown is kept).

Only `accepted` may raise instead of returning, and then nothing is accepted. A request whose acceptance fails later,
in its commit, cannot be started: the commit of its `started` must fail too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from tollboard.runtime.approval import Approval, Decision
from tollboard.runtime.event import Usage
from tollboard.runtime.request import Request
from tollboard.runtime.results import Outcome

if TYPE_CHECKING:
    from tollboard.runtime.background_task import BackgroundTask
    from tollboard.runtime.memory import Memory
    from tollboard.runtime.sub_agents import SubAgentNews

Commit = Awaitable[None]


class Journal(Protocol):
    """Remembers one agent. A commit raises StoreError when the write failed."""

    def accepted(self, request: Request) -> Commit | None:
        """Remember a request before its ref is handed out. Called by the machine, once for each request."""

    def started(self, request: Request) -> Commit | None:
        """Remember that a turn for this request is about to reach the backend. Called again for each retry."""

    def finished(self, request: Request, outcome: Outcome, duration_s: float) -> Commit | None:
        """Remember the one outcome of a request.

        Called once for each accepted request, also for those withdrawn before they ran (`started_at is None`).
        """

    def used(self, request: Request, usage: Usage) -> Commit | None:
        """Remember what a request has used so far, in all its attempts. It counts also after `finished`."""

    def checkpointed(self, provider_session_id: str, effective: Mapping[str, str] | None) -> Commit | None:
        """Remember the backend conversation's id, and the settings the provider says it really runs with (S24)."""

    def halted(self, halted: bool) -> Commit | None:
        """Remember that the mailbox was frozen or released."""

    def background(self, running: Sequence[BackgroundTask]) -> Commit | None:
        """Remember what runs in the background now; after a crash that is what was cut off."""

    def memory(self) -> Memory | None:
        """Return where the backend keeps what it wants to know in the next turn; `None` when nothing is kept."""

    def approval_requested(self, approval: Approval) -> Commit | None:
        """Remember a question before it is shown to anyone."""

    def approval_closed(self, approval: Approval, decision: Decision | None, by: str) -> Commit | None:
        """Remember the decision; `None` means the turn ended first, and `by` says why."""

    def sub_agent(self, ref: str, news: SubAgentNews) -> None:
        """Remember what is told of an agent below the turn of a request, and tell the feed: each ends exactly once.

        Nobody waits for it. What has not ended when the request is `finished` has ended with it, cancelled.
        """


class NullJournal:
    """Remembers nothing; an agent that has this one does not ask it (`Machine.remembers`) on the way of every turn."""

    def accepted(self, request: Request) -> None:
        """Do nothing."""

    def started(self, request: Request) -> None:
        """Do nothing."""

    def finished(self, request: Request, outcome: Outcome, duration_s: float) -> None:
        """Do nothing."""

    def used(self, request: Request, usage: Usage) -> None:
        """Do nothing."""

    def checkpointed(self, provider_session_id: str, effective: Mapping[str, str] | None) -> None:
        """Do nothing."""

    def halted(self, halted: bool) -> None:
        """Do nothing."""

    def background(self, running: Sequence[BackgroundTask]) -> None:
        """Do nothing."""

    def memory(self) -> None:
        """Return nothing."""

    def approval_requested(self, approval: Approval) -> None:
        """Do nothing."""

    def approval_closed(self, approval: Approval, decision: Decision | None, by: str) -> None:
        """Do nothing."""

    def sub_agent(self, ref: str, news: SubAgentNews) -> None:
        """Do nothing."""
