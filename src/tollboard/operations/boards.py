"""What the operations run on: the verbs of sessions and those of pools, in the daemon or over its socket."""

from __future__ import annotations

from dataclasses import dataclass

from tollboard.fleet.board import Board
from tollboard.fleet.pools.board import PoolBoard


@dataclass(frozen=True, slots=True)
class Boards:
    """The boards of one fleet."""

    fleet: Board
    pools: PoolBoard
