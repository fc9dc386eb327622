"""Each operation once: complete, typed, and the same verbs as the board (S20)."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tollboard.errors import (
    ApprovalNotFound,
    InvalidName,
    InvalidOption,
    InvalidPath,
    RequestNotFound,
    TollboardError,
    WireError,
)
from tollboard.fleet.board import Board
from tollboard.fleet.pools.asking import USUAL
from tollboard.fleet.pools.board import SETTINGS, PoolBoard
from tollboard.operations.access import Capability
from tollboard.operations.catalogue import OPERATIONS, AnyOperation
from tollboard.operations.wire import parse_arguments, status_of

VERBS = {name: verb for name, verb in vars(Board).items() if inspect.iscoroutinefunction(verb)}
VERBS |= {f"pool_{name}": verb for name, verb in vars(PoolBoard).items() if inspect.iscoroutinefunction(verb)}

operations = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


def refused(name: str, given: object) -> TollboardError:
    with pytest.raises(TollboardError) as caught:
        parse_arguments(OPERATIONS[name], given)
    return caught.value


def test_s20_every_verb_of_the_board_is_an_operation_and_the_other_way_round() -> None:
    assert OPERATIONS.keys() == VERBS.keys()


@operations
def test_s20_an_operation_takes_what_its_verb_takes(operation: AnyOperation) -> None:
    verb = [name for name in inspect.signature(VERBS[operation.name]).parameters if name != "self"]
    if "asked" in verb:  # a pool's settings, named in one list, and the options of its workers
        verb[verb.index("asked") :] = [*SETTINGS, "options"]
    assert list(operation.arguments.model_fields) == verb


@operations
def test_defaults_are_the_verbs(operation: AnyOperation) -> None:
    parameters = inspect.signature(VERBS[operation.name]).parameters
    for name, field in operation.arguments.model_fields.items():
        if name == "options":
            continue
        if "asked" in parameters and name in SETTINGS:
            assert field.default == USUAL[name]
            continue
        default = parameters[name].default
        if field.is_required():
            assert default is inspect.Parameter.empty
        else:
            assert field.get_default(call_default_factory=True) == (
                list(default) if default == () else default
            )


@operations
def test_it_is_described_with_an_example_that_fits(operation: AnyOperation) -> None:
    assert operation.summary.endswith(".")
    assert all(issubclass(error, TollboardError) for error in operation.raises)
    parse_arguments(operation, dict(operation.example))


@operations
def test_s20_unknown_arguments_are_refused(operation: AnyOperation) -> None:
    error = refused(operation.name, {**operation.example, "colour": "green"})
    assert isinstance(error, WireError)
    assert "colour: there is no such argument; known are: " in str(error)


@operations
def test_nothing_is_converted(operation: AnyOperation) -> None:
    for name, field in operation.arguments.model_fields.items():
        if field.annotation is bool:
            assert isinstance(refused(operation.name, {**operation.example, name: "yes"}), WireError)


@pytest.mark.parametrize("given", [None, [], "text", 1, True])
def test_arguments_are_an_object(given: object) -> None:
    assert "the arguments are an object" in str(refused("send", given))


def test_s27_what_each_capability_allows() -> None:
    by_capability: dict[Capability, set[str]] = {capability: set() for capability in Capability}
    for operation in OPERATIONS.values():
        by_capability[operation.needs].add(operation.name)
        assert operation.mutates == (operation.needs is not Capability.READ)
    assert by_capability[Capability.APPROVE] == {"decide"}
    assert by_capability[Capability.ADMIN] == {"delete_session", "pool_delete"}
    assert by_capability[Capability.READ] == {
        "list_sessions", "status", "definition", "backends", "poll", "wait", "inbox", "transcript", "summary_get",
        "summary_versions", "events", "approvals", "subagents", "subagent_messages",
        "pool_list", "pool_status", "pool_definition", "pool_wait",
        "pool_results", "pool_poll",
    }  # fmt: skip


def test_s27_to_acknowledge_is_more_than_to_read() -> None:
    inbox = OPERATIONS["inbox"]
    assert inbox.needed(parse_arguments(inbox, {})) is Capability.READ
    assert inbox.needed(parse_arguments(inbox, {"ack": True})) is Capability.SEND
    assert OPERATIONS["ack"].needs is Capability.SEND


DEEP: dict[str, Any] = {}
_inner = DEEP
for _ in range(70):
    _inner["x"] = _inner = {}


@pytest.mark.parametrize(
    ("operation", "given", "error"),
    [
        ("start_session", {"name": "a", "path": "/" * 5000}, InvalidPath),
        ("start_session", {"name": "a", "path": "/", "options": {"name": "b"}}, InvalidOption),
        ("start_session", {"name": "a", "path": "/", "options": {"self": 1}}, InvalidOption),
        ("start_session", {"name": "a", "path": "/", "options": {"x": float("nan")}}, WireError),
        ("start_session", {"name": "a", "path": "/", "options": {"x": [float("inf")]}}, WireError),
        ("start_session", {"name": "a", "path": "/", "options": {"\ud800": 1}}, WireError),
        ("start_session", {"name": "a", "path": "/", "options": DEEP}, WireError),
        ("start_session", {"name": "a", "path": "/", "options": []}, WireError),
        ("status", {"name": "n" * 300}, InvalidName),
        ("status", {"name": "\udfff"}, InvalidName),
        ("poll", {"name": "a", "ref": "r" * 300}, RequestNotFound),
        ("poll", {"name": "a", "ref": "\ud800"}, RequestNotFound),
        ("decide", {"approval_id": "x" * 300, "decision": {}}, ApprovalNotFound),
        ("decide", {"approval_id": "x", "decision": {"type": "edit", "arguments": DEEP}}, WireError),
        ("wait", {"refs": ["a"], "mode": "some"}, WireError),
        ("wait", {"refs": "a"}, WireError),
        ("broadcast", {"prompt": "x", "names": ["a"] * 10_001}, WireError),
        ("events", {"kinds": ["k"] * 51}, WireError),
        ("events", {"after": 2**63}, WireError),
        ("events", {"after": 1.5}, WireError),
        ("send", {"name": "a"}, WireError),
        (
            "pool_start",
            {"name": "a", "size": 1, "path": "/", "backend": "echo", "options": {"size": 2}},
            InvalidOption,
        ),
        ("pool_start", {"name": "a", "size": "4", "path": "/", "backend": "echo"}, WireError),
        ("pool_start", {"name": "a", "size": {"x": True}, "path": "/", "backend": "echo"}, WireError),
        ("pool_submit", {"name": "a", "tasks": "x"}, WireError),
        ("pool_submit", {"name": "a", "tasks": [{"prompt": "x"}] * 1_001}, WireError),
        ("pool_submit", {"name": "a", "tasks": [{"prompt": "x", "colour": "green"}]}, WireError),
        ("pool_results", {"name": "a", "after": -2}, WireError),
    ],
)
def test_s20_bad_arguments_get_a_clear_error(
    operation: str, given: dict[str, Any], error: type[TollboardError]
) -> None:
    found = refused(operation, given)
    assert type(found) is error
    assert len(str(found)) < 500
    assert 400 <= status_of(found) < 500
