"""The research example, run as it stands: no key, a real daemon, killed while the question is open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tollboard.fleetfile import Fleet

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "research"


def test_the_fleet_file_of_the_example_is_right() -> None:
    session = Fleet.read(EXAMPLE / "fleet.toml").sessions["research"]
    assert session.options["tools"] == []
    agents = session.options["sub_agents"]
    assert isinstance(agents, list)
    assert [agent["name"] for agent in agents] == ["researcher", "writer"]


@pytest.mark.slow
def test_the_research_desk_writes_its_report(tmp_path: Path) -> None:
    pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")
    run = subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py"), "--kill"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    told = iter(run.stdout.splitlines())
    for wanted in (
        "notice              sub-agent  researcher has begun",
        "notice              sub-agent  researcher is done: The library says: library/argon.txt:2: Found in 1894",
        "notice              sub-agent  writer has begun",
        "approval.requested  write_file",
        "by            research/writer",
        "$ kill -9 ",
        "by            research/writer",
        "edited: write_file of research",
        "approval.decided    edit",
        "notice              sub-agent  writer is done: It is written.",
        "The report on the noble gases is in report.md.",
        "- Neon, krypton, xenon: Ramsay and Travers, 1898",
        "research  session  unchanged",
        "research  session  stopped",
    ):
        assert any(wanted in line for line in told), f"{wanted!r} is not there, or not then:\n{run.stdout}"
    assert "Traceback" not in run.stderr


def test_the_fleet_file_of_the_documentation_is_right(tmp_path: Path) -> None:
    text = (EXAMPLE.parents[1] / "docs" / "how-to" / "models.md").read_text()
    (tmp_path / "src").mkdir()
    (tmp_path / "fleet.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])
    fleet = Fleet.read(tmp_path / "fleet.toml")
    assert (list(fleet.sessions), list(fleet.pools)) == (["desk", "review"], ["trivia"])
