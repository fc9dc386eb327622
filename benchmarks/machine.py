"""What the run was made on."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib import metadata
from pathlib import Path


def describe() -> dict[str, str]:
    """Return the machine and the versions, in words."""
    versions = [f"Tollboard {_version('tollboard')}", f"SQLite {sqlite3.sqlite_version}"]
    versions += versions_of("autogen-core", "pykka")
    return {
        "Processor": f"{os.cpu_count()} x {_cpu_model()}",
        "Memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "System": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}, asyncio's own loop",
        "Versions": ", ".join(versions),
    }


def versions_of(*names: str) -> list[str]:
    """Return each package with its version."""
    return [f"{name} {_version(name)}" for name in names]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
