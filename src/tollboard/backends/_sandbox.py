"""Commands of a session in a sandbox: bubblewrap on Linux, `sandbox-exec` on macOS (written for it, not tried there).

The session's directory can be written, the rest of the file system only read; /tmp and /run are empty ones of its own,
which also hides the sockets of services that would start programs outside; what is the daemon's own is masked.
Processes outside cannot be seen or signalled. The network is as set.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tollboard.errors import BackendUnavailable

LOOK_S = 10.0
_PROBE = (
    "--ro-bind",
    "/",
    "/",
    "--unshare-user",
    "--unshare-pid",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "true",
)
INSTALL = "apt-get install bubblewrap"


class Wish(StrEnum):
    """Whether a session's commands run in a sandbox."""

    OFF = "off"
    AUTO = "auto"
    """In one where there is one; `status` shows which."""
    REQUIRED = "required"
    """In one, or not at all."""


@dataclass(frozen=True, slots=True)
class Possible:
    """What this machine has: the program, or an empty text and why it cannot be used."""

    program: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How one session's commands are wrapped."""

    program: str
    private: Sequence[str] = ()
    network: bool = True

    @property
    def name(self) -> str:
        """Return what `status` shows."""
        return f"{Path(self.program).name}{'' if self.network else ', no network'}"

    def wrap(self, command: Sequence[str], root: Path) -> list[str]:
        """Return the command that runs another one inside, with `root` as the directory that can be written."""
        if Path(self.program).name == "sandbox-exec":
            return [self.program, "-p", self._profile(root), *command]
        inside = [self.program, "--die-with-parent", "--unshare-user", "--unshare-pid", "--unshare-ipc",
                  "--cap-drop", "ALL", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
                  "--tmpfs", "/tmp", "--tmpfs", "/run",
                  "--ro-bind-try", "/run/systemd/resolve", "/run/systemd/resolve",
                  "--bind", str(root), str(root)]  # fmt: skip
        # Last: what lies in or above the session's directory is masked all the same.
        for directory in self.private:
            inside += ["--tmpfs", directory]
        if not self.network:
            inside.append("--unshare-net")
        return [*inside, "--chdir", str(root), "--", *command]

    def _profile(self, root: Path) -> str:
        def quoted(path: object) -> str:
            return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'

        rules = ["(version 1)", "(allow default)", "(deny file-write*)",
                 f"(allow file-write* (subpath {quoted(root)}) (subpath \"/dev\") (subpath \"/private/tmp\"))",
                 *(f"(deny file-read* file-write* (subpath {quoted(own)}))" for own in self.private)]  # fmt: skip
        if not self.network:
            rules.append("(deny network*)")
        return "\n".join(rules)


async def find_sandbox() -> Possible:
    """Say whether commands can run in a sandbox here: the program is tried, not only looked for."""
    if sys.platform == "darwin":
        found = shutil.which("sandbox-exec")
        return Possible(found) if found else Possible("", "sandbox-exec is not on the path")
    program = shutil.which("bwrap")
    if program is None:
        return Possible("", f"bubblewrap is not installed: {INSTALL}")
    try:
        process = await asyncio.create_subprocess_exec(
            program, *_PROBE, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as wrong:
        return Possible("", f"{program} cannot be run: {wrong.strerror}")
    try:
        async with asyncio.timeout(LOOK_S):
            _, said = await process.communicate()
    except TimeoutError:
        return Possible("", f"{program} did not answer within {LOOK_S:g} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        return Possible("", f"{program} does not work here: {said.decode('utf-8', 'replace').strip()}")
    return Possible(program)


async def settle(wish: Wish, *, private: Sequence[str], network: bool) -> Sandbox | None:
    """Return the sandbox of a session that wishes for one, `None` for none. Raises BackendUnavailable if it must."""
    if wish is Wish.OFF:
        return None
    found = await find_sandbox()
    if found.program:
        return Sandbox(found.program, tuple(os.path.realpath(own) for own in private), network)
    if wish is Wish.REQUIRED:
        raise BackendUnavailable(f"the sandbox that is required cannot be had: {found.why}")
    return None
