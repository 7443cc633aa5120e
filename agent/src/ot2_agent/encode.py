"""What a task returned, as JSON: the results of a robot are never lost to an encoder. Standard library only.

What JSON cannot say (NaN, an object of its own kind, a cycle, a result of many megabytes) becomes the repr
of the whole value, with a warning. An exception here would look like a failed run, which invites a repeat.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from pathlib import PurePath
from reprlib import Repr
from typing import Any
from uuid import UUID

from . import models
from .wire import MAX_DEPTH

MAX_RESULT_BYTES = 4 * 2**20
"""Longest result, as compact JSON; a longer one is replaced by the beginning of its repr."""

MAX_REPR = 10_000
_DEPTH = MAX_DEPTH - 8
"""A result travels inside an answer, inside an event: some levels are left to those."""

_MAX_BITS = 8192
"""Python itself neither prints nor reads an int of more than 4300 digits."""


def encode_result(value: Any, *, limit: int = MAX_RESULT_BYTES) -> tuple[Any, list[str]]:
    """A JSON value for any Python value, and what must be said of it. Never raises.

    Args:
        limit: longest compact JSON, in bytes.

    Returns:
        The JSON value (or the repr of the whole, when JSON cannot say it) and the warnings.
    """
    encoder = _Encoder(limit)
    try:
        return encoder.encode(value, ""), encoder.warnings
    except _CannotError as exc:
        why = str(exc)
    except Exception as exc:
        why = f"encoding it raised {type(exc).__name__}"
    warning = f"The result could not be encoded as JSON: {why}. Its repr stands in its place."
    return bounded_repr(value, min(MAX_REPR, limit)), [warning]


def bounded_repr(value: Any, length: int = MAX_REPR) -> str:
    """The repr of anything, cut to `length` characters, safe to store. Never raises."""
    try:
        text = _REPR.repr(value)
    except Exception:
        text = f"<{type(value).__name__} object whose repr fails>"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= length else f"{text[: max(0, length - 3)]}..."


def enum_value(member: Enum) -> Any:
    """What stands for a member of an Enum in JSON: its value, or its name when JSON cannot say the value."""
    value = member.value
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if value is None or (isinstance(value, (bool, int, float, str)) and finite) else member.name


def _generous_repr() -> Repr:
    made = Repr()
    made.maxlevel = 12
    made.maxlist = made.maxtuple = made.maxdict = made.maxset = made.maxfrozenset = made.maxdeque = 200
    made.maxstring = made.maxother = made.maxlong = MAX_REPR
    return made


_REPR = _generous_repr()


class _CannotError(Exception):
    """JSON has no way to say this value; the message says why."""


@dataclass
class _Encoder:
    """One walk through one value: counts bytes as it goes, knows which containers it is inside of."""

    limit: int
    warnings: list[str] = field(default_factory=list)
    _used: int = 0
    _inside: set[int] = field(default_factory=set)

    def encode(self, value: Any, at: str) -> Any:
        """The JSON value of `value`, which stands at `at` (`.wells[2]`; empty for the whole)."""
        if value is None or isinstance(value, bool):
            return self._spend(value, 5)
        if isinstance(value, Enum):
            return self.encode(enum_value(value), at)
        for kind, way in _SCALARS:
            if isinstance(value, kind):
                return way(self, value, at)
        with self._enter(value, at):
            return self._container(value, at)

    def _container(self, value: Any, at: str) -> Any:
        if models.is_model(type(value)):
            return self.encode(models.dump(value), at)
        if is_dataclass(value):
            return self._object(((one.name, getattr(value, one.name)) for one in fields(value)), at)
        if isinstance(value, Mapping):
            return self._object(value.items(), at)
        if isinstance(value, Set):
            return self._array(_ordered(value), at)
        if isinstance(value, Sequence):
            return self._array(value, at)
        if callable(getattr(value, "tolist", None)):  # numpy, and what behaves like it
            self._refuse_beforehand(value, at)
            return self.encode(value.tolist(), at)
        raise _CannotError(f"{_place(at)} is a {type(value).__name__}")

    def _spend(self, value: Any, size: int) -> Any:
        self._used += size
        if self._used > self.limit:
            raise _CannotError(f"result is longer than {self.limit} bytes")
        return value

    def _refuse_beforehand(self, array: Any, at: str) -> None:
        """An array that is too long as a list is not made a list first."""
        size = getattr(array, "size", 0)
        if isinstance(size, int) and 2 * size > self.limit:
            raise _CannotError(f"{_place(at)} is longer than {self.limit} bytes")

    @contextmanager
    def _enter(self, value: Any, at: str) -> Iterator[None]:
        if id(value) in self._inside:
            raise _CannotError(f"{_place(at)} contains itself")
        if len(self._inside) >= _DEPTH:
            raise _CannotError(f"result is nested deeper than {_DEPTH} levels")
        self._inside.add(id(value))
        try:
            yield
        finally:
            self._inside.discard(id(value))

    def _array(self, values: Iterable[Any], at: str) -> list[Any]:
        self._spend(None, 2)
        return [self._spend(self.encode(one, f"{at}[{index}]"), 1) for index, one in enumerate(values)]

    def _object(self, pairs: Iterable[tuple[Any, Any]], at: str) -> dict[str, Any]:
        self._spend(None, 2)
        made: dict[str, Any] = {}
        for key, value in pairs:
            name = self._key(key, at)
            if name in made:
                raise _CannotError(f"{_place(at)} has two keys that are {name!r} in JSON")
            made[name] = self._spend(self.encode(value, f"{at}.{name}"), 2)
        return made

    def _key(self, key: Any, at: str) -> str:
        plain = enum_value(key) if isinstance(key, Enum) else key
        if not isinstance(plain, str):
            self._warn(f"Keys in {_place(at)} are not strings; they were made strings.")
            plain = str(plain)
        return self._text(plain, at)

    def _text(self, value: str, at: str) -> str:
        plain = str.__str__(value)
        if not plain.isascii() and any("\ud800" <= letter <= "\udfff" for letter in plain):
            raise _CannotError(f"{_place(at)} has half a character (a lone surrogate)")
        self._spend(None, len(json.dumps(plain)))
        return plain

    def _integer(self, value: int, at: str) -> int:
        plain = int.__index__(value)
        if plain.bit_length() > _MAX_BITS:
            raise _CannotError(f"{_place(at)} is an integer of {plain.bit_length()} bits")
        self._spend(None, plain.bit_length() // 3 + 2)
        return plain

    def _real(self, value: float, at: str) -> float:
        plain = float.__float__(value)
        if not math.isfinite(plain):
            raise _CannotError(f"{_place(at)} is {plain}")
        self._spend(None, len(repr(plain)))
        return plain

    def _bytes(self, value: bytes | bytearray | memoryview, at: str) -> str:
        self._warn(f"The bytes in {_place(at)} were encoded as base64.")
        return self._text(base64.b64encode(value).decode("ascii"), at)

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings and len(self.warnings) < 10:
            self.warnings.append(warning)


_SCALARS: tuple[tuple[type | tuple[type, ...], Callable[[_Encoder, Any, str], Any]], ...] = (
    (str, _Encoder._text),
    (int, _Encoder._integer),
    (float, _Encoder._real),
    ((datetime, date, time), lambda encoder, value, at: encoder._text(value.isoformat(), at)),
    (timedelta, lambda encoder, value, at: encoder._real(value.total_seconds(), at)),
    ((PurePath, UUID), lambda encoder, value, at: encoder._text(str(value), at)),
    ((bytes, bytearray, memoryview), _Encoder._bytes),
)


def _place(at: str) -> str:
    return f"result{at[:100]}"


def _ordered(values: Set[Any]) -> list[Any]:
    """A set in an order that is the same tomorrow."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)
