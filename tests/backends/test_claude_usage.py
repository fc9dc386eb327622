"""What Claude Code says of a turn's usage, in Tollboard's words."""

from __future__ import annotations

import pytest

from tollboard.backends._claude_events import outcome
from tollboard.runtime.event import Usage


@pytest.mark.parametrize(
    ("given", "usage"),
    [
        (
            {
                "input_tokens": 4,
                "output_tokens": 9,
                "cache_read_input_tokens": 1000,
                "cache_creation_input_tokens": 200,
            },
            Usage(1204, 9, 1000, 200),
        ),
        ({"input_tokens": 4, "output_tokens": 9}, Usage(4, 9)),
        ({"output_tokens": 9, "cache_read_input_tokens": 1000}, Usage(None, 9, 1000)),
        ({}, Usage()),
    ],
)
def test_l08_the_input_counts_what_was_cached(given: dict[str, int], usage: Usage) -> None:
    ended = outcome({"type": "result", "subtype": "success", "result": "ok", "usage": given}, 0.0)
    assert ended.usage == usage
