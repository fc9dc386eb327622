"""Installing into an empty environment: what was published after the locks were written changes nothing.

Slow and over the network, so only `make test-installation` and CI run it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installation.index import NEWER, index_with_newer_versions

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("Makefile", "pyproject.toml", "README.md", "LICENSE", "src", *(p.name for p in ROOT.glob("*.lock")))
INSTALLATION_S = 900

pytestmark = [pytest.mark.installation, pytest.mark.timeout(INSTALLATION_S)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what an installation needs, without any environment."""
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(checkout: Path, *command: str, **environment: str) -> str:
    """Run a command in the checkout, in an environment that names no other virtual environment; return its output."""
    inherited = {
        name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "MAKEFLAGS"}
    }
    done = subprocess.run(
        command, cwd=checkout, env=inherited | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def locked(lock: Path) -> dict[str, str]:
    """Return name and version of each package of a lock that any platform installs."""
    return dict(
        re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+) *\\$", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    )


def installed(checkout: Path, environment: str) -> dict[str, str]:
    """Return name and version of each package in an environment."""
    listed = run(checkout, f"{environment}/bin/uv", "pip", "freeze", "--python", f"{environment}/bin/python")
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)$", listed, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("target", "lock"),
    [
        (".venv/.core", "requirements-core.lock"),
        (".venv/.all", "requirements.lock"),
        (".venv-bench/.all", "requirements-bench.lock"),
    ],
)
def test_versions_newer_than_the_lock_change_nothing(checkout: Path, target: str, lock: str) -> None:
    with index_with_newer_versions() as index:
        printed = run(
            checkout, "make", f"PYTHON={sys.executable}", target, PIP_INDEX_URL=index, UV_DEFAULT_INDEX=index,
            UV_CACHE_DIR=str(checkout / "cache"), PIP_CACHE_DIR=str(checkout / "cache-pip"),
        )  # fmt: skip
    found = installed(checkout, target.partition("/")[0])
    wanted = locked(checkout / lock) | locked(checkout / "requirements-build.lock")
    assert NEWER not in found.values()
    assert {name: found.get(name) for name in wanted} == wanted
    assert re.search(r"Installing into .*Installed", printed, flags=re.DOTALL), (
        "an installation shows what it does"
    )


def test_without_the_locks_the_newest_versions_in_range_work(checkout: Path) -> None:
    run(checkout, sys.executable, "-m", "venv", "fresh")
    run(checkout, "fresh/bin/python", "-m", "pip", "install", "--quiet", "--no-input", ".[all]")
    run(checkout, "fresh/bin/python", "-m", "pip", "check")
    state = {"TOLLBOARD_HOME": str(checkout / "state")}
    assert "held" in run(checkout, "fresh/bin/tollboard", "demo", **state)
    for module in ("claude_agent_sdk", "mcp", "pydantic_ai", "IPython", "tollboard.surfaces.mcp.server"):
        run(checkout, "fresh/bin/python", "-c", f"import {module}")
