"""`Param`: limits, unit and words of one parameter, and how they enter its JSON Schema; stdlib only."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


class RegistrationError(TypeError):
    """A function cannot be a task as it is written. The sentence names the place and the remedy."""


_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}
_LENGTHS = {"string": "Length", "array": "Items", "object": "Properties"}
_TIGHTER = {"minimum": max, "exclusiveMinimum": max, "maximum": min, "exclusiveMaximum": min}
_LIMITS = (*_BOUNDS, "min_length", "max_length", "pattern")


@dataclass(frozen=True, kw_only=True)
class Param:
    """Limits, unit and words of a parameter: `Annotated[float, Param(ge=0, le=300, unit="uL")]`.

    Args:
        ge, gt, le, lt: bounds of a number: at least, above, at most, below.
        multiple_of: the number is a whole multiple of this.
        min_length, max_length: of a string (characters), a list (items) or a dict (fields).
        pattern: a regular expression to be found in the string; `^` and `$` around it mean all of the string.
        unit: of the number, as people write it.
        doc: one line about the parameter.

    Raises:
        RegistrationError: the limits contradict each other or are not of their type.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    multiple_of: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    unit: str | None = None
    doc: str | None = None

    def __post_init__(self) -> None:
        for name in _BOUNDS:
            _check(name, getattr(self, name), (int, float), "a finite number")
        for name in ("min_length", "max_length"):
            _check(name, getattr(self, name), (int,), "a whole number from 0 on", least=0)
        for name in ("pattern", "unit", "doc"):
            _check(name, getattr(self, name), (str,), "a string")
        if self.multiple_of is not None and self.multiple_of <= 0:
            raise RegistrationError(f"Param(multiple_of={self.multiple_of!r}): it must be above 0")
        self._check_order()
        try:
            re.compile(self.pattern or "")
        except re.error as exc:
            raise RegistrationError(f"Param(pattern={self.pattern!r}) is no regular expression: {exc}") from None

    def _check_order(self) -> None:
        for low, high in (
            ("ge", "le"),
            ("gt", "lt"),
            ("ge", "lt"),
            ("gt", "le"),
            ("min_length", "max_length"),
        ):
            least, most = getattr(self, low), getattr(self, high)
            if least is None or most is None:
                continue
            if least > most or (least == most and {low, high} & {"gt", "lt"}):
                raise RegistrationError(f"Param({low}={least!r}, {high}={most!r}): no value can be both")

    def limits(self) -> Iterator[tuple[str, Any]]:
        """The limits that are set, by name."""
        for name in _LIMITS:
            if getattr(self, name) is not None:
                yield name, getattr(self, name)


def _check(name: str, value: Any, kinds: tuple[type, ...], wanted: str, least: float = -math.inf) -> None:
    if value is None:
        return
    right = isinstance(value, kinds) and not isinstance(value, bool)
    if not right or (not isinstance(value, str) and not (math.isfinite(value) and value >= least)):
        raise RegistrationError(f"Param({name}={value!r}): it must be {wanted}")


def limited(schema: Mapping[str, Any], extra: Any, called: str) -> dict[str, Any]:
    """The schema with what one piece of `Annotated` adds to it. The tighter of two limits of one kind holds.

    Raises:
        RegistrationError: the type `called` has no such limit, or the limit is another library's.
    """
    made = copy.deepcopy(dict(schema))
    if not isinstance(extra, Param):
        _refuse_foreign(extra)
        return made
    for name, limit in extra.limits():
        takers = [(part, keyword) for part in _parts(made) if (keyword := _keyword(name, part))]
        if not takers:
            raise RegistrationError(f"Param({name}={limit!r}) says nothing about {called}; {_hint(name)}")
        for part, keyword in takers:
            _add(part, keyword, limit)
    words = {"unit": extra.unit, "description": extra.doc}
    return {**made, **{name: text for name, text in words.items() if text is not None}}


def limits_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The limits in a schema, by the names that `Param` has for them."""
    found: dict[str, Any] = {}
    for part in _parts(schema):
        for name in _LIMITS:
            keyword = _keyword(name, part)
            if keyword and keyword in part:
                found[name] = part[keyword]
    return found


def unit_of(schema: Mapping[str, Any]) -> str | None:
    """The unit that a schema names, at its root or in the branch of an optional value."""
    return next((str(part["unit"]) for part in _parts(schema) if "unit" in part), None)


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schema, and the branches of an optional value."""
    yield schema
    for part in schema.get("anyOf", ()):
        yield from _parts(part)


def _keyword(name: str, part: Mapping[str, Any]) -> str | None:
    """The JSON Schema keyword for a limit on values of this schema; None where there is none."""
    kind = part.get("type")
    if not isinstance(kind, str) or "enum" in part or "format" in part or part.get("items") is False:
        return None
    if name in _BOUNDS:
        return _BOUNDS[name] if kind in ("integer", "number") else None
    if name == "pattern":
        return "pattern" if kind == "string" else None
    return f"{name[:3]}{_LENGTHS[kind]}" if kind in _LENGTHS else None


def _add(part: dict[str, Any], keyword: str, limit: Any) -> None:
    if keyword not in part:
        part[keyword] = limit
    elif keyword in ("pattern", "multipleOf"):
        part.setdefault("allOf", []).append({keyword: limit})
    else:
        choose = _TIGHTER.get(keyword) or (max if keyword.startswith("min") else min)
        part[keyword] = choose(part[keyword], limit)


def _hint(name: str) -> str:
    where = "an int or a float" if name in _BOUNDS else "a str" if name == "pattern" else "a str, list or dict"
    return f"it is for {where} (of a list's items: list[Annotated[float, Param(...)]])"


def _refuse_foreign(extra: Any) -> None:
    """Limits made for another library would be ignored in silence, which a robot cannot afford."""
    strange = any(getattr(extra, name, None) is not None for name in _LIMITS) or getattr(extra, "metadata", None)
    if strange or (isinstance(extra, type) and issubclass(extra, Param)):
        raise RegistrationError(f"{extra!r} in Annotated is not read here; write Param(ge=..., le=..., ...) instead")
