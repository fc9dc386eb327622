"""The pool commands, each against real pools: what they print, what they refuse, what they advise (P14)."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from tests.daemon.process import DaemonProcess
from tests.surfaces.person import UUID, Person
from tollboard.pool.records import Task
from tollboard.surfaces.cli import main, pool_tasks, progress, submission
from tollboard.surfaces.cli.completion import complete_pool
from tollboard.surfaces.cli.task_files import MAX_LINE_BYTES, open_tasks


@pytest.fixture
def p(person: Person) -> Person:
    person.does("pool", "start", "p", "--size", "2", "--backend", "echo")
    return person


def lines(path: Path, *written: object) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in written))
    return str(path)


# -- pools ------------------------------------------------------------------------------------------------------------


def test_p14_the_tour(person: Person, home: Path) -> None:
    assert "no pools yet" in person.types("pool", "list").err
    said = person.types("pool", "start", "trivia", "--size", "3", "--backend", "echo")
    assert said.out == f"trivia is at work: 3 workers (echo, round_robin) in {home / 'src'}\n"
    assert "tollboard pool submit trivia" in said.err
    ref = person.does("pool", "submit", "trivia", "Which is the longest river?").strip()
    assert UUID.fullmatch(ref)
    assert person.does("pool", "wait", "trivia") == "trivia is done: 1 ok, 0 failed\n"
    assert person.does("pool", "poll", "trivia", ref) == "echo: Which is the longest river?\n"
    table = person.does("pool", "results", "trivia").splitlines()
    assert table[0].split() == ["INDEX", "STATUS", "WORKER", "TOOK", "PROMPT", "ANSWER"]
    assert table[1].split()[:3] == ["0", "ok", "trivia-0"]
    assert person.does("pool", "list").splitlines()[1].split() == [
        "trivia", "idle", "3", "0", "0", "1", "0", "round_robin", "echo", str(home / "src"),
    ]  # fmt: skip
    assert person.does("pool", "scale", "trivia", "1") == "trivia has 1 worker\n"
    assert person.does("pool", "stop", "trivia") == "trivia is stopped: 1 done, 0 without an answer\n"
    assert "stopped" in person.does("pool", "list", "--all")
    unsure = person.types("pool", "delete", "trivia")
    assert (unsure.code, "add --yes" in unsure.err, "[y/N]" in unsure.err) == (2, True, False)
    assert person.does("pool", "delete", "trivia", "--yes") == "trivia is gone, with 1 task\n"


def test_p09_p10_p11_everything_a_pool_can_be(person: Person) -> None:
    person.does(
        "pool", "start", "mixed", "-r", "coder=1", "-r", "reviewer=2", "--backend", "echo", "-s", "longest_first",
        "--rate", "5/s", "--burst", "10", "--min", "1", "--max", "4", "--retries", "2", "-o", "delay=0",
    )  # fmt: skip
    view = person.types("pool", "status", "mixed", "--json").json
    assert (view["size"], view["strategy"], view["rate"]) == (
        {"coder": 1, "reviewer": 2},
        "longest_first",
        5.0,
    )
    assert (view["burst"], view["retries"], view["min"]["coder"], view["max"]["reviewer"]) == (10, 2, 1, 4)
    text = person.does("pool", "status", "mixed")
    assert "1 coder, 2 reviewer (scales by itself: 1 to 4)" in text
    assert "5/s, burst 10" in text
    assert text.count(" idle ") == 3
    person.does("pool", "submit", "mixed", "x", "--role", "coder", "--hint", "3")
    assert "'coder', 'reviewer'" in person.types("pool", "submit", "mixed", "x").err
    person.does("pool", "scale", "mixed", "3", "--role", "coder")
    person.does("pool", "start", "some", "-r", "a=1", "-r", "b=2", "--backend", "echo", "--min", "1")
    assert "1 a, 2 b (scales by itself: b 1 to 2)" in person.does("pool", "status", "some")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "0"], "size is 0"),
        (["--size", "-3"], "size is -3"),
        ([], "--size N, or --role ROLE=N"),
        (["--size", "1", "--role", "a=1"], "--size N, or --role ROLE=N"),
        (["--role", "a"], "'a' is not ROLE=N"),
        (["--role", "a=1", "--role", "a=2"], "given twice"),
        (["--size", "1", "--strategy", "best"], "use one of round_robin"),
        (["--size", "1", "--backend", "ech"], "no backend is called 'ech'"),
        (["--size", "1", "--rate", "0"], "rate is '0': it must be above 0"),
        (["--size", "1", "--burst", "3"], "give rate= too"),
        (["--size", "1", "--min", "3", "--max", "2"], "min must not be above max"),
        (["--size", "1", "--path", "/nope"], "does not exist"),
        (["--size", "1", "-o", "delay"], "is not KEY=VALUE"),
    ],
)
def test_bad_input_starts_nothing(person: Person, words: list[str], said: str) -> None:
    backend = [] if "--backend" in words else ["--backend", "echo"]
    failed = person.types("pool", "start", "p", *backend, *words)
    assert failed.code == 2
    assert said in failed.err
    assert person.does("pool", "list", "--all") == ""


def test_a_pool_that_is_not_there_or_was_stopped(p: Person) -> None:
    p.does("pool", "stop", "p")
    for words in (
        ("submit", "p", "x"),
        ("status", "q"),
        ("scale", "p", "2"),
        ("results", "q"),
        ("poll", "q", "r"),
    ):
        failed = p.types("pool", *words)
        assert failed.code == 3
        assert "there is no pool" in failed.err
        assert "tollboard pool list" in failed.err
    assert p.types("pool", "start", "p", "--size", "1", "--backend", "echo").code == 0
    taken = p.types("pool", "start", "p", "--size", "1", "--backend", "echo")
    assert taken.code == 1
    assert "tollboard pool stop NAME" in taken.err


def test_names_are_completed(p: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        params: dict[str, object] = {}  # noqa: RUF012

        def find_root(self) -> Context:
            return self

    assert complete_pool(Context(), "") == [("p", "idle")]
    assert complete_pool(Context(), "x") == []


def test_without_a_command_it_shows_the_help(person: Person) -> None:
    assert "tollboard pool submit reviews --file tasks.jsonl" in person.types("pool").out


# -- submit -----------------------------------------------------------------------------------------------------------


def test_p03_a_file_of_tasks(p: Person, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf"with a byte order mark"\n\n{"prompt": "b", "hint_s": 2}\r\n   \n"last, no newline"'
    )
    assert p.does("pool", "submit", "p", "--file", str(file)) == "3 tasks submitted to p\n"
    assert p.does("pool", "submit", "p", "-f", str(file), "--skip", "2", "--wait").splitlines() == [
        "1 task submitted to p", "p is done: 4 ok, 0 failed",
    ]  # fmt: skip
    prompts = [one["prompt"] for one in p.types("pool", "results", "p", "--json").json]
    assert prompts == ["with a byte order mark", "b", "last, no newline", "last, no newline"]


def test_tasks_from_standard_input(p: Person) -> None:
    said = p.types("pool", "submit", "p", "-", "--json", stdin='"a"\n"b"\n')
    assert (said.json["submitted"], said.json["left_out"], len(said.json["refs"])) == (2, 0, 2)


FAULTY = [
    (b"\xff\n", "it is not UTF-8"),
    (b"hello\n", 'it is not JSON (write "a text" or {"prompt": "a text"})'),
    (b"[1]\n", 'it is neither a text nor an object with "prompt"'),
    (b'{"prompt": ""}\n', '"prompt" must be text that is not empty'),
    (b'{"role": "worker"}\n', '"prompt" must be text that is not empty'),
    (b'{"prompt": "x", "role": "cook"}\n', "role 'cook' is unknown (the pool has 'worker')"),
    (b'{"prompt": "x", "hint_s": -1}\n', '"hint_s" must be a number of seconds, 0 or more'),
    (b'{"prompt": "x", "hint_s": NaN}\n', '"hint_s" must be a number of seconds, 0 or more'),
    (b'{"prompt": "x", "colour": 1}\n', "'colour' is unknown (known are prompt, role, hint_s)"),
    (b'"' + b"x" * (1024 * 1024 + 1) + b'"\n', '"prompt" is longer than 1,048,576 bytes'),
    (b'"' + b"x" * MAX_LINE_BYTES + b'"\n', "it is longer than"),
    (b"[" * 100_000 + b"\n", "it is not JSON"),
]


@pytest.mark.parametrize(("line", "why"), FAULTY, ids=[why for _, why in FAULTY])
def test_a_faulty_line_is_named_and_nothing_is_submitted(
    p: Person, tmp_path: Path, line: bytes, why: str
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(b'"good"\n\n' + line + b'"good too"\n')
    failed = p.types("pool", "submit", "p", "--file", str(file))
    assert failed.code == 2
    assert f"{file}, line 3: {why}" in failed.err
    assert "--keep-going" in failed.err
    assert p.types("pool", "status", "p", "--json").json["submitted"] == 0
    kept = p.types("pool", "submit", "p", "--file", str(file), "--keep-going")
    assert (kept.code, kept.out) == (1, "2 tasks submitted to p, 1 faulty line left out\n")
    assert f"left out: {file}, line 3: {why}" in kept.err


def test_many_faulty_lines_do_not_flood_the_terminal(p: Person, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("faulty\n" * 500)
    said = p.types("pool", "submit", "p", "--file", str(file)).err
    assert "and 480 more" in said
    assert len(said.splitlines()) < 30


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one task as an argument, or JSON lines"),
        (["x", "--file", "y"], "give one task as an argument, or JSON lines"),
        (["--file", "/nope"], "'/nope' cannot be read: No such file"),
        (["--file", "empty"], "empty holds no task"),
        (["--file", "empty", "--role", "a"], "in a file each line has its own"),
        ([""], "the prompt is empty"),
    ],
)
def test_wrong_use_of_submit(p: Person, words: list[str], said: str) -> None:
    Path("empty").touch()
    failed = p.types("pool", "submit", "p", *words)
    assert failed.code == 2
    assert said in failed.err


def test_a_long_file_goes_through_in_batches(
    p: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "BATCH", 40)
    monkeypatch.setattr(pool_tasks, "PAGE", 40)
    file = lines(tmp_path / "tasks.jsonl", *(f"q{n}" for n in range(101)))
    assert p.does("pool", "submit", "p", "--file", file, "--wait").endswith("p is done: 101 ok, 0 failed\n")
    found = p.types("pool", "results", "p", "--json").json
    assert [one["prompt"] for one in found] == [f"q{n}" for n in range(101)]
    assert len(p.does("pool", "results", "p", "--after", "99").splitlines()) == 2


def test_an_error_in_the_middle_of_a_batch_counts_what_was_taken_of_it(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.does(
        "pool", "start", "p", "--size", "1", "--max-queued", "2", "--backend", "echo", "-o", "delay=1000"
    )
    file = lines(tmp_path / "tasks.jsonl", *"abcdef")
    submit, taken = person.board.pools.submit, list[object]()

    async def stops_when_it_is_full(*args: object, **more: object) -> object:
        if taken:
            await person.board.pools.stop("p")
        taken.extend(found := await submit(*args, **more))
        return found

    monkeypatch.setattr(person.board.pools, "submit", stops_when_it_is_full, raising=False)
    failed = person.types("pool", "submit", "p", "--file", file)
    assert failed.code == 3
    assert f"{len(taken)} of 6 tasks were submitted before" in failed.err
    assert f"tollboard pool submit p --file {file} --skip {len(taken)}" in failed.err
    assert 0 < len(taken) < 6


def test_an_error_in_the_middle_says_how_to_go_on(
    p: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "BATCH", 2)
    file = lines(tmp_path / "tasks.jsonl", *"abcdef")
    submit, calls = p.board.pools.submit, []

    async def stops_in_between(*args: object, **more: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            await p.board.pools.stop("p")
        return await submit(*args, **more)

    monkeypatch.setattr(p.board.pools, "submit", stops_in_between, raising=False)
    failed = p.types("pool", "submit", "p", "--file", file)
    assert failed.code == 3
    assert "4 of 6 tasks were submitted before" in failed.err
    assert f"tollboard pool submit p --file {file} --skip 4" in failed.err


# -- wait, results, cancel ------------------------------------------------------------------------------------------


def test_p05_wait_with_a_limit(person: Person) -> None:
    person.does("pool", "start", "slow", "--size", "1", "--backend", "echo", "-o", "delay=60")
    refs = [person.does("pool", "submit", "slow", prompt).strip() for prompt in "ab"]
    late = person.types("pool", "wait", "slow", "--timeout", "0.05")
    assert (late.code, late.out) == (5, "slow is not done: 0 ok, 0 failed, 1 running, 1 queued\n")
    assert person.does("pool", "poll", "slow", refs[0]) == "running on slow-0\n"
    assert person.does("pool", "poll", "slow", refs[1]).startswith("queued")
    assert person.does("pool", "cancel", "slow", refs[1]) == f"task {refs[1]} is withdrawn\n"
    assert person.types("pool", "cancel", "slow", refs[0]).code == 1
    assert person.types("pool", "poll", "slow", refs[1]).code == 1
    assert "working" in person.does("pool", "list")


def test_p06_failed_tasks_are_shown(person: Person) -> None:
    person.does("pool", "start", "bad", "--size", "1", "--backend", "echo", "-o", "fail=no luck")
    person.does("pool", "submit", "bad", "x")
    waited = person.types("pool", "wait", "bad")
    assert waited.out == "bad is done: 0 ok, 1 failed\n"
    assert "tollboard pool results bad --failed" in waited.err
    assert "no luck" in person.does("pool", "results", "bad", "--failed")
    person.does("pool", "start", "good", "--size", "1", "--backend", "echo")
    person.does("pool", "submit", "good", "x", "--wait")
    assert person.types("pool", "results", "good", "--failed").out == ""


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_results_as_csv_hold_what_agents_wrote(p: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    nasty = 'a "quoted", line\nand\r\nanother ü \x1b[31m'
    p.does("pool", "submit", "p", nasty, "--wait")
    header, row = csv.reader(io.StringIO(p.does("pool", "results", "p", "--csv"), newline=""))
    found = dict(zip(header, row, strict=True))
    assert (found["index"], found["status"], found["prompt"], found["text"]) == (
        "0",
        "ok",
        nasty,
        f"echo: {nasty}",
    )
    assert "\x1b" not in p.does("pool", "results", "p"), "a table drives no terminal"
    shown = Screen()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", shown)
        assert main(("pool", "results", "p", "--csv")) == 0
    assert "\\x1b[31m" in shown.getvalue()
    assert "\x1b" not in shown.getvalue(), "nor do values on a terminal"
    narrow = io.TextIOWrapper(raw := io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", narrow)
        assert main(("pool", "results", "p", "--csv")) == 0
    assert b"another \\xfc" in raw.getvalue()
    assert p.types("pool", "results", "p", "--csv", "--json").code == 2


def test_no_results_yet(p: Person) -> None:
    assert p.types("pool", "results", "p", "--json").json == []
    assert "nothing yet" in p.types("pool", "results", "p").err


# -- a terminal ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_p14_a_live_bar_on_a_terminal_and_ctrl_c(home: Path, tmp_path: Path) -> None:
    with DaemonProcess(home):
        command = [sys.executable, "-m", "tollboard", "--home", str(home), "pool"]
        run = subprocess.run
        run(
            [*command, "start", "p", "--size", "1", "--backend", "echo", "-o", "delay=60"],
            check=True,
            cwd=tmp_path,
        )
        run([*command, "submit", "p", "-"], input=b'"a"\n"b"\n', check=True)
        main, its = pty.openpty()
        with subprocess.Popen(
            [*command, "wait", "p"], stdin=its, stdout=its, stderr=its, start_new_session=True
        ) as it:
            os.close(its)
            shown = read_until(main, b"1 queued")
            it.send_signal(2)
            rest = read_until(main, b"tollboard pool status p")
            assert it.wait(20) == 130
        os.close(main)
        assert "0/2" in shown
        assert "Traceback" not in shown + rest


def read_until(fd: int, wanted: bytes) -> str:
    """Read from a terminal until something is shown, colours left out."""
    seen = b""
    while wanted not in re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", seen):
        assert select.select([fd], [], [], 30)[0], seen
        seen += os.read(fd, 4096)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())


# -- size --------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_lines_are_never_in_memory_at_once(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    with file.open("w") as written:
        for number in range(100_000):
            written.write(json.dumps({"prompt": f"question number {number} " + "x" * 100}) + "\n")
    tracemalloc.start()
    with open_tasks(file, {"worker"}) as tasks:
        assert sum(isinstance(one, Task) for one in tasks) == 100_000
        assert sum(len(batch) for batch in submission._batches(tasks, 10)) == 99_990
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * 1024 * 1024


def test_progress_is_shown_where_there_is_no_terminal(
    p: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "BATCH", 2)
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    said = p.types("pool", "submit", "p", "--file", lines(tmp_path / "tasks.jsonl", *"abcdef")).err
    assert re.search(
        r"submitting: 2 of 6, 2 submitted .*\nsubmitting: 4 of 6, .*\nsubmitting: 6 of 6, ", said
    )
