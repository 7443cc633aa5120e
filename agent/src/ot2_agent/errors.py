"""What can go wrong, as one tree of exceptions; each class carries the code that crosses the wire.

    OT2Error
    ├ NothingHappened              send it again if you like, under a new id
    │  ├ DeviceOffline             (ConnectionError)  the request was never sent
    │  ├ Unauthorized              (PermissionError)
    │  ├ MalformedRequest          (ValueError)       it could not be read
    │  ├ TaskNotFound              (ValueError)
    │  ├ RunNotFound               (LookupError)      the device never heard of that run
    │  ├ InvalidParameters         (ValueError)
    │  ├ Rejected                  (ValueError)       the task refused before anything moved
    │  ├ NotSupported · Claimed · NotReady · QueueFull · Expired · NotStarted · RunConflict · DiskLow
    │  └ Starting                  not yet: the same id may be sent again
    ├ LostContact                  (ConnectionError)  ask for the run, send nothing new
    ├ StillRunning                 (TimeoutError)     ask for the run, send nothing new
    ├ RunFailed                    it ran and it ended; decide
    │  ├ TaskFailed                (RuntimeError)
    │  ├ TimedOut                  (RuntimeError)
    │  └ Cancelled                 (RuntimeError)
    └ OutcomeUnknown               look at the deck

The four classes right under `OT2Error` answer the one question that matters on a robot: may I send this again?
The builtin beside a class keeps `except ConnectionError`, `except ValueError` and `except RuntimeError` of older
scripts working.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class OT2Error(Exception):
    """Base of every error of the kit.

    Args:
        message: one sentence that names the thing, the value and the next step.
        code: the wire code; the class's first code when absent.
        run_id: the run it is about, when there is one.
        details: fields of the case, e.g. `{"field": "R", "did_you_mean": "R"}`.
    """

    codes: ClassVar[Mapping[str, int]] = {}
    """Wire code -> HTTP status. The first is the class's own."""

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        run_id: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or next(iter(self.codes), "")
        self.run_id = run_id
        self.details: dict[str, Any] = dict(details or {})
        self.run: Any = None
        """The client's `Run` handle, where the error came through a client."""

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""

    @property
    def http_status(self) -> int:
        return self.codes.get(self.code, 500)


class NothingHappened(OT2Error):
    """The request was not carried out and never will be. It may be sent again under a new id."""


class DeviceOffline(NothingHappened, ConnectionError):
    """The device could not be reached; the request was never sent."""

    codes = {"device_offline": 503}


class Unauthorized(NothingHappened, PermissionError):
    """The caller is not known, or not entitled to this."""

    codes = {"unauthorized": 401, "forbidden": 403}


class MalformedRequest(NothingHappened, ValueError):
    """The request could not be read."""

    codes = {"malformed": 400, "unsupported_version": 400, "too_large": 413}


class TaskNotFound(NothingHappened, ValueError):
    """The request names a task that this device does not have."""

    codes = {"task_not_found": 404}


class RunNotFound(NothingHappened, LookupError):
    """The device never heard of a run with this id."""

    codes = {"run_not_found": 404}


class InvalidParameters(NothingHappened, ValueError):
    """The parameters do not fit the task. `details["field"]` names the first one that does not."""

    codes = {"invalid_parameters": 422}


class NotSupported(NothingHappened):
    """This device cannot do what the request asks for (e.g. a dry run)."""

    codes = {"not_supported": 422}


class Rejected(NothingHappened, ValueError):
    """The task itself refused, before anything moved."""

    codes = {"rejected": 400}


class Claimed(NothingHappened):
    """Somebody else has claimed the device."""

    codes = {"claimed": 423}


class NotReady(NothingHappened):
    """A precondition does not hold: the device is locked, on hold, or has no worker."""

    codes = {"not_ready": 412, "already_ended": 412}


class QueueFull(NothingHappened):
    """The device's queue has no place left."""

    codes = {"queue_full": 429}


class Expired(NothingHappened):
    """The request was too old when it arrived, or waited too long for its turn."""

    codes = {"expired": 412, "clock_unset": 412}


class NotStarted(NothingHappened):
    """The run was accepted and then dropped from the queue before it began."""

    codes = {"not_started": 412}


class RunConflict(NothingHappened):
    """This id is already another run's: same id, other content."""

    codes = {"run_conflict": 409}


class DiskLow(NothingHappened):
    """The device has too little disk left to promise that an outcome can be recorded."""

    codes = {"disk_low": 507}


class Starting(NothingHappened):
    """The device cannot take runs or use its journal now. Nothing was recorded: the same id may be sent again."""

    codes = {"starting": 503, "stopping": 503, "journal_unusable": 503}


class LostContact(OT2Error, ConnectionError):
    """The connection went away after the request may have arrived. Ask for the run; send nothing new."""

    codes = {"lost_contact": 503}


class StillRunning(OT2Error, TimeoutError):
    """The caller's own time-out ended its waiting. The run goes on."""

    codes = {"still_running": 504}


class RunFailed(OT2Error):
    """The run began and ended without success."""


class TaskFailed(RunFailed, RuntimeError):
    """The task raised, or its process ended. `details` has `type` and `traceback`."""

    codes = {"task_failed": 500}


class TimedOut(RunFailed, RuntimeError):
    """The run was ended because it took longer than its limit."""

    codes = {"timed_out": 500}


class Cancelled(RunFailed, RuntimeError):
    """The run was cancelled."""

    codes = {"cancelled": 500}


class OutcomeUnknown(OT2Error):
    """Nobody can say how far the run came. Look at the deck, then resolve it."""

    codes = {"outcome_unknown": 500}


def _below(cls: type[OT2Error]) -> Iterator[type[OT2Error]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _below(child)


BY_CODE: Mapping[str, type[OT2Error]] = {code: cls for cls in _below(OT2Error) for code in cls.codes}
"""The closed set of wire codes and the class of each."""


def from_code(
    code: str, message: str, *, run_id: str | None = None, details: Mapping[str, Any] | None = None
) -> OT2Error:
    """Make the exception that `code` names; an unknown code (a newer device) makes a plain `OT2Error`."""
    return BY_CODE.get(code, OT2Error)(message, code=code, run_id=run_id, details=details)


class Refuse(Exception):
    """Raised by a task to refuse a request *before anything moved*: the run is then `rejected`."""
