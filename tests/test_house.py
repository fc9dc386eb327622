"""The house rules of CONTRIBUTING.md, held by reading the source: sizes, names, docstrings, borders, broad excepts."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "tollboard"
FILES = {path.relative_to(SRC).as_posix(): path for path in sorted(SRC.rglob("*.py"))}

MAX_FILE_LINES = 700
MAX_FUNCTION_LINES = 90
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py", "manager.py"}

# Where a failure of somebody else's code must not become ours. A new entry needs its reason beside it.
BROAD_EXCEPT_ALLOWED = {
    "runtime/callbacks.py",  # user code
    "runtime/busy.py",  # a backend's stream
    "runtime/telemetry.py",  # attached handlers
    "runtime/supervisor.py",  # the last net under an agent
    "fleet/recovery.py",  # a backend that cannot bring one session back must not keep the others down
    "fleet/pools/recovery.py",  # nor one pool
    "backends/_model_turn.py",  # a model's client
    "backends/_mcp_servers.py",  # somebody else's program
    "subagents/calls.py",  # tools
    "subagents/run.py",  # a model's client, observers
    "subagents/summaries.py",  # a model's client: whatever it was, the conversation is still whole
    "store/writer.py",  # one bad statement must not stop the thread
}

# Alembic calls these; the file's docstring says what they do.
MIGRATIONS = "store/migrations/"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree_of(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def functions(name: str) -> Iterator[Function]:
    return (node for node in ast.walk(tree_of(name)) if isinstance(node, Function))


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Tell whether a handler catches everything; BaseException may be caught to clean up and raise again."""
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {node.id if isinstance(node, ast.Name) else "" if node else "BaseException" for node in caught}
    last = handler.body[-1]
    raises_again = isinstance(last, ast.Raise) and last.exc is None
    return "Exception" in names or ("BaseException" in names and not raises_again)


def imported_roots(name: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: import by the full name"
            if node.module == "tollboard":
                found |= {f"tollboard.{alias.name}" for alias in node.names}
            else:
                found.add(node.module or "")
    return found


def test_there_is_source_to_read() -> None:
    assert "__init__.py" in FILES


@pytest.mark.parametrize("name", FILES)
def test_file_opens_with_a_docstring(name: str) -> None:
    assert ast.get_docstring(tree_of(name)), f"{name}: say in a sentence what lives here"


@pytest.mark.parametrize("name", FILES)
def test_file_is_short_and_named_by_a_noun(name: str) -> None:
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{name} has {lines} lines"
    assert FILES[name].name not in FORBIDDEN_NAMES


@pytest.mark.parametrize("name", FILES)
def test_functions_are_short(name: str) -> None:
    long = {
        f"{name}:{f.lineno} {f.name}": size
        for f in functions(name)
        if (size := (f.end_lineno or f.lineno) - f.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert not long


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith(MIGRATIONS)])
def test_public_functions_and_classes_have_docstrings(name: str) -> None:
    silent = [
        f"{name}:{node.lineno} {node.name}"
        for node in tree_of(name).body
        if isinstance(node, Function | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not silent


@pytest.mark.parametrize("name", [n for n in FILES if n not in BROAD_EXCEPT_ALLOWED])
def test_nothing_catches_everything(name: str) -> None:
    broad = [
        f"{name}:{node.lineno}"
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.ExceptHandler) and is_broad(node)
    ]
    assert not broad, "catch what you expect; see BROAD_EXCEPT_ALLOWED"


@pytest.mark.parametrize("name", FILES)
def test_nothing_sleeps_on_a_thread(name: str) -> None:
    sleeps = [
        f"{name}:{node.lineno}"
        for node in ast.walk(tree_of(name))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep")
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and "sleep" in {a.name for a in node.names}
        )
    ]
    assert not sleeps, "wait on a condition, not on time"


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("runtime/")])
def test_runtime_imports_only_the_standard_library_and_the_ground_floor(name: str) -> None:
    ground = ("tollboard.runtime", "tollboard.errors", "tollboard.ids", "tollboard.clock")
    strangers = {
        module
        for module in imported_roots(name)
        if module.partition(".")[0] not in sys.stdlib_module_names and not module.startswith(ground)
    }
    assert not strangers


@pytest.mark.slow
def test_imports_point_downwards_only() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
