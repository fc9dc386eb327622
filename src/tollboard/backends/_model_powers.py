"""Which options of a `model` session let it do more than it could without them; what `send` alone may not give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tollboard.backends._model_options import BUILT_IN

_PLAIN = frozenset(
    {"model", "system_prompt", "max_runs", "limits", "summarise_at", "general_purpose", "list_sub_agents", "name",
     "description", "until_tool", "until_tool_success", "use_instructions", "display_text"}
)  # fmt: skip
_PLAIN_SETTINGS = frozenset(
    {"max_tokens", "temperature", "top_p", "top_k", "seed", "stop_sequences", "presence_penalty", "frequency_penalty",
     "parallel_tool_calls", "thinking", "timeout"}
)  # fmt: skip
"""Of a model's settings. Others may carry headers or a body of the caller's own."""


def model_powers(options: Mapping[str, object]) -> tuple[str, ...]:
    """Return their names, with a dot before a part: `mcp_servers`, `guards.run_command`, `sub_agents.guards.x`."""
    return tuple(dict.fromkeys(_powers(options, "")))


def _powers(options: Mapping[str, object], above: str) -> Iterator[str]:
    for name, value in options.items():
        if name in _PLAIN or value in (None, [], (), {}, ""):
            continue
        parts = _parts(name, value)
        yield from (f"{above}{name}{part}" for part in parts)


def _parts(name: str, value: object) -> Iterator[str]:
    """Yield what of an option's value is a power, as the end of its name."""
    match name, value:
        case "tools", list() | tuple():
            yield from (f".{tool}" for tool in value if tool not in BUILT_IN)
        case "tools", str():
            yield from [] if value in BUILT_IN else [f".{value}"]
        case "guards", Mapping():
            yield from (f".{tool}" for tool, guard in value.items() if guard is not True and not guard)
        case ("sandbox", "required") | ("sandbox_network", False):
            yield from ()
        case "settings", Mapping():
            yield from (f".{key}" for key in value if key not in _PLAIN_SETTINGS)
        case "sub_agents", list() | tuple():
            for each in value:
                if isinstance(each, Mapping):
                    yield from (f".{power}" for power in _powers(each, ""))
        case _:
            yield ""
