"""The built-in tools of the model backend: one directory, nothing outside it, nothing left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.processes import gone
from tollboard.backends._commands import HEAD, TAIL
from tollboard.backends._directory_tools import MAX_ENTRIES, MAX_MATCHES, DirectoryTools, ToolProblem


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[DirectoryTools]:
    work = tmp_path / "work"
    work.mkdir()
    made = DirectoryTools(work)
    yield made
    await made.close()


@pytest.fixture
def work(tmp_path: Path, tools: DirectoryTools) -> Path:
    return tmp_path / "work"


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "a/../../outside", "link", "dirlink/x", "", "a\0b"]
)
async def test_a_path_that_leaves_the_directory_is_refused(
    tools: DirectoryTools, work: Path, path: str
) -> None:
    (work.parent / "outside").write_text("secret")
    (work / "link").symlink_to(work.parent / "outside")
    (work / "dirlink").symlink_to(work.parent)
    for call in (tools.read_file(path), tools.write_file(path, "x"), tools.edit_file(path, "s", "x"),
                 tools.list_files(path), tools.search_files("s", path)):  # fmt: skip
        with pytest.raises(ToolProblem, match=r"outside|empty"):
            await call
    assert (work.parent / "outside").read_text() == "secret"


async def test_an_absolute_path_inside_is_fine(tools: DirectoryTools, work: Path) -> None:
    await tools.write_file(str(work / "a.txt"), "hi")
    assert await tools.read_file("a.txt") == "hi"


async def test_e86_content_is_written_exactly_as_given(tools: DirectoryTools, work: Path) -> None:
    for content in ("", "\r\n\n", "ä 漢 \U0001f600", "no newline at the end"):
        await tools.write_file("deep/er/file.txt", content)
        assert (work / "deep/er/file.txt").read_bytes() == content.encode()


async def test_writing_keeps_the_mode_and_leaves_no_other_file(tools: DirectoryTools, work: Path) -> None:
    (work / "run.sh").write_text("old")
    (work / "run.sh").chmod(0o750)
    await tools.write_file("run.sh", "new")
    assert (work / "run.sh").stat().st_mode & 0o777 == 0o750
    assert [entry.name for entry in work.iterdir()] == ["run.sh"]


async def test_what_cannot_be_encoded_changes_nothing(tools: DirectoryTools, work: Path) -> None:
    (work / "a").write_text("old")
    with pytest.raises(ToolProblem, match="UTF-8"):
        await tools.write_file("a", "\ud800")
    assert (work / "a").read_text() == "old"


async def test_reading_goes_by_lines_and_says_what_is_left(tools: DirectoryTools, work: Path) -> None:
    (work / "a").write_text("".join(f"line {n}\n" for n in range(1, 11)))
    assert await tools.read_file("a", 3, 2) == "line 3\nline 4\n\n[6 more lines: go on with offset=5]"
    with pytest.raises(ToolProblem, match="10 lines; line 11"):
        await tools.read_file("a", 11)


async def test_what_is_no_text_file_is_refused_at_once(tools: DirectoryTools, work: Path) -> None:
    os.mkfifo(work / "fifo")
    (work / "binary").write_bytes(b"a\0b")
    for path, why in (
        ("fifo", "no regular file"),
        (".", "directory"),
        ("binary", "no text"),
        ("none", "No such"),
    ):
        with pytest.raises(ToolProblem, match=why):
            await tools.read_file(path)
    with pytest.raises(ToolProblem, match="no regular file"):
        await tools.write_file("fifo", "x")


async def test_an_edit_must_be_found_once(tools: DirectoryTools, work: Path) -> None:
    (work / "a").write_bytes(b"one two\r\none")
    with pytest.raises(ToolProblem, match="2 times"):
        await tools.edit_file("a", "one", "1")
    with pytest.raises(ToolProblem, match="does not hold"):
        await tools.edit_file("a", "three", "3")
    assert (work / "a").read_bytes() == b"one two\r\none"
    await tools.edit_file("a", "two", "2")
    await tools.edit_file("a", "one", "1", replace_all=True)
    assert (work / "a").read_bytes() == b"1 2\r\n1"


async def test_lists_are_bounded_and_stay_out_of_what_nobody_wrote(tools: DirectoryTools, work: Path) -> None:
    for name in (".git/config", "src/a.py", "src/deep/b.py"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("x")
    assert await tools.list_files() == ".git/\nsrc/"
    assert await tools.list_files(depth=3) == ".git/\nsrc/\nsrc/a.py  1\nsrc/deep/\nsrc/deep/b.py  1"
    for n in range(MAX_ENTRIES):
        (work / f"file{n:05}").touch()
    assert (await tools.list_files()).endswith(f"only the first {MAX_ENTRIES} are listed")


async def test_search_finds_plain_text_and_is_bounded(tools: DirectoryTools, work: Path) -> None:
    (work / "a.py").write_text("x = (a+)+$\nY = 2\n")
    (work / "b.txt").write_text("y = 3\n")
    (work / "c.bin").write_bytes(b"\0y = 3")
    os.mkfifo(work / "fifo")
    assert await tools.search_files("(a+)+$") == "a.py:1: x = (a+)+$"
    assert await tools.search_files("y = ", ignore_case=True) == "a.py:2: Y = 2\nb.txt:1: y = 3"
    assert await tools.search_files("= ", files="*.txt") == "b.txt:1: y = 3"
    assert await tools.search_files("nowhere") == "nothing found"
    (work / "many").write_text("hit\n" * 1000)
    assert len((await tools.search_files("hit")).splitlines()) == MAX_MATCHES + 1


async def test_a_command_runs_in_the_directory_without_input(tools: DirectoryTools, work: Path) -> None:
    told = await tools.run_command("pwd; cat; echo oops >&2; exit 3")
    assert told == f"{work}\noops\n\nExit code 3."


async def test_long_output_keeps_its_head_and_its_tail(tools: DirectoryTools) -> None:
    told = await tools.run_command("echo first; head -c 1000000 /dev/zero | tr '\\0' x; echo; echo last")
    assert told.startswith("first\n")
    assert "last\n" in told
    assert "bytes left out" in told
    assert len(told) < HEAD + TAIL + 200


async def test_s27_commands_see_a_list_of_variables_and_nothing_else(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = DirectoryTools(work, pass_env=["LISTED"])
    for name in (
        "ANTHROPIC_API_KEY",
        "GITHUB_PAT",
        "DATABASE_URL",
        "HARMLESS",
        "SSH_AUTH_SOCK",
        "HTTPS_PROXY",
    ):
        monkeypatch.setenv(name, "http://me:hidden-treasure@x")
    monkeypatch.setenv("LISTED", "seen")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    told = await tools.run_command("env")
    assert "hidden-treasure" not in told
    assert "LISTED=seen" in told
    assert "http_proxy=http://proxy.example:3128" in told
    assert f"PATH={os.environ['PATH']}" in told


@pytest.mark.slow
async def test_a_command_that_takes_too_long_is_ended_with_all_it_started(
    tools: DirectoryTools, work: Path
) -> None:
    told = await tools.run_command("setsid sleep 1000 & echo $! > pid; sleep 1000", timeout_s=1)
    assert told == "It was ended after 1 s."
    assert _none_alive(work)


async def test_what_a_command_left_in_the_background_ends_with_it(tools: DirectoryTools, work: Path) -> None:
    told = await tools.run_command("(setsid sleep 1000 & echo $! > pid); echo done")
    assert told == "done\n\nExit code 0."
    assert _none_alive(work)


async def test_cancelling_ends_the_command(tools: DirectoryTools, work: Path) -> None:
    os.mkfifo(work / "begun")
    running = asyncio.create_task(
        tools.run_command("setsid sleep 1000 & echo $! > pid; echo > begun; sleep 1000")
    )
    await asyncio.to_thread((work / "begun").read_text)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert _none_alive(work)


async def test_cancelling_in_the_middle_of_the_start_ends_the_command(
    tools: DirectoryTools, work: Path
) -> None:
    os.mkfifo(work / "begun")
    before = psutil.Process().children()
    running = asyncio.create_task(
        tools.run_command("setsid sleep 1000 & echo $! > pid; echo > begun; sleep 1000")
    )
    while psutil.Process().children() == before:
        await asyncio.sleep(0)
    # The loop stands still: the command goes on, the call that starts it does not return before it is cancelled.
    (work / "begun").read_text()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert _none_alive(work)


async def test_ending_one_command_leaves_the_other_alone(tools: DirectoryTools, work: Path) -> None:
    os.mkfifo(work / "go")
    slow = asyncio.create_task(tools.run_command("read line < go; echo $line"))
    assert await tools.run_command("echo quick") == "quick\n\nExit code 0."
    await asyncio.to_thread((work / "go").write_text, "on\n")
    assert await slow == "on\n\nExit code 0."


@pytest.mark.parametrize(
    ("command", "timeout_s"), [("", 1), ("  ", 1), ("a\0b", 1), ("true", 0), ("true", 100_000)]
)
async def test_a_command_that_makes_no_sense_is_refused(
    tools: DirectoryTools, command: str, timeout_s: int
) -> None:
    with pytest.raises(ToolProblem):
        await tools.run_command(command, timeout_s)


async def test_a_directory_that_vanished_is_named(tools: DirectoryTools, work: Path) -> None:
    work.rmdir()
    with pytest.raises(ToolProblem, match=str(work)):
        await tools.run_command("true")


def _none_alive(work: Path) -> bool:
    return gone(int((work / "pid").read_text()))
