"""A value: something that an agent left running beside its turns."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """Something that runs beside the turns. `kind` is `command`, `agent` or the backend's own word for it.

    `what` tells a person what it is, `since` is in Unix seconds, `ref` names the request whose turn started it.
    """

    id: str
    kind: str
    what: str = field(repr=False)
    since: float
    ref: str = ""
