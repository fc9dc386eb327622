"""From a TOML file to a `Fleet`: strict, and with every fault that can be found without a daemon, each with its table.

First what stands for itself (the shared definitions, `[defaults]`), then, if that is right, the sessions and pools
made of it: so that a mistake in what is shared is not told of every session.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import tollboard.backends as built_in
from tollboard.errors import InvalidFleet, TollboardError
from tollboard.fleet.board import DEFAULT_BACKEND
from tollboard.fleet.pools.asking import POOL_OURS, ask
from tollboard.fleet.pools.board import SETTINGS
from tollboard.fleet.pools.records import PoolSpec
from tollboard.fleet.records import SessionDefinition
from tollboard.fleet.roster import BackendDirectory
from tollboard.fleet.settings import FleetSettings, check_options, check_session_name
from tollboard.fleetfile.fleet import Fleet
from tollboard.fleetfile.shared import KINDS, Shared, Table
from tollboard.pool.opening import options_of
from tollboard.pool.role import Role
from tollboard.runtime.options import RESERVED

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 40
"""Tables within tables: less than what an operation takes."""
DEFAULTS, SESSIONS, POOLS = "defaults", "sessions", "pools"
KNOWN = (DEFAULTS, *KINDS, SESSIONS, POOLS)
POOL_KEYS = tuple(key for key in SETTINGS if key not in ("role", "roles"))
ROLE_KEYS = ("size", "prompt", "model", "backend")
PATHS = ("cli_path", "add_dirs")
"""Options that are paths: the daemon works elsewhere, so they are made absolute."""
_STAND_INS: Mapping[str, Table] = {"model": {"model": "of each session"}}
"""What a backend wants of every session, and defaults need not have."""


def read_fleet(path: str | os.PathLike[str], backends: BackendDirectory | None = None) -> Fleet:
    """See `Fleet.read`."""
    file = Path(os.path.expanduser(path))
    reader = _Reader(_load(file), str(path), file.absolute().parent, backends or built_in)
    reader.check_shared()
    reader.stop_if_faulty()
    sessions, pools = dict(reader.sessions()), dict(reader.pools())
    reader.stop_if_faulty()
    return Fleet(str(path), sessions, pools)


def _load(file: Path) -> Table:
    def wrong(what: str) -> InvalidFleet:
        return InvalidFleet(str(file), what)

    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise wrong("there is no such file; write one, or give another path") from None
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise wrong(f"it cannot be read: {why}") from None
    if len(data) > MAX_BYTES:
        raise wrong(f"it has more than {MAX_BYTES:,} bytes; is it a fleet file?")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as exc:
        raise wrong(f"it is not UTF-8 (byte {exc.start}); save it as such") from None
    except RecursionError:
        raise wrong("it is nested too deeply") from None
    except ValueError as exc:
        raise wrong(f"it is not TOML: {exc}") from None


class _Reader:
    """One reading of a file: what it says, and what was found wrong so far."""

    def __init__(self, tables: Table, file: str, directory: Path, backends: BackendDirectory) -> None:
        self._backends = backends
        self._file = file
        self._directory = directory
        self._faults: list[str] = []
        self._tables = {kind: self._section(tables, kind) for kind in (*KINDS, SESSIONS, POOLS)}
        given = tables.get(DEFAULTS, {})
        self._defaults: Table = given if isinstance(given, dict) else {}
        if not isinstance(given, dict):
            self._faults.append("`defaults` must be a table, [defaults]")
        if unknown := [key for key in tables if key not in KNOWN]:
            self._faults.append(f"{unknown[0]!r} is unknown; a fleet file has: {', '.join(KNOWN)}")
        if not self._tables[SESSIONS] and not self._tables[POOLS] and not self._faults:
            self._faults.append("it names no session and no pool; write one, as in [sessions.api]")
        self._shared = Shared(self._tables)

    def stop_if_faulty(self) -> None:
        """Raise InvalidFleet if anything was found wrong."""
        if self._faults:
            raise InvalidFleet(self._file, *self._faults)

    def _section(self, tables: Table, kind: str) -> Mapping[str, Table]:
        """Return the tables `[kind.NAME]`."""
        given = tables.get(kind, {})
        if not isinstance(given, dict):
            self._faults.append(f"`{kind}` must hold tables, each with a name: [{kind}.NAME]")
            return {}
        for name, table in given.items():
            if not isinstance(table, dict):
                self._faults.append(f"[{kind}] has {name!r}, which is no table: write [{kind}.NAME]")
        return {name: table for name, table in given.items() if isinstance(table, dict)}

    def _attempt(self, where: str, work: Callable[[], Any]) -> Any:
        """Return what the work returns; what is wrong with it becomes a fault of that table."""
        try:
            return work()
        except (TollboardError, ValueError) as wrong:
            self._faults.append(f"[{where}]: {wrong}")
            return None

    # -- what stands for itself

    def check_shared(self) -> None:
        """Look at the shared definitions and the defaults."""
        for kind in KINDS:
            for name, table in self._tables[kind].items():
                self._attempt(f"{kind}.{name}", partial(self._check_one, kind, name, table))
        self._attempt(DEFAULTS, self._check_defaults)

    def _check_one(self, kind: str, name: str, table: Table) -> None:
        _check_plain(table)
        self._shared.check(kind, name)

    def _check_defaults(self) -> None:
        _check_plain(self._defaults)
        if self._defaults:
            backend, _, options = self._split(self._defaults)
            own = check_options(self._shared.fill(options), POOL_OURS)
            self._backends.load(backend).check_options({**_STAND_INS.get(backend, {}), **own})

    # -- what is made of it

    def sessions(self) -> Iterator[tuple[str, SessionDefinition]]:
        """Yield the sessions that nothing is wrong with."""
        for name, given in self._tables[SESSIONS].items():
            found = self._attempt(f"{SESSIONS}.{name}", partial(self._session, name, given))
            if found is not None:
                yield name, found

    def _session(self, name: str, given: Table) -> SessionDefinition:
        check_session_name(name)
        _check_plain(given)
        backend, path, options = self._split(self._with_defaults(given))
        options = self._shared.fill(options)
        self._backends.load(backend).check_options(check_options(options))
        return SessionDefinition(name, path, backend, options)

    def pools(self) -> Iterator[tuple[str, PoolSpec]]:
        """Yield the pools that nothing is wrong with."""
        for name, given in self._tables[POOLS].items():
            found = self._attempt(f"{POOLS}.{name}", partial(self._pool, name, given))
            if found is not None:
                yield name, found

    def _pool(self, name: str, given: Table) -> PoolSpec:
        _check_plain(given)
        rest = self._with_defaults(given)
        size, roles = _size(rest.pop("size", None), rest.pop("roles", None))
        asked = {key: rest.pop(key) for key in POOL_KEYS if key in rest}
        _check_text("strategy", asked.get("strategy", ""))
        backend, path, options = self._split(rest)
        options = self._shared.fill(options)
        if roles is not None:
            asked["roles"] = {role: self._role(role, table) for role, table in roles.items()}
        spec = ask(name, size, path=path, backend=backend, asked={**asked, **options})
        retried = spec.retries > 0
        for role in spec.size:
            said = spec.role(role)
            used = self._backends.load(spec.backend_of(role))
            own = options_of(role, said, used, options, retried=retried)
            used.check_options(check_options(own, POOL_OURS))
        return spec

    def _role(self, name: str, given: object) -> Role | int:
        """Return a role: a number of workers, or a table with what is the role's own."""
        if isinstance(given, int) and not isinstance(given, bool):
            return given
        if not isinstance(given, dict):
            raise ValueError(f"role {name!r} is {given!r:.60}; it is a number of workers, or a table")
        own = {key: given[key] for key in ROLE_KEYS if key in given}
        rest = {key: value for key, value in given.items() if key not in own}
        model = {"model": own.pop("model")} if "model" in own else {}
        return Role(**own, options=self._shared.fill({**model, **self._absolute_paths(rest)}))

    def _with_defaults(self, given: Table) -> Table:
        """Return a table with what the defaults say where it says nothing.

        A table with another backend than the defaults takes from them only what every backend has.
        """
        usual = self._defaults.get("backend", DEFAULT_BACKEND)
        if given.get("backend", usual) == usual:
            return {**self._defaults, **given}
        return {
            **{key: value for key, value in self._defaults.items() if key == "path" or key in RESERVED},
            **given,
        }

    def _split(self, given: Table) -> tuple[str, str, Table]:
        """Return backend, real path and the options."""
        options = dict(given)
        backend = _check_text("backend", options.pop("backend", DEFAULT_BACKEND))
        path = FleetSettings().check_path(self._absolute(_check_text("path", options.pop("path", "."))))
        return backend, path, self._absolute_paths(options)

    def _absolute_paths(self, options: Table) -> Table:
        """Return the options with those that are paths made absolute."""
        found = dict(options)
        for key in PATHS:
            if isinstance(value := options.get(key), str):
                found[key] = self._absolute(value)
            elif isinstance(value, list):
                found[key] = [self._absolute(item) if isinstance(item, str) else item for item in value]
        return found

    def _absolute(self, path: str) -> str:
        return os.path.join(self._directory, os.path.expanduser(path)) if path else path


def _check_text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is {value!r:.60}; it must be text")
    return value


def _size(size: object, roles: object) -> tuple[int | None, Table | None]:
    if (size is None) == (roles is None):
        raise ValueError(
            "say how many workers: size = 4, or for each role, roles = {coder = 1, reviewer = 2}"
        )
    if size is None:
        if not isinstance(roles, dict):
            raise ValueError(
                f"roles is {roles!r:.60}; it says how many of each, as in {{coder = 1, reviewer = 2}}"
            )
        return None, roles
    if isinstance(size, bool) or not isinstance(size, int):
        raise ValueError(f"size is {size!r:.60}; it must be a whole number")
    return size, None


def _check_plain(table: Table) -> None:
    """Raise ValueError for what TOML has and options cannot hold: dates, numbers that are not finite, endless depth."""
    todo: list[tuple[str, Any, int]] = [("", table, 0)]
    while todo:
        where, value, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}; make it flatter")
        match value:
            case dict():
                todo.extend(
                    (f"{where}.{key}" if where else key, item, depth + 1) for key, item in value.items()
                )
            case list():
                todo.extend((where, item, depth + 1) for item in value)
            case float() if not math.isfinite(value):
                raise ValueError(f"{where} is {value}; numbers must be finite")
            case str() | bool() | int() | float():
                pass
            case _:
                raise ValueError(f"{where} is a date or a time; write it as text, in quotes")
