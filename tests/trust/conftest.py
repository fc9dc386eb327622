"""The stand-in for the Messages API, and options that reach it: the fixtures of the tests of backends."""

from __future__ import annotations

from tests.backends.conftest import claude_options, messages_api

__all__ = ["claude_options", "messages_api"]
