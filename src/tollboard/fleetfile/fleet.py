"""A fleet as it was written down: the sessions and pools that are to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike

from tollboard.fleet.pools.records import PoolSpec
from tollboard.fleet.records import SessionDefinition
from tollboard.fleet.roster import BackendDirectory

FILE = "fleet.toml"
"""What a fleet file is called unless one says otherwise."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The sessions and pools of one file, with every name in it replaced by what it stands for."""

    file: str
    sessions: Mapping[str, SessionDefinition]
    pools: Mapping[str, PoolSpec]

    @classmethod
    def read(cls, path: str | PathLike[str] = FILE, *, backends: BackendDirectory | None = None) -> Fleet:
        """Return the fleet of a file; paths in it are relative to it. Asks no daemon and starts nothing.

        `backends` are those the board has, unless they are the built-in ones. Raises InvalidFleet, with everything that
        can be found wrong without a daemon.
        """
        from tollboard.fleetfile.reading import read_fleet

        return read_fleet(path, backends)
