"""Tollboard: a switchboard for long-lived AI agents. The public names, imported when first used, and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tollboard.daemon.client import Client as Client
    from tollboard.errors import TollboardError as TollboardError
    from tollboard.fleet.board import Board as Board
    from tollboard.fleet.settings import FleetSettings as FleetSettings
    from tollboard.local import Switchboard as Switchboard
    from tollboard.pool.pool import Pool as Pool
    from tollboard.pool.records import Task as Task
    from tollboard.runtime.agent import GenAgent as GenAgent
    from tollboard.runtime.agent import Halt as Halt
    from tollboard.runtime.agent import Prompt as Prompt
    from tollboard.runtime.agent import Skip as Skip
    from tollboard.runtime.approval import Approve as Approve
    from tollboard.runtime.approval import Edit as Edit
    from tollboard.runtime.approval import Reject as Reject
    from tollboard.runtime.backend import Backend as Backend
    from tollboard.runtime.callbacks import current_name as current_name
    from tollboard.runtime.outcome import Completed as Completed
    from tollboard.runtime.outcome import Failed as Failed
    from tollboard.runtime.outcome import Pending as Pending
    from tollboard.runtime.question import Answer as Answer
    from tollboard.runtime.runtime import Runtime as Runtime
    from tollboard.store.store import Store as Store
    from tollboard.subagents.outcome import Interrupted as Interrupted
    from tollboard.subagents.server import SubAgentServer as SubAgentServer
    from tollboard.subagents.subagent import SubAgent as SubAgent
    from tollboard.subagents.subagent import SubAgentConfig as SubAgentConfig

__version__ = "0.1.0"

_HOMES = {
    "Answer": "runtime.question",
    "Approve": "runtime.approval",
    "Backend": "runtime.backend",
    "Board": "fleet.board",
    "Client": "daemon.client",
    "Completed": "runtime.outcome",
    "Edit": "runtime.approval",
    "Failed": "runtime.outcome",
    "FleetSettings": "fleet.settings",
    "GenAgent": "runtime.agent",
    "Halt": "runtime.agent",
    "Interrupted": "subagents.outcome",
    "Pending": "runtime.outcome",
    "Pool": "pool.pool",
    "Prompt": "runtime.agent",
    "Reject": "runtime.approval",
    "Runtime": "runtime.runtime",
    "Skip": "runtime.agent",
    "Store": "store.store",
    "SubAgent": "subagents.subagent",
    "SubAgentConfig": "subagents.subagent",
    "SubAgentServer": "subagents.server",
    "Switchboard": "local",
    "Task": "pool.records",
    "TollboardError": "errors",
    "current_name": "runtime.callbacks",
}

__all__ = [*sorted(_HOMES), "__version__"]  # noqa: PLE0604 - the names of a dict are strings


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'tollboard' has no attribute {name!r}")
    return getattr(import_module(f"tollboard.{home}"), name)


def __dir__() -> list[str]:
    return list(__all__)
