"""Fleets written down: sessions, pools and what they share, in a TOML file, and how a board is made to be so.

    fleet = Fleet.read("fleet.toml")
    async with Client.connect() as board:
        for step in await up(board, fleet):
            print(step.action, step.name)

`reading` makes a `Fleet` of a file, `shared` puts definitions in where they are named, `plan` compares a fleet with
what runs, `carrying` starts, scales and stops.
"""

from __future__ import annotations

from tollboard.fleetfile.carrying import Downed, carry_out, down, up
from tollboard.fleetfile.fleet import Fleet
from tollboard.fleetfile.plan import Action, Difference, Step, plan

__all__ = ["Action", "Difference", "Downed", "Fleet", "Step", "carry_out", "down", "plan", "up"]
