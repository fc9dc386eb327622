"""Sub-agents: a parent hands over a task as a blocking call; guarded tools wait for a person. Extra: `models`."""

from __future__ import annotations

from tollboard.runtime.approval import Approve, Edit, Reject
from tollboard.subagents.outcome import Completed, Failed, Halted, Interrupt, Interrupted, Outcome, Status
from tollboard.subagents.server import SubAgentServer
from tollboard.subagents.subagent import CompiledSubAgent, SubAgent, SubAgentConfig, general_purpose

__all__ = [
    "Approve",
    "CompiledSubAgent",
    "Completed",
    "Edit",
    "Failed",
    "Halted",
    "Interrupt",
    "Interrupted",
    "Outcome",
    "Reject",
    "Status",
    "SubAgent",
    "SubAgentConfig",
    "SubAgentServer",
    "general_purpose",
]
