"""A run that has not ended yet, with everything that is known of it only while it lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import OT2Error
from ..wire import Answer, Request
from .events import KeptEvents
from .parameters import ParameterCheck
from .reactor import Timer
from .states import Effects

Reply = Callable[[Answer | OT2Error], None]
"""Hears what became of a call, exactly once, in the device's thread."""


@dataclass(frozen=True)
class TaskEntry:
    """A task as the worker declared it."""

    name: str
    effects: Effects
    timeout_s: float
    grace_s: float
    check: ParameterCheck
    catalogue: dict[str, Any]

    @classmethod
    def of(cls, entry: dict[str, Any]) -> TaskEntry:
        return cls(entry["name"], entry["effects"], entry["timeout_s"], entry["grace_s"], ParameterCheck(entry), entry)


@dataclass
class Live:
    """One active run."""

    request: Request
    answer: Answer
    entry: TaskEntry
    arrived: float
    """Boot clock, in seconds."""
    waiters: list[Callable[[Answer], None]] = field(default_factory=list)
    kept: KeptEvents = field(default_factory=KeptEvents)
    timers: list[Timer] = field(default_factory=list)
    ended: bool = False
    """Whether its end is known (it may not be committed yet)."""
    ending: str | None = None
    """Why it is being ended: `cancelled` or `timed_out`."""
    ending_by: str = ""

    @property
    def limit_s(self) -> float:
        """The longest it may run: the task's own limit is the cap."""
        return min(self.request.timeout_s or self.entry.timeout_s, self.entry.timeout_s)

    def stop_timers(self) -> None:
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()
