"""The registry: names to backends, and what it says about the ones that need more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tollboard.backends import BACKENDS, EXTRAS, install_hint, known, load
from tollboard.errors import UnknownBackend


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_a_backend_knows_its_name_and_its_extra(name: str) -> None:
    backend = load(name)
    assert backend.name == name
    assert backend.extra == EXTRAS.get(name)


def test_the_known_names() -> None:
    assert known() == ("claude", "echo", "model", "scripted")


@pytest.mark.parametrize("name", ["", "Echo", "../echo", "codex", None])
def test_an_unknown_name_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownBackend) as refused:
        load(name)
    assert "echo, model" in str(refused.value)
    assert "pip install 'tollboard[claude]'" in str(refused.value)


def test_what_to_install() -> None:
    assert install_hint("claude") == "pip install 'tollboard[claude]'"
    assert install_hint("echo") == ""


def test_loading_imports_no_extra() -> None:
    code = (
        "import sys; from tollboard.backends import load; load('claude'); load('echo'); load('scripted');"
        "sys.exit(','.join(m for m in ('claude_agent_sdk', 'anyio', 'psutil') if m in sys.modules) or None)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
