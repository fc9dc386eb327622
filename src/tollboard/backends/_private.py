"""What no tool of a session may open: the daemon's own directories, and /proc, which leads anywhere and shows keys.

Told by where a path really leads, and by device and inode: a hard link or a bind mount has another path and the same
file. Blocks; the tools call it on threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

Inode = tuple[int, int]
PROC = Path("/proc")
FRESH_S = 1.0


class Private:
    """The directories that are private, each with all below it."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = tuple(Path(os.path.realpath(directory)) for directory in directories)
        self._known: frozenset[Inode] = frozenset()
        self._known_until = 0.0

    def holds(self, real: Path) -> bool:
        """Whether a real path (no link left in it) is private."""
        places = (real, *real.parents)
        if any(directory in places for directory in (*self._directories, PROC)):
            return True
        ours = {found for directory in self._directories if (found := _inode(directory)) is not None}
        return not ours.isdisjoint(filter(None, map(_inode, places))) if ours else False

    def has_open(self, descriptor: int) -> bool:
        """Whether an open file is private: under another name (a hard link), or put in place after a look."""
        if not self._directories:
            return False
        try:
            if self.holds(Path(os.readlink(f"/proc/self/fd/{descriptor}"))):
                return True
        except OSError:
            pass  # no /proc here: the inodes remain
        found = os.fstat(descriptor)
        return (found.st_dev, found.st_ino) in self._files()

    def is_entry(self, entry: os.DirEntry[str]) -> bool:
        """Whether what lies in a directory is private, without following it; such things are not listed."""
        path = Path(entry.path)
        if path in (*self._directories, PROC):
            return True
        return entry.is_dir(follow_symlinks=False) and bool(self._directories) and self.holds(path)

    def _files(self) -> frozenset[Inode]:
        """Return the files in them; looked up anew once a second, for a search opens thousands."""
        if time.monotonic() >= self._known_until:
            self._known = frozenset(
                found
                for directory in self._directories
                for folder, _, names in os.walk(directory)
                for name in names
                if (found := _inode(Path(folder, name))) is not None
            )
            self._known_until = time.monotonic() + FRESH_S
        return self._known


def _inode(path: Path) -> Inode | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
