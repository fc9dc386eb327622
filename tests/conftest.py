"""What every test shares: a clean environment, a short private state directory, hypothesis profiles, chaos length."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SHORT_CHAOS_KILLS = 25
CHAOS_KILLS_VARIABLE = "TOLLBOARD_CHAOS_KILLS"
CHAOS_S, CHAOS_S_PER_KILL = 600, 10
"""How long the chaos may take: at least, and for each kill."""
_KEPT = (  # the test workers read them again
    CHAOS_KILLS_VARIABLE, "TOLLBOARD_CHAOS_SEED", "TOLLBOARD_STORM_INTERRUPTS", "TOLLBOARD_STORM_KILLS",
    "TOLLBOARD_STORM_SEED", "TOLLBOARD_MANY_SUB_AGENTS",
)  # fmt: skip

# No test may meet the state directory, the settings or the account of whoever runs it. Done once, at import, so that
# fixtures of every scope and the programs they start see the same clean environment.
for _variable in list(os.environ):
    if _variable.startswith(("TOLLBOARD_", "ANTHROPIC_", "CLAUDE")) and _variable not in _KEPT:
        del os.environ[_variable]

_PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=60, print_blob=True, **_PATIENT)
settings.register_profile("dev", max_examples=60, **_PATIENT)
settings.register_profile("soak", max_examples=2000, print_blob=True, **_PATIENT)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --chaos-kills and --write-tour."""
    parser.addoption("--write-tour", action="store_true", help="write docs/tour.md anew from what happens")
    parser.addoption(
        "--chaos-kills",
        type=int,
        default=int(os.environ.get(CHAOS_KILLS_VARIABLE, SHORT_CHAOS_KILLS)),
        help=f"how often the chaos test kills the daemon ({CHAOS_KILLS_VARIABLE}, else {SHORT_CHAOS_KILLS})",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the chaos the time that its length needs: a mark of its own would win over --timeout."""
    limit_s = max(CHAOS_S, CHAOS_S_PER_KILL * int(config.getoption("--chaos-kills")))
    for item in items:
        if item.get_closest_marker("chaos") is not None:
            item.add_marker(pytest.mark.timeout(limit_s))


@pytest.fixture
def chaos_kills(request: pytest.FixtureRequest) -> int:
    """Return how often the chaos test kills the daemon."""
    return int(request.config.getoption("--chaos-kills"))


@pytest.fixture
def home() -> Iterator[Path]:
    """Yield a private state directory, short enough for a unix socket (a path of 107 bytes), and remove it after."""
    path = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
    path.chmod(0o700)
    yield path
    shutil.rmtree(path, ignore_errors=True)
