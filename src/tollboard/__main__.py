"""`python -m tollboard` is the program `tollboard`."""

from __future__ import annotations

import sys

from tollboard.surfaces.cli import main

if __name__ == "__main__":
    sys.exit(main())
