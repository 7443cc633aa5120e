"""The messages that other programs rely on: requests, answers, events; decoding is strict, encoding canonical.

Knows no transport. Both packages and every transport use it. The promise is written down in `WIRE_VERSION`: another
major version is refused, unknown fields are ignored.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from .errors import MalformedRequest, OT2Error, from_code

WIRE_VERSION = "1.0"
RUN_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
MAX_DEPTH = 64
MAX_SECONDS = 30 * 86400.0
"""Longest time-out or waiting time that a request may name: 30 days."""


class State(str, Enum):
    """Where a run is. The legal moves between states are in `server/states.py`."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"
    EXPIRED = "expired"
    NOT_STARTED = "not_started"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value

    @property
    def ended(self) -> bool:
        return self not in ACTIVE


ACTIVE = frozenset({State.ACCEPTED, State.RUNNING, State.WAITING})
REFUSED = frozenset({State.REJECTED, State.EXPIRED, State.NOT_STARTED})

_OUTCOME_CODE = {
    State.FAILED: "task_failed",
    State.CANCELLED: "cancelled",
    State.TIMED_OUT: "timed_out",
    State.REJECTED: "rejected",
    State.EXPIRED: "expired",
    State.NOT_STARTED: "not_started",
    State.UNKNOWN: "outcome_unknown",
}


def new_run_id() -> str:
    """A fresh run id: 32 hexadecimal digits."""
    return uuid.uuid4().hex


# --- JSON, strictly -------------------------------------------------------------------------------------------------


def _pairs_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return made


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs_once, parse_constant=_no_constant, parse_float=_finite_float)


def loads(data: bytes, what: str = "body") -> Any:
    """Decode JSON as strictly as a robot deserves: UTF-8, no duplicate keys, no NaN, at most `MAX_DEPTH` levels.

    Raises:
        MalformedRequest: with a sentence that says what is wrong and where.
    """
    try:
        text = data.decode("utf-8")
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate can be stored nowhere
    except RecursionError:
        raise MalformedRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels. Nothing moved.") from None
    except UnicodeError as exc:
        raise MalformedRequest(f"The {what} is not UTF-8 text ({exc}). Nothing moved.") from None
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise MalformedRequest(f"The {what} is not JSON: {exc.msg} at {where}. Nothing moved.") from None
    except ValueError as exc:
        raise MalformedRequest(f"The {what} is not JSON: {exc}. Nothing moved.") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _too_deep(value):
        raise MalformedRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels. Nothing moved.")
    return value


def loads_object(data: bytes, what: str = "body") -> dict[str, Any]:
    """Decode JSON that must be an object.

    Raises:
        MalformedRequest: when it is not.
    """
    value = loads(data, what)
    if not isinstance(value, dict):
        raise MalformedRequest(f"The {what} must be a JSON object, not {json_type(value)}. Nothing moved.")
    return value


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def dumps(value: Any) -> bytes:
    """Encode as compact ASCII JSON. Raises ValueError for NaN and TypeError for what JSON cannot say."""
    return _ENCODER.encode(value).encode("ascii")


def json_type(value: Any) -> str:
    """The JSON name of a Python value's type, with its article, for sentences."""
    if value is None:
        return "null"
    names: tuple[tuple[type, str], ...] = (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a number"),
        (str, "a string"),
        (list, "an array"),
        (dict, "an object"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


def _plain_numbers(value: Any) -> Any:
    """5.0 becomes 5, so that two spellings of one number have one fingerprint."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain_numbers(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_numbers(child) for child in value]
    return value


_CANONICAL = json.JSONEncoder(separators=(",", ":"), sort_keys=True, allow_nan=False)


def fingerprint(task: str, parameters: Mapping[str, Any], dry_run: bool = False) -> str:
    """SHA-256 (hex) over the canonical JSON of what would be done: keys sorted, 5 equal to 5.0."""
    from hashlib import sha256  # here, because it brings OpenSSL (3.5 MB), which a worker does not need

    content = {"task": task, "parameters": _plain_numbers(dict(parameters)), "dry_run": dry_run}
    return sha256(_CANONICAL.encode(content).encode("ascii")).hexdigest()


# --- times ----------------------------------------------------------------------------------------------------------


def iso(epoch_s: float) -> str:
    """UTC ISO 8601 with milliseconds and zone, from epoch seconds."""
    return datetime.fromtimestamp(epoch_s, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def epoch(text: str) -> float:
    """Epoch seconds from an ISO 8601 time that names its zone.

    Raises:
        MalformedRequest: it cannot be read, or has no zone.
    """
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (ValueError, TypeError, AttributeError):
        raise MalformedRequest(f"{text!r} is not a time like 2030-01-31T12:00:00Z. Nothing moved.") from None
    if moment.tzinfo is None:
        raise MalformedRequest(f"The time {text!r} names no zone; end it with Z for UTC. Nothing moved.")
    return moment.timestamp()


# --- a request ------------------------------------------------------------------------------------------------------


def _seconds(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise MalformedRequest(f"{name} must be a number of seconds, not {value!r}. Nothing moved.")
    if not 0 < value <= MAX_SECONDS:
        raise MalformedRequest(
            f"{name} must be above 0 and at most {MAX_SECONDS:.0f} seconds, not {value!r}. Nothing moved."
        )
    return float(value)


def _text(value: Any, name: str, most: int = 256) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise MalformedRequest(f"{name} must be a string of 1 to {most} characters. Nothing moved.")
    return value


def check_run_id(value: Any, name: str = "run_id") -> str:
    """The id itself when it is well formed.

    Raises:
        MalformedRequest: with the rule in its sentence.
    """
    if isinstance(value, str) and RUN_ID.match(value):
        return value
    length = f" (it has {len(value)})" if isinstance(value, str) and len(value) > 64 else ""
    raise MalformedRequest(
        f"{name} must be 1 to 64{length} of letters, digits, dot, underscore, colon and hyphen, "
        f"not {str(value)[:80]!r}. Nothing moved."
    )


def _labels(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    fits = (
        isinstance(value, dict)
        and len(value) <= 32
        and all(isinstance(k, str) and isinstance(v, str) and len(k) <= 64 and len(v) <= 256 for k, v in value.items())
    )
    if not fits:
        raise MalformedRequest("labels must be an object of at most 32 short strings by name. Nothing moved.")
    return dict(value)


@dataclass(frozen=True)
class Request:
    """One request to run one task, once.

    Times are in seconds; `expires_at` is epoch seconds. `own_id` is False when the agent had to make the id up, so
    that nothing is promised about a repeat.
    """

    run_id: str
    task: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float | None = None
    start_within_s: float | None = None
    expires_at: float | None = None
    expires_in_s: float | None = None
    beat: int | None = None
    reply_to: str | None = None
    claim_token: str | None = None
    dry_run: bool = False
    on_behalf_of: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    traceparent: str | None = None
    own_id: bool = True

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Request:
        """Read a request from decoded JSON.

        Raises:
            MalformedRequest: a field is missing or not of its form; nothing was done.
        """
        check_version(data)
        alias = data.get("request_id")
        run_id = data.get("run_id", alias)
        if run_id is None:
            raise MalformedRequest(
                "The request has no run_id. Give it one of its own, new for each run. Nothing moved."
            )
        if alias is not None and alias != run_id:
            raise MalformedRequest("run_id and request_id are the same thing and must be equal. Nothing moved.")
        parameters = data.get("parameters", {})
        if not isinstance(parameters, dict):
            raise MalformedRequest(f"parameters must be an object, not {json_type(parameters)}. Nothing moved.")
        task = _text(data.get("task"), "task")
        if task is None:
            raise MalformedRequest("The request names no task. Nothing moved.")
        dry_run, beat = data.get("dry_run", False), data.get("beat")
        if not isinstance(dry_run, bool):
            raise MalformedRequest(f"dry_run must be true or false, not {dry_run!r}. Nothing moved.")
        if beat is not None and (isinstance(beat, bool) or not isinstance(beat, int)):
            raise MalformedRequest(f"beat must be an integer, not {beat!r}. Nothing moved.")
        expires_at = data.get("expires_at")
        return cls(
            run_id=check_run_id(run_id),
            task=task,
            parameters=parameters,
            timeout_s=_seconds(data.get("timeout_s"), "timeout_s"),
            start_within_s=_seconds(data.get("start_within_s"), "start_within_s"),
            expires_at=None if expires_at is None else epoch(expires_at),
            expires_in_s=_seconds(data.get("expires_in_s"), "expires_in_s"),
            beat=beat,
            reply_to=_text(data.get("reply_to"), "reply_to"),
            claim_token=_text(data.get("claim_token"), "claim_token"),
            dry_run=dry_run,
            on_behalf_of=_text(data.get("on_behalf_of"), "on_behalf_of"),
            labels=_labels(data.get("labels")),
            traceparent=_text(data.get("traceparent"), "traceparent"),
        )

    def encode(self) -> dict[str, Any]:
        """The request as it travels: only what was set."""
        made: dict[str, Any] = {"run_id": self.run_id, "task": self.task, "parameters": dict(self.parameters)}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in made or item.name == "own_id" or value is None or value is False or value == {}:
                continue
            made[item.name] = dict(value) if isinstance(value, Mapping) else value
        if self.expires_at is not None:
            made["expires_at"] = iso(self.expires_at)
        return made

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.task, self.parameters, self.dry_run)


def check_version(data: Mapping[str, Any]) -> None:
    """Refuse another major `version`; an absent one is ours.

    Raises:
        MalformedRequest: with code `unsupported_version`.
    """
    version = data.get("version")
    if version is None:
        return
    if str(version).split(".")[0] != WIRE_VERSION.split(".")[0]:
        raise MalformedRequest(
            f"This device speaks wire version {WIRE_VERSION}, the request says {str(version)[:20]}. Nothing moved.",
            code="unsupported_version",
        )


# --- an answer ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a device says of one run, at one moment.

    Times are epoch seconds here and UTC ISO 8601 on the wire. `status` and `timestamp` of the wire are derived.
    """

    run_id: str
    task: str
    state: State
    device_id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    error: str | None = None
    error_code: str | None = None
    error_details: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    interrupted: bool = False
    replayed: bool = False
    progress: Mapping[str, Any] = field(default_factory=dict)
    submitted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    resolution: Mapping[str, Any] | None = None
    sender: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    mode: str | None = None
    epoch: int = 0
    seq: int = 0

    @property
    def ended(self) -> bool:
        return self.state.ended

    @property
    def duration_s(self) -> float | None:
        if self.started_at is None or self.finished_at is None:
            return None
        return round(max(0.0, self.finished_at - self.started_at), 6)

    def encode(self) -> dict[str, Any]:
        """The answer as it travels (a JSON object)."""
        made: dict[str, Any] = {
            "run_id": self.run_id,
            "request_id": self.run_id,
            "device_id": self.device_id,
            "task": self.task,
            "parameters": dict(self.parameters),
            "state": self.state.value,
        }
        if self.ended:
            good = self.state is State.SUCCEEDED
            made["status"] = "success" if good else "error"
            made["result"] = self.result
            made["error"] = self.error
            made["error_code"] = None if good else self.error_code or _OUTCOME_CODE[self.state]
            made["error_details"] = dict(self.error_details)
        latest = self.finished_at or self.started_at or self.submitted_at
        made.update(
            warnings=list(self.warnings),
            interrupted=self.interrupted,
            replayed=self.replayed,
            progress=dict(self.progress),
            submitted_at=None if self.submitted_at is None else iso(self.submitted_at),
            started_at=None if self.started_at is None else iso(self.started_at),
            finished_at=None if self.finished_at is None else iso(self.finished_at),
            timestamp=latest,
            duration_s=self.duration_s,
            resolution=None if self.resolution is None else dict(self.resolution),
            sender=self.sender,
            labels=dict(self.labels),
            mode=self.mode,
            epoch=self.epoch,
            seq=self.seq,
        )
        return made

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Answer:
        """Read an answer from decoded JSON; unknown fields are ignored.

        Raises:
            MalformedRequest: it is not an answer of this version (`state` or `run_id` missing or unknown).
        """
        check_version(data)
        try:
            known = {item.name: data[item.name] for item in fields(cls) if data.get(item.name) is not None}
            known["state"] = State(data["state"])
            known["warnings"] = tuple(known.get("warnings", ()))
            for name in ("submitted_at", "started_at", "finished_at"):
                if name in known:
                    known[name] = epoch(known[name])
            return cls(**known)
        except (KeyError, ValueError, TypeError) as exc:
            raise MalformedRequest(f"That is not an answer of an OT-2 agent: {exc}") from exc

    def exception(self) -> OT2Error | None:
        """The exception that this answer means, None for a success or a run that has not ended."""
        if not self.ended or self.state is State.SUCCEEDED:
            return None
        code = self.error_code or _OUTCOME_CODE[self.state]
        return from_code(code, self.error or f"The run {self.state}.", run_id=self.run_id, details=self.error_details)


# --- an event -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One thing that happened to a run.

    `kind` is `state` (data: the whole answer), `progress` (`fraction?`, `message?`), `value` (`name`, `value`,
    `unit?`) or `log` (`text`: one or more whole lines, `level?`, `source`: output or log). `time` is epoch seconds.
    `seq` grows within one `epoch`.
    """

    run_id: str
    kind: str
    data: Mapping[str, Any]
    time: float
    seq: int
    epoch: int = 0

    @property
    def id(self) -> str:
        return f"{self.epoch}-{self.seq}"

    def encode(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "kind": self.kind,
            "data": dict(self.data),
            "time": iso(self.time),
            "seq": self.seq,
            "epoch": self.epoch,
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Event:
        """Read an event from decoded JSON.

        Raises:
            MalformedRequest: a field is missing.
        """
        try:
            return cls(
                run_id=data["run_id"],
                kind=data["kind"],
                data=data["data"],
                time=epoch(data["time"]),
                seq=int(data["seq"]),
                epoch=int(data.get("epoch", 0)),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise MalformedRequest(f"That is not an event of an OT-2 agent: {exc}") from exc
