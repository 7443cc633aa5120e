"""`@task`: what it registers, what it refuses to register, and that the function stays what it was."""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from ot2_agent.errors import InvalidParameters
from ot2_agent.task import REGISTRY, Param, RegistrationError, Registry, TaskSpec, mqtt_task, task

TASKS = importlib.import_module("ot2_agent.task")  # the package has a function of this name
Volume = Annotated[float, Param(ge=0, le=300, unit="uL")]


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of this test alone."""
    made = Registry()
    monkeypatch.setattr(TASKS, "REGISTRY", made)
    return made


def spec_of(registry: Registry, name: str) -> TaskSpec:
    spec = registry.get(name)
    assert spec is not None
    return spec


def run_module(tmp_path: Path, text: str) -> None:
    """Run a user's module, so that errors speak of its file and lines."""
    path = tmp_path / "my_tasks.py"
    path.write_text(text, encoding="utf-8")
    exec(compile(text, str(path), "exec"), {"__name__": "my_tasks"})


# The decorator


def test_every_spelling_registers_and_returns_the_plain_function(registry: Registry) -> None:
    def bare() -> int:
        return 1

    def empty() -> int:
        return 2

    def positional() -> int:
        return 3

    def keyword() -> int:
        return 4

    assert task(bare) is bare
    assert task()(empty) is empty
    assert task("third")(positional) is positional
    assert task(name="fourth")(keyword) is keyword
    assert registry.names == ("bare", "empty", "third", "fourth")
    assert [bare(), empty(), positional(), keyword()] == [1, 2, 3, 4]


def test_mqtt_task_is_the_same_decorator() -> None:
    assert mqtt_task is task


def test_a_task_runs_like_any_function() -> None:
    @task
    def add(a: int, b: int = 2) -> int:
        return a + b

    @task
    async def add_later(a: int) -> int:
        return a + 1

    assert add(1) == 3
    assert asyncio.run(add_later(1)) == 2


def test_the_process_has_one_registry() -> None:
    assert isinstance(REGISTRY, Registry)


def test_the_entry_says_all_that_a_caller_needs(registry: Registry) -> None:
    @task(effects="motion", timeout_s=300, grace_s=5)
    async def mix(R: Volume, well: Annotated[str, Param(pattern="^A1$")] = "A1", n: int = 3) -> str:
        """Mix in one well.

        Args:
            R: how much red
                to take.
            n (int): how often.
        """
        return well

    assert registry.catalogue()["mix"] == {
        "name": "mix",
        "doc": "Mix in one well.\n\nArgs:\n    R: how much red\n        to take.\n    n (int): how often.",
        "parameters": {
            "R": {
                "type": "float",
                "required": True,
                "default": None,
                "unit": "uL",
                "doc": "how much red to take.",
                "ge": 0,
                "le": 300,
            },
            "well": {"type": "str", "required": False, "default": "A1", "pattern": "^A1$"},
            "n": {"type": "int", "required": False, "default": 3, "doc": "how often."},
        },
        "is_async": True,
        "effects": "motion",
        "timeout_s": 300.0,
        "grace_s": 5.0,
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "R": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": 300,
                    "unit": "uL",
                    "description": "how much red to take.",
                },
                "well": {"type": "string", "pattern": "^A1$", "default": "A1"},
                "n": {"type": "integer", "default": 3, "description": "how often."},
            },
            "required": ["R"],
            "additionalProperties": False,
        },
        "result_schema": {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string"},
    }


def test_the_catalogue_is_json(registry: Registry) -> None:
    @task
    def odd(a: Any = object(), b: float = float("nan"), c: list[int] = [1, 2]) -> None: ...  # noqa: B006, B008

    assert "default" not in spec_of(registry, "odd").entry()["parameters"]["a"]
    assert "default" not in spec_of(registry, "odd").entry()["parameters"]["b"]
    assert json.loads(json.dumps(registry.catalogue(), allow_nan=False)) == registry.catalogue()


@pytest.mark.parametrize(
    "doc",
    [
        "Move.\n\n:param x: where to go\n    on the rail\n:param str y: not this\n:returns: nothing",
        "Move.\n\nArgs:\n    x (float, optional): where to go\n        on the rail\n    y: not this\n\n"
        "Returns:\n    x: no",
        "Move.\n\nParameters\n----------\nx : float\n    where to go\n    on the rail\ny\n    not this\n\n"
        "Returns\n-------\nx\n    no",
    ],
    ids=["sphinx", "google", "numpy"],
)
def test_docstrings_of_three_styles_tell_of_the_parameters(registry: Registry, doc: str) -> None:
    def move(x: float, y: str) -> None: ...

    move.__doc__ = doc
    task(move)
    docs = {name: one["doc"] for name, one in spec_of(registry, "move").entry()["parameters"].items()}
    assert docs == {"x": "where to go on the rail", "y": "not this"}


def test_the_words_of_param_come_before_the_docstring(registry: Registry) -> None:
    @task
    def move(x: Annotated[float, Param(doc="said by Param")]) -> None:
        """Args:
        x: said by the docstring
        """

    assert spec_of(registry, "move").entry()["parameters"]["x"]["doc"] == "said by Param"


# Names


@pytest.mark.parametrize("name", ["a", "mix.color-2_b", "x" * 64])
def test_good_names_are_taken(registry: Registry, name: str) -> None:
    task(name)(lambda: None)
    assert registry.names == (name,)


@pytest.mark.parametrize("name", ["", "x" * 65, "mix color", "mischen_ü", "a/b", "..", "."])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(RegistrationError, match="cannot be a task's name"):
        task(name)(lambda: None)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(RegistrationError, match="cannot be a task's name"):
        task(lambda: None)


def cell(result: int) -> Callable[[], int]:
    """What a notebook does: the same cell, run again."""

    @task
    def measure() -> int:
        return result

    return measure


def test_a_cell_run_again_replaces_its_task(registry: Registry) -> None:
    cell(1)
    cell(2)
    assert spec_of(registry, "measure").function() == 2


def test_another_function_of_the_same_name_is_refused(registry: Registry) -> None:
    cell(1)
    with pytest.raises(RegistrationError, match=r"test_task.py:\d+: a task named measure is already defined at "):
        task("measure")(lambda: 2)
    assert spec_of(registry, "measure").function() == 1


def test_the_same_name_twice_in_one_file_warns(tmp_path: Path) -> None:
    text = "from ot2_agent.task import task\n@task\ndef a(): ...\n@task\ndef a(): ...\n"
    with pytest.warns(UserWarning, match=r"a replaces the task of the same name defined at .*my_tasks.py:2\."):
        run_module(tmp_path, text)


def test_a_parameter_named_like_a_word_of_a_request_warns() -> None:
    def move(timeout_s: float, parameters: str) -> None: ...

    with pytest.warns(UserWarning, match="also a word of every request") as caught:
        task(move)
    assert {re.findall(r"parameter (\w+)", str(one.message))[0] for one in caught} == {"timeout_s", "parameters"}
    assert {Path(one.filename).name for one in caught} == {"test_task.py"}


def test_ordinary_parameters_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task("quiet")(lambda R, mix_well: None)


# What is refused, and how


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"effects": "some"}, "effects='some' is not one of 'none', 'motion', 'consumes'"),
        ({"timeout_s": 0}, "timeout_s=0 must be seconds"),
        ({"timeout_s": float("inf")}, "timeout_s=inf must be seconds"),
        ({"timeout_s": "60"}, "timeout_s='60' must be seconds"),
        ({"timeout_s": 1e9}, "timeout_s=1000000000.0 must be seconds"),
        ({"grace_s": -1}, "grace_s=-1 must be seconds"),
        ({"grace_s": True}, "grace_s=True must be seconds"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RegistrationError, match=re.escape(words)):
        task("a", **options)(lambda: None)


HEAD = "from __future__ import annotations\nfrom typing import *\nfrom ot2_agent.task import *\n\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@task\ndef a(x: set[int]): ...", "my_tasks.py:5: a, parameter x, set[int] cannot be described"),
        ("@task\ndef a(x: set[int]): ...", "use list[...]"),
        ("@task\ndef a(x: bytes): ...", "use str (base64"),
        (
            "@task\ndef a(x: list[complex]): ...",
            "complex cannot be described to callers as JSON; use tuple[float, float]",
        ),
        ("@task\ndef a(x: dict[int, str]): ...", "keys that are not strings"),
        ("@task\ndef a(x: 'Nowhere'): ...", "the annotation of x speaks of Nowhere, which is not there"),
        ("@task\ndef a(*values: int): ...", "parameter values, *values"),
        ("@task\ndef a(**values: int): ...", "parameter values, **values"),
        ("@task\ndef a(x: int, /): ...", "parameter x, x: 'int' is not for callers"),
        ("@task\ndef a(): yield", "my_tasks.py:5: a yields"),
        ("@task\nclass A: ...", "is for functions"),
        ("class A:\n    @task\n    def a(self): ...", "my_tasks.py:6: a, parameter self, a method cannot be a task"),
        ("@task\ndef a(x: float = Param(ge=0)): ...", "Param belongs into the annotation"),
        ("@task\ndef a(x: Annotated[str, Param(ge=0)]): ...", "Param(ge=0) says nothing about str"),
        ("@task\ndef a(x: Annotated[list[int], Param(le=9)]): ...", "list[Annotated[float, Param(...)]]"),
        ("@task\ndef a(x: Annotated[int, Param]): ...", "is not read here; write Param("),
        ("@task\ndef a(x: Annotated[int, Param(ge=2, le=1)]): ...", "no value can be both"),
        ("T = TypeVar('T')\n@task\ndef a(x: T): ...", "~T cannot be described"),
        ("class P(TypedDict):\n    b: bytes\n@task\ndef a(x: list[P]): ...", "parameter x, field b of P: bytes"),
        ("if TYPE_CHECKING:\n    from numpy import ndarray\n@task\ndef a(x: ndarray): ...", "if TYPE_CHECKING"),
    ],
)
def test_what_callers_could_not_be_told_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RegistrationError, match=re.escape(words)):
        run_module(tmp_path, HEAD + text)


def test_limits_of_another_library_are_not_ignored_in_silence() -> None:
    pydantic = pytest.importorskip("pydantic")

    def move(x: Annotated[int, pydantic.Field(ge=0)]) -> None: ...

    with pytest.raises(RegistrationError, match="is not read here"):
        task(move)


@pytest.mark.parametrize(
    "options",
    [
        {"ge": "0"},
        {"le": float("nan")},
        {"ge": True},
        {"gt": 1, "lt": 1},
        {"min_length": -1},
        {"min_length": 1.5},
        {"pattern": "("},
        {"pattern": 5},
        {"multiple_of": 0},
        {"unit": 5},
    ],
)
def test_param_refuses_limits_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(RegistrationError, match="Param"):
        Param(**options)


# Annotations


def test_annotations_may_speak_of_classes_inside_a_function(registry: Registry) -> None:
    @dataclass
    class Inner:
        volume: float

    @task
    def move(x: Inner, more: list[Inner] = []) -> None: ...  # noqa: B006

    assert spec_of(registry, "move").bind({"x": {"volume": 1}}) == {"x": Inner(1.0)}


def test_a_wrapped_function_is_described_by_what_it_wraps(registry: Registry) -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return inner

    @task
    @logged
    def move(x: Volume) -> None: ...

    assert spec_of(registry, "move").bind({"x": 3}) == {"x": 3.0}


@dataclass
class Node:
    name: str
    children: list[Node] = field(default_factory=list)
    partner: Node | None = None


def test_a_type_may_speak_of_itself(registry: Registry) -> None:
    @task
    def grow(tree: Node) -> Node:
        return tree

    spec = spec_of(registry, "grow")
    bound = spec.bind({"tree": {"name": "a", "children": [{"name": "b"}], "partner": {"name": "c"}}})
    assert bound == {"tree": Node("a", [Node("b")], Node("c"))}
    with pytest.raises(InvalidParameters, match=r"^tree\.children\[0\] needs name \(a string\)\. Nothing moved\.$"):
        spec.bind({"tree": {"name": "a", "children": [{}]}})


def test_what_is_not_given_is_left_to_python(registry: Registry) -> None:
    @task
    def move(x: float = 1, y: float = 2) -> None: ...

    assert spec_of(registry, "move").bind({"y": 5}) == {"y": 5.0}


def test_a_default_of_none_means_that_none_may_be_given(registry: Registry) -> None:
    @task
    def move(x: Volume = None) -> None: ...  # type: ignore[assignment]  # how people write it

    assert spec_of(registry, "move").bind({"x": None}) == {"x": None}
    assert spec_of(registry, "move").entry()["parameters"]["x"]["unit"] == "uL"
