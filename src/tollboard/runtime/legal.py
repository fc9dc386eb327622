"""What can be asked of an agent, and in which of its phases: the table that `machine.py` obeys."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from tollboard.runtime.status import IDLE, PROCESSING, STOPPING, Phase


class Input(Enum):
    """What can be asked of a machine."""

    PROMPT = "prompt"
    OWN_TURN = "own turn"
    NOTIFY = "notify"
    INTERRUPT = "interrupt"
    CANCEL = "cancel"
    HALT = "halt"
    RESUME = "resume"
    RESET = "reset"
    DRAIN = "drain"
    STOP = "stop"


LIVE = (IDLE, PROCESSING)
LEGAL: Mapping[Input, tuple[Phase, ...]] = {
    Input.PROMPT: LIVE,
    Input.OWN_TURN: LIVE,
    Input.NOTIFY: LIVE,
    Input.INTERRUPT: LIVE,
    Input.CANCEL: LIVE,
    Input.HALT: LIVE,
    Input.RESUME: LIVE,
    Input.RESET: (IDLE,),
    Input.DRAIN: (IDLE, PROCESSING, STOPPING),
    Input.STOP: (IDLE, PROCESSING, STOPPING),
}
"""Which inputs are legal in which phase; everything else is refused with one error that names both."""
