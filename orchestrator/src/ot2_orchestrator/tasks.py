"""The tasks of a device as functions: `robot.tasks.mix_color(R=100)`, with signature, doc and tab completion."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from ot2_agent.errors import DeviceOffline, InvalidParameters, OT2Error

Catalogue = Mapping[str, Mapping[str, Any]]

_TYPES: Mapping[str, type] = {kind.__name__: kind for kind in (str, int, float, bool, list, dict)}


class RemoteTask:
    """One task of a device. Calling it runs it there, once, and returns (or, async, awaits to) its value."""

    def __init__(self, name: str, entry: Mapping[str, Any] | None, execute: Callable[..., Any]) -> None:
        self._execute = execute
        self.__name__ = self.__qualname__ = name
        self.__doc__ = None if entry is None else describe(entry)
        if entry is not None:
            self.__signature__ = signature(entry)

    def __call__(self, *positional: Any, **parameters: Any) -> Any:
        if positional:
            raise InvalidParameters(f"Give the parameters of {self.__name__} by name. Nothing was sent.")
        return self._execute(self.__name__, parameters)

    def __repr__(self) -> str:
        return f"<task {self.__name__}{getattr(self, '__signature__', '(...)')}>"


class Tasks:
    """All tasks of a device, by attribute, by item, or one after the other (their names).

    The catalogue is fetched when it is first needed and whenever a name is not in it.

    Args:
        execute: calls a task by its name and a dict of parameters.
        fetch: gets the catalogue; None where that has to be awaited (then `catalogue` is filled by
            `get_available_tasks()`, and until then a name is taken on trust).
    """

    def __init__(self, execute: Callable[..., Any], fetch: Callable[[], Catalogue] | None) -> None:
        self._execute = execute
        self._fetch = fetch
        self._catalogue: Catalogue | None = None

    def _know(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def __getattr__(self, name: str) -> RemoteTask:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as exc:
            raise AttributeError(exc.args[0]) from None

    def __getitem__(self, name: str) -> RemoteTask:
        if self._fetch is not None and name not in (self._catalogue or {}):
            with suppress(DeviceOffline):
                self._catalogue = self._fetch()
        if not self._catalogue:  # not asked for, or of a device that is away or starting: calling it will tell
            return RemoteTask(name, None, self._execute)
        if name not in self._catalogue:
            raise KeyError(_no_such(name, self._catalogue))
        return RemoteTask(name, self._catalogue[name], self._execute)

    def __iter__(self) -> Iterator[str]:
        if self._catalogue is None and self._fetch is not None:
            self._catalogue = self._fetch()
        return iter(self._catalogue or {})

    def __dir__(self) -> list[str]:
        try:
            return [*super().__dir__(), *self]
        except OT2Error:  # a key pressed in an editor must not end in a traceback
            return list(super().__dir__())

    def __repr__(self) -> str:
        return f"<tasks {', '.join(self._catalogue)}>" if self._catalogue else "<tasks>"


def signature(entry: Mapping[str, Any]) -> inspect.Signature:
    """A task's signature from its catalogue entry. By name only: on a robot, order is no way to tell volumes apart."""
    return inspect.Signature([_parameter(name, about) for name, about in entry.get("parameters", {}).items()])


def _parameter(name: str, about: Mapping[str, Any]) -> inspect.Parameter:
    kind = str(about.get("type", "Any"))
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if about.get("required", True) else about.get("default"),
        annotation=_TYPES.get(kind, kind),
    )


def describe(entry: Mapping[str, Any]) -> str:
    """A task's docstring, with a line for each parameter that has a unit or a doc of its own."""
    lines = [
        f"    {name}{' [' + about['unit'] + ']' if about.get('unit') else ''}: {about.get('doc') or about.get('type')}"
        for name, about in entry.get("parameters", {}).items()
        if about.get("unit") or about.get("doc")
    ]
    doc = str(entry.get("doc") or "").strip()
    return "\n".join([doc, "", "Parameters:", *lines]) if lines else doc


def _no_such(name: str, catalogue: Catalogue) -> str:
    near = difflib.get_close_matches(name, catalogue, 1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"The device has no task {name}{meant}. It has: {', '.join(catalogue) or 'none'}."
