"""A fleet file is code: what it would run, where it sends keys, which guards it lifts; asked about once per content.

`up` calls it before anything is started. What a person has said yes to is kept by its hash in the state directory, with
the path it had there: a file that changes, or is copied elsewhere, is asked about again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tollboard.errors import DaemonError, Invalid
from tollboard.surfaces.cli.output import Cell, Column, Output
from tollboard.surfaces.cli.text import one_line

if TYPE_CHECKING:
    from tollboard.daemon.config import StateDirectory
    from tollboard.fleetfile import Fleet

STORE = "trusted-fleets"
COLUMNS = (Column("NAME"), Column("OPTION"), Column("VALUE", gives="right"))


@dataclass(frozen=True, slots=True)
class Power:
    """An option of a file that gives one of its sessions or pools more rights than it has without it."""

    name: str
    option: str
    value: object
    path: str


def powers_of(fleet: Fleet) -> list[Power]:
    """Return what a person should see before the file is carried out; empty where all its options are plain."""
    return [power for one in (*_of_sessions(fleet), *_of_pools(fleet)) for power in one]


def _of_sessions(fleet: Fleet) -> Iterator[list[Power]]:
    for name, said in fleet.sessions.items():
        yield _powers(name, said.backend, said.path, said.options)


def _of_pools(fleet: Fleet) -> Iterator[list[Power]]:
    for name, said in fleet.pools.items():
        for role in said.size:
            known = said.role(role)
            options = known.merged(said.options, same_backend=known.backend is None)
            label = name if len(said.size) == 1 else f"{name}/{role}"
            yield _powers(label, said.backend_of(role), said.path, options)


def _powers(name: str, backend: str, path: str, options: Mapping[str, object]) -> list[Power]:
    from tollboard.backends import load
    from tollboard.runtime.options import split_options

    own = split_options(dict(options))[1]
    found = load(backend).powers(own)
    return [Power(name, power, own.get(power.partition(".")[0]), path) for power in found]


def show_powers(out: Output, powers: list[Power]) -> None:
    """Print them, with where each session works."""
    if not powers:
        return
    out.beside("this file gives more rights than plain options do:")
    rows = [
        (
            Cell(power.name, "bold"),
            power.option,
            one_line(json.dumps(power.value, default=str, ensure_ascii=False)),
        )
        for power in powers
    ]
    out.table(COLUMNS, rows)
    for path in dict.fromkeys(power.path for power in powers):
        out.beside(f"in {path}")


def ask_once(out: Output, home: StateDirectory, fleet: Fleet, *, yes: bool, can_ask: bool) -> None:
    """Return if the file's content was agreed to before, or is now. Raises Invalid where nobody can be asked."""
    powers = powers_of(fleet)
    if not powers:
        return
    digest = _digest(fleet.file)
    if digest in _known(home):
        return
    if not yes:
        if not can_ask:
            option = powers[0]
            raise Invalid(
                f"{fleet.file!r} gives {option.name!r} the option {option.option!r}, which runs programs, sends keys "
                "elsewhere or lifts guards, and nobody has agreed to its content yet; see it with `tollboard up "
                "--check`, then add --yes"
            )
        show_powers(out, powers)
        typer.confirm("Do you trust this content?", abort=True, err=True)
    _remember(home, digest)


def _digest(file: str) -> str:
    path = os.path.realpath(file)
    return hashlib.sha256(path.encode() + b"\0" + Path(path).read_bytes()).hexdigest()


def _known(home: StateDirectory) -> set[str]:
    try:
        return set((home.path / STORE).read_text().split())
    except (OSError, ValueError):
        return set()


def _remember(home: StateDirectory, digest: str) -> None:
    home.prepare()
    try:
        fd = os.open(home.path / STORE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{digest}\n".encode())
        finally:
            os.close(fd)
    except OSError as wrong:
        raise DaemonError(
            f"what you agreed to cannot be kept in {str(home.path)!r}: {wrong.strerror}"
        ) from None
