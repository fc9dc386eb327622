"""The catalogue's schemas as tools carry them: what a model needs to make a call, and nothing a host warns about.

A host sends every tool's name, description and input to the model with each request, and holds every result against
the output schema. So no titles, no references, no `null` beside a type, no limit that only guards the daemon: the
daemon checks all of that itself and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_NOISE = frozenset(
    {"title", "additionalProperties", "pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum",
     "exclusiveMaximum", "maxProperties", "discriminator", "propertyNames"}
)  # fmt: skip
_SPEAK_FOR_THEMSELVES = frozenset({"name", "ref"})
"""Arguments that nearly every tool has: their description would be sent to the model some forty times."""
NULL = {"type": "null"}


def slim_input(schema: Mapping[str, Any]) -> Schema:
    """Return the schema of a tool's arguments from the one that pydantic makes of a model."""
    return _input(schema, schema.get("$defs", {}))


def slim_output(schema: Mapping[str, Any]) -> Schema:
    """Return the schema of a result: the names and types of its fields, two levels deep.

    What may be null has no type: `[type, null]` is what hosts warn about, and a choice of the two is twice as long.
    """
    return _output(schema, schema.get("$defs", {}), levels=2)


def _input(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    whole = _without_null(_resolved(node, definitions), definitions)
    # A property may be called like a keyword: only keywords are dropped here, properties are gone through below.
    lean = {key: value for key, value in whole.items() if key not in _NOISE and key != "$defs"}
    if lean.get("default") is None or lean["default"] is False:
        lean.pop("default", None)
    if "properties" in lean:
        # Of the class that the model was made from; what a tool is for stands in the tool's own description.
        lean.pop("description", None)
        lean["properties"] = {name: _input(one, definitions) for name, one in lean["properties"].items()}
        for name in _SPEAK_FOR_THEMSELVES & lean["properties"].keys():
            lean["properties"][name].pop("description", None)
    if isinstance(lean.get("items"), dict):
        lean["items"] = {k: v for k, v in _input(lean["items"], definitions).items() if k != "description"}
    if "anyOf" in lean:
        lean["anyOf"] = [_input(one, definitions) for one in lean["anyOf"]]
    return lean


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """Return the schema with what its reference stands for, whose own words give way to those beside it."""
    rest = dict(node)
    reference = rest.pop("$ref", None)
    if reference is None:
        return rest
    return _resolved({**definitions[reference.rpartition("/")[2]], **rest}, definitions)


def _without_null(node: Schema, definitions: Mapping[str, Any]) -> Schema:
    """Return the schema without the choice of null: to leave an argument out says the same."""
    choices = node.get("anyOf")
    if choices is None:
        return node
    real = [one for one in choices if one != NULL]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    if len(real) == 1:
        return {**_resolved(real[0], definitions), **rest}
    return {**rest, "anyOf": real}


def _output(node: Mapping[str, Any], definitions: Mapping[str, Any], *, levels: int) -> Schema:
    whole = _resolved(node, definitions)
    choices = whole.get("anyOf") or whole.get("oneOf")
    if choices is not None:
        kinds = [_output(one, definitions, levels=0) for one in choices]
        return kinds[0] if all(kind == kinds[0] for kind in kinds) else {}
    kind = whole.get("type")
    if kind is None:
        return {}
    lean: Schema = {"type": kind}
    if levels and kind == "object" and "properties" in whole:
        lean["properties"] = {
            name: _output(one, definitions, levels=levels - 1) for name, one in whole["properties"].items()
        }
    if levels and kind == "array" and "items" in whole and (items := _items(whole, definitions, levels)):
        lean["items"] = items
    return lean


def _items(whole: Schema, definitions: Mapping[str, Any], levels: int) -> Schema:
    return _output(whole["items"], definitions, levels=levels - 1)
