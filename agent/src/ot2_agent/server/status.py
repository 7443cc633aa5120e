"""What the device says of itself, and which actions it would honour now: one helper decides both. Pure."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import NotReady, OT2Error, Starting
from ..wire import WIRE_VERSION, Answer, iso
from .states import Lock

CONTRACT = "1.2"
"""Version of the lab's status contract that the envelope follows."""


@dataclass(frozen=True)
class Identity:
    """Who the device is; fixed while the agent lives."""

    device_id: str
    title: str
    description: str
    version: str
    mode: str
    """simulated, emulated or real."""


@dataclass(frozen=True)
class Snapshot:
    """The device at one moment, made in its own thread and read from any."""

    worker: str = "starting"
    """starting, ready, down (nobody started it), failed (it did not import)."""
    worker_message: str = ""
    versions: Mapping[str, Any] = field(default_factory=dict)
    running: Answer | None = None
    queued: tuple[str, ...] = ()
    places: int = 0
    lock: Lock | None = None
    journal_problem: str | None = None
    stopping: bool = False
    epoch: int = 0
    started_at: float = 0.0
    activity_since: float = 0.0
    cycles_total: int = 0
    last_error: Mapping[str, Any] | None = None

    @property
    def busy(self) -> bool:
        return self.running is not None


def why_not_run(now: Snapshot) -> OT2Error | None:
    """Why a new run would be refused, whatever it asks for; None when it would not."""
    if now.stopping:
        return Starting("The agent is shutting down. Nothing moved.", code="stopping")
    if now.journal_problem:
        return Starting(f"{now.journal_problem} Nothing moved.", code="journal_unusable")
    if now.lock:
        return NotReady(
            f"{_why_locked(now.lock)} Nothing moved. {_unlock_steps(now.lock)[0]}", details={"lock": now.lock.encode()}
        )
    if now.worker == "starting":
        return Starting("The worker is still starting. Nothing moved; the same id may be sent again.")
    if now.worker != "ready":
        return NotReady(f"The worker is not running ({now.worker_message}). Nothing moved. {_STARTUP}")
    return None


def why_not_reset(now: Snapshot) -> OT2Error | None:
    """Why a reset would be refused."""
    if now.journal_problem:
        return Starting(now.journal_problem, code="journal_unusable")
    if now.lock is None:
        return NotReady("Nothing is locked, so there is nothing to reset.")
    if "resolve" in now.lock.needs:
        return NotReady(f"{_why_locked(now.lock)} {_unlock_steps(now.lock)[0]}", details={"lock": now.lock.encode()})
    return None


def why_not_startup(now: Snapshot) -> OT2Error | None:
    """Why a startup would be refused."""
    if now.stopping:
        return Starting("The agent is shutting down.", code="stopping")
    if now.lock:
        return NotReady(f"{_why_locked(now.lock)} {_unlock_steps(now.lock)[0]}", details={"lock": now.lock.encode()})
    if now.worker in ("starting", "ready"):
        return NotReady(f"The worker is {'running' if now.worker == 'ready' else 'starting'} already.")
    return None


ACTIONS: Mapping[str, Callable[[Snapshot], OT2Error | None]] = {
    "run": why_not_run,
    "reset": why_not_reset,
    "startup": why_not_startup,
}

_STARTUP = "Start it with POST /control/startup."


def _why_locked(lock: Lock) -> str:
    return f"Run {lock.run_id} was cut off and the deck may be in any state."


def _unlock_steps(lock: Lock) -> list[str]:
    """What a person does, in order."""
    resolve = (
        f"Look at the deck, then say what became of it: POST /runs/{lock.run_id}/resolve "
        '{"verdict": "done|not_done|partly", "by": "your name"}.'
    )
    reset = f'When the deck is as it should be: POST /control/reset {{"lock_id": "{lock.lock_id}"}}.'
    return [resolve, reset] if "resolve" in lock.needs else [reset]


def required_actions(now: Snapshot) -> list[str]:
    """What a person must do before the device takes runs again."""
    if now.journal_problem:
        return [now.journal_problem]
    steps = _unlock_steps(now.lock) if now.lock else []
    if now.worker in ("down", "failed"):
        steps.append(_STARTUP)
    return steps


def equipment_status(now: Snapshot, mode: str) -> str:
    """The contract's word for the device's health; the most serious one wins."""
    if now.journal_problem or now.worker == "failed":
        return "error"
    if now.lock or now.worker in ("starting", "down"):
        return "requires_init"
    if mode != "real":
        return "dry_run"
    return "busy" if now.busy else "ready"


def message(now: Snapshot) -> str:
    if now.journal_problem:
        return now.journal_problem
    if now.lock:
        return _why_locked(now.lock)
    if now.worker != "ready":
        return f"The worker is {now.worker}. {now.worker_message}".strip()
    if now.running:
        return f"Running {now.running.task}."
    return "Idle."


def envelope(who: Identity, now: Snapshot, *, time_now: float) -> dict[str, Any]:
    """The answer of `GET /status`."""
    current = now.running
    return {
        "protocol_version": CONTRACT,
        "equipment_id": who.device_id,
        "equipment_name": who.title,
        "equipment_kind": "liquid_handler",
        "equipment_version": who.version,
        "host": platform.node(),
        "equipment_status": equipment_status(now, who.mode),
        "message": message(now),
        "required_actions": required_actions(now),
        "allowed_actions": [name for name, why_not in ACTIONS.items() if why_not(now) is None],
        "activity": "running" if now.busy else "idle",
        "activity_since": iso(now.activity_since),
        "device_time": iso(time_now),
        "uptime_seconds": round(time_now - now.started_at, 3),
        "components": _components(now),
        "metrics": {"cycles_total": {"value": now.cycles_total, "unit": "count", "timestamp": iso(time_now)}},
        "last_error": now.last_error,
        "details": {
            "mode": who.mode,
            "wire_version": WIRE_VERSION,
            "epoch": now.epoch,
            "current_run": current and {
                "run_id": current.run_id,
                "task": current.task,
                "state": current.state.value,
                "progress": dict(current.progress),
                "started_at": current.started_at and iso(current.started_at),
            },
            "queue": {"runs": list(now.queued), "places": now.places},
            "lock": now.lock and now.lock.encode(),
            "versions": dict(now.versions),
            "claimed_by": None,
        },
    }  # fmt: skip


def _components(now: Snapshot) -> dict[str, Any]:
    return {
        "worker": {
            "connected": now.worker == "ready",
            "state": now.worker,
            "message": now.worker_message or None,
        },
        "journal": {
            "connected": now.journal_problem is None,
            "state": "ok" if now.journal_problem is None else "unusable",
            "message": now.journal_problem,
        },
    }
