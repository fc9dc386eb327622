"""The application with all its commands: importing this file registers them."""

from __future__ import annotations

from tollboard.surfaces.cli import (
    approvals,
    backups,
    control,
    daemon_cmds,
    demo,
    doctor,
    fleet_files,
    listing,
    login,
    mcp_cmds,
    pool_tasks,
    pools,
    prompts,
    reading,
    repl_cmd,
    sessions,
    sub_agents,
    summaries,
)
from tollboard.surfaces.cli.app import app

__all__ = [
    "app",
    "approvals",
    "backups",
    "control",
    "daemon_cmds",
    "demo",
    "doctor",
    "fleet_files",
    "listing",
    "login",
    "mcp_cmds",
    "pool_tasks",
    "pools",
    "prompts",
    "reading",
    "repl_cmd",
    "sessions",
    "sub_agents",
    "summaries",
]
