"""What annotations mean: the JSON Schema that callers see, and the values that tasks get."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from types import GenericAlias
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict, Union

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ot2_agent import wire
from ot2_agent.check import check_parameters, ecma_pattern, first_misfit, nearest
from ot2_agent.encode import encode_result
from ot2_agent.errors import InvalidParameters
from ot2_agent.plain import Unfit
from ot2_agent.schema import Describer
from ot2_agent.task import Param, RegistrationError
from typing_extensions import NotRequired, TypeAliasType
from typing_extensions import TypedDict as OtherTypedDict

UTC = timezone.utc


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Slot(IntEnum):
    FIRST = 1
    SECOND = 2


class Odd(Enum):
    THING = (1, 2)


class Liquid(TypedDict):
    name: str
    volume: NotRequired[float]


class LiquidOfElsewhere(OtherTypedDict, total=False):
    name: str


@dataclass(frozen=True)
class Spot:
    well: str
    volume: Annotated[float, Param(ge=0, unit="uL")] = 5.0
    colour: Colour = Colour.RED
    at: datetime | None = None


Named = NewType("Named", str)
Alias = TypeAliasType("Alias", list[int])


@dataclass(frozen=True)
class Type:
    """One annotation, described as a task would."""

    schema: dict[str, Any]
    convert: Any
    name: str

    @classmethod
    def of(cls, hint: Any) -> Type:
        describer = Describer(__name__)
        made = describer.describe(hint)
        return cls({**made.schema, "$defs": describer.defs}, made.convert, made.name)

    def fits(self, value: Any) -> bool:
        return first_misfit(self.schema, value, self.schema["$defs"]) is None

    def read(self, value: Any) -> Any:
        assert self.fits(value), first_misfit(self.schema, value, self.schema["$defs"])
        return self.convert(value, ("x",))


# What is understood

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)

UNDERSTOOD: list[tuple[Any, Any, Any]] = [
    (str, "255", "255"),
    (int, 5, 5),
    (int, 5.0, 5),
    (float, 5, 5.0),
    (bool, True, True),
    (None, None, None),
    (Any, {"a": [1]}, {"a": [1]}),
    (list, [1, "a"], [1, "a"]),
    (list[int], [1, 2.0], [1, 2]),
    (typing.List, [1], [1]),  # noqa: UP006 - people write it
    (typing.List[float], [1], [1.0]),  # noqa: UP006
    (Sequence[float], [1], [1.0]),
    (tuple, [1, "a"], (1, "a")),
    (typing.Tuple, [1], (1,)),  # noqa: UP006
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[int, ...], [1, 2], (1, 2)),
    (tuple[()], [], ()),
    (dict, {"a": 1}, {"a": 1}),
    (dict[str, float], {"a": 1}, {"a": 1.0}),
    (typing.Dict[str, int], {"a": 1}, {"a": 1}),  # noqa: UP006
    (Mapping[str, Any], {"a": 1}, {"a": 1}),
    (dict[Colour, int], {"red": 1, "BLUE": 2}, {Colour.RED: 1, Colour.BLUE: 2}),
    (Optional[int], None, None),  # noqa: UP045
    (Union[int, str], "5", "5"),  # noqa: UP007
    (int | str | None, 5.0, 5),
    (Literal["a", 1, True, None], 1.0, 1),
    (Literal["a", 1, True, None], True, True),
    (Literal[Colour.RED], "red", Colour.RED),
    (Colour, "red", Colour.RED),
    (Colour, "RED", Colour.RED),
    (Slot, 2, Slot.SECOND),
    (Slot, "SECOND", Slot.SECOND),
    (Odd, "THING", Odd.THING),
    (Spot, {"well": "A1", "volume": 5}, Spot("A1", 5.0)),
    (Spot, {"well": "A1", "colour": "blue", "at": "2030-01-31T12:00:00Z"}, Spot("A1", 5.0, Colour.BLUE, NOON)),
    (list[Spot], [{"well": "A1"}], [Spot("A1")]),
    (Liquid, {"name": "ink"}, {"name": "ink"}),
    (Liquid, {"name": "ink", "volume": 1}, {"name": "ink", "volume": 1.0}),
    (LiquidOfElsewhere, {}, {}),
    (datetime, "2030-01-31T12:00:00Z", NOON),
    (datetime, "2030-01-31t13:00:00.5+01:00", NOON.replace(microsecond=500_000)),
    (datetime, "2030-01-31T12:00:00.1234567Z", NOON.replace(microsecond=123_456)),
    (date, "2030-01-31", date(2030, 1, 31)),
    (time, "12:00:30", time(12, 0, 30)),
    (Path, "/data/x.csv", Path("/data/x.csv")),
    (PurePosixPath, "x", PurePosixPath("x")),
    (Named, "x", "x"),
    (Alias, [1.0], [1]),
    (Annotated[Annotated[float, Param(ge=0)], Param(le=9)], 9, 9.0),
    (Annotated[float, "a note for people"], 9, 9.0),
]


@pytest.mark.parametrize(("hint", "sent", "got"), UNDERSTOOD, ids=lambda value: str(value)[:40])
def test_values_become_what_the_annotation_says(hint: Any, sent: Any, got: Any) -> None:
    made = Type.of(hint)
    Draft202012Validator.check_schema(made.schema)
    assert Draft202012Validator(made.schema).is_valid(sent)
    read = made.read(sent)
    assert read == got
    assert type(read) is type(got)


@pytest.mark.parametrize(
    ("hint", "sent"),
    [
        (int, "255"),
        (int, 5.5),
        (int, True),
        (float, True),
        (float, "5"),
        (float, None),
        (bool, 1),
        (bool, "true"),
        (str, 5),
        (None, 0),
        (Literal[1], True),
        (Literal[1], "1"),
        (Colour, "green"),
        (Slot, True),
        (list[int], [1, "2"]),
        (list[int], {"a": 1}),
        (tuple[int, str], [1]),
        (tuple[int, str], [1, "a", 2]),
        (tuple[()], [1]),
        (dict[str, int], {"a": "b"}),
        (dict[Colour, int], {"green": 1}),
        (int | None, "5"),
        (Spot, {}),
        (Spot, {"well": "A1", "wel": "A2"}),
        (Spot, {"well": "A1", "volume": -1}),
        (Liquid, {"volume": 1}),
        (LiquidOfElsewhere, {"name": 1}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_does_not_fit_is_refused_as_the_reference_validator_does(hint: Any, sent: Any) -> None:
    made = Type.of(hint)
    assert not Draft202012Validator(made.schema).is_valid(sent)
    assert not made.fits(sent)


@pytest.mark.parametrize(
    ("hint", "sent"),
    [
        (datetime, "2030-01-31T12:00:00"),  # no zone
        (datetime, "2030-02-31T12:00:00Z"),
        (datetime, "2030-01-31"),
        (datetime, "2030-01-31T12:00:00Z\n"),
        (datetime, "٢٠٣٠-01-31T12:00:00Z"),
        (date, "31.1.2030"),
        (time, "25:00:00"),
    ],
)
def test_times_that_are_none_are_refused(hint: Any, sent: str) -> None:
    assert not Type.of(hint).fits(sent)


def test_two_names_for_one_key_are_refused() -> None:
    with pytest.raises(Unfit, match="two names for the same key"):
        Type.of(dict[Colour, int]).read({"red": 1, "RED": 2})


def test_a_dataclass_may_refuse_what_its_schema_cannot_say() -> None:
    @dataclass
    class Range:
        low: float
        high: float

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")

    describer = Describer(__name__, {"Range": Range})
    described = describer.describe(list[Range])
    with pytest.raises(Unfit, match="is refused by Range: low is above high") as caught:
        described.convert([{"low": 2, "high": 1}], ("ranges",))
    assert caught.value.where == ("ranges", 0)


def test_two_types_of_one_name_do_not_share_a_definition() -> None:
    first = dataclasses.make_dataclass("Plate", [("wells", int)])
    second = dataclasses.make_dataclass("Plate", [("label", str)])
    made = Type.of(tuple[first, second])  # type: ignore[valid-type]
    assert set(made.schema["$defs"]) == {"Plate", "Plate_2"}
    assert made.read([{"wells": 1}, {"label": "a"}]) == (first(1), second("a"))


def test_the_tighter_of_two_limits_holds() -> None:
    volume = Annotated[float, Param(ge=0, le=300, multiple_of=2)]
    made = Type.of(Annotated[volume, Param(ge=-5, le=20, multiple_of=3)])
    assert [value for value in range(-10, 400) if made.fits(value)] == [0, 6, 12, 18]


def test_limits_reach_into_an_optional_value() -> None:
    made = Type.of(Annotated[float | None, Param(le=5)])
    assert [made.fits(value) for value in (5, 6, None)] == [True, False, True]


@pytest.mark.parametrize(
    ("hint", "fits", "does_not"),
    [
        (Annotated[str, Param(min_length=2, max_length=3)], ["ab", "äöü"], ["a", "abcd"]),
        (Annotated[list[int], Param(min_length=1)], [[1]], [[]]),
        (Annotated[dict[str, int], Param(max_length=1)], [{"a": 1}], [{"a": 1, "b": 2}]),
        (Annotated[str, Param(pattern="^A|B$")], ["Ax", "xB"], ["xA", "B\n"]),
        (Annotated[int, Param(gt=0, lt=3)], [1, 2], [0, 3]),
    ],
)
def test_limits_of_each_kind(hint: Any, fits: list[Any], does_not: list[Any]) -> None:
    made = Type.of(hint)
    assert [made.fits(value) for value in [*fits, *does_not]] == [True] * len(fits) + [False] * len(does_not)


@pytest.mark.parametrize("hint", [Colour, bool, datetime, Any, Spot, tuple[int, str], Literal["a"]])
def test_a_limit_where_it_says_nothing_is_refused(hint: Any) -> None:
    with pytest.raises(RegistrationError, match=r"Param\(min_length=1\) says nothing about"):
        Type.of(Annotated[hint, Param(min_length=1)])


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("a$", "a\n", False),
        (r"a\$", "a$b", True),
        ("[$]", "$b", True),
        ("[^]$]x", "ax", True),
        (r"[\]$]", "$", True),
        ("a$|b", "b\n", True),
    ],
)
def test_a_dollar_means_the_very_end(pattern: str, text: str, found: bool) -> None:
    made = Type.of(Annotated[str, Param(pattern=pattern)])
    assert made.fits(text) is found, ecma_pattern(pattern)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("Red", "R"), ("y", "Y"), ("mixwell", "mix_well"), ("volum", "volume"), ("qqq", None), ("", None)],
)
def test_the_nearest_word_is_found(word: str, meant: str | None) -> None:
    assert nearest(word, ["R", "Y", "mix_well", "volume"]) == meant


def test_keywords_of_other_schemas_are_understood() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "a": {"const": 1},
            "b": {"type": "array", "uniqueItems": True},
            "c": {"allOf": [{"maximum": 1}]},
        },
        "patternProperties": {"^x_": {"oneOf": [{"type": "string"}, {"type": "null"}]}},
        "additionalProperties": False,
    }
    check_parameters("t", schema, {"a": 1, "b": [1, 2], "c": 1, "x_1": None})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"a": 2}, "a must be 1, not 2"),
        ({"b": [1, 1]}, "b must not have the same item twice"),
        ({"c": 2}, "c must be at most 1, not 2"),
        ({"x_1": 1}, "x_1 must be a string or null, not 1"),
        ({"y": 1}, "t has no parameter y"),
    ]
    for wrong, words in cases:
        with pytest.raises(InvalidParameters) as caught:
            check_parameters("t", schema, wrong)
        assert caught.value.message.startswith(words)


# Properties

Typed = tuple[Any, st.SearchStrategy[Any]]

moments = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]))
LEAVES: list[Typed] = [
    (str, st.text(max_size=8)),
    (int, st.integers()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (None, st.none()),
    (Colour, st.sampled_from(Colour)),
    (Slot, st.sampled_from(Slot)),
    (Literal["a", 5, None], st.sampled_from(["a", 5, None])),
    (datetime, moments),
    (date, st.dates()),
    (time, st.times()),
    (Path, st.text(max_size=5).map(Path)),
    (Liquid, st.fixed_dictionaries({"name": st.text(max_size=3)}, optional={"volume": st.floats(0, 9)})),
    (Spot, st.builds(Spot, st.text(max_size=3), st.floats(0, 9), st.sampled_from(Colour), st.none() | moments)),
]


def wider(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    def listed(one: Typed) -> Typed:
        return GenericAlias(list, one[0]), st.lists(one[1], max_size=3)

    def many(one: Typed) -> Typed:
        return GenericAlias(tuple, (one[0], ...)), st.lists(one[1], max_size=3).map(tuple)

    def mapped(one: Typed) -> Typed:
        return GenericAlias(dict, (str, one[0])), st.dictionaries(st.text(max_size=3), one[1], max_size=3)

    def optional(one: Typed) -> Typed:
        return Optional[one[0]], st.none() | one[1]  # noqa: UP045 - None has no |

    def paired(both: tuple[Typed, Typed]) -> Typed:
        (first, firsts), (second, seconds) = both
        return GenericAlias(tuple, (first, second)), st.tuples(firsts, seconds)

    one = inner.flatmap(lambda typed: st.sampled_from([listed, many, mapped, optional]).map(lambda way: way(typed)))
    return one | st.tuples(inner, inner).map(paired)


types = st.recursive(st.sampled_from(LEAVES), wider, max_leaves=4)
typed_values = types.flatmap(lambda typed: st.tuples(st.just(typed[0]), typed[1]))

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 7)
    | st.sampled_from([0.5, 5.0, "a", "red", "RED", "SECOND", "name", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "volume", "well", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(typed_values)
def test_what_is_encoded_fits_the_schema_and_comes_back_equal(case: tuple[Any, Any]) -> None:
    hint, value = case
    made = Type.of(hint)
    encoded, warnings = encode_result(value)
    assert warnings == []
    sent = wire.loads(wire.dumps(encoded))
    Draft202012Validator.check_schema(made.schema)
    assert Draft202012Validator(made.schema).is_valid(sent)
    assert made.read(sent) == value


@given(types, json_values)
def test_our_verdict_is_that_of_the_reference_validator(typed: Typed, value: Any) -> None:
    made = Type.of(typed[0])
    assume("format" not in json.dumps(made.schema))  # which only we look at
    assert made.fits(value) is Draft202012Validator(made.schema).is_valid(value)
