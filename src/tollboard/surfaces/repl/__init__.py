"""The fleet at a Python prompt: `tollboard repl`, and `%load_ext tollboard.surfaces.repl` in a notebook. Extra `repl`.

shell.py       the prompt: IPython on the loop of the connection
verbs.py       the names one can type
rendering.py   results as text to read, and as HTML for a notebook
"""

from __future__ import annotations

from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """Show results for reading; called by `%load_ext tollboard.surfaces.repl`."""
    from tollboard.surfaces.repl.rendering import register

    register(shell)
