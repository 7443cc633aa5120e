"""What is said of a run in each case: taken, dropped, cut off, found after a crash. Pure but for the time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ..errors import MalformedRequest, NotReady, OT2Error, from_code
from ..wire import REFUSED, Answer, Request, State
from . import states
from .journal import Row
from .live import Live
from .status import Identity

VERDICTS = ("done", "not_done", "partly")


def first(request: Request, who: Identity, sender: str, *, at_once: bool, epoch: int) -> Answer:
    """The answer to a request that is taken: it runs at once, or waits."""
    now = time.time()
    return Answer(
        run_id=request.run_id,
        task=request.task,
        state=State.RUNNING if at_once else State.ACCEPTED,
        device_id=who.device_id,
        parameters=request.parameters,
        submitted_at=now,
        started_at=now if at_once else None,
        sender=sender,
        labels=request.labels,
        mode=who.mode,
        epoch=epoch,
    )


def ended(live: Live, state: State, error: str | None = None, **more: Any) -> Answer:
    """A live run's answer once it has ended."""
    return replace(live.answer, state=state, finished_at=time.time(), error=error, **more)


def dropped(live: Live, because: Answer) -> Answer:
    """A queued run behind one that did not succeed."""
    text = f"Run {because.run_id} before it ended {because.state}, so this one was not started. Nothing moved."
    return ended(live, State.NOT_STARTED, text)


def cut_off(live: Live, how: str) -> Answer:
    """A run whose worker is dead: by our hand, or by itself."""
    if live.ending is None:
        state = states.worker_died(live.entry.effects)
        text = f"The worker died while this run was going on ({how})."
    else:
        state = State.TIMED_OUT if live.ending == "timed_out" else State.CANCELLED
        text = f"It was asked to end ({live.ending_by}) and killed after {live.entry.grace_s:g} s of grace."
    look = "" if live.entry.effects == "none" else " The deck may be in any state: look at it."
    return ended(live, state, text + look, interrupted=True)


def after_crash(row: Row, device_id: str) -> Answer:
    """A run that the last agent left without an end."""
    state = states.after_crash(row.state)
    answer = replace(row.answer(device_id), state=state, finished_at=time.time())
    if state is State.NOT_STARTED:
        return replace(answer, error="The agent ended before this run began. Nothing moved.")
    text = "The agent ended while this run was going on; how far it came is unknown. Look at the deck."
    return replace(answer, interrupted=True, error=text)


def refused(request: Request, who: Identity, sender: str, why: OT2Error, state: State) -> Answer:
    """A request that was not taken, as it is recorded."""
    now = time.time()
    return Answer(
        run_id=request.run_id,
        task=request.task,
        state=state,
        submitted_at=now,
        finished_at=now,
        sender=sender,
        mode=who.mode,
        error=why.message,
        error_code=why.code,
        error_details=why.details,
    )


def cancelled_unheard(run_id: str, device_id: str, sender: str, epoch: int) -> Answer:
    """A run that was cancelled before anybody heard of it."""
    now = time.time()
    return Answer(
        run_id=run_id,
        task="",
        state=State.CANCELLED,
        device_id=device_id,
        submitted_at=now,
        finished_at=now,
        sender=sender,
        error=f"Cancelled by {sender} before it arrived. Nothing moved.",
        epoch=epoch,
    )


def check_resolvable(answer: Answer, verdict: str) -> None:
    """A person may say what became of this run.

    Raises:
        MalformedRequest: the verdict is none.
        NotReady: the run was not cut off, or somebody has said something else already.
    """
    if verdict not in VERDICTS:
        raise MalformedRequest(f"verdict must be one of {', '.join(VERDICTS)}, not {verdict[:40]!r}. Nothing changed.")
    run_id = answer.run_id
    if answer.resolution is not None:
        said = f"{answer.resolution['verdict']} by {answer.resolution['by']}"
        raise NotReady(f"Run {run_id} was resolved already: {said}. Nothing changed.", run_id=run_id)
    if not (answer.state is State.UNKNOWN or answer.interrupted):
        text = f"Run {run_id} is {answer.state}; only a run that was cut off is resolved. Nothing changed."
        raise NotReady(text, run_id=run_id)


def as_told(answer: Answer) -> Answer | OT2Error:
    """A refusal is told as the problem it was, the first time and every other; all else as it is."""
    if answer.state in REFUSED and answer.started_at is None:
        code = answer.error_code or ("expired" if answer.state is State.EXPIRED else "not_started")
        return from_code(code, answer.error or "", run_id=answer.run_id, details=answer.error_details)
    return answer


def last_error(answer: Answer) -> dict[str, Any]:
    """A failed run as the status contract's `last_error`."""
    data = answer.encode()
    return {
        "code": data["error_code"],
        "message": answer.error or str(answer.state),
        "severity": "critical" if answer.interrupted else "error",
        "timestamp": data["finished_at"],
    }
