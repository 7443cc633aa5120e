"""`@task`: a plain function becomes something that may be called from afar. Standard library only.

Reads the signature once, at registration, and refuses there what callers could not be told. The function
itself stays as it is: a test calls it like any other.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import CodeType, FrameType
from typing import Any, Literal, TypeVar, cast, get_args, overload

from .check import Misfit, check_parameters, refusal
from .docstring import parameter_docs
from .param import Param, RegistrationError, limits_of, unit_of
from .plain import Unfit
from .schema import Describer, Member, object_schema, resolved
from .wire import MAX_SECONDS, Request

__all__ = ["REGISTRY", "Param", "Parameter", "RegistrationError", "Registry", "TaskSpec", "mqtt_task", "task"]

Effects = Literal["none", "motion", "consumes"]
"""What an interrupted run may have left behind: nothing, a moved gantry, or used-up liquid and tips."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TASK_NAME = re.compile(r"(?!\.+\Z)[A-Za-z0-9_.-]{1,64}\Z")
RESERVED = frozenset({item.name for item in fields(Request)} - {"own_id"}) | {
    "request_id",
    "task_name",
    "timeout",
    "wait",
}
"""Words of a request: a parameter of such a name cannot be given as a keyword by every client."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Parameter:
    """One parameter of a task: its type as people write it, its schema, and whether callers must give it."""

    name: str
    type: str
    required: bool
    schema: Mapping[str, Any]

    def entry(self) -> dict[str, Any]:
        """How the catalogue tells of it. `default` is missing where JSON cannot say the default."""
        made: dict[str, Any] = {"type": self.type, "required": self.required}
        if self.required or "default" in self.schema:
            made["default"] = self.schema.get("default")
        words = {"unit": unit_of(self.schema), "doc": self.schema.get("description")}
        return {**made, **{key: text for key, text in words.items() if text}, **limits_of(self.schema)}


@dataclass(frozen=True, eq=False)
class TaskSpec:
    """One task: the function, and what callers are told and promised about it."""

    name: str
    function: Callable[..., Any]
    effects: Effects
    timeout_s: float
    grace_s: float
    doc: str
    parameters: tuple[Parameter, ...]
    is_async: bool
    schema: Mapping[str, Any]
    result_schema: Mapping[str, Any] | None = None
    _members: Mapping[str, Member] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """`file:line` of the function."""
        return _place(self.function)

    def bind(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the function, each of the type that its annotation names.

        Raises:
            InvalidParameters: they do not fit; the sentence names the first one that does not.
        """
        check_parameters(self.name, self.schema, parameters)
        try:
            return {name: self._members[name].type.convert(value, (name,)) for name, value in parameters.items()}
        except Unfit as exc:
            raise refusal(self.name, Misfit(exc.where, exc.why, exc.where)) from exc

    def entry(self) -> dict[str, Any]:
        """The catalogue entry, as JSON."""
        made: dict[str, Any] = {
            "name": self.name,
            "doc": self.doc,
            "parameters": {one.name: one.entry() for one in self.parameters},
            "is_async": self.is_async,
            "effects": self.effects,
            "timeout_s": self.timeout_s,
            "grace_s": self.grace_s,
            "schema": dict(self.schema),
        }
        if self.result_schema is not None:
            made["result_schema"] = dict(self.result_schema)
        return made


class Registry:
    """The tasks of one process, by name, in the order of their registration."""

    def __init__(self) -> None:
        self._specs: dict[str, TaskSpec] = {}

    def add(self, spec: TaskSpec) -> None:
        """Add a task. The same function defined again (a notebook cell run twice) replaces the former.

        Raises:
            RegistrationError: another function has this name.
        """
        former = self._specs.get(spec.name)
        if former is not None and _identity(former.function) != _identity(spec.function):
            raise RegistrationError(
                f"{spec.place}: a task named {spec.name} is already defined at {former.place}. "
                f'Give this one a name of its own: @task("another_name").'
            )
        if former is not None and _twice_in_one_file(former, spec):
            _warn(spec.function, f"{spec.name} replaces the task of the same name defined at {former.place}.")
        self._specs[spec.name] = spec

    def get(self, name: str) -> TaskSpec | None:
        return self._specs.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._specs)

    def catalogue(self) -> dict[str, dict[str, Any]]:
        """Every task's entry by its name, as JSON."""
        return {name: spec.entry() for name, spec in self._specs.items()}

    def __getitem__(self, name: str) -> TaskSpec:
        return self._specs[name]

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


REGISTRY = Registry()
"""The tasks of this process."""


@overload
def task(name: _Function, /) -> _Function: ...
@overload
def task(
    name: str | None = None, *, effects: Effects = "consumes", timeout_s: float = 3600, grace_s: float = 10
) -> Callable[[_Function], _Function]: ...
def task(
    name: str | Callable[..., Any] | None = None,
    *,
    effects: Effects = "consumes",
    timeout_s: float = 3600,
    grace_s: float = 10,
) -> Any:
    """Make a function, sync or async, callable from afar: `@task`, `@task("name")`, `@task(timeout_s=300)`.

    Args:
        name: the task's name; the function's own when absent. 1 to 64 letters, digits, `_`, `.` and `-`.
        effects: what an interrupted run may leave behind. `"none"`: nothing; `"motion"`: the robot
            somewhere, so that it needs a reset; `"consumes"`: used-up liquid and tips, so that a person says
            what became of it.
        timeout_s: longest run, in seconds.
        grace_s: how long a cancelled run may tidy up, in seconds, before it is killed.

    Returns:
        The function itself, unchanged.

    Raises:
        RegistrationError: callers could not be told how to call it; names file, line and parameter.
    """
    caller = sys._getframe(1)

    def register(function: Any) -> Any:
        own_name = None if name is function else name
        REGISTRY.add(_read(function, own_name, effects, timeout_s, grace_s, caller))
        return function

    return register(name) if callable(name) else register


mqtt_task = task
"""The name that the original kit's MQTT module had for it."""


def _read(function: Any, name: Any, effects: Any, timeout_s: Any, grace_s: Any, caller: FrameType) -> TaskSpec:
    """Everything about a task that its function and the decorator say."""
    _check_function(function)
    name = function.__name__ if name is None else name
    with _Blame(function, str(name)):
        _check_options(name, effects, timeout_s, grace_s)
        names = _local_names(function, caller)
        hints = resolved(function, "the function", names)
        describer = Describer(function.__module__, names)
        members = _members(function, hints, describer)
        result_schema = _result_schema(function, hints, names)
    schema = {"$schema": DIALECT, **object_schema(members)}
    if describer.defs:
        schema["$defs"] = describer.defs
    for reserved in RESERVED & members.keys():
        _warn(function, _reserved_sentence(name, reserved))
    return TaskSpec(
        name=name,
        function=function,
        effects=effects,
        timeout_s=float(timeout_s),
        grace_s=float(grace_s),
        doc=_doc(function),
        parameters=tuple(
            Parameter(key, member.type.name, member.required, member.schema) for key, member in members.items()
        ),
        is_async=inspect.iscoroutinefunction(function),
        schema=schema,
        result_schema=result_schema,
        _members=members,
    )


def _members(function: Any, hints: Mapping[str, Any], describer: Describer) -> dict[str, Member]:
    docs = parameter_docs(_doc(function))
    made: dict[str, Member] = {}
    for one in inspect.signature(function).parameters.values():
        with _Blame(function, f"parameter {one.name}"):
            if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                raise RegistrationError(f"{one} is not for callers, who give every parameter by its own name")
            if not made and one.name in ("self", "cls") and "." in function.__qualname__:
                raise RegistrationError("a method cannot be a task; write a function that calls it")
            made[one.name] = describer.member(hints.get(one.name, one.empty), one.default, doc=docs.get(one.name, ""))
    return made


def _result_schema(function: Any, hints: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the return annotation says; None where it says nothing that JSON Schema could."""
    if "return" not in hints:
        return None
    describer = Describer(function.__module__, names, result=True)
    try:
        made = describer.describe(hints["return"])
    except RegistrationError:
        return None
    return {"$schema": DIALECT, **made.schema, **({"$defs": describer.defs} if describer.defs else {})}


def _check_function(function: Any) -> None:
    if not inspect.isfunction(function):
        raise RegistrationError(f"@task is for functions, and {function!r} is none. Write: @task above a def.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationError(f"{_place(function)}: {function.__name__} yields; a task returns its result once.")


def _check_options(name: Any, effects: Any, timeout_s: Any, grace_s: Any) -> None:
    if not isinstance(name, str) or not TASK_NAME.match(name):
        raise RegistrationError(f"{name!r} cannot be a task's name; use 1 to 64 of A-Z, a-z, 0-9, _, . and -")
    if effects not in get_args(Effects):
        raise RegistrationError(f"effects={effects!r} is not one of {', '.join(map(repr, get_args(Effects)))}")
    if not _is_seconds(timeout_s) or timeout_s == 0:
        raise RegistrationError(f"timeout_s={timeout_s!r} must be seconds, above 0 and at most {MAX_SECONDS:.0f}")
    if not _is_seconds(grace_s):
        raise RegistrationError(f"grace_s={grace_s!r} must be seconds, from 0 to {MAX_SECONDS:.0f}")


def _is_seconds(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= MAX_SECONDS


def _local_names(function: Any, caller: FrameType) -> dict[str, Any]:
    """Names of the function around the task's definition, which annotations that are strings may speak of."""
    inside = caller.f_globals is function.__globals__ and caller.f_locals is not caller.f_globals
    return dict(caller.f_locals) if inside else {}


def _doc(function: Any) -> str:
    return inspect.cleandoc(function.__doc__ or "")


def _code(function: Any) -> CodeType:
    return cast(CodeType, inspect.unwrap(function).__code__)


def _place(function: Any) -> str:
    code = _code(function)
    return f"{code.co_filename}:{code.co_firstlineno}"


def _identity(function: Any) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def _twice_in_one_file(former: TaskSpec, spec: TaskSpec) -> bool:
    one, other = _code(former.function), _code(spec.function)
    return one.co_filename == other.co_filename and one.co_firstlineno != other.co_firstlineno


def _reserved_sentence(name: str, word: str) -> str:
    return (
        f"{name}'s parameter {word} is also a word of every request, so callers must put it into "
        f"parameters={{...}}. Another name spares them that."
    )


def _warn(function: Any, sentence: str) -> None:
    code = _code(function)
    warnings.warn_explicit(sentence, UserWarning, code.co_filename, code.co_firstlineno)


class _Blame:
    """Puts the place in front of a registration error that passes through; the innermost part comes last."""

    def __init__(self, function: Any, part: str) -> None:
        self._place = _place(function)
        self._part = part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, exc: BaseException | None, trace: Any) -> None:
        if isinstance(exc, RegistrationError):
            start = f"{self._place}: "
            rest = str(exc)
            raise RegistrationError(f"{start}{self._part}, {rest.removeprefix(start)}") from exc.__cause__
