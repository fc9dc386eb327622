"""Commands of `model` sessions in a sandbox, the real bubblewrap (S27)."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tollboard.backends._directory_tools import DirectoryTools
from tollboard.backends._model_options import parse_model_options
from tollboard.backends._sandbox import Wish, find_sandbox, settle
from tollboard.errors import BackendUnavailable, InvalidOption

needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="apt-get install bubblewrap")


async def tools_in(work: Path, *private: Path, network: bool = True) -> DirectoryTools:
    work.mkdir(exist_ok=True)
    tools = DirectoryTools(work, private=[str(own) for own in private])
    tools.run_in(await settle(Wish.REQUIRED, private=[str(own) for own in private], network=network))
    return tools


@pytest.fixture
def place() -> Iterator[Path]:
    """Not below /tmp, which a sandbox has of its own."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        yield Path(name)


@needs_bwrap
@pytest.mark.slow
async def test_s27_in_the_sandbox_only_the_sessions_directory_can_be_written(place: Path) -> None:
    tools = await tools_in(place / "work")
    told = await tools.run_command(
        "echo in > mine; echo out > ../outside; echo t > /tmp/own && cat /tmp/own; pwd"
    )
    assert "Read-only file system" in told
    assert (place / "work" / "mine").read_text() == "in\n"
    assert not (place / "outside").exists()
    assert str(place / "work") in told
    assert not Path("/tmp/own").exists()


@needs_bwrap
@pytest.mark.slow
@pytest.mark.parametrize("work", ["work", "."])
async def test_s27_in_the_sandbox_the_state_directory_is_empty(place: Path, work: str) -> None:
    (place / "state").mkdir()
    (place / "state" / "token").write_text("the-admin-token")
    tools = await tools_in(place / work, place / "state")
    told = await tools.run_command(
        f"cat {place}/state/token /proc/self/root{place}/state/token; ls -A {place}/state | wc -l; "
        f"umount {place}/state; "
        f"unshare -Urm umount {place}/state; cat {place}/state/token"
    )
    assert "the-admin-token" not in told
    assert "\n0\n" in told


@needs_bwrap
@pytest.mark.slow
async def test_s27_in_the_sandbox_no_process_outside_is_seen_or_signalled(place: Path) -> None:
    tools = await tools_in(place / "work")
    told = await tools.run_command(
        f"kill -0 {os.getpid()} || echo cannot; cat /proc/{os.getpid()}/cmdline; ls /proc"
    )
    assert "cannot" in told
    assert "pytest" not in told
    assert sum(line.isdigit() for line in told.splitlines()) < 10


@needs_bwrap
@pytest.mark.slow
@pytest.mark.parametrize(("network", "said"), [(True, "reached"), (False, "refused")])
async def test_s27_in_the_sandbox_the_network_is_as_set(place: Path, network: bool, said: str) -> None:
    tools = await tools_in(place / "work", network=network)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        told = await tools.run_command(
            f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null && echo reached || echo refused"
        )
    assert said in told


@needs_bwrap
@pytest.mark.slow
async def test_s27_what_a_command_left_in_the_sandbox_ends_with_it(place: Path) -> None:
    tools = await tools_in(place / "work")
    nap = str(3_600 + os.getpid())
    told = await tools.run_command(f"setsid env -i sleep {nap} & echo begun")
    assert "begun" in told
    lines = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert ["sleep", nap] not in lines


async def test_s27_a_sandbox_that_is_required_and_missing_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="bubblewrap is not installed"):
        await settle(Wish.REQUIRED, private=(), network=True)
    assert await settle(Wish.AUTO, private=(), network=True) is None
    assert await settle(Wish.OFF, private=(), network=True) is None


async def test_a_sandbox_that_does_not_work_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = await find_sandbox()
    assert not found.program
    assert "No permissions" in found.why


def test_the_wish_is_checked() -> None:
    assert parse_model_options({"model": "openai:x", "sandbox": "auto"}).sandbox == "auto"
    with pytest.raises(InvalidOption, match="off, auto, required"):
        parse_model_options({"model": "openai:x", "sandbox": "maybe"})
