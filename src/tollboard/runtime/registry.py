"""Names: which agent has which, and a bounded memory of those that crashed (R18, R35)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from tollboard.errors import AgentDead, AgentExists, AgentNotFound
from tollboard.runtime.machine import Machine

MAX_TOMBSTONES = 1_000


@dataclass(frozen=True, slots=True)
class Tombstone:
    """An agent that crashed. `at`: Unix seconds."""

    name: str
    reason: str
    at: float


class Registry:
    """The names of one runtime. A name that is being started is taken but not found yet."""

    __slots__ = ("_machines", "_starting", "_tombstones")

    def __init__(self) -> None:
        self._machines: dict[str, Machine] = {}
        self._starting: set[str] = set()
        self._tombstones: OrderedDict[str, Tombstone] = OrderedDict()

    def __len__(self) -> int:
        return len(self._machines)

    def __iter__(self) -> Iterator[Machine]:
        return iter(tuple(self._machines.values()))

    def reserve(self, name: str) -> None:
        """Take the name for an agent that is being started. Raises AgentExists."""
        if name in self._machines or name in self._starting:
            raise AgentExists(f"the name {name!r} is taken; stop that agent first or choose another name")
        self._starting.add(name)

    def release(self, name: str) -> None:
        """Give a reserved name back: the start failed."""
        self._starting.discard(name)

    def add(self, machine: Machine) -> None:
        """Make a reserved name findable."""
        self._starting.discard(machine.name)
        self._tombstones.pop(machine.name, None)
        self._machines[machine.name] = machine

    def remove(self, machine: Machine) -> None:
        """Free the name, if this machine has it."""
        if self._machines.get(machine.name) is machine:
            del self._machines[machine.name]

    def bury(self, name: str, reason: str, at: float) -> None:
        """Remember that an agent crashed; the oldest memory goes first."""
        self._tombstones[name] = Tombstone(name, reason, at)
        self._tombstones.move_to_end(name)
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)

    def tombstone(self, name: str) -> Tombstone | None:
        """Return the memory of a crashed agent."""
        return self._tombstones.get(name)

    def find(self, name: str) -> Machine | None:
        """Return the live agent of that name."""
        return self._machines.get(name)

    def get(self, name: str) -> Machine:
        """Return the live agent of that name. Raises AgentDead with the reason, or AgentNotFound."""
        machine = self._machines.get(name)
        if machine is not None:
            return machine
        grave = self._tombstones.get(name)
        if grave is not None:
            raise AgentDead(f"agent {name!r} crashed: {grave.reason}; start it again to go on")
        raise AgentNotFound(f"there is no agent {name!r}")
