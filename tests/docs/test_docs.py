"""The documentation is true: every kind, code and setting is described, and the Python in it runs."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tollboard import errors
from tollboard.fleet import tail
from tollboard.fleet.records import FEED_KINDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
OF_ONES_OWN = ("openai:qwen3", "openai:my-model", "openai:any")
"""Models of servers on one's own machine, which every page gives a `base_url`."""
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _described(page: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, (ROOT / "docs" / "reference" / page).read_text()))


def test_every_error_code_is_described() -> None:
    described = _described("errors.md", r"`([a-z_]+)`")
    ours = {code for code, cls in errors.by_code().items() if cls.__module__ == errors.__name__}
    assert ours - described == set()


def test_every_error_class_is_in_the_drawn_tree() -> None:
    drawn = set(re.findall(r"── (\w+)", errors.__doc__ or "")) | {"TollboardError"}
    # Other tests may have made errors of their own in this process.
    ours = {cls.__name__ for cls in errors.by_code().values() if cls.__module__ == errors.__name__}
    assert ours == drawn


def test_every_kind_of_feed_item_is_described() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src/tollboard/fleet").glob("*.py"))
    written = set(re.findall(r"""yield "([a-z_.]+)", \{""", source)) | {tail.MISSED}
    written |= set(re.findall(r"""_tail\.write\([^"]*"([a-z_.]+)",""", source))
    assert written <= set(FEED_KINDS)
    assert _described("feed.md", r"\n\| `([a-z_.]+)` \|") == set(FEED_KINDS)


def test_l11_every_model_that_is_named_exists() -> None:
    known_names = pytest.importorskip("pydantic_ai.models._known_model_names").KnownModelName
    known = set(get_args(known_names.__value__))
    sources = [path for path in (ROOT / "src").rglob("*.py") if "testing" not in path.parts]
    named = {
        (name, path.name)
        for path in (*PAGES, *sources, *(ROOT / "examples").rglob("*.*"))
        if path.suffix in (".md", ".py", ".toml")
        for line in path.read_text().splitlines()
        for name in re.findall(r"\b((?:anthropic|openai|openai-responses|google[a-z-]*):[a-z][\w.-]+)", line)
        if name not in OF_ONES_OWN
    }
    assert named
    unknown = {
        (name, page) for name, page in named if name.replace("openai-responses:", "openai:") not in known
    }
    assert unknown == set()


def _snippets() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, match in enumerate(PYTHON.finditer(page.read_text()), start=1):
            yield f"{page.relative_to(ROOT)}:{number}", match.group(1)


@pytest.mark.parametrize(
    ("place", "code"), [pytest.param(*snippet, id=snippet[0]) for snippet in _snippets()]
)
async def test_python_in_the_documentation_runs(
    place: str, code: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLBOARD_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    compiled = compile(code, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, object] = {"__name__": "documentation"}
    # A limit for what hangs: some of them load the clients of providers, which takes long on a machine that is busy.
    async with asyncio.timeout(240):
        result = eval(compiled, names)
        if result is not None:
            await result


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_claim_about_security_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "explanation" / "security.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert named, "the page names no test"
    assert {name for name in named if f"def {name}(" not in tests} == set()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| claim")]
    assert [row for row in rows if "`test_" not in row] == []
