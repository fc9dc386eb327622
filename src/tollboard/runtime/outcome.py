"""The three ways a request can stand, for `match`; what `poll`, `wait` and `execute` return are kinds of them.

A program that uses a runtime, a switchboard, a client or a sub-agent server names one `Completed`, not four. Which
fields there are is said by the kind: a turn has a `response`, a sub-agent's run a `result`.
"""

from __future__ import annotations


class Pending:
    """Accepted, and not ended."""

    __slots__ = ()


class Completed:
    """Ended as it should."""

    __slots__ = ()


class Failed:
    """Ended otherwise. Every kind has a `reason`."""

    __slots__ = ()
