"""What the daemon does about memory and the garbage collector."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Tells when the collector was told to leave what there is alone, and how much that was, then lives on as the daemon.
DAEMON = """
import gc, sys
from tollboard.daemon.__main__ import main

real = gc.freeze
def freeze():
    real()
    print(gc.get_freeze_count(), "tollboard.surfaces.http" in sys.modules, flush=True)

gc.freeze = freeze
sys.exit(main(["--home", sys.argv[1]]))
"""


def test_the_collector_passes_over_what_was_there_before_the_first_turn(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(home)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as daemon:
        assert daemon.stdout is not None
        try:
            count, complete = daemon.stdout.readline().split()
            assert int(count) > 10_000
            assert complete == "True"
        finally:
            daemon.terminate()
        assert daemon.wait(30) == 0
