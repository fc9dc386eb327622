"""The real daemon with one backend more: `witness` writes down, outside the database, every prompt it is given.

Run as `python tests/acceptance/witness_daemon.py --home DIR ...`; takes what `python -m tollboard.daemon` takes.
A prompt `TOKEN [child]` appends `TOKEN` to `witness.log` in the session's directory with one write, before anything
else happens, so that the line is there even when the daemon is killed at once. With `child` the turn starts a process
in a session of its own, as agent programs do, that would outlive the daemon for ever.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import ClassVar

from tollboard import backends
from tollboard.ids import new_ref
from tollboard.runtime.backend import NO_PROCESSES, Backend, ProcessReport, Turn
from tollboard.runtime.event import Event, ResultEvent, TextEvent


class WitnessBackend(Backend[dict[str, str]]):
    """See the module."""

    name: ClassVar[str] = "witness"

    async def start_session(self, options: Mapping[str, object]) -> dict[str, str]:
        """Return a session: its directory and its marker."""
        return {"cwd": str(options["cwd"]), "marker": str(options["env_marker"]), "id": new_ref()}

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> dict[str, str]:
        """Return the session again."""
        return {**await self.start_session(options), "id": provider_session_id}

    async def prompt(self, session: dict[str, str], text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        """Write the token down, take a moment, answer."""
        token, _, what = text.partition(" ")
        log = os.open(Path(session["cwd"]) / "witness.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(log, f"{token}\n".encode())
        os.close(log)
        await turn.checkpoint(session["id"])
        child = _child(session["marker"]) if what == "child" else None
        try:
            for piece in ("wit", "ness"):
                await asyncio.sleep(random.uniform(0, 0.03))
                yield TextEvent(piece)
            yield ResultEvent(f"saw {token}")
        finally:
            if child is not None:
                child.kill()
                child.wait()

    async def terminate_session(self, session: dict[str, str]) -> ProcessReport:
        """Do nothing: children end with their turn."""
        return NO_PROCESSES


def _child(marker: str) -> subprocess.Popen[bytes]:
    name, _, value = marker.partition("=")
    return subprocess.Popen(
        ["sleep", "600"],
        env={**os.environ, name: value}, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


if __name__ == "__main__":
    backends.BACKENDS["witness"] = WitnessBackend
    from tollboard.daemon.__main__ import main

    sys.exit(main())
