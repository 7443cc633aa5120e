"""What a type annotation means to callers: its JSON Schema (2020-12), and the value that the task then gets.

Knows types; knows neither tasks nor the wire. A received value is first checked against the schema
(`check.py`); the converters here trust that, and refuse only what a schema cannot say. Standard library only.
"""

from __future__ import annotations

import inspect
from collections import abc
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

from . import models
from .check import Where, first_misfit
from .encode import encode_result
from .param import Param, RegistrationError, limited
from .plain import ANYTHING, STRING, Described, Unfit, indescribable, literal_type, plain_type, type_name

NO_DEFAULT = inspect.Parameter.empty


def encodable_default(default: Any) -> dict[str, Any]:
    """`{"default": ...}` as JSON, or nothing where there is none or JSON cannot say it."""
    if default is NO_DEFAULT:
        return {}
    encoded, warnings = encode_result(default)
    return {} if warnings else {"default": encoded}


_MARKS = ("Required", "NotRequired", "ReadOnly")


@dataclass(frozen=True)
class Member:
    """One parameter of a task, or one field of a dataclass or TypedDict."""

    type: Described
    required: bool
    schema: dict[str, Any]


class Describer:
    """Describes the types of one task; those with a name of their own (dataclasses, models) go into `defs`.

    Args:
        module: the module of the task's function.
        names: what is known where the function was defined, beyond its module; for annotations in strings.
        result: describe what values become when they are encoded, rather than what is read.
    """

    def __init__(self, module: str = "", names: Mapping[str, Any] | None = None, *, result: bool = False) -> None:
        self.defs: dict[str, dict[str, Any]] = {}
        self._module = module
        self._names = dict(names or {})
        self._result = result
        self._known: dict[Any, Described] = {}

    def member(self, hint: Any, default: Any = NO_DEFAULT, *, required: bool | None = None, doc: str = "") -> Member:
        """Describe one parameter or field. A default of None means that None may be given, too.

        Raises:
            RegistrationError: the type cannot be described; the sentence says what to use instead.
        """
        if isinstance(default, Param) or isinstance(hint, Param):
            raise RegistrationError("Param belongs into the annotation: Annotated[float, Param(...)]")
        made = self.describe(hint)
        if default is None and first_misfit(made.schema, None, self.defs) is not None:
            made = self.describe(Optional[hint])  # noqa: UP045 - any hint, not only classes
        schema = {**({"description": doc} if doc else {}), **made.schema, **encodable_default(default)}
        return Member(made, default is NO_DEFAULT if required is None else required, schema)

    def describe(self, hint: Any) -> Described:
        """Describe one type.

        Raises:
            RegistrationError: it cannot be described; the sentence says what to use instead.
        """
        while hasattr(hint, "__supertype__"):  # NewType
            hint = hint.__supertype__
        while type(hint).__name__ == "TypeAliasType":  # type X = ...
            hint = hint.__value__
        plain = plain_type(hint)
        if plain is not None:
            return plain
        origin = get_origin(hint) or hint
        for origins, way in _WAYS:
            if origin in origins:
                return way(self, hint)
        if isinstance(hint, type) and not get_args(hint):
            return self._class(hint)
        raise indescribable(hint)

    # --- made of other types -----------------------------------------------------------------------------

    def _annotated(self, hint: Any) -> Described:
        inner, *extras = get_args(hint)
        made = self.describe(inner)
        for extra in extras:
            made = Described(limited(made.schema, extra, made.name), made.convert, made.name)
        return made

    def _union(self, hint: Any) -> Described:
        parts = [self.describe(part) for part in get_args(hint)]

        def convert(value: Any, where: Where) -> Any:
            problem = Unfit(where, "fits none of its types")
            for part in parts:
                if first_misfit(part.schema, value, self.defs) is None:
                    try:
                        return part.convert(value, where)
                    except Unfit as exc:
                        problem = exc
            raise problem

        return Described({"anyOf": [part.schema for part in parts]}, convert, " | ".join(part.name for part in parts))

    def _array(self, hint: Any) -> Described:
        return self._array_of(self.describe(*get_args(hint)) if get_args(hint) else ANYTHING, list)

    def _array_of(self, item: Described, kind: type[list[Any]] | type[tuple[Any, ...]]) -> Described:
        def convert(value: Any, where: Where) -> Any:
            return kind(item.convert(one, (*where, index)) for index, one in enumerate(value))

        name = f"{kind.__name__}[{item.name}{', ...' if kind is tuple else ''}]"
        return Described({"type": "array", "items": item.schema}, convert, name)

    def _tuple(self, hint: Any) -> Described:
        args = get_args(hint)
        if hint is tuple or repr(hint) == "typing.Tuple":
            args = (Any, ...)
        if args[-1:] == (...,):
            return self._array_of(self.describe(args[0]), tuple)
        parts = [self.describe(part) for part in args if part != ()]

        def convert(value: Any, where: Where) -> Any:
            return tuple(part.convert(one, (*where, i)) for i, (part, one) in enumerate(zip(parts, value, strict=True)))

        schema = {"type": "array", "items": False, "minItems": len(parts), "maxItems": len(parts)}
        if parts:
            schema["prefixItems"] = [part.schema for part in parts]
        return Described(schema, convert, f"tuple[{', '.join(part.name for part in parts) or '()'}]")

    def _object(self, hint: Any) -> Described:
        names = get_args(hint) or (str, Any)
        key = STRING if names[0] is Any else self.describe(names[0])
        item = self.describe(names[1])
        if key.schema.get("type") != "string":
            raise RegistrationError(
                f"{type_name(hint)} has keys that are not strings, as JSON wants; use dict[str, ...]"
            )

        def convert(value: Any, where: Where) -> Any:
            pairs = [
                (key.convert(name, (*where, name)), item.convert(one, (*where, name))) for name, one in value.items()
            ]
            if len(dict(pairs)) < len(pairs):
                raise Unfit(where, "has two names for the same key")
            return dict(pairs)

        schema = {"type": "object", "additionalProperties": item.schema}
        if key is not STRING:
            schema["propertyNames"] = key.schema
        return Described(schema, convert, f"dict[{key.name}, {item.name}]")

    # --- classes -----------------------------------------------------------------------------------------

    def _class(self, kind: type) -> Described:
        if kind not in self._known:
            self._known[kind] = self._new_class(kind)
        return self._known[kind]

    def _new_class(self, kind: type) -> Described:
        if models.is_model(kind):
            return self._model(kind)
        if is_dataclass(kind):
            return self._structure(kind, self._dataclass_members, lambda value: kind(**value))
        if issubclass(kind, dict) and hasattr(kind, "__total__"):
            return self._structure(kind, self._typed_dict_members, dict)
        raise indescribable(kind)

    def _structure(
        self,
        kind: type,
        members_of: Callable[[type], dict[str, Member]],
        build: Callable[[dict[str, Any]], Any],
    ) -> Described:
        members: dict[str, Member] = {}

        def convert(value: Any, where: Where) -> Any:
            made = {name: members[name].type.convert(one, (*where, name)) for name, one in value.items()}
            try:
                return build(made)
            except Exception as exc:  # a __post_init__ that refuses
                raise Unfit(where, f"is refused by {kind.__name__}: {exc}") from exc

        key = self._free_name(kind.__name__)
        self.defs[key] = {"type": "object"}
        self._known[kind] = made = Described({"$ref": f"#/$defs/{key}"}, convert, kind.__name__)
        members.update(members_of(kind))  # which may speak of this same type
        self.defs[key].update(object_schema(members), title=kind.__name__)
        return made

    def _dataclass_members(self, kind: Any) -> dict[str, Member]:
        if any(_is_init_var(one) for one in kind.__dataclass_fields__.values()):
            raise RegistrationError(f"{kind.__name__} has an InitVar; use a plain field")
        hints = self._hints(kind)
        members = {}
        for one in fields(kind):
            if one.init or self._result:
                default = NO_DEFAULT if one.default is MISSING else one.default
                required = self._result or (one.default is MISSING and one.default_factory is MISSING)
                members[one.name] = self._field(kind, one.name, hints[one.name], default, required)
        return members

    def _typed_dict_members(self, kind: Any) -> dict[str, Member]:
        members = {}
        for name, marked in self._hints(kind).items():
            hint, required = _unmarked(marked, name in kind.__required_keys__)
            members[name] = self._field(kind, name, hint, NO_DEFAULT, required)
        return members

    def _field(self, kind: type, name: str, hint: Any, default: Any, required: bool) -> Member:
        try:
            return self.member(hint, default, required=required)
        except RegistrationError as exc:
            raise RegistrationError(f"field {name} of {kind.__name__}: {exc}") from None

    def _hints(self, kind: type) -> dict[str, Any]:
        names = self._names if kind.__module__ == self._module else {}
        return resolved(kind, kind.__name__, names)

    def _model(self, kind: Any) -> Described:
        try:
            schema, defs = models.schema(kind, result=self._result)
        except Exception as exc:
            raise RegistrationError(f"the model {kind.__name__} makes no JSON Schema: {exc}") from exc

        def convert(value: Any, where: Where) -> Any:
            try:
                return models.load(kind, value)
            except Exception as exc:
                inner, what = next(models.complaints(exc), ((), str(exc)))
                raise Unfit((*where, *inner), f"is refused by {kind.__name__}: {what}") from exc

        return Described(self._adopted(kind.__name__, schema, defs), convert, kind.__name__)

    def _adopted(self, name: str, schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
        """A reference to a schema that came with definitions of its own, now among ours."""
        if any(self.defs.get(other, part) != part for other, part in defs.items()):
            renamed = {other: self._free_name(other) for other in defs}
            schema = models.with_references(schema, renamed)
            defs = {renamed[other]: models.with_references(part, renamed) for other, part in defs.items()}
        self.defs.update(defs)
        if set(schema) == {"$ref"}:  # it speaks of itself
            return schema
        key = name if self.defs.get(name) == schema else self._free_name(name)
        self.defs[key] = schema
        return {"$ref": f"#/$defs/{key}"}

    def _free_name(self, name: str) -> str:
        number, free = 1, name
        while free in self.defs:
            number += 1
            free = f"{name}_{number}"
        return free


_WAYS: tuple[tuple[tuple[Any, ...], Callable[[Describer, Any], Described]], ...] = (
    ((Annotated,), Describer._annotated),
    ((Union, UnionType), Describer._union),
    ((Literal,), lambda describer, hint: literal_type(hint)),
    ((tuple,), Describer._tuple),
    ((list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection), Describer._array),
    ((dict, abc.Mapping, abc.MutableMapping), Describer._object),
)


def object_schema(members: Mapping[str, Member]) -> dict[str, Any]:
    """The schema of a JSON object with just these members."""
    return {
        "type": "object",
        "properties": {name: member.schema for name, member in members.items()},
        "required": [name for name, member in members.items() if member.required],
        "additionalProperties": False,
    }


def resolved(owner: Any, called: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of a function or class as types, though they may have been written as strings.

    Raises:
        RegistrationError: one cannot be read; the sentence names what is not there.
    """
    around = None
    if inspect.isfunction(owner):  # without its defaults: Python 3.10 reads a default of None as Optional
        around, owner = inspect.unwrap(owner).__globals__, SimpleNamespace(__annotations__=owner.__annotations__)
    try:
        return get_type_hints(owner, around, dict(names), include_extras=True)
    except NameError as exc:
        missing = exc.name or str(exc)
        annotations = getattr(owner, "__annotations__", {})
        speaks = [name for name, raw in annotations.items() if missing in str(raw)]
        raise RegistrationError(
            f"the annotation of {' and '.join(speaks) or called} speaks of {missing}, which is not there "
            f"when the module runs; import it outside `if TYPE_CHECKING:`, or define it above the task"
        ) from exc
    except Exception as exc:
        raise RegistrationError(f"the annotations of {called} cannot be read: {exc}") from exc


def _unmarked(hint: Any, required: bool) -> tuple[Any, bool]:
    """A TypedDict's annotation without Required, NotRequired and ReadOnly, and what they say of the key."""
    while (mark := getattr(get_origin(hint), "_name", None)) in _MARKS:
        required = required if mark == "ReadOnly" else mark == "Required"
        hint = get_args(hint)[0]
    return hint, required


def _is_init_var(one: Any) -> bool:
    return str(getattr(one, "_field_type", "")) == "_FIELD_INITVAR"
