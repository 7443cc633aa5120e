"""What a running task may do: report, be cancelled, sleep. `current_run()` is the whole of it.

Outside an agent (a plain script, pytest) `current_run()` prints, so that a task is an ordinary function everywhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from .pipe import Channel, Frame


class CancelRequested(BaseException):
    """Raised inside a task at its next checkpoint once somebody cancelled the run, or its time is up.

    A BaseException, so that a task's `except Exception` does not swallow it. `finally` blocks run.
    """

    def __init__(self, reason: str = "cancelled") -> None:
        super().__init__(reason)
        self.reason = reason


class Run:
    """The run that a task is part of. This one is for tasks called outside an agent: it prints."""

    id = "local"
    task = ""
    mode = "simulated"
    deadline: float | None = None
    """When the run's time is up, in seconds of `time.monotonic()`; None without a limit."""

    def __init__(self, labels: Mapping[str, str] | None = None) -> None:
        self.labels: dict[str, str] = dict(labels or {})

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for the run to end."""
        return False

    def progress(self, fraction: float | None, message: str = "") -> None:
        """Say how far the run is.

        Args:
            fraction: 0 to 1, or None when it cannot be told.
            message: a few words for people.

        Raises:
            CancelRequested: the run is to end here.
            ValueError: the fraction is not a number.
        """
        self._tell("progress", {"fraction": _fraction(fraction), "message": str(message)})
        self.checkpoint()

    def value(self, name: str, value: Any, unit: str | None = None) -> None:
        """Report a value measured on the way, e.g. `run.value("absorbance", 0.42, "AU")`."""
        self._tell("value", {"name": str(name), "value": value, "unit": unit})

    def log(self, *parts: Any, level: str = "info") -> None:
        """Write one line to the run's log."""
        self._tell("log", {"text": " ".join(str(part) for part in parts), "level": level, "source": "log"})

    def checkpoint(self) -> None:
        """A place where the run may be ended in good order.

        Raises:
            CancelRequested: it is to end here.
        """

    def sleep(self, seconds: float) -> None:
        """Sleep, but end at once when the run is cancelled.

        Raises:
            CancelRequested: the run is to end here.
        """
        time.sleep(seconds)

    def _tell(self, kind: str, data: Mapping[str, Any]) -> None:
        said = ", ".join(f"{key} {value}" for key, value in data.items() if value not in (None, ""))
        print(f"[{kind}] {said}")


class LiveRun(Run):
    """The run of a task inside a worker: reports go to the agent, a cancel comes from it."""

    def __init__(self, channel: Channel, frame: Frame, encode: Callable[[Any], tuple[Any, list[str]]]) -> None:
        super().__init__(frame.get("labels"))
        self.id = frame["run_id"]
        self.task = frame["task"]
        self.mode = frame["mode"]
        limit = frame.get("timeout_s")
        self.deadline = None if limit is None else time.monotonic() + limit
        self.touched = False
        """Whether the task has reported anything: from then on a `Refuse` is a failure."""
        self._channel = channel
        self._encode = encode
        self._reason: str | None = None

    @property
    def cancelled(self) -> bool:
        self._look(0.0)
        return self._reason is not None

    @property
    def reason(self) -> str:
        """Why the run is to end: `cancelled` or `timed_out`."""
        return self._reason or "cancelled"

    def value(self, name: str, value: Any, unit: str | None = None) -> None:
        self.touched = True
        encoded, _ = self._encode(value)
        super().value(name, encoded, unit)

    def checkpoint(self) -> None:
        self.touched = True
        if self.cancelled:
            raise CancelRequested(self.reason)

    def sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.checkpoint()
        while (left := end - time.monotonic()) > 0:
            self._look(left)
            self.checkpoint()

    def _look(self, timeout_s: float) -> None:
        """Read what the agent has said: a cancel is kept, anything else is for the main loop."""
        if self._reason is not None:
            return
        if self._channel.closed:
            time.sleep(timeout_s)
            return
        for frame in self._channel.poll(timeout_s):
            if frame["type"] == "cancel" and frame["run_id"] == self.id:
                self._reason = frame.get("reason", "cancelled")
            elif frame["type"] != "cancel":
                self._channel.keep(frame)

    def _tell(self, kind: str, data: Mapping[str, Any]) -> None:
        self._channel.send({"type": "event", "run_id": self.id, "kind": kind, "data": dict(data)})


_NOWHERE = Run()
_current: ContextVar[Run | None] = ContextVar("ot2_agent_run", default=None)


def current_run() -> Run:
    """The run that the calling task is part of; outside an agent one that prints."""
    return _current.get() or _NOWHERE


def _fraction(value: float | None) -> float | None:
    if value is None:
        return None
    number = float(value)
    if math.isnan(number):
        raise ValueError("progress: the fraction must be a number from 0 to 1, or None")
    return min(1.0, max(0.0, number))
