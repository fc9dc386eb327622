"""Tool calls as servers that are compatible with Chat Completions really send them, put in order.

OpenAI gives each parallel call an index, and its id and its name once. Others give all calls the index 0 (Ollama), no
index, no id or a new one in every piece (vLLM), repeat the name in each piece, send it in pieces, or send the arguments
as an object. Pydantic AI goes by the index alone, so two calls became `read_fileread_file`. `apart` wraps a model so
that every call has an index of its own before Pydantic AI sees it (L07).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings


@dataclass(slots=True)
class Seen:
    """One call of a stream, as far as it has come."""

    number: int
    index: object
    id: str = ""
    name: str = ""
    arguments: str = ""

    @property
    def complete(self) -> bool:
        """Return whether its arguments are a whole object, to which nothing can be added."""
        return self.arguments.rstrip().endswith("}") and _is_object(self.arguments)

    @property
    def cut_off(self) -> bool:
        """Return whether its arguments have begun, and are not complete."""
        return bool(self.arguments.strip()) and not self.complete


@dataclass(slots=True)
class Piece:
    """What one entry of a chunk says of a call."""

    index: object
    id: str
    name: str
    arguments: str

    @property
    def begins(self) -> bool:
        """Return whether the arguments could be the beginning of an object."""
        return self.arguments.lstrip().startswith("{")


class CallsApart:
    """Finds out which call each piece of a stream belongs to. `known` are the names of the tools that were offered."""

    def __init__(self, known: Collection[str] = ()) -> None:
        self._known = known
        self._calls: list[Seen] = []

    def take(self, pieces: Sequence[Piece]) -> list[tuple[int, Piece]]:
        """Return the pieces of one chunk, each with its call's number and with only what is new of that call."""
        touched: set[int] = set()
        found = []
        for piece in pieces:
            call = self._call_of(piece, touched)
            if call is None:
                call = Seen(len(self._calls), piece.index)
                self._calls.append(call)
            touched.add(call.number)
            found.append((call.number, self._news(call, piece)))
        return found

    def _call_of(self, piece: Piece, touched: Collection[int]) -> Seen | None:
        """Return the call that a piece continues, `None` if it begins another."""
        latest = self._latest(piece.index)
        if piece.id:
            named = next((each for each in reversed(self._calls) if each.id == piece.id), None)
            if named is not None and (not piece.name or self._same_place(named, piece)):
                return None if self._begins_another(named, piece, touched) else named
            if latest is not None and latest.id:
                # Another id: another call, unless this is a piece without a beginning, with an id made up for it.
                goes_on = not piece.name or (
                    latest.cut_off and latest.name == piece.name and piece.arguments and not piece.begins
                )
                return latest if goes_on and latest.number not in touched else None
        if latest is None or self._begins_another(latest, piece, touched):
            return None
        return latest

    def _latest(self, index: object) -> Seen | None:
        same = [each for each in self._calls if index is not None and each.index == index]
        if not same and index is not None and any(each.index is not None for each in self._calls):
            return None
        found = same or self._calls
        return found[-1] if found else None

    @staticmethod
    def _same_place(call: Seen, piece: Piece) -> bool:
        return call.index is None or piece.index is None or call.index == piece.index

    def _begins_another(self, call: Seen, piece: Piece, touched: Collection[int]) -> bool:
        if not piece.name:
            return False
        if call.number in touched:
            return True  # two entries of one chunk that have names are two calls
        if call.complete:
            repeated = piece.arguments.strip() in ("", call.arguments.strip())
            return piece.name != call.name or not repeated
        if call.cut_off:
            return piece.begins
        return (
            call.name != piece.name and call.name in self._known and call.name + piece.name not in self._known
        )

    def _news(self, call: Seen, piece: Piece) -> Piece:
        """Return what a piece adds to its call, and note it there."""
        new = Piece(call.number, "", "", piece.arguments)
        if piece.id and not call.id:
            call.id = new.id = piece.id
        if piece.name and piece.name != call.name and not call.arguments:
            new.name = piece.name.removeprefix(call.name)
            call.name += new.name
        if call.complete:
            new.arguments = ""  # the whole call once more, or white space
        call.arguments += new.arguments
        return new


class _Apart(WrapperModel):
    """A model whose calls are kept apart."""

    def __init__(self, wrapped: Model) -> None:
        super().__init__(wrapped)
        _mend_whole_answers(wrapped)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: Any = None,
    ) -> AsyncIterator[StreamedResponse]:
        async with super().request_stream(
            messages, model_settings, model_request_parameters, run_context
        ) as response:
            if (read := getattr(response, "_map_tool_call_delta", None)) is not None:
                apart = CallsApart({tool.name for tool in model_request_parameters.function_tools})
                response._map_tool_call_delta = _reader(read, apart)  # type: ignore[attr-defined] # a documented hook
            yield response


def apart(model: Model) -> Model:
    """Return the model with its calls kept apart, if it speaks Chat Completions; any other as it is."""
    return _Apart(model) if hasattr(model, "_validate_completion") else model


def _reader(read: Callable[[Any], Any], apart: CallsApart) -> Callable[[Any], Any]:
    def read_apart(choice: Any) -> Any:
        entries = [entry for entry in choice.delta.tool_calls or () if _has_function(entry)]
        for entry, (number, piece) in zip(
            entries, apart.take([_piece(each) for each in entries]), strict=True
        ):
            entry.index, entry.id = number, piece.id or None
            entry.function.name, entry.function.arguments = piece.name or None, piece.arguments or None
        choice.delta.tool_calls = entries
        return read(choice)

    return read_apart


def _has_function(entry: Any) -> bool:
    return getattr(entry, "function", None) is not None


def _piece(entry: Any) -> Piece:
    id, function = getattr(entry, "id", None), entry.function
    return Piece(
        getattr(entry, "index", None),
        "" if id is None else str(id),
        str(getattr(function, "name", None) or ""),
        _as_text(getattr(function, "arguments", None)),
    )


def _mend_whole_answers(model: Model) -> None:
    """Let a model take answers that are not streamed with ids missing, or with arguments that are objects."""
    check: Callable[[Any], Any] = model._validate_completion  # type: ignore[attr-defined] # a documented hook
    if getattr(check, "mends", False):
        return

    def check_mended(response: Any) -> Any:
        for choice in response.choices or ():
            for number, call in enumerate(getattr(choice.message, "tool_calls", None) or ()):
                _mend_call(call, number)
        return check(response)

    check_mended.mends = True  # type: ignore[attr-defined] # so that it is done once
    model._validate_completion = check_mended  # type: ignore[attr-defined]


def _mend_call(call: Any, number: int) -> None:
    if not _has_function(call):
        return
    id = getattr(call, "id", None)
    call.id = f"call_{number}" if id in (None, "") else str(id)
    call.type = "function"
    call.function.name = str(getattr(call.function, "name", None) or "")
    call.function.arguments = _as_text(getattr(call.function, "arguments", None))


def _as_text(arguments: object) -> str:
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return json.dumps(arguments, ensure_ascii=False)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
