"""Fleet files: what they may say, and what is said of those that cannot be used."""

from __future__ import annotations

import contextlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollboard.errors import InvalidFleet
from tollboard.fleet.pools.records import PoolSpec
from tollboard.fleet.records import SessionDefinition
from tollboard.fleetfile import Fleet
from tollboard.fleetfile.plan import differences_of_pools

WHOLE = """
[defaults]
path = "src"
backend = "model"
model = "main"
watchdog_s = 60

[models.main]
model = "openai:qwen3"
base_url = "http://127.0.0.1:11434/v1"
settings = {temperature = 0.2}

[guards.strict]
read_file = true
write_file = {allowed_decisions = ["approve", "reject"]}

[mcp_servers.time]
command = "uvx"
args = ["mcp-server-time"]

[sub_agents.researcher]
description = "Finds facts."
system_prompt = "You search."
tools = ["search_files", "read_file"]

[sub_agents.writer]
description = "Writes."
system_prompt = "You write."
model = "main"
guards = "strict"
sub_agents = ["researcher"]

[sessions.boss]
system_prompt = "You lead."
sub_agents = ["researcher", "writer"]
mcp_servers = ["time"]

[sessions.lone]
guards = "strict"
settings = {temperature = 0.9}

[[sessions.lone.sub_agents]]
name = "critic"
description = "Judges."
system_prompt = "You judge."
sub_agents = ["writer"]

[sessions.toy]
backend = "echo"
path = "."
delay = 0.5

[pools.reviews]
roles = {coder = 1, reviewer = 2}
strategy = "shared_queue"
rate = "90/min"
retries = 1
backend = "echo"

[pools.trivia]
size = 3
backend = "echo"
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    return tmp_path


def read(here: Path, text: str) -> Fleet:
    file = here / "fleet.toml"
    file.write_text(text)
    return Fleet.read(file)


def faults(here: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(InvalidFleet) as wrong:
        read(here, text)
    assert str(wrong.value).startswith(str(here / "fleet.toml"))
    return wrong.value.faults


def test_everything_a_file_may_say(here: Path) -> None:
    fleet = read(here, WHOLE)
    assert list(fleet.sessions) == ["boss", "lone", "toy"]
    researcher = {
        "name": "researcher", "description": "Finds facts.", "system_prompt": "You search.",
        "tools": ["search_files", "read_file"],
    }  # fmt: skip
    strict = {"read_file": True, "write_file": {"allowed_decisions": ["approve", "reject"]}}
    writer = {
        "name": "writer", "description": "Writes.", "system_prompt": "You write.", "model": "openai:qwen3",
        "settings": {"temperature": 0.2}, "guards": strict, "sub_agents": [researcher],
    }  # fmt: skip
    main = {"model": "openai:qwen3", "base_url": "http://127.0.0.1:11434/v1", "watchdog_s": 60}
    assert fleet.sessions["boss"] == SessionDefinition(
        "boss", str(here / "src"), "model",
        {**main, "settings": {"temperature": 0.2}, "system_prompt": "You lead.", "sub_agents": [researcher, writer],
         "mcp_servers": {"time": {"command": "uvx", "args": ["mcp-server-time"]}}},
    )  # fmt: skip
    assert fleet.sessions["lone"].options == {
        **main, "settings": {"temperature": 0.9}, "guards": strict,
        "sub_agents": [{"name": "critic", "description": "Judges.", "system_prompt": "You judge.",
                        "sub_agents": [writer]}],
    }  # fmt: skip
    # Another backend takes from the defaults only what every backend has.
    assert fleet.sessions["toy"] == SessionDefinition(
        "toy", str(here), "echo", {"watchdog_s": 60, "delay": 0.5}
    )
    assert fleet.pools["trivia"] == PoolSpec(
        size={"worker": 3}, path=str(here / "src"), backend="echo", strategy="round_robin", max_queued=10_000,
        options={"watchdog_s": 60},
    )  # fmt: skip
    reviews = fleet.pools["reviews"]
    assert (reviews.size, reviews.rate, reviews.retries) == ({"coder": 1, "reviewer": 2}, 1.5, 1)


def test_paths_are_relative_to_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "fleet.toml").write_text(
        '[sessions.api]\npath = "src"\nadd_dirs = ["lib", "/usr"]\ncli_path = "/bin/true"\n'
    )
    monkeypatch.chdir("/")
    session = Fleet.read(here / "fleet.toml").sessions["api"]
    assert session.path == str(here / "src")
    assert session.options == {"add_dirs": [str(here / "lib"), "/usr"], "cli_path": "/bin/true"}
    monkeypatch.chdir(here)
    assert Fleet.read().sessions["api"] == session
    assert Fleet.read().file == "fleet.toml"


def test_secrets_are_references(here: Path) -> None:
    text = '[sessions.a]\nbackend = "model"\nmodel = "openai:x"\nenv = {OPENAI_API_KEY = "%s"}\n'
    assert read(here, text % "$TEAM_KEY").sessions["a"].options["env"] == {"OPENAI_API_KEY": "$TEAM_KEY"}
    (fault,) = faults(here, text % "sk-in-plain-text")
    assert fault.startswith("[sessions.a]: env.OPENAI_API_KEY looks like a secret")
    assert "set a variable in the daemon's environment" in fault
    assert "sk-in" not in fault
    (fault,) = faults(here, '[models.m]\nmodel = "openai:x"\nenv = {OPENAI_API_KEY = "sk"}\n[sessions.a]\n')
    assert fault.startswith("[models.m]: env.OPENAI_API_KEY")


MODEL = 'backend = "model"\nmodel = "openai:x"\n'
AGENT = 'description = "d"\nsystem_prompt = "s"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it names no session and no pool"),
        ("[sessions", "it is not TOML"),
        ("[sessions.a]\nx = 1\nx = 2", "it is not TOML"),
        ("colour = 1\n[sessions.a]", "'colour' is unknown; a fleet file has: defaults, models, guards"),
        ("sessions = 1", "`sessions` must hold tables, each with a name: [sessions.NAME]"),
        ("[[sessions]]\nname = 'a'", "`sessions` must hold tables"),
        ("[sessions]\na = 1", "[sessions] has 'a', which is no table: write [sessions.NAME]"),
        ("defaults = 1\n[sessions.a]", "`defaults` must be a table"),
        ("[sessions.'a b']", "[sessions.a b]: 'a b' is not a name"),
        ("[sessions.a]\nbackend = 'nothing'", "[sessions.a]: no backend is called 'nothing'"),
        ("[sessions.a]\nbackend = 1", "[sessions.a]: backend is 1; it must be text"),
        ("[sessions.a]\npath = 1", "[sessions.a]: path is 1; it must be text"),
        ("[sessions.a]\npath = 'nowhere'", "does not exist; create it or give another path"),
        ("[sessions.a]\npath = ''", "[sessions.a]: '' is not a path"),
        ("[sessions.a]\nbackend = 'echo'\ncolour = 1", "backend 'echo' does not know 'colour'; its options are: "),
        ("[sessions.a]\nbackend = 'echo'\ndelay = 'x'", "backend 'echo', option 'delay': must be a number"),
        ("[sessions.a]\nbackend = 'echo'\nwatchdog_s = 0", "[sessions.a]: watchdog_s is 0"),
        ("[sessions.a]\nbackend = 'echo'\ncwd = '/'", "cwd is not an option: the fleet sets it itself"),
        ("[sessions.a]\nbackend = 'echo'\nfail = 2026-01-01", "[sessions.a]: fail is a date or a time; write it"),
        ("[sessions.a]\nbackend = 'echo'\ndelay = inf", "[sessions.a]: delay is inf; numbers must be finite"),
        (f"[sessions.a]\nx{'.x' * 60} = 1", "[sessions.a]: it is nested deeper than 40"),
        ("[sessions.a]\nbackend = 'model'", "[sessions.a]: backend 'model' needs the option 'model'"),
        (f"[sessions.a]\n{MODEL}tools = 1", "option 'tools': must be a list of texts"),
        (f"[sessions.a]\n{MODEL}limits = {{turns = 1}}", "does not know 'turns'; the limits are: request_limit"),
        (f"[sessions.a]\n{MODEL}guards = 'x'", "[sessions.a]: there is no [guards.x]; write one, or name one of those "
         "there are: none"),
        (f"[sessions.a]\n{MODEL}mcp_servers = ['x']", "[sessions.a]: there is no [mcp_servers.x]"),
        (f"[sessions.a]\n{MODEL}mcp_servers = [1]", "[sessions.a]: mcp_servers has 1; each is the name of a"),
        (f"[sessions.a]\n{MODEL}sub_agents = ['x']\n[sub_agents.y]\n{AGENT}", "no [sub_agents.x]; write one, or name "
         "one of those there are: y"),
        (f"[sessions.a]\n{MODEL}sub_agents = [1]", "[sessions.a]: sub_agents has 1; each is the name of a "),
        (f"[sessions.a]\n{MODEL}sub_agents = 'x'", "option 'sub_agents': must be a list of sub-agents"),
        (f"[sessions.a]\n{MODEL}[[sessions.a.sub_agents]]\n{AGENT}", "option 'sub_agents': number 1 has no name"),
        ("[sub_agents.x]\nname = 'y'\n[sessions.a]", "[sub_agents.x] has another name, 'y'; leave `name` out"),
        ("[sub_agents.x]\ndescription = 'd'\n[sessions.a]", "[sub_agents.x]: 'x' has no system_prompt"),
        (f"[sub_agents.x]\n{AGENT}colour = 1\n[sessions.a]", "[sub_agents.x]: 'x' has 'colour'; a sub-agent has: "),
        (f"[sub_agents.x]\n{AGENT}sub_agents = ['x']\n[sessions.a]", "[sub_agents.x]: its sub-agents lead back to "
         "themselves: x → x; take one of them out"),
        ("[guards.g]\nwrite_file = 1\n[sessions.a]", "[guards.g]: says 'write_file': 1; use true, false or"),
        ("[mcp_servers.m]\nargs = []\n[sessions.a]", "[mcp_servers.m]: 'm' must have either a command (with args)"),
        ("[models.m]\nsettings = {}\n[sessions.a]", "[models.m]: it has no model; say which"),
        ("[models.m]\nmodel = 'x'\ncolour = 1\n[sessions.a]", "[models.m]: 'colour' is unknown; a model has: model, "),
        ("[models.m]\nmodel = 'x'\nsettings = 1\n[sessions.a]", "[models.m]: settings must be an object"),
        ("[defaults]\ncolour = 1\n[sessions.a]", "[defaults]: backend 'claude' does not know 'colour'"),
        ("[defaults]\nbackend = 'model'\ntools = 1\n[sessions.a]", "[defaults]: backend 'model', option 'tools'"),
        ("[pools.p]\nbackend = 'echo'", "[pools.p]: say how many workers: size = 4, or for each role, roles = "),
        ("[pools.p]\nbackend = 'echo'\nsize = 1\nroles = {a = 1}", "[pools.p]: say how many workers"),
        ("[pools.p]\nbackend = 'echo'\nsize = true", "[pools.p]: size is True; it must be a whole number"),
        ("[pools.p]\nbackend = 'echo'\nsize = 0", "[pools.p]: size is 0"),
        ("[pools.p]\nbackend = 'echo'\nroles = 1", "[pools.p]: roles is 1; it says how many of each"),
        ("[pools.p]\nbackend = 'echo'\nsize = 1\nstrategy = 1", "[pools.p]: strategy is 1; it must be text"),
        ("[pools.p]\nbackend = 'echo'\nsize = 1\nstrategy = 'best'", "[pools.p]: "),
        ("[pools.p]\nbackend = 'echo'\nsize = 1\nrate = 'often'", "[pools.p]: "),
        ("[pools.p]\nbackend = 'echo'\nsize = 1\ncolour = 1", "[pools.p]: backend 'echo' does not know 'colour'"),
    ],
)  # fmt: skip
def test_a_fault_names_its_table_and_what_to_do(here: Path, text: str, said: str) -> None:
    (fault,) = faults(here, text)
    assert said in fault


def test_a_circle_of_sub_agents_is_shown(here: Path) -> None:
    text = "[sessions.s]\n" + "".join(
        f"[sub_agents.{one}]\n{AGENT}sub_agents = ['{next}']\n" for one, next in ("ab", "bc", "ca")
    )
    assert faults(here, text)[0] == (
        "[sub_agents.a]: its sub-agents lead back to themselves: a → b → c → a; take one of them out"
    )


def test_agents_are_not_multiplied_without_end(here: Path) -> None:
    chain = f"[sub_agents.a0]\n{AGENT}" + "".join(
        f"[sub_agents.a{n + 1}]\n{AGENT}sub_agents = ['a{n}', 'a{n}']\n" for n in range(15)
    )
    assert any("it has more than 1,000 sub-agents" in fault for fault in faults(here, f"{chain}[sessions.s]"))
    deep = "".join(f"[sub_agents.a{n}]\n{AGENT}sub_agents = ['a{n + 1}']\n" for n in range(500))
    assert "deeper than 16 levels" in faults(here, f"{deep}[sub_agents.a500]\n{AGENT}[sessions.s]")[0]


def test_agents_of_one_session_share_its_address(here: Path) -> None:
    text = f"""
    [models.here]
    model = "openai:x"
    base_url = "http://127.0.0.1:1/v1"
    [sub_agents.w]
    {AGENT}
    model = "here"
    [sessions.s]
    backend = "model"
    sub_agents = ["w"]
    model = "%s"
    """
    assert read(here, text % "here").sessions["s"].options["base_url"] == "http://127.0.0.1:1/v1"
    (fault,) = faults(here, text % "anthropic:x")
    assert "a sub-agent uses [models.here], whose base_url is not that of the session" in fault


def test_every_fault_is_told_at_once(here: Path) -> None:
    found = faults(here, "[sessions.a]\nbackend = 'x'\n[sessions.b]\npath = 1\n[pools.c]\n[sessions.d]\n")
    assert [fault.partition(":")[0] for fault in found] == ["[sessions.a]", "[sessions.b]", "[pools.c]"]
    with pytest.raises(InvalidFleet) as wrong:
        read(here, "".join(f"[sessions.s{n}]\nbackend = 'x'\n" for n in range(30)))
    lines = str(wrong.value).splitlines()
    assert lines[0].endswith("has 30 faults:")
    assert lines[-1] == "  and 10 more"


def test_files_that_are_none(here: Path) -> None:
    for file, said in (
        ("nothing.toml", "there is no such file"),
        (".", "it cannot be read: Is a directory"),
        ("a\0b", "it cannot be read"),
    ):
        with pytest.raises(InvalidFleet, match=said):
            Fleet.read(here / file)
    (here / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(InvalidFleet, match="it is not UTF-8"):
        Fleet.read(here / "latin.toml")
    (here / "deep.toml").write_text("x = " + "[" * 20_000)
    with pytest.raises(InvalidFleet, match=r"nested too deeply|not TOML"):
        Fleet.read(here / "deep.toml")
    with (here / "large.toml").open("wb") as large:
        large.truncate(5_000_000)
    with pytest.raises(InvalidFleet, match="more than"):
        Fleet.read(here / "large.toml")


# -- bad files of every kind

KEYS = sorted(
    {"path", "backend", "model", "tools", "guards", "sub_agents", "mcp_servers", "name", "description", "env",
     "system_prompt", "size", "roles", "strategy", "rate", "min", "limits", "settings", "watchdog_s", "x", "delay"}
)  # fmt: skip
LEAVES = st.one_of(
    st.booleans(), st.integers(-2, 5), st.floats(allow_nan=True),
    st.sampled_from(["", ".", "echo", "model", "claude", "scripted", "a", "b", "openai:x", "$KEY", "shared_queue"]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", *KEYS]), inner, max_size=4)
    ),
    max_leaves=8,
)
TABLES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
NAMED = st.dictionaries(st.sampled_from(["a", "b", "a b"]), st.one_of(TABLES, LEAVES), max_size=2)
FILES = st.fixed_dictionaries(
    {"sessions": NAMED},
    optional={
        "defaults": TABLES, "models": NAMED, "guards": NAMED, "mcp_servers": NAMED, "sub_agents": NAMED,
        "pools": NAMED, "x": LEAVES,
    },
)  # fmt: skip


def toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            return json.dumps(value)
    return repr(value)


@given(tables=FILES)
def test_any_file_is_read_or_refused(
    tables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = "".join(f"{key} = {toml(value)}\n" for key, value in tables.items())
    tomllib.loads(text)
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(text)
    with contextlib.suppress(InvalidFleet):
        for session in Fleet.read(file).sessions.values():
            json.dumps(session.options, allow_nan=False)


def test_p16_a_role_of_a_pool_may_be_a_table_with_what_is_its_own(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(
        """
[models.big]
model = "openai:qwen3"
base_url = "http://127.0.0.1:11434/v1"

[pools.p]
backend = "echo"
conversation = "kept"
recycle_turns = 20
delay = 0.5

[pools.p.roles]
coder = 2

[pools.p.roles.reviewer]
size = 3
backend = "model"
model = "big"
prompt = "You are a strict {role}."
tools = []
"""
    )
    spec = Fleet.read(file).pools["p"]
    assert (spec.size, spec.conversation, spec.recycle_turns) == ({"coder": 2, "reviewer": 3}, "kept", 20)
    assert spec.roles.keys() == {"reviewer"}
    reviewer = spec.roles["reviewer"]
    assert (reviewer.prompt, reviewer.backend) == ("You are a strict {role}.", "model")
    assert (reviewer.options["model"], reviewer.options["tools"]) == ("openai:qwen3", [])
    assert differences_of_pools(spec, spec) == ()


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("colour = 'red'", "colour"),
        ("size = 0", "the size of role 'a' is 0"),
        ("backend = 'nobody'", "no backend is called 'nobody'"),
        ("prompt = 3", "the prompt of role 'a' is 3"),
    ],
)
def test_p16_a_role_that_cannot_be_used_is_named(tmp_path: Path, role: str, said: str) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(f"[pools.p]\nbackend = 'echo'\n[pools.p.roles.a]\n{role}\n")
    with pytest.raises(InvalidFleet, match=said):
        Fleet.read(file)
