"""Usage as the columns of requests, tasks and sub-agents want it."""

from __future__ import annotations

from tollboard.runtime.event import Usage

_MAX_INTEGER = 2**63


def usage_values(usage: Usage | None) -> tuple[object, ...]:
    """Return the usage columns. A provider's odd value counts as not reported: it must not cost the whole turn."""
    if usage is None:
        return (None, None, None, None, None)
    cost = usage.cost_usd
    return (
        _count(usage.input_tokens),
        _count(usage.output_tokens),
        _count(usage.cache_read_tokens),
        _count(usage.cache_creation_tokens),
        float(cost) if isinstance(cost, int | float) else None,
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and -_MAX_INTEGER <= value < _MAX_INTEGER else None
