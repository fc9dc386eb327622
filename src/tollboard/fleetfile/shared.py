"""Definitions that several tables of a fleet file use by name: models, guards, MCP servers, sub-agents.

Where an option may hold a definition, it may hold a name instead. What stands in the table that names it is nearer, and
replaces a key of the definition whole. Sub-agents may name sub-agents, but not round a circle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tollboard.backends.model import check_model_option
from tollboard.fleet.secrets import refuse_secrets
from tollboard.ids import check_name

Table = dict[str, Any]

MODELS, GUARDS, SERVERS, SUB_AGENTS = "models", "guards", "mcp_servers", "sub_agents"
KINDS = (MODELS, GUARDS, SERVERS, SUB_AGENTS)
MODEL_KEYS = ("model", "settings", "base_url", "env")
OF_SESSION = ("base_url", "env")
"""What all agents of one session share."""
MAX_AGENTS = 1_000
"""Sub-agents of one session, counted each time one is named."""
MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class _Agent:
    """A table with its names replaced, how many agents it stands for, and the shared models that it uses."""

    table: Table
    count: int
    models: frozenset[str]


class Shared:
    """What the tables `[models.NAME]`, `[guards.NAME]`, `[mcp_servers.NAME]` and `[sub_agents.NAME]` say."""

    def __init__(self, tables: Mapping[str, Mapping[str, Table]]) -> None:
        self._tables = {kind: tables.get(kind, {}) for kind in KINDS}
        self._agents: dict[str, _Agent] = {}

    def check(self, kind: str, name: str) -> None:
        """Raise ValueError, or a TollboardError, for a definition that nobody could use."""
        check_name(name)
        given = self._tables[kind][name]
        match kind:
            case "models":
                _check_model(given)
            case "guards":
                check_model_option("guards", given)
            case "mcp_servers":
                check_model_option("mcp_servers", {name: given})
                refuse_secrets(given)
            case _:
                check_model_option("sub_agents", [self._sub_agent(name).table])

    def fill(self, given: Table) -> Table:
        """Return the options of a session with every name replaced. Raises ValueError."""
        agent = self._fill(given, (), 0)
        found = agent.table
        servers = found.get("mcp_servers")
        if isinstance(servers, list):
            found["mcp_servers"] = {_text(name): self._named(SERVERS, name) for name in servers}
        for name in sorted(agent.models):
            model = self._tables[MODELS][name]
            for key in OF_SESSION:
                if key in model and model[key] != found.get(key):
                    raise ValueError(
                        f"a sub-agent uses [models.{name}], whose {key} is not that of the session; all agents of a "
                        "session share one: use that model for the session too"
                    )
        return found

    def _fill(self, given: Table, above: tuple[str, ...], depth: int) -> _Agent:
        """Return a table with its names replaced; it is the session's own at depth 0."""
        if depth > MAX_DEPTH:
            raise ValueError(f"its sub-agents go deeper than {MAX_DEPTH} levels; make them flatter")
        found, models = dict(given), set()
        name = given.get("model")
        if isinstance(name, str) and (model := self._tables[MODELS].get(name)) is not None:
            models.add(name)
            inherited = {key: value for key, value in model.items() if depth == 0 or key not in OF_SESSION}
            found = {**inherited, **given, "model": model["model"]}
        if isinstance(guards := given.get("guards"), str):
            found["guards"] = self._named(GUARDS, guards)
        count = 1
        if isinstance(below := given.get("sub_agents"), list):
            agents = [self._below(each, above, depth + 1) for each in below]
            found["sub_agents"] = [agent.table for agent in agents]
            count += sum(agent.count for agent in agents)
            models |= {name for agent in agents for name in agent.models}
        if count > MAX_AGENTS:
            raise ValueError(f"it has more than {MAX_AGENTS:,} sub-agents below it; leave some out")
        return _Agent(found, count, frozenset(models))

    def _below(self, given: object, above: tuple[str, ...], depth: int) -> _Agent:
        if isinstance(given, str):
            return self._sub_agent(given, above, depth)
        if isinstance(given, dict):
            return self._fill(given, above, depth)
        raise ValueError(f"sub_agents has {given!r:.60}; each is the name of a [sub_agents.NAME], or a table")

    def _sub_agent(self, name: str, above: tuple[str, ...] = (), depth: int = 1) -> _Agent:
        if name in above:
            circle = " → ".join((*above[above.index(name) :], name))
            raise ValueError(f"its sub-agents lead back to themselves: {circle}; take one of them out")
        if name not in self._agents:
            given = self._named(SUB_AGENTS, name)
            if given.get("name", name) != name:
                raise ValueError(
                    f"[sub_agents.{name}] has another name, {given['name']!r:.60}; leave `name` out"
                )
            self._agents[name] = self._fill({**given, "name": name}, (*above, name), depth)
        return self._agents[name]

    def _named(self, kind: str, name: object) -> Table:
        tables = self._tables[kind]
        if not isinstance(name, str) or name not in tables:
            known = ", ".join(tables) or "none"
            raise ValueError(
                f"there is no [{kind}.{name}]; write one, or name one of those there are: {known}"
            )
        return tables[name]


def _check_model(given: Table) -> None:
    if "model" not in given:
        raise ValueError("it has no model; say which, as in model = 'anthropic:claude-sonnet-5-5'")
    if unknown := [key for key in given if key not in MODEL_KEYS]:
        raise ValueError(f"{unknown[0]!r} is unknown; a model has: {', '.join(MODEL_KEYS)}")
    for key, value in given.items():
        try:
            check_model_option(key, value)
        except ValueError as wrong:
            raise ValueError(f"{key} {wrong}") from None
    refuse_secrets(given)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"mcp_servers has {value!r:.60}; each is the name of a [mcp_servers.NAME]")
    return value
