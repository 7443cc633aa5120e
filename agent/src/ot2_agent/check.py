"""Does a JSON value fit its JSON Schema, and if not, why, in one sentence. Standard library only.

Agent and worker both use it, so that both say the same words. It knows the keywords that `schema.py` writes
and those that pydantic models usually have. One that it does not know (`not`, `if`, `contains` ...) is not
checked: the model itself refuses in the worker, still before the task begins. `oneOf` is taken as `anyOf`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from .errors import InvalidParameters
from .times import KINDS as TIMES
from .wire import json_type

Schema = Mapping[str, Any]
Where = tuple[str | int, ...]


@dataclass(frozen=True)
class Misfit:
    """One reason why a value does not fit: what is said of `where`, and the `field` that it is about."""

    where: Where
    why: str
    field: Where
    wrong_type: bool = False
    did_you_mean: str | None = None


def refusal(task: str, misfit: Misfit) -> InvalidParameters:
    """The error that callers get: one sentence, and the details by name."""
    details = {"field": dotted(misfit.field)}
    if misfit.did_you_mean is not None:
        details["did_you_mean"] = misfit.did_you_mean
    return InvalidParameters(f"{dotted(misfit.where) or task} {misfit.why}. Nothing moved.", details=details)


def check_parameters(task: str, schema: Schema, parameters: Mapping[str, Any]) -> None:
    """Check the parameters of one call against the task's schema.

    Raises:
        InvalidParameters: with the first thing that does not fit.
    """
    found = first_misfit(schema, parameters, schema.get("$defs", {}))
    if found is not None:
        raise refusal(task, found)


def first_misfit(schema: Schema, value: Any, defs: Mapping[str, Schema], where: Where = ()) -> Misfit | None:
    """The first reason why `value` does not fit, None when it does; `#/$defs/NAME` refers to `defs`."""
    return next(_Check(defs).misfits(schema, value, where), None)


# --- words ----------------------------------------------------------------------------------------------

_TYPE_WORDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "an array",
    "object": "an object",
}


def dotted(where: Where) -> str:
    """`("plate", "wells", 2)` as it is written: `plate.wells[2]`."""
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def show(value: Any) -> str:
    """A JSON value in a sentence: short, strings in quotes."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (list, dict, Mapping)):
        return json_type(value) if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _joined(words: Sequence[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def _types(schema: Schema) -> list[str]:
    named = schema.get("type", [])
    return [named] if isinstance(named, str) else list(named)


def _branches(schema: Schema) -> list[Schema]:
    return [*schema.get("anyOf", ()), *schema.get("oneOf", ())]


def describe(schema: Schema, defs: Mapping[str, Schema]) -> str:
    """What a schema asks for, in a few words: `a number`, `an integer or null`, `one of 'a' or 'b'`."""
    if "$ref" in schema:
        return describe(defs.get(_ref_name(schema), {}), defs)
    if "enum" in schema:
        return _choices(schema["enum"])
    if "const" in schema:
        return show(schema["const"])
    if schema.get("format") in TIMES:
        return TIMES[schema["format"]].words
    branches = list(dict.fromkeys(describe(branch, defs) for branch in _branches(schema)))
    if branches:
        return _joined(branches, "or")
    return _joined([_TYPE_WORDS.get(name, name) for name in _types(schema)] or ["any value"], "or")


def _choices(values: Sequence[Any]) -> str:
    return show(values[0]) if len(values) == 1 else f"one of {_joined([show(value) for value in values], 'or')}"


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant: the same but for case, a beginning, or spelt much alike."""
    folded = {name.casefold(): name for name in reversed(known)}
    plain = word.casefold()
    if plain in folded:
        return folded[plain]
    begins = [name for name in known if plain.startswith(name.casefold()) or name.casefold().startswith(plain)]
    if len(begins) == 1 and plain:
        return begins[0]
    close = get_close_matches(plain, folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def _ref_name(schema: Schema) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _of_unit(limit: Any, unit: str) -> str:
    return f"{limit} {unit}" if unit else f"{limit}"


# --- the check ------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_IS: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
}

_BOUNDS: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = (
    ("minimum", "at least", lambda value, limit: value >= limit),
    ("exclusiveMinimum", "above", lambda value, limit: value > limit),
    ("maximum", "at most", lambda value, limit: value <= limit),
    ("exclusiveMaximum", "below", lambda value, limit: value < limit),
    ("multipleOf", "a multiple of", lambda value, step: _exact(value) % _exact(step) == 0),
)


def _is_of(wanted: str | list[str] | None, value: Any) -> bool:
    """Whether a value is of a schema's `type`; of a type that nobody knows, nothing is."""
    names = (wanted,) if isinstance(wanted, str) else wanted
    return not names or any(_IS[name](value) for name in names if name in _IS)


def _exact(number: float) -> Fraction:
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))  # 0.3 is 3 times 0.1


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true are not."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def ecma_pattern(pattern: str) -> str:
    """The pattern with `$` at the very end, as in JSON Schema; Python's also fits before a last newline."""
    return re.sub(
        r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\$",
        lambda found: r"\Z" if found[0] == "$" else found[0],
        pattern,
        flags=re.DOTALL,
    )


@dataclass(frozen=True)
class _Check:
    """Walks schema and value side by side. Every method yields misfits, the most telling first."""

    defs: Mapping[str, Schema]

    def misfits(self, schema: Schema | bool, value: Any, where: Where, unit: str = "") -> Iterator[Misfit]:
        if isinstance(schema, bool):
            if not schema:
                yield Misfit(where, "has no place here", where)
            return
        unit = schema.get("unit", unit)
        if "$ref" in schema:
            yield from self.misfits(self.defs.get(_ref_name(schema), {}), value, where, unit)
        for part in schema.get("allOf", ()):
            yield from self.misfits(part, value, where, unit)
        if not _is_of(schema.get("type"), value):
            yield self._wrong(schema, value, where, unit, wrong_type=True)
            return
        if "enum" in schema or "const" in schema:
            yield from self._choice(schema, value, where, unit)
        if "anyOf" in schema or "oneOf" in schema:
            yield from self._branch(schema, value, where, unit)
        yield from self._by_type(schema, value, where, unit)

    def _by_type(self, schema: Schema, value: Any, where: Where, unit: str) -> Iterator[Misfit]:
        if isinstance(value, str):
            yield from self._string(schema, value, where)
        elif _is_number(value):
            yield from self._number(schema, value, where, unit)
        elif isinstance(value, list):
            yield from self._array(schema, value, where, unit)
        elif isinstance(value, Mapping):
            yield from self._object(schema, value, where)

    def _wrong(self, schema: Schema, value: Any, where: Where, unit: str, *, wrong_type: bool = False) -> Misfit:
        asked = describe(schema, self.defs) + (f" ({unit})" if unit else "")
        return Misfit(where, f"must be {asked}, not {show(value)}", where, wrong_type)

    def _choice(self, schema: Schema, value: Any, where: Where, unit: str) -> Iterator[Misfit]:
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if values is None or any(same(value, one) for one in values):
            return
        meant = nearest(value, [one for one in values if isinstance(one, str)]) if isinstance(value, str) else None
        hint = f" (did you mean {show(meant)}?)" if meant is not None else ""
        why = f"must be {_choices(values)}, not {show(value)}{hint}"
        yield Misfit(where, why, where, did_you_mean=meant)

    def _branch(self, schema: Schema, value: Any, where: Where, unit: str) -> Iterator[Misfit]:
        branches = _branches(schema)
        found = [next(self.misfits(branch, value, where, unit), None) for branch in branches]
        if not branches or None in found:
            return
        telling = [one for one in found if one is not None and not (one.wrong_type and one.where == where)]
        if len(telling) == 1:  # only this branch is of the value's type: what it says is what helps
            yield telling[0]
        else:
            yield self._wrong(schema, value, where, unit, wrong_type=not telling)

    def _string(self, schema: Schema, value: str, where: Where) -> Iterator[Misfit]:
        yield from _count(schema, "Length", len(value), where, "character")
        pattern = schema.get("pattern")
        if pattern is not None and not _matches(pattern, value):
            yield Misfit(where, f"must match {pattern}, not {show(value)}", where)
        kind = TIMES.get(schema.get("format", ""))
        if kind is not None and not kind.fits(value):
            yield Misfit(where, f"must be {kind.words}, not {show(value)}", where)

    def _number(self, schema: Schema, value: float, where: Where, unit: str) -> Iterator[Misfit]:
        for keyword, words, holds in _BOUNDS:
            if keyword not in schema:
                continue
            limit = schema[keyword]
            if limit is not None and not holds(value, limit):
                yield Misfit(where, f"must be {words} {_of_unit(limit, unit)}, not {show(value)}", where)

    def _array(self, schema: Schema, value: list[Any], where: Where, unit: str) -> Iterator[Misfit]:
        yield from _count(schema, "Items", len(value), where, "item")
        if schema.get("uniqueItems") and len({json.dumps(one, sort_keys=True) for one in value}) < len(value):
            yield Misfit(where, "must not have the same item twice", where)
        first = schema.get("prefixItems", [])
        for index, one in enumerate(value):
            asked = first[index] if index < len(first) else schema.get("items", True)
            yield from self.misfits(asked, one, (*where, index), unit)

    def _object(self, schema: Schema, value: Mapping[str, Any], where: Where) -> Iterator[Misfit]:
        known = schema.get("properties", {})
        for name in value:
            if name not in known:
                yield from self._other(schema, value, name, where)
            if "propertyNames" in schema:
                yield from self.misfits(schema["propertyNames"], name, (*where, name))
        for name in schema.get("required", ()):
            if name not in value:
                yield self._missing(name, known.get(name, {}), where)
        yield from _count(schema, "Properties", len(value), where, "field")
        for name, part in known.items():
            if name in value:
                yield from self.misfits(part, value[name], (*where, name))

    def _other(self, schema: Schema, value: Mapping[str, Any], name: str, where: Where) -> Iterator[Misfit]:
        """A name that `properties` does not have."""
        patterns = schema.get("patternProperties", {})
        asked = [part for pattern, part in patterns.items() if _matches(pattern, name)]
        others = schema.get("additionalProperties", True)
        if not asked and others is False:
            yield _unknown(name, list(schema.get("properties", {})), value, where)
            return
        for part in asked or [others]:
            yield from self.misfits(part, value[name], (*where, name))

    def _missing(self, name: str, schema: Schema, where: Where) -> Misfit:
        unit = schema.get("unit")
        asked = describe(schema, self.defs) + (f", {unit}" if unit else "")
        return Misfit(where, f"needs {name} ({asked})", (*where, name))


def _matches(pattern: str, value: str) -> bool:
    return re.search(ecma_pattern(pattern), value) is not None


def _count(schema: Schema, of: str, count: int, where: Where, noun: str) -> Iterator[Misfit]:
    least, most = schema.get(f"min{of}", 0), schema.get(f"max{of}", count)
    if least <= count <= most:
        return
    limit, words = (least, "at least") if count < least else (most, "at most")
    if schema.get(f"max{of}") == least:
        words = "exactly"
    plural = "" if limit == 1 else "s"
    yield Misfit(where, f"must have {words} {limit} {noun}{plural}, not {count}", where)


def _unknown(name: str, known: Sequence[str], given: Mapping[str, Any], where: Where) -> Misfit:
    noun = "field" if where else "parameter"
    meant = nearest(name, [one for one in known if one not in given])
    if meant is not None:
        hint = f" (did you mean {meant}?)"
    elif known:
        hint = f"; it takes {_joined(known, 'and')}"
    else:
        hint = "; it takes none"
    shown = show(name)[1:-1] if name else "''"
    why = f"has no {noun} {shown}{hint}"
    return Misfit(where, why, (*where, name), did_you_mean=meant)
