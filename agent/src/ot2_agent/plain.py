"""Types that are one JSON value: scalars, times, paths, Literal and Enum. Standard library only."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, Flag
from pathlib import PurePath
from typing import Any, get_args, get_origin

from .check import Where, same
from .encode import enum_value
from .param import RegistrationError
from .times import KINDS as TIMES

Convert = Callable[[Any, Where], Any]


class Unfit(Exception):
    """A received value fits its schema, and still its type refuses it."""

    def __init__(self, where: Where, why: str) -> None:
        super().__init__(why)
        self.where = where
        self.why = why


@dataclass(frozen=True)
class Described:
    """One type: its JSON Schema, how a received value becomes a value of it, and its name for people."""

    schema: dict[str, Any]
    convert: Convert
    name: str


def _as_it_is(value: Any, where: Where) -> Any:
    return value


def _to_float(value: Any, where: Where) -> float:
    try:
        return float(value)
    except OverflowError:
        raise Unfit(where, "is too large for a float") from None


ANYTHING = Described({}, _as_it_is, "Any")
STRING = Described({"type": "string"}, _as_it_is, "str")

_PLAIN: tuple[tuple[Any, Described], ...] = (
    (str, STRING),
    (int, Described({"type": "integer"}, lambda value, where: int(value), "int")),
    (float, Described({"type": "number"}, _to_float, "float")),
    (bool, Described({"type": "boolean"}, _as_it_is, "bool")),
    (None, Described({"type": "null"}, _as_it_is, "None")),
    (type(None), Described({"type": "null"}, _as_it_is, "None")),
    (Any, ANYTHING),
    (object, ANYTHING),
    (inspect.Parameter.empty, ANYTHING),
)

_INSTEAD = {
    "set": "list[...]",
    "frozenset": "list[...]",
    "bytes": "str (base64, for instance)",
    "bytearray": "str (base64, for instance)",
    "complex": "tuple[float, float]",
    "Decimal": "float or str",
    "Fraction": "float or tuple[int, int]",
    "timedelta": "float, with Param(unit='s')",
    "UUID": "str",
    "ndarray": "list[float] or list[list[float]]",
    "DataFrame": "list[dict[str, float]]",
    "Callable": "str: the name of what is to be called",
}


def type_name(hint: Any) -> str:
    """A type as people write it."""
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    return re.sub(r"\b(typing|typing_extensions|builtins|collections\.abc)\.", "", repr(hint))


def indescribable(hint: Any) -> RegistrationError:
    plain = get_origin(hint) or hint
    instead = _INSTEAD.get(getattr(plain, "__name__", ""), "a dataclass, a TypedDict, a pydantic model, or Any")
    return RegistrationError(f"{type_name(hint)} cannot be described to callers as JSON; use {instead}")


def plain_type(hint: Any) -> Described | None:
    """A type that is one JSON value, by itself; None when it is not one of these."""
    for kind, plain in _PLAIN:
        if hint is kind:
            return plain
    if not isinstance(hint, type) or get_args(hint):
        return None
    if issubclass(hint, Enum) and not issubclass(hint, Flag):
        return _enum(hint)
    if issubclass(hint, PurePath):
        return Described({"type": "string"}, lambda value, where: hint(value), hint.__name__)
    return next((_time(name) for name, kind in TIMES.items() if hint is kind.python), None)


def literal_type(hint: Any) -> Described:
    """A `Literal`.

    Raises:
        RegistrationError: one of its values has no JSON value.
    """
    values = get_args(hint)
    for value in values:
        if not (value is None or isinstance(value, (str, int, Enum))):
            raise RegistrationError(f"{value!r} in a Literal has no JSON value; use a string")
    pairs = [(enum_value(value) if isinstance(value, Enum) else value, value) for value in values]
    return Described(_one_of(pairs), _chooser(pairs), type_name(hint))


def _time(name: str) -> Described:
    kind = TIMES[name]
    return Described({"type": "string", "format": name}, lambda value, where: kind.read(value), kind.python.__name__)


def _enum(kind: type[Enum]) -> Described:
    pairs = [(enum_value(member), member) for member in kind]
    taken = [value for value, _ in pairs]
    pairs += [(name, member) for name, member in kind.__members__.items() if name not in taken]
    if not pairs:
        raise RegistrationError(f"{kind.__name__} has no members")
    return Described(_one_of(pairs), _chooser(pairs), kind.__name__)


def _one_of(pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    values = [_plain(value) for value, _ in pairs]
    types = list(dict.fromkeys(names[type(value)] for value in values))
    return {"type": types[0] if len(types) == 1 else types, "enum": values}


def _plain(value: Any) -> Any:
    """A str, int or float without the class that a mixed-in Enum may have left on it."""
    if isinstance(value, bool) or value is None:
        return value
    kind = next(kind for kind in (str, int, float) if isinstance(value, kind))
    return kind.__str__(value) if kind is str else kind(value)


def _chooser(pairs: Sequence[tuple[Any, Any]]) -> Convert:
    return lambda value, where: next(chosen for json_value, chosen in pairs if same(json_value, value))
