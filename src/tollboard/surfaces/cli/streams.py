"""The standard streams, as whoever starts the program leaves them: one that is closed, one that cannot be written."""

from __future__ import annotations

import errno
import os
import sys

from tollboard.surfaces.cli.failures import FAILED, complain, forget
from tollboard.surfaces.cli.output import Output

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def open_closed() -> None:
    """Open what is closed of the three onto nothing.

    Otherwise what is opened next gets its number: the daemon's socket would be standard output to whatever is started.
    """
    if all(getattr(sys, name) is not None for name, _ in _STREAMS):
        return
    while (number := os.open(os.devnull, os.O_RDWR)) < len(_STREAMS):
        os.set_inheritable(number, True)
    os.close(number)
    for number, (name, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def report_failed(failed: OSError, out: Output) -> int:
    """Say what could not be read or written, and return the exit code. Raises it again when it does not say what."""
    if failed.filename is not None:
        return complain(out, "error", f"{str(failed.filename)!r}: {failed.strerror}", "", FAILED)
    if failed.errno not in _UNWRITABLE:
        raise failed
    forget(sys.stdout)
    what = f"standard output cannot be written: {failed.strerror}"
    advice = "what was asked for may have been done all the same: look before you repeat it"
    return complain(Output(), "error", what, advice, FAILED)
