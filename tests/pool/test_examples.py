"""The examples that use pools, run as they stand."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tollboard.pool.records import Progress

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_nine_trivia_questions_over_three_workers() -> None:
    trivia = load("pool_trivia")
    results = await trivia.main()
    assert [r.text for r in results] == list(trivia.ANSWERS.values())
    assert [worker.ok for worker in results.by_worker.values()] == [3, 3, 3]


async def test_every_file_of_a_directory_is_reviewed(tmp_path: Path) -> None:
    for n in range(7):
        (tmp_path / f"m{n}.py").write_text("x = 1\n" * (n + 1))
    (tmp_path / "notes.txt").write_text("not this one")
    seen: list[Progress] = []
    results = await load("pool_review").review(tmp_path, progress=seen.append, fail_on="m3.py")
    assert [r.prompt.split()[1] for r in results] == [f"m{n}.py:" for n in range(7)]
    assert [r.ok for r in results] == [n != 3 for n in range(7)]
    assert results[3].attempt == 2
    assert (seen[-1].done, seen[-1].failed) == (7, 1)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["pool_trivia.py"], ["pool_review.py", ".", "--pattern", "pool_*.py"]])
def test_examples_run_as_programs(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=EXAMPLES, capture_output=True, text=True, check=True, timeout=60
    )
    assert "pool-" in done.stdout or "pool_review.py" in done.stdout
    assert done.stderr == ""
