"""Pools on a model: what is tried again, over the real clients of the providers (P17)."""

from __future__ import annotations

import pytest

from tollboard.pool.pool import Pool
from tollboard.testing.model_api import ModelAPI, Reply

pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "attempts"), [(401, 1), (400, 1), (404, 1), (429, 3), (500, 3), (529, 3)], ids=str
)
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_p17_a_models_failure_is_tried_again_only_if_that_may_help(
    provider: str, status: int, attempts: int
) -> None:
    async with ModelAPI(lambda seen: Reply("told to", status=status)) as api:
        url = api.openai_url if provider == "openai" else api.anthropic_url
        async with Pool.start(
            1, backend="model", model=f"{provider}:m", base_url=url, tools=[], retries=2
        ) as pool:
            results = await pool.map(["x"])
        assert (results[0].ok, results[0].attempt, len(api.requests)) == (False, attempts, attempts)
