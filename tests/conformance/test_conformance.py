"""The official conformance suite of the Model Context Protocol against our own surface, in both eras of the protocol.

The suite is `@modelcontextprotocol/conformance` from npm; install.py puts it into `.conformance/`. It knows for each
revision of the protocol what a server must pass, and runs some that nobody must. A scenario passes here when the suite
has no failure, no warning and nothing skipped to report.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.served import serving

pytestmark = [
    pytest.mark.slow,
    # What the newer era has given up is still spoken with the older one.
    pytest.mark.filterwarnings("ignore:.*deprecated as of 2026-07-28:mcp.MCPDeprecationWarning"),
]

SUITE = Path(__file__).parents[2] / ".conformance"
NODE = SUITE / "node"
PROGRAM = SUITE / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
MISSING = (
    "the MCP conformance suite is not installed: `make test` installs it, or tests/conformance/install.py. It needs "
    "the npm registry, and Node 22 with npm or the Python package index"
)
FEWEST = 30
"""Scenarios of a run: fewer, and the suite did not do what it was asked."""

# -- what does not pass, and why

NO_TASKS = "an extension that we do not offer: send gives a ref at once, poll and wait do what it is for"
NO_REPLAY = (
    "a stream cannot be taken up again: who lost one reads again; also in the suite's own words on hold"
)
NO_ASKING = (
    "over HTTP we keep nothing between requests: a client of the older era cannot be asked within a call"
)
NO_SUBSCRIBING = "the same: nobody is there to be told, so we do not offer it; the newer era listens instead"
NO_SESSIONS = "the same: there are no sessions, and the suite needs one to look at this"

NEWER = dict.fromkeys(
    (
        "tasks-lifecycle", "tasks-capability-negotiation", "tasks-wire-fields", "tasks-request-state-removal",
        "tasks-mrtr-input", "tasks-request-headers", "tasks-dispatch-and-envelope", "tasks-status-notifications",
        "tasks-required-task-error", "tasks-mrtr-composition",
    ),
    NO_TASKS,
)  # fmt: skip
OLDER = {
    "tools-call-sampling": NO_ASKING,
    "tools-call-elicitation": NO_ASKING,
    "elicitation-sep1034-defaults": NO_ASKING,
    "elicitation-sep1330-enums": NO_ASKING,
    "resources-subscribe": NO_SUBSCRIBING,
    "resources-unsubscribe": NO_SUBSCRIBING,
    "server-session-lifecycle": NO_SESSIONS,
    "server-sse-multiple-streams": NO_SESSIONS,
    "server-sse-polling": NO_REPLAY,
}
OLDER_WITH_SESSIONS = {"server-sse-polling": NO_REPLAY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the suite: what a revision of the protocol wants, and what of it does not pass."""

    revision: str
    exceptions: Mapping[str, str]
    sessions: bool = False
    """Keep a connection between requests, as standard input and output does: the suite speaks HTTP only."""


RUNS = {
    "newer": Run(revision="2026-07-28", exceptions=NEWER),
    "older": Run(revision="2025-11-25", exceptions=OLDER),
    "older-with-sessions": Run(revision="2025-11-25", exceptions=OLDER_WITH_SESSIONS, sessions=True),
}


@pytest.fixture
def suite() -> None:
    """Skip without the suite; where changes are judged it must be there."""
    if not (NODE.exists() and PROGRAM.exists()):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
async def test_the_official_suite_passes(run: Run, home: Path, tmp_path: Path) -> None:
    async with serving(home, sessions=run.sessions) as url:
        said = await _run_suite(url, run.revision, tmp_path)
    faults = _faults(tmp_path)
    assert len(faults) >= FEWEST, said
    assert run.exceptions.keys() <= faults.keys(), "a scenario of the table is gone"
    failed = {name: why for name, why in faults.items() if why and name not in run.exceptions}
    assert not failed, json.dumps(failed, indent=1)
    passed = [name for name in run.exceptions if not faults[name]]
    assert not passed, "a scenario of the table passes now: take it out"


async def _run_suite(url: str, revision: str, results: Path) -> str:
    """Run the suite and return what it printed. Its own verdict knows no exceptions: the checks are read instead."""
    words = ("server", "--url", url, "--requirements", revision, "--output-dir", str(results))
    process = await asyncio.create_subprocess_exec(
        str(NODE), str(PROGRAM), *words, env={"PATH": os.environ["PATH"]}, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode()


def _faults(results: Path) -> dict[str, list[str]]:
    """Return what is wrong with each scenario that ran: nothing, for one that passed."""
    found = {}
    for file in results.glob("server-*/checks.json"):
        name = re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\d-]+Z$", "", file.parent.name)
        checks = json.loads(file.read_text(encoding="utf-8"))
        wrong = [
            f"{one['status']} {one['id']}: {one.get('errorMessage') or one.get('details')}"
            for one in checks
            if one["status"] not in ("SUCCESS", "INFO")
        ]
        done = any(one["status"] == "SUCCESS" for one in checks)
        found[name] = wrong if wrong or done else ["nothing was checked"]
    return found
