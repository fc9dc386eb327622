"""0005: one meaning of `input_tokens`, and no usage that cannot be."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

_CACHED = "coalesce(cache_read_tokens, 0) + coalesce(cache_creation_tokens, 0)"
_CLAUDE = {
    "requests": "session_id IN (SELECT id FROM sessions WHERE backend = 'claude')",
    "pool_tasks": "pool_id IN (SELECT id FROM pools WHERE json_extract(spec, '$.backend') = 'claude')",
}
_ADD = (
    "UPDATE {table} SET input_tokens = input_tokens + {cached} WHERE input_tokens IS NOT NULL AND {by_claude}"
)
_FORGET = (
    "UPDATE {table} SET input_tokens = NULL, output_tokens = NULL, cache_read_tokens = NULL, "
    "cache_creation_tokens = NULL, cost_usd = NULL WHERE input_tokens < 0 OR output_tokens < 0"
)


def upgrade() -> None:
    """Add to the input of Claude Code's turns what was read from the cache and written to it: it was reported apart.

    Where a turn was charged with less than nothing (the one after an abandoned sub-agent) nobody knows what it used.
    """
    for table, by_claude in _CLAUDE.items():
        op.execute(_ADD.format(table=table, cached=_CACHED, by_claude=by_claude))
        op.execute(_FORGET.format(table=table))
