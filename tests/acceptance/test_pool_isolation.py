"""Tasks of a pool on a model do not know each other, over many tasks: no marker of one in a request of another (P15).

The short form runs with the others; `TOLLBOARD_POOL_TASKS=10000` is the long one (`make isolation`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import tollboard.backends as backends
from tollboard.fleet.pools.pools import Pools
from tollboard.store.store import Store
from tollboard.testing.model_api import ModelAPI, Reply, Seen

TASKS = int(os.environ.get("TOLLBOARD_POOL_TASKS", "200"))
WORKERS = 4
MARKER = re.compile(r"marker-(\d{6})")
FLAT = 0.01
"""How much more, or less, the last tasks may use than the first."""


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_p15_no_marker_of_a_task_is_in_the_requests_of_another_and_tokens_stay_flat(
    tmp_path: Path,
) -> None:
    pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")
    requests = 0
    leaks: list[set[str]] = []

    def answer(seen: Seen) -> Reply:
        nonlocal requests
        requests += 1
        found = set(MARKER.findall(str(seen.body)))
        if len(found) != 1:
            leaks.append(found)
        return Reply(f"done {' '.join(sorted(found))}")

    store = await Store.open(tmp_path / "tollboard.db")
    async with ModelAPI(answer) as api:
        pools = await Pools.open(store.pools, backends=backends)
        try:
            await pools.start(
                "p", WORKERS, path=tmp_path, backend="model", role="clerk", strategy="shared_queue", model="openai:m",
                base_url=api.openai_url, tools=[],
            )  # fmt: skip
            await pools.submit("p", [f"marker-{number:06}" for number in range(TASKS)])
            view = await pools.wait("p", timeout=3_600)
            assert (view.done, view.ok) == (True, TASKS)
            used: list[int] = []
            after: int | None = -1
            while after is not None:
                page = await pools.results("p", after=after)
                for result in page.results:
                    assert result.text == f"done {MARKER.findall(result.prompt)[0]}"
                    assert result.usage is not None
                    used.append((result.usage.input_tokens or 0) + (result.usage.output_tokens or 0))
                after = page.next
        finally:
            await pools.close(grace_s=0)
            await store.close()
    assert leaks == []
    assert requests == TASKS
    tenth = max(1, TASKS // 10)
    first, last = (sum(part) / len(part) for part in (used[:tenth], used[-tenth:]))
    assert first > 0
    assert abs(last - first) <= FLAT * first
    print(f"{TASKS:,} tasks, {requests:,} requests, {first:.2f} tokens a task at first, {last:.2f} at last")
