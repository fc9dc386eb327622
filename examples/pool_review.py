"""Review every file of a directory with a pool of warm workers: whoever is idle takes the next file, largest first.

    python examples/pool_review.py src --backend claude --workers 4
    python examples/pool_review.py src                       # echo: runs anywhere, answers with the prompt

Files are read by the workers themselves, so the prompts stay small. Largest first, because a long task that is begun
last keeps everybody waiting.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

from tollboard import backends
from tollboard.pool.pool import Pool
from tollboard.pool.records import Progress, Task, TaskResult
from tollboard.runtime.backend import Backend

BYTES_PER_SECOND = 2_000  # a guess at how quickly a file is reviewed; only the order matters


def tasks_of(directory: Path, pattern: str) -> list[Task]:
    files = sorted(path for path in directory.rglob(pattern) if path.is_file())
    return [
        Task(
            f"Review {path.relative_to(directory)}: name the worst problem in one line, or say 'fine'.",
            hint_s=path.stat().st_size / BYTES_PER_SECOND,
        )
        for path in files
    ]


async def review(
    directory: Path, *, backend: Backend[object] | str = "echo", workers: int = 3, pattern: str = "*.py",
    progress: Callable[[Progress], None] | None = None, **options: object,
) -> list[TaskResult]:  # fmt: skip
    """Return one result per file, in the order of their names; a file that failed is among them with its error."""
    async with Pool.start(
        workers, role="reviewer", backend=backend, backends=backends, strategy="longest_first", retries=1,
        cwd=str(directory), **options,
    ) as pool:  # fmt: skip
        return await pool.map(tasks_of(directory, pattern), progress=progress)


def show(progress: Progress) -> None:
    print(f"\r{progress.done} of {progress.total}, {progress.failed} failed", end="", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--backend", default="echo")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--pattern", default="*.py")
    given = parser.parse_args()
    reviews = asyncio.run(
        review(
            given.directory,
            backend=given.backend,
            workers=given.workers,
            pattern=given.pattern,
            progress=show,
        )
    )
    print()
    for result in reviews:
        print(result.text or result.error)
