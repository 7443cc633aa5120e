"""The sentences for parameters that do not fit: the same in the agent as in the worker, and none crashes either."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ot2_agent.errors import InvalidParameters
from ot2_agent.server.parameters import ParameterCheck
from ot2_agent.task import Param, Registry, TaskSpec, task

TASKS = importlib.import_module("ot2_agent.task")  # the package has a function of this name
Volume = Annotated[float, Param(ge=0, le=300, unit="uL")]
Well = Annotated[str, Param(pattern="^[A-H](?:[1-9]|1[0-2])$")]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Spot:
    well: Well
    volume: Volume


@dataclass
class Plate:
    wells: list[Spot]
    label: Annotated[str, Param(min_length=1, max_length=3)] = "p"


def mix_color(
    R: Volume,
    Y: Volume,
    B: Volume,
    mix_well: Well,
    colour: Colour = Colour.RED,
    speed: Literal["slow", "fast"] = "slow",
    times: Annotated[int, Param(gt=0, lt=10)] = 1,
    step: Annotated[float, Param(multiple_of=0.1)] = 0.1,
    plate: Plate | None = None,
    pair: tuple[int, str] = (1, "a"),
    volumes: dict[Well, Volume] | None = None,
    rest: Annotated[float | None, Param(le=5, unit="s")] = None,
    flag: bool = False,
    either: int | list[int] = 1,
    when: str | int = "now",
) -> None:
    """Mix."""


@pytest.fixture(scope="module")
def spec() -> TaskSpec:
    with pytest.MonkeyPatch.context() as patch:
        registry = Registry()
        patch.setattr(TASKS, "REGISTRY", registry)
        task(mix_color)
    return registry["mix_color"]


@pytest.fixture(scope="module")
def check(spec: TaskSpec) -> ParameterCheck:
    return ParameterCheck(spec.entry())


GOOD: dict[str, Any] = {"R": 100, "Y": 50, "B": 30, "mix_well": "A1"}


@pytest.mark.parametrize(
    ("change", "sentence", "details"),
    [
        (
            {"R": ..., "Red": 1},
            "mix_color has no parameter Red (did you mean R?)",
            {"field": "Red", "did_you_mean": "R"},
        ),
        ({"R": ..., "r": 1}, "mix_color has no parameter r (did you mean R?)", {"field": "r", "did_you_mean": "R"}),
        ({"mixwell": "A1", "mix_well": ...}, "mix_color has no parameter mixwell (did you mean mix_well?)", None),
        ({"B": ...}, "mix_color needs B (a number, uL)", {"field": "B"}),
        ({"mix_well": ...}, "mix_color needs mix_well (a string)", {"field": "mix_well"}),
        ({"R": 301}, "R must be at most 300 uL, not 301", {"field": "R"}),
        ({"R": -0.5}, "R must be at least 0 uL, not -0.5", None),
        ({"R": "255"}, "R must be a number (uL), not '255'", None),
        ({"R": True}, "R must be a number (uL), not true", None),
        ({"R": None}, "R must be a number (uL), not null", None),
        ({"R": {}}, "R must be a number (uL), not an object", None),
        ({"R": [1]}, "R must be a number (uL), not an array", None),
        ({"R": "x" * 99}, f"R must be a number (uL), not '{'x' * 56}...", None),
        ({"mix_well": "Z9"}, "mix_well must match ^[A-H](?:[1-9]|1[0-2])$, not 'Z9'", None),
        ({"mix_well": "A1\n"}, "mix_well must match ^[A-H](?:[1-9]|1[0-2])$, not 'A1\\n'", None),
        ({"times": 1.5}, "times must be an integer, not 1.5", None),
        ({"times": "1"}, "times must be an integer, not '1'", None),
        ({"times": 0}, "times must be above 0, not 0", None),
        ({"times": 10}, "times must be below 10, not 10", None),
        ({"step": 0.25}, "step must be a multiple of 0.1, not 0.25", None),
        ({"flag": 1}, "flag must be true or false, not 1", None),
        (
            {"colour": "rde"},
            "colour must be one of 'red', 'blue', 'RED' or 'BLUE', not 'rde' (did you mean 'red'?)",
            {"field": "colour", "did_you_mean": "red"},
        ),
        ({"speed": 5}, "speed must be one of 'slow' or 'fast', not 5", None),
        ({"rest": 6}, "rest must be at most 5 s, not 6", None),
        ({"rest": "x"}, "rest must be a number or null (s), not 'x'", None),
        ({"either": [1, "a"]}, "either[1] must be an integer, not 'a'", {"field": "either[1]"}),
        ({"either": "a"}, "either must be an integer or an array, not 'a'", None),
        ({"pair": [1]}, "pair must have exactly 2 items, not 1", None),
        ({"pair": ["a", 1]}, "pair[0] must be an integer, not 'a'", None),
        ({"plate": {"wells": [], "label": ""}}, "plate.label must have at least 1 character, not 0", None),
        ({"plate": {"wells": [], "label": "abcd"}}, "plate.label must have at most 3 characters, not 4", None),
        (
            {"plate": {"wells": [{"well": "A1", "volume": 1}, {"well": "A2"}]}},
            "plate.wells[1] needs volume (a number, uL)",
            {"field": "plate.wells[1].volume"},
        ),
        (
            {"plate": {"wells": [{"well": "A1", "volum": 1}]}},
            "plate.wells[0] has no field volum (did you mean volume?)",
            {"field": "plate.wells[0].volum", "did_you_mean": "volume"},
        ),
        ({"volumes": {"A1": 301}}, "volumes.A1 must be at most 300 uL, not 301", {"field": "volumes.A1"}),
        ({"volumes": {"Z9": 1}}, "volumes.Z9 must match ^[A-H](?:[1-9]|1[0-2])$, not 'Z9'", None),
    ],
)
def test_agent_and_worker_say_the_same_sentence(
    spec: TaskSpec, check: ParameterCheck, change: Any, sentence: str, details: dict[str, str] | None
) -> None:
    parameters = {name: value for name, value in {**GOOD, **change}.items() if value is not ...}
    with pytest.raises(InvalidParameters) as in_agent:
        check.check(parameters)
    with pytest.raises(InvalidParameters) as in_worker:
        spec.bind(parameters)
    assert in_agent.value.message == in_worker.value.message
    assert in_agent.value.message.startswith(sentence)
    assert in_agent.value.message.endswith(". Nothing moved.")
    assert in_agent.value.details == in_worker.value.details
    assert details is None or in_agent.value.details == details


def test_a_name_like_no_other_is_answered_with_all_of_them() -> None:
    entry = {"name": "move", "schema": {"properties": {"x": {}, "y": {}}, "additionalProperties": False}}
    with pytest.raises(InvalidParameters, match=r"^move has no parameter qqq; it takes x and y\. Nothing moved\.$"):
        ParameterCheck(entry).check({"qqq": 1})


def test_a_task_without_parameters_says_so() -> None:
    entry = {"name": "home", "schema": {"properties": {}, "additionalProperties": False}}
    with pytest.raises(InvalidParameters, match=r"^home has no parameter x; it takes none\. Nothing moved\.$"):
        ParameterCheck(entry).check({"x": 1})


@pytest.mark.parametrize("value", [5, 5.0, 0, 300, 1e-9])
def test_numbers_within_the_limits_are_taken(check: ParameterCheck, value: float) -> None:
    check.check({**GOOD, "R": value})


def test_a_multiple_is_counted_in_decimals(check: ParameterCheck) -> None:
    check.check({**GOOD, "step": 0.3})  # 0.3 % 0.1 is 0.09999999999999998


def test_a_number_that_no_float_can_hold_is_refused_by_the_worker(spec: TaskSpec) -> None:
    with pytest.raises(InvalidParameters, match=r"^R must be at most 300 uL, not 1000"):
        spec.bind({**GOOD, "R": 10**400})
    with pytest.raises(InvalidParameters, match=r"^step is too large for a float\. Nothing moved\.$"):
        spec.bind({**GOOD, "step": 10**400})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    changes=st.dictionaries(
        st.sampled_from([*mix_color.__annotations__, "other"]) | st.text(max_size=5), json_values, max_size=4
    )
)
def test_whatever_json_is_sent_is_bound_or_refused_with_a_sentence(
    spec: TaskSpec, check: ParameterCheck, changes: dict[str, Any]
) -> None:
    parameters = {**GOOD, **changes}
    refused = outcome(lambda: check.check(parameters))
    if refused is None:
        worker = outcome(lambda: spec.bind(parameters))  # who may still know better: 10**400 is no float
        assert worker is None or "too large" in worker or "two names" in worker
    else:
        assert refused.endswith(". Nothing moved.")
        assert outcome(lambda: spec.bind(parameters)) == refused


def outcome(call: Callable[[], Any]) -> str | None:
    """The sentence of a refusal; None when there was none."""
    try:
        call()
    except InvalidParameters as exc:
        return exc.message
    return None
