"""What a framework for agents must offer to be measured (W10 to W12), and the work that all of them do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.base import Peer

PROMPT = "Go."
INSTRUCTIONS = "Do what you are asked, with your tools."
DONE = "done"
PATH = "notes/today.md"
Wanted = Sequence[tuple[str, str]]
"""The calls of one response of the model: the tool and the call's id; every call has one argument, a path."""
ONE: tuple[Wanted, ...] = ((("look", "c1"),),)
GUARDED: tuple[Wanted, ...] = ((("save", "c1"),),)

ran = Counter[str]()
"""How often each tool ran in this process."""


def look(path: str) -> str:
    """Look at a file. Nobody is asked."""
    ran["look"] += 1
    return path


def save(path: str) -> str:
    """Save a file. A person has to approve it."""
    ran["save"] += 1
    return path


def looks(turns: int) -> tuple[Wanted, ...]:
    """Return so many responses with one call that nobody is asked about."""
    return tuple((("look", f"l{number}"),) for number in range(turns))


def many(calls: int) -> tuple[Wanted, ...]:
    """Return one response with so many calls that wait."""
    return (tuple(("save", f"c{number}") for number in range(calls)),)


class PausingPeer(Peer):
    """Somebody who runs an agent whose tool calls can wait for a person.

    The model plays a script: the calls of each response, then the word `done`. It has no latency. The agent is made
    once, in `prepare`, as the framework's users would.
    """

    def prepare(self, script: Sequence[Wanted]) -> None:
        """Make the agent: two tools, `look` and `save`, the second guarded, and a model that plays the script."""
        raise NotImplementedError

    async def run(self) -> str:
        """Run it from the prompt to its end; return what it said."""
        raise NotImplementedError

    async def pause(self) -> Any:
        """Run it from the prompt to its pause; return what `resume` and `keep` need."""
        raise NotImplementedError

    async def resume(self, paused: Any) -> str:
        """Approve all that waits, in the process that paused; return what the agent said."""
        raise NotImplementedError

    async def keep(self, paused: Any) -> dict[str, bytes]:
        """Forget the run; return all that another process needs to go on, by name: the size of the state."""
        raise NotImplementedError

    async def restore(self, kept: dict[str, bytes]) -> Any:
        """Take up what was kept, with nothing else from the run that paused; return what `resume` needs."""
        raise NotImplementedError


def size(kept: dict[str, bytes]) -> int:
    """Return how many bytes were kept, names included."""
    return sum(len(name) + len(data) for name, data in kept.items())
