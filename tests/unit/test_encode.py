"""Results travel back as JSON; what JSON cannot say is told in words, and nothing raises."""

from __future__ import annotations

import array
import json
import math
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ot2_agent import wire
from ot2_agent.encode import bounded_repr, encode_result

NOON = datetime(2030, 1, 31, 12, tzinfo=timezone.utc)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Slot(IntEnum):
    FIRST = 1
    SECOND = 2


class Odd(Enum):
    THING = (1, 2)


@dataclass(frozen=True)
class Spot:
    well: str
    volume: float = 5.0
    colour: Colour = Colour.RED
    at: datetime | None = None


class Loud:
    def __repr__(self) -> str:
        return "a loud thing"


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Numbers:
    """As numpy's arrays do it."""

    def __init__(self, values: Any, size: int = 1) -> None:
        self.values = values
        self.size = size

    def __repr__(self) -> str:
        return "Numbers"

    def tolist(self) -> Any:
        if isinstance(self.values, Exception):
            raise self.values
        return self.values


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({"a": (1, 2.5, None, True)}, {"a": [1, 2.5, None, True]}),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (Point(1, 2), [1, 2]),
        (range(3), [0, 1, 2]),
        (deque([1, 2]), [1, 2]),
        (OrderedDict(a=1).keys(), ["a"]),
        (Colour.RED, "red"),
        (Slot.SECOND, 2),
        (Odd.THING, "THING"),
        ({Colour.RED: 1}, {"red": 1}),
        (Spot("A1"), {"well": "A1", "volume": 5.0, "colour": "red", "at": None}),
        (NOON, "2030-01-31T12:00:00+00:00"),
        (date(2030, 1, 31), "2030-01-31"),
        (time(12), "12:00:00"),
        (timedelta(minutes=1), 60.0),
        (Path("/a/b"), "/a/b"),
        (UUID(int=0), "00000000-0000-0000-0000-000000000000"),
        (array.array("d", [1.5]), [1.5]),
        (Numbers([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (Numbers(5), 5),
    ],
    ids=lambda value: str(value)[:30],
)
def test_results_become_json(value: Any, encoded: Any) -> None:
    made = wire.loads(wire.dumps(encode_result(value)[0]))
    assert made == encoded
    assert json.dumps(made) == json.dumps(encoded)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> Any:
    value: dict[str, Any] = {}
    value["me"] = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text", "why"),
    [
        (math.nan, "nan", "result is nan"),
        ({"a": [1.0, math.inf]}, "{'a': [1.0, inf]}", "result.a[1] is inf"),
        ([Loud()], "[a loud thing]", "result[0] is a Loud"),
        (Silent(), "<Silent", "result is a Silent"),
        (cyclic(), "{'me': [{", "contains itself"),
        (nested(60), "[[[", "nested deeper than 56 levels"),
        (nested(100_000), "[[[", "nested deeper"),
        (10**5000, "<int", "result is an integer of 16610 bits"),
        ("\ud800", "'\\ud800'", "half a character"),
        ({"\udfff": 1}, "{'\\udfff': 1}", "half a character"),
        ({1: "a", "1": "b"}, "{1: 'a', '1': 'b'}", "two keys that are '1'"),
        (Numbers(RuntimeError("no")), "Numbers", "encoding it raised RuntimeError"),
        (Numbers([math.nan]), "Numbers", "result[0] is nan"),
        (Numbers([], size=10**9), "Numbers", "longer than"),
        (lambda: None, "<function", "result is a function"),
        (int, "<class 'int'>", "result is a type"),
        ((letter for letter in "a"), "<generator", "result is a generator"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_what_json_cannot_say_becomes_its_repr_with_a_warning(value: Any, text: str, why: str) -> None:
    encoded, warnings = encode_result(value)
    assert isinstance(encoded, str)
    assert encoded.startswith(text)
    assert len(warnings) == 1
    assert why in warnings[0]
    assert wire.loads(wire.dumps({"result": encoded})) == {"result": encoded}


def test_keys_and_bytes_are_encoded_with_a_warning() -> None:
    assert encode_result({1: 2, None: 3}) == (
        {"1": 2, "None": 3},
        ["Keys in result are not strings; they were made strings."],
    )
    assert encode_result({"raw": b"\xff\x00"}) == (
        {"raw": "/wA="},
        ["The bytes in result.raw were encoded as base64."],
    )


@pytest.mark.parametrize("value", ["x" * 2000, list(range(1000)), {str(n): n for n in range(500)}, ["ü" * 200]])
def test_a_result_beyond_the_bound_becomes_the_beginning_of_its_repr(value: Any) -> None:
    encoded, warnings = encode_result(value, limit=1000)
    assert isinstance(encoded, str)
    assert len(encoded) <= 1000
    assert warnings == [
        "The result could not be encoded as JSON: result is longer than 1000 bytes. Its repr stands in its place."
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_the_bound_is_never_exceeded(value: Any) -> None:
    encoded, warnings = encode_result(value, limit=40)
    assert warnings or len(wire.dumps(encoded)) <= 40
    assert not warnings or len(encoded) <= 40


def test_subclasses_of_plain_types_become_plain() -> None:
    class Text(str):
        def __str__(self) -> str:
            return "not this"

    class Number(float):
        def __repr__(self) -> str:
            return "not this"

    encoded, warnings = encode_result([Text("a"), Number(1.5)])
    assert warnings == []
    assert [type(one) for one in encoded] == [str, float]
    assert encoded == ["a", 1.5]


def test_the_same_object_twice_is_no_cycle() -> None:
    shared = [1]
    assert encode_result([shared, shared]) == ([[1], [1]], [])


def test_a_repr_of_anything_is_bounded() -> None:
    assert bounded_repr("x" * 100, 10) == "'xxxxxx..."
    assert len(bounded_repr([["x" * 9999] * 300] * 300)) <= 10_000
