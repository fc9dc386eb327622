"""What the daemon's process asks of the system: it stays above what it starts, hides its memory, buries the dead."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import gone
from tests.trust.agents import Agents, agents_of
from tollboard.daemon.client import Client
from tollboard.daemon.config import StateDirectory
from tollboard.errors import Denied
from tollboard.ids import SESSION_MARKER

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the calls are Linux's")]


@pytest.fixture
def agents(home: Path, tmp_path: Path) -> Iterator[Agents]:
    with agents_of(home, tmp_path) as agents:
        yield agents


def script(text: str, *words: str, **more: object) -> str:
    """Run a script with what lives here at hand, and return what it prints."""
    run = subprocess.run(
        [sys.executable, "-c", text, *words], capture_output=True, text=True, timeout=60, check=False, **more,  # type: ignore[call-overload]
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return str(run.stdout).strip()


ADOPT = """
import asyncio, os, select, subprocess, sys
from tollboard.daemon.hardening import Adopted, become_subreaper
from tollboard.daemon.peers import zombies

assert become_subreaper()

async def main():
    own = await asyncio.create_subprocess_exec("sh", "-c", "read x; exit 7", stdin=asyncio.subprocess.PIPE)
    ours, theirs = os.pipe()
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", f"sh -c 'read x <&{ours}; exit 0' >/dev/null 2>&1 & echo $!",
        stdout=subprocess.PIPE, pass_fds=[ours])
    orphan = int(await shell.stdout.readline())
    watched = os.pidfd_open(orphan)
    await shell.wait()
    adopted = Adopted(every_s=0.0)
    before = adopted.look()
    os.close(theirs)
    poll = select.poll(); poll.register(watched, select.POLLIN); poll.poll(10_000)
    first, second = adopted.look(), adopted.look()
    left = [link.pid for link in zombies(os.getpid())]
    own.stdin.close()
    print(before, first, second, orphan in left, await own.wait())

asyncio.run(main())
"""


def test_s26_what_was_left_behind_is_buried_and_our_own_children_keep_their_exit_codes() -> None:
    assert script(ADOPT) == "0 0 1 False 7"


HIDE = """
import ctypes, os, subprocess, sys
from tollboard.daemon.hardening import hide_memory

if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # who gives up root is hidden already; be a process like any other
look = f"cat /proc/{os.getpid()}/environ >/dev/null 2>&1; echo $?"
before = subprocess.run(["sh", "-c", look], capture_output=True, text=True).stdout.strip()
hide_memory()
after = subprocess.run(["sh", "-c", look], capture_output=True, text=True).stdout.strip()
own = subprocess.run(["sh", "-c", "cat /proc/self/environ >/dev/null; echo $?"], capture_output=True, text=True)
print(before, after, own.stdout.strip())
"""


def test_s27_other_processes_of_the_user_cannot_read_the_daemons_environment() -> None:
    before, after, child = script(HIDE, cwd="/").split()
    if before != "0":
        pytest.skip("this user may not read its own processes' environment anyway")
    assert (after, child) == ("1", "0")


def test_s26_what_detached_itself_ends_with_the_daemon(agents: Agents) -> None:
    fifo = agents.place / "pid"
    os.mkfifo(fifo)
    agents.run(["sh", "-c", f"env -i setsid sh -c 'echo $$ > {fifo}; exec sleep 3600' &"])
    pid = int(fifo.read_text())
    assert not gone(pid)
    agents.call("shutdown")
    assert agents.served.daemon.wait() == 0
    assert gone(pid)
    assert "detached" in agents.served.daemon.log()


async def test_s27_a_sessions_process_does_not_start_the_daemon_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StateDirectory(home).identity.write_text("this-home")
    monkeypatch.setenv(SESSION_MARKER, "this-home:some-session")
    with pytest.raises(Denied, match="only a person starts it"):
        async with Client.connect(home):
            pass


ABOVE = """
import os, subprocess, sys
from tollboard.daemon.peers import started_by_agent
print(started_by_agent("MARK", "this-home"), started_by_agent("MARK", "another-home"))
"""


def test_s27_the_mark_is_found_on_a_process_above_too() -> None:
    below = ["sh", "-c", 'env -i "$0" -c "$1"; true', sys.executable, ABOVE]
    run = subprocess.run(
        below,
        env={**os.environ, "MARK": "this-home:s"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.split() == ["True", "False"], run.stderr
