"""What happened to the runs, for those who watch: numbered, bounded, resumable. Knows no transport."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..wire import Answer, Event

log = logging.getLogger(__name__)
Watcher = Callable[[Event], None]

_EVENT_BYTES = 600
"""What an event takes in memory beside what it says."""
RECENT_BYTES = 4 << 20
"""How much is kept in memory for watchers that come back."""
KEPT_BYTES = 256 << 10
"""How much is kept in the journal of one run's values and log."""


class Told(Mapping[str, Any]):
    """An answer as the data of an event; encoded when somebody looks, which mostly nobody does."""

    __slots__ = ("_data", "answer")

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._data: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        return self._encoded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoded())

    def __len__(self) -> int:
        return len(self._encoded())

    def _encoded(self) -> dict[str, Any]:
        if self._data is None:
            self._data = self.answer.encode()
        return self._data


def _weight(data: Mapping[str, Any]) -> int:
    """Roughly the bytes of what an event says."""
    if isinstance(data, Told):
        answer = data.answer
        return 2000 + sum(len(str(part)) for part in (answer.result, answer.parameters, answer.error_details))
    return 200 + sum(len(str(value)) for value in data.values())


class KeptEvents:
    """What the journal will keep of one run's events; when there is too much, the oldest go and are counted."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._bytes = 0
        self.dropped = 0

    def add(self, event: Event) -> None:
        self._events.append(event)
        self._bytes += _weight(event.data)
        while self._bytes > KEPT_BYTES and len(self._events) > 1:
            self._bytes -= _weight(self._events.popleft().data)
            self.dropped += 1

    def encode(self) -> list[dict[str, Any]]:
        return [event.encode() for event in self._events]


class EventLog:
    """Numbers events and hands them to watchers. `emit` belongs to the device thread, the rest to any."""

    def __init__(self) -> None:
        self.epoch = 0
        self._seq = 0
        self._recent: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._watchers: dict[object, tuple[str | None, Watcher]] = {}
        self._guard = threading.Lock()

    def emit(self, run_id: str, kind: str, data: Mapping[str, Any]) -> Event:
        """Number one event, keep it for a while, and tell who watches."""
        weight = _EVENT_BYTES + _weight(data)
        with self._guard:
            self._seq += 1
            event = Event(run_id, kind, data, time.time(), self._seq, self.epoch)
            self._recent.append((event, weight))
            self._bytes += weight
            while self._bytes > RECENT_BYTES:
                self._bytes -= self._recent.popleft()[1]
            watchers = [watcher for wanted, watcher in self._watchers.values() if wanted in (None, run_id)]
        for watcher in watchers:
            self._tell(watcher, event)
        return event

    def watch(self, watcher: Watcher, *, run_id: str | None = None, after: int = 0) -> tuple[list[Event], object]:
        """Hear of every event from now on. Returns those since `after` that are still here, and a key for `leave`."""
        key = object()
        with self._guard:
            missed = [event for event, _ in self._recent if event.seq > after and run_id in (None, event.run_id)]
            self._watchers[key] = (run_id, watcher)
        return missed, key

    def leave(self, key: object) -> None:
        with self._guard:
            self._watchers.pop(key, None)

    @staticmethod
    def _tell(watcher: Watcher, event: Event) -> None:
        try:
            watcher(event)
        except Exception:
            log.exception("a watcher of events failed")
