"""Editing a text in the person's own editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from tollboard.errors import Invalid


def edit_text(text: str, *, suffix: str) -> str | None:
    """Return the text as it was saved in $VISUAL or $EDITOR (else vi); `None` if the editor reported a failure.

    The file is private to its owner and removed afterwards.
    """
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="tollboard-") as directory:
        file = Path(directory) / f"text{suffix}"
        file.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run([*command, str(file)], check=False)
        except OSError as wrong:
            raise Invalid(
                f"the editor {command[0]!r} cannot be started: {wrong.strerror}; set $EDITOR"
            ) from None
        return file.read_text(encoding="utf-8") if done.returncode == 0 else None
