"""Which move a run may make, what its end means for the device, and who is next. Pure: no I/O, no clock, no threads.

(received) ──▶ accepted ──▶ running ⇄ waiting ──▶ succeeded · failed · cancelled · timed_out · rejected · unknown
     │             └──────▶ cancelled · expired · not_started
     ├────────────────────▶ running                       an idle device commits both at once
     └────────────────────▶ rejected · expired · not_started · cancelled      recorded, never run
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..wire import ACTIVE, State

Effects = Literal["none", "motion", "consumes"]
Need = Literal["resolve", "reset"]

_ENDS = frozenset(State) - ACTIVE
LEGAL: Mapping[State | None, frozenset[State]] = {
    None: frozenset({State.ACCEPTED, State.RUNNING, State.REJECTED, State.EXPIRED, State.NOT_STARTED, State.CANCELLED}),
    State.ACCEPTED: frozenset({State.RUNNING, State.CANCELLED, State.EXPIRED, State.NOT_STARTED}),
    State.RUNNING: (_ENDS - {State.EXPIRED, State.NOT_STARTED}) | {State.WAITING},
    State.WAITING: (_ENDS - {State.EXPIRED, State.NOT_STARTED}) | {State.RUNNING},
    **{end: frozenset() for end in _ENDS},
}
"""From which state to which; None is a run that is not in the journal yet. The first end stands."""


class IllegalMove(Exception):
    """A move that `LEGAL` does not have. A bug in the caller, never bad input."""


def check(now: State | None, then: State) -> State:
    """`then`, when a run may go there from `now`.

    Raises:
        IllegalMove: it may not.
    """
    if then not in LEGAL[now]:
        raise IllegalMove(f"a run cannot go from {now or 'nowhere'} to {then}")
    return then


def after_crash(found: State) -> State:
    """What a restarted agent makes of a run that its predecessor left in the journal."""
    if found is State.ACCEPTED:
        return State.NOT_STARTED  # never run by itself: someone may have touched the deck
    return State.UNKNOWN if found in ACTIVE else found


def worker_died(effects: Effects) -> State:
    """How a run ends whose worker died by itself: without effects nothing is in doubt."""
    return State.FAILED if effects == "none" else State.UNKNOWN


@dataclass(frozen=True)
class Lock:
    """Why nothing may start: a run was cut off and nobody has looked yet. `needs` is what is still to be done."""

    lock_id: str
    run_id: str
    needs: tuple[Need, ...]

    def resolved(self) -> Lock:
        """The same lock after a person said what became of the run."""
        return replace(self, needs=tuple(need for need in self.needs if need != "resolve"))

    def encode(self) -> dict[str, Any]:
        return {"lock_id": self.lock_id, "run_id": self.run_id, "needs": list(self.needs)}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Lock:
        return cls(data["lock_id"], data["run_id"], tuple(data["needs"]))


def lock_after(run_id: str, end: State, effects: Effects, *, interrupted: bool) -> Lock | None:
    """The lock that a run leaves behind, if any.

    A run that ended in good order leaves none. One that was cut off leaves the deck in any state; what that asks for
    depends on what its task declared.
    """
    cut_off = interrupted or end is State.UNKNOWN
    if not cut_off or effects == "none":
        return None
    needs: tuple[Need, ...] = ("resolve", "reset") if effects == "consumes" else ("reset",)
    return Lock(run_id, run_id, needs)


def drops_queue(end: State, effects: Effects) -> bool:
    """Whether what is queued behind a run that ended like this may no longer start."""
    return end is not State.SUCCEEDED and effects != "none"


class Line:
    """The run that runs and those that wait, first come first served. Holds ids; never two running, never one twice."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.running: str | None = None
        self.waiting: deque[str] = deque()

    @property
    def full(self) -> bool:
        return self.running is not None and len(self.waiting) >= self.places

    @property
    def idle(self) -> bool:
        return self.running is None and not self.waiting

    def __contains__(self, run_id: str) -> bool:
        return run_id == self.running or run_id in self.waiting

    def join(self, run_id: str) -> None:
        """Take a place at the end of the line."""
        if run_id in self or len(self.waiting) > self.places:
            raise IllegalMove(f"{run_id} cannot join the line")
        self.waiting.append(run_id)

    def call(self) -> str | None:
        """The next one, now running; None while somebody runs or nobody waits."""
        if self.running is not None or not self.waiting:
            return None
        self.running = self.waiting.popleft()
        return self.running

    def start(self, run_id: str) -> None:
        """Run at once, on an idle device."""
        if not self.idle:
            raise IllegalMove(f"{run_id} cannot run: the device is not idle")
        self.running = run_id

    def leave(self, run_id: str) -> None:
        """A run ended, or gave up its place."""
        if run_id == self.running:
            self.running = None
        else:
            self.waiting.remove(run_id)

    def clear(self) -> list[str]:
        """Everybody who waited, in order; the line is empty afterwards."""
        dropped = list(self.waiting)
        self.waiting.clear()
        return dropped
