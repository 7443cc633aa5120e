"""One thread that owns things: calls posted from anywhere, watched descriptors, timers. Knows nothing of runs."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)
Call = Callable[[], None]


def boot_clock() -> float:
    """Seconds since boot, suspended time included; wall-clock changes do not move it."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class Timer:
    """A call at a time. `cancel` may come at any moment, also after it fired."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Call | None) -> None:
        self.when = when
        self.call = call

    def cancel(self) -> None:
        self.call = None


class Reactor:
    """Runs every call in its own thread, one after the other. A call that raises is logged; the thread lives on."""

    def __init__(self, name: str) -> None:
        self._inbox: deque[Call] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._sweep_at = 64
        """How many timers there may be before the cancelled ones are swept out: a run's limit is an hour away."""
        self._order = itertools.count()
        self._watched: dict[int, Call] = {}
        self._poll = select.poll()
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wake_out, select.POLLIN)
        self._sleeps = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.turned = boot_clock()
        """When the loop last turned, for those who watch its health."""

    def start(self) -> None:
        self._thread.start()

    def post(self, call: Call) -> None:
        """Have `call` run in the reactor's thread. From any thread."""
        self._inbox.append(call)
        if self._sleeps:
            self._wake()

    def after(self, seconds: float, call: Call) -> Timer:
        """Have `call` run in `seconds`. Only from the reactor's thread."""
        timer = Timer(boot_clock() + seconds, call)
        if len(self._timers) > self._sweep_at:
            self._timers = [entry for entry in self._timers if entry[2].call is not None]
            heapq.heapify(self._timers)
            self._sweep_at = 2 * len(self._timers) + 64
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def watch(self, fd: int, call: Call) -> None:
        """Have `call` run whenever `fd` can be read. Only from the reactor's thread."""
        self._watched[fd] = call
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def stop(self) -> None:
        """End the thread after what was posted so far; returns when it has ended."""
        self.post(self._stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _stop(self) -> None:
        self._stopped = True

    def _wake(self) -> None:
        try:
            os.write(self._wake_in, b"!")
        except (BlockingIOError, OSError):
            pass  # full: it is awake already; closed: it has ended

    def _run(self) -> None:
        while not self._stopped:
            self.turned = boot_clock()
            self._sleeps = True
            for fd, _ in self._poll.poll(self._patience_ms()):
                if fd == self._wake_out:
                    os.read(self._wake_out, 4096)
                elif call := self._watched.get(fd):
                    self._guarded(call)
            self._sleeps = False
            self._fire()
            for _ in range(len(self._inbox)):
                self._guarded(self._inbox.popleft())
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _patience_ms(self) -> float | None:
        if self._inbox:
            return 0
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        return max(0.0, (self._timers[0][0] - boot_clock()) * 1000 + 1) if self._timers else None

    def _fire(self) -> None:
        now = boot_clock()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            call, timer.call = timer.call, None
            if call is not None:
                self._guarded(call)

    def _guarded(self, call: Call) -> None:
        try:
            call()
        except Exception:
            log.exception("a call in the device thread failed")
