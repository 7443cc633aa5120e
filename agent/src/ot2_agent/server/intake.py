"""Whether a new request is taken: the checks, in their order. Decides; records nothing and starts nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..check import nearest
from ..errors import DiskLow, Expired, NotSupported, OT2Error, QueueFull, TaskNotFound
from ..wire import Request, State
from .live import TaskEntry
from .reactor import boot_clock
from .status import Snapshot, why_not_run

DEFAULT_START_WITHIN_S = 3600.0
CLOCK_BEHIND = time.mktime((2026, 1, 1, 0, 0, 0, 0, 1, 0))
"""A wall clock earlier than this release was never set."""


@dataclass(frozen=True)
class Limits:
    """What the intake is told by the settings."""

    state_dir: Path
    min_free_bytes: int


def refusal(
    request: Request,
    now: Snapshot,
    tasks: Mapping[str, TaskEntry],
    limits: Limits,
    *,
    arrived: float,
    line_full: bool,
) -> OT2Error | None:
    """Why this request is not taken, None when it is. `arrived` is on the boot clock, in seconds.

    The order is part of the wire's promise: task, dry run, freshness, readiness, schema, disk, capacity.
    """
    entry = tasks.get(request.task)
    if entry is None:
        return why_not_run(now) if not tasks else _no_such_task(request.task, tasks)
    if request.dry_run:
        return NotSupported("This device cannot do a dry run (it never runs for real instead). Nothing moved.")
    why = stale(request, arrived) or why_not_run(now)
    if why:
        return why
    try:
        entry.check.check(request.parameters)
    except OT2Error as exc:
        return exc
    if shutil.disk_usage(limits.state_dir).free < limits.min_free_bytes:
        return DiskLow(
            f"Less than {limits.min_free_bytes >> 20} MiB are free in {limits.state_dir}, too little to promise that "
            "the outcome can be recorded. Nothing moved. Make room there, then send it under a new id."
        )
    if line_full:
        return QueueFull(
            f"The queue is full ({now.places} wait behind the running one). Nothing moved. "
            "Send it again later, under a new id.",
            details={"places": now.places},
        )
    return None


def stale(request: Request, arrived: float) -> Expired | None:
    """Whether the request is too old to start now. Asked on arrival and again when its turn has come."""
    waited = boot_clock() - arrived
    within = request.start_within_s or DEFAULT_START_WITHIN_S
    if waited > within:
        return Expired(f"It waited {waited:.0f} s in the queue; it was to start within {within:g} s. Nothing moved.")
    if request.expires_in_s is not None and waited > request.expires_in_s:
        return Expired(f"It was good for {request.expires_in_s:g} s, and {waited:.0f} s have passed. Nothing moved.")
    if request.expires_at is None:
        return None
    now = time.time()
    if now < CLOCK_BEHIND:
        return Expired(
            "The request has an expires_at, but this device's clock was never set. Nothing moved. Use expires_in_s.",
            code="clock_unset",
        )
    if now > request.expires_at:
        return Expired(f"It expired {now - request.expires_at:.0f} s ago by this device's clock. Nothing moved.")
    return None


def refused_state(why: OT2Error) -> State:
    """The state in which a refusal is recorded."""
    return State.EXPIRED if isinstance(why, Expired) else State.REJECTED


def _no_such_task(name: str, tasks: Mapping[str, TaskEntry]) -> TaskNotFound:
    near = nearest(name, sorted(tasks))
    hint = f"did you mean {near}?" if near else f"it has {', '.join(sorted(tasks))}"
    details = {"tasks": sorted(tasks), **({"did_you_mean": near} if near else {})}
    return TaskNotFound(f"This device has no task {name[:80]} ({hint}). Nothing moved.", details=details)
