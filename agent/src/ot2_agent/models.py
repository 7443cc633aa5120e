"""Pydantic models, of either major version, without importing pydantic: they are known by what they can do.

The user's interpreter may have any pydantic or none. What a schema looks like differs between versions; here
all of it becomes JSON Schema 2020-12. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

REFERENCE = "#/$defs/{model}"


def is_model(kind: Any) -> bool:
    """Whether this is the class of a pydantic model."""
    return isinstance(kind, type) and (_is_second(kind) or _is_first(kind))


def _is_second(kind: Any) -> bool:
    return all(callable(getattr(kind, name, None)) for name in ("model_json_schema", "model_validate", "model_dump"))


def _is_first(kind: Any) -> bool:
    return hasattr(kind, "__fields__") and all(
        callable(getattr(kind, name, None)) for name in ("schema", "parse_obj", "dict")
    )


def load(kind: Any, value: Any) -> Any:
    """The model made from a JSON value; raises whatever pydantic raises."""
    return kind.model_validate(value) if _is_second(kind) else kind.parse_obj(value)


def dump(model: Any) -> Any:
    """A model's fields, for the encoder to go on with."""
    if not _is_second(type(model)):
        return model.dict(by_alias=True)
    try:
        return model.model_dump(mode="json", by_alias=True)
    except Exception:  # a field that pydantic cannot put in JSON: ours may know it, or say which it is
        return model.model_dump(by_alias=True)


def complaints(exc: Exception) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(where, what) of each error in a pydantic ValidationError; nothing for any other exception."""
    errors = getattr(exc, "errors", None)
    for one in errors() if callable(errors) else ():
        yield tuple(step for step in one["loc"] if step != "__root__"), str(one["msg"]).removeprefix("Value error, ")


def schema(kind: Any, *, result: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's JSON Schema and the definitions that it refers to (as `#/$defs/NAME`).

    Args:
        result: describe what the model becomes when it is encoded rather than what is read.
    """
    if _is_second(kind):
        mode = "serialization" if result else "validation"
        made = kind.model_json_schema(ref_template=REFERENCE, mode=mode)
    else:
        made = kind.schema(ref_template=REFERENCE)
        for part, known in _first_parts(kind, made):
            _say_none(part, known)
        made["$defs"] = made.pop("definitions", {})
    made = _translated(made)
    return made, made.pop("$defs", {})


def _first_parts(kind: Any, made: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Each object of a version 1 schema with the model that it describes."""
    definitions = made.get("definitions", {})
    yield definitions.get(kind.__name__, {}), kind  # a model that refers to itself is among the definitions
    yield made, kind
    waiting, seen = [kind], {kind}
    while waiting:
        for known in waiting.pop().__fields__.values():
            for other in _field_models(known):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
                    yield definitions.get(other.__name__, {}), other


def _field_models(known: Any) -> Iterator[Any]:
    if is_model(known.type_):
        yield known.type_
    for part in known.sub_fields or ():
        yield from _field_models(part)


def _say_none(part: dict[str, Any], kind: Any) -> None:
    """Version 1 takes null for an Optional field and does not say so."""
    properties = part.get("properties", {})
    for known in kind.__fields__.values():
        if known.allow_none and known.alias in properties:
            properties[known.alias] = {"anyOf": [properties[known.alias], {"type": "null"}]}


def _translated(node: Any) -> Any:
    """Draft 7, as version 1 writes it, to 2020-12; and tuples of Python to arrays."""
    if isinstance(node, (list, tuple)):
        return [_translated(one) for one in node]
    if not isinstance(node, Mapping):
        return node
    made = {name: _translated(one) for name, one in node.items()}
    if made.get("type") == "array" and isinstance(made.get("items"), list):
        made["prefixItems"] = made.pop("items")
        made["items"] = made.pop("additionalItems", True)
    return made


def with_references(node: Any, renamed: Mapping[str, str]) -> Any:
    """The same schema, with what it refers to under other names."""
    if isinstance(node, list):
        return [with_references(one, renamed) for one in node]
    if not isinstance(node, Mapping):
        return node
    made = {name: with_references(one, renamed) for name, one in node.items()}
    reference = made.get("$ref")
    if isinstance(reference, str):
        start, _, name = reference.rpartition("/")
        made["$ref"] = f"{start}/{renamed.get(name, name)}"
    return made
