"""A device inside this process, for tests of experiments: real tasks, real answers, no robot, no server, no network.

At most once per id, one run at a time, in order, with events, refusals and cancelling as the agent has them. It has no
journal, no time limits and no locks, and it ends no task by force. It uses the SDK half of `ot2_agent` alone.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from concurrent import futures
from dataclasses import dataclass, field, replace
from typing import Any

from ot2_agent.context import CancelRequested, _current
from ot2_agent.context import Run as TaskRun
from ot2_agent.encode import encode_result
from ot2_agent.errors import (
    NotSupported,
    OT2Error,
    Refuse,
    RunConflict,
    RunNotFound,
    TaskNotFound,
)
from ot2_agent.task import REGISTRY, TaskSpec
from ot2_agent.wire import REFUSED, Answer, Event, Request, State, check_run_id, dumps, loads

from .base import Message, NoAnswer

Changed = futures.Future[None]


@dataclass
class _Record:
    """One run: what was asked, how it stands, what happened. `changed` is done, and replaced, at each event."""

    answer: Answer
    request: Request | None = None
    spec: TaskSpec | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    changed: Changed = field(default_factory=futures.Future)
    cancel: threading.Event = field(default_factory=threading.Event)


class LoopbackTransport:
    """Runs tasks in a thread of this process; both kinds of client can use it.

    Args:
        tasks: functions decorated with `@task`; None for all that are registered.

    Raises:
        ValueError: one of them is not a task.
    """

    where = "the loopback device"

    def __init__(self, tasks: Iterable[Callable[..., Any]] | None = None) -> None:
        self._specs = _specs(tasks)
        self._records: dict[str, _Record] = {}
        self._queue: deque[_Record] = deque()
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._count = itertools.count(1)
        self._thread: threading.Thread | None = None
        self._closed = False

    # --- the transport --------------------------------------------------------------------------------------

    def call(self, op: str, body: Message, timeout: float) -> Message:
        message, record = self._answer(op, body)
        if record is None:
            return message
        end = time.monotonic() + body.get("wait", 0.0)
        while (changed := self._pending(record)) and (left := end - time.monotonic()) > 0:
            futures.wait([changed], left)
        return self._told(op, record)

    async def async_call(self, op: str, body: Message, timeout: float) -> Message:
        message, record = self._answer(op, body)
        if record is None:
            return message
        end = time.monotonic() + body.get("wait", 0.0)
        while (changed := self._pending(record)) and (left := end - time.monotonic()) > 0:
            await asyncio.wait([asyncio.wrap_future(changed)], timeout=left)
        return self._told(op, record)

    def events(self, run_id: str, after: str | None) -> Generator[Event, None, None]:
        record, seen = self._find(run_id), _seq(after)
        while True:
            news, changed = self._news(record, seen)
            for event in news:
                yield event
                seen = event.seq
            if changed is None:
                return
            futures.wait([changed])

    async def async_events(self, run_id: str, after: str | None) -> AsyncGenerator[Event, None]:
        record, seen = self._find(run_id), _seq(after)
        while True:
            news, changed = self._news(record, seen)
            for event in news:
                yield event
                seen = event.seq
            if changed is None:
                return
            await asyncio.wait([asyncio.wrap_future(changed)])

    def close(self) -> None:
        with self._work:
            self._closed = True
            self._work.notify_all()

    async def aclose(self) -> None:
        self.close()

    # --- the device -----------------------------------------------------------------------------------------

    def _answer(self, op: str, body: Message) -> tuple[Message, _Record | None]:
        """The answer to a message, or the run whose end it may wait for."""
        with self._lock:
            if self._closed:
                raise NoAnswer("it was closed", maybe_received=False, final=True)
            if op == "submit":
                return {}, self._submit(Request.decode(loads(dumps(dict(body)))))
            if op == "get":
                return {}, self._find(body["run_id"])
            if op == "cancel":
                return {}, self._cancel(check_run_id(body["run_id"]))
            if op == "resolve":
                raise NotSupported("The loopback device has no run of unknown outcome. Nothing changed.")
            if op == "list":
                return self._list(body), None
            if op == "tasks":
                return {name: spec.entry() for name, spec in self._specs.items()}, None
            return {"status": "healthy"} if op == "health" else self._status(), None

    def _submit(self, request: Request) -> _Record:
        known = self._records.get(request.run_id)
        if known is not None:
            if known.request is not None and known.request.fingerprint != request.fingerprint:
                raise RunConflict(
                    f"Run {request.run_id} is already another one: {known.request.task}. Nothing moved.",
                    run_id=request.run_id,
                )
            known.answer = replace(known.answer, replayed=True)
            return known
        answer = Answer(
            request.run_id,
            request.task,
            State.ACCEPTED,
            "loopback",
            parameters=request.parameters,
            submitted_at=time.time(),
            labels=request.labels,
            mode="simulated",
        )
        record = self._records[request.run_id] = _Record(answer, request)
        try:
            record.spec = self._spec(request)
            record.arguments = record.spec.bind(request.parameters)
        except OT2Error as exc:
            self._end(record, State.REJECTED, error=exc.message, error_code=exc.code, error_details=exc.details)
            return record
        self._move(record)
        self._queue.append(record)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run_all, name="ot2-loopback", daemon=True)
            self._thread.start()
        self._work.notify_all()
        return record

    def _spec(self, request: Request) -> TaskSpec:
        if request.dry_run:
            raise NotSupported("The loopback device makes no dry runs. Nothing moved.")
        spec = self._specs.get(request.task)
        if spec is None:
            has = ", ".join(self._specs) or "none"
            raise TaskNotFound(f"The device has no task {request.task}. It has: {has}. Nothing moved.")
        return spec

    def _cancel(self, run_id: str) -> _Record:
        """Cancelled before its turn it never runs; while it runs, its next checkpoint ends it."""
        record = self._records.get(run_id)
        if record is None:  # should it arrive late, it does not run
            record = self._records[run_id] = _Record(Answer(run_id, "", State.ACCEPTED, "loopback"))
        record.cancel.set()
        if record.answer.state is State.ACCEPTED:
            self._end(record, State.CANCELLED, error="Cancelled before it started. Nothing moved.")
        return record

    def _list(self, body: Message) -> Message:
        state, task = body.get("state"), body.get("task")
        answers = [record.answer for record in reversed(self._records.values())]
        answers = [one for one in answers if state in (None, one.state) and task in (None, one.task)]
        begin, count = int(body.get("cursor") or 0), int(body.get("limit") or 50)
        end = begin + count
        return {
            "runs": [answer.encode() for answer in answers[begin:end]],
            "next": str(end) if end < len(answers) else None,
        }

    def _status(self) -> Message:
        answers = [record.answer for record in self._records.values()]
        running = next((one.run_id for one in answers if one.state is State.RUNNING), None)
        queue = [one.run_id for one in answers if one.state is State.ACCEPTED]
        return {
            "equipment_id": "loopback",
            "equipment_status": "dry_run",
            "activity": "running" if running else "idle",
            "details": {"mode": "simulated", "current_run": running, "queue": queue},
        }

    def _find(self, run_id: str) -> _Record:
        with self._lock:
            if run_id not in self._records:
                raise RunNotFound(f"The device never heard of run {run_id}.", run_id=run_id)
            return self._records[run_id]

    # --- waiting and telling --------------------------------------------------------------------------------

    def _pending(self, record: _Record) -> Changed | None:
        with self._lock:
            return None if record.answer.ended else record.changed

    def _news(self, record: _Record, seen: int) -> tuple[list[Event], Changed | None]:
        with self._lock:
            return [event for event in record.events if event.seq > seen], self._pending(record)

    def _told(self, op: str, record: _Record) -> Message:
        answer = record.answer
        if op == "submit" and answer.state in REFUSED and (error := answer.exception()) is not None:
            raise error
        return loads(dumps(answer.encode()))  # type: ignore[no-any-return]  # an Answer encodes to an object

    def _move(self, record: _Record, **fields: Any) -> None:
        """Change a run and tell of it."""
        with self._lock:
            record.answer = replace(record.answer, **fields)
            self._tell(record, "state", record.answer.encode())

    def _end(self, record: _Record, state: State, **fields: Any) -> None:
        self._move(record, state=state, finished_at=time.time(), **fields)

    def _tell(self, record: _Record, kind: str, data: Mapping[str, Any]) -> None:
        with self._lock:
            if kind == "progress":
                said = {name: value for name, value in data.items() if value not in (None, "")}
                record.answer = replace(record.answer, progress=said)
            record.events.append(Event(record.answer.run_id, kind, data, time.time(), next(self._count)))
            changed, record.changed = record.changed, futures.Future()
        changed.set_result(None)

    # --- the thread that runs tasks -------------------------------------------------------------------------

    def _run_all(self) -> None:
        while (record := self._next()) is not None:
            spec, run = record.spec, _Run(self, record)
            assert spec is not None
            ending = _perform(spec, record.arguments, run)
            self._end(record, **ending)
            if spec.effects != "none" and ending["state"] is not State.SUCCEEDED:
                self._drop_queue(record)

    def _next(self) -> _Record | None:
        """The next run, already `running`; None once the device is closed."""
        with self._work:
            while True:
                while not self._queue:
                    if self._closed:
                        return None
                    self._work.wait()
                record = self._queue.popleft()
                if not record.answer.ended:
                    self._move(record, state=State.RUNNING, started_at=time.time())
                    return record

    def _drop_queue(self, ended: _Record) -> None:
        """Only a run that succeeded lets the next one start."""
        with self._lock:
            for record in self._queue:
                if not record.answer.ended:
                    why = f"Run {ended.answer.run_id} before it ended as {ended.answer.state}. Nothing moved."
                    self._end(record, State.NOT_STARTED, error=why)
            self._queue.clear()


class _Run(TaskRun):
    """What a task may do while it runs here."""

    def __init__(self, device: LoopbackTransport, record: _Record) -> None:
        super().__init__(record.answer.labels)
        self.id, self.task = record.answer.run_id, record.answer.task
        self.touched = False
        self._device = device
        self._record = record

    @property
    def cancelled(self) -> bool:
        return self._record.cancel.is_set()

    def value(self, name: str, value: Any, unit: str | None = None) -> None:
        super().value(name, encode_result(value)[0], unit)

    def checkpoint(self) -> None:
        self.touched = True
        if self.cancelled:
            raise CancelRequested

    def sleep(self, seconds: float) -> None:
        self.checkpoint()
        self._record.cancel.wait(seconds)
        self.checkpoint()

    def _tell(self, kind: str, data: Mapping[str, Any]) -> None:
        self.touched = self.touched or kind != "log"
        self._device._tell(self._record, kind, dict(data))


def _perform(spec: TaskSpec, arguments: Mapping[str, Any], run: _Run) -> dict[str, Any]:
    """Call the task and say how it ended; never raises."""
    token = _current.set(run)
    try:
        value = spec.function(**arguments)
        result, warnings = encode_result(asyncio.run(value) if inspect.iscoroutine(value) else value)
        return {"state": State.SUCCEEDED, "result": result, "warnings": tuple(warnings)}
    except Refuse as exc:
        return {"state": State.FAILED if run.touched else State.REJECTED, "error": str(exc)}
    except CancelRequested:
        return {"state": State.CANCELLED, "error": "The task ended itself at a checkpoint."}
    except BaseException as exc:
        details = {"type": type(exc).__name__, "message": str(exc), "traceback": traceback.format_exc()}
        error = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        return {"state": State.FAILED, "error": error, "error_details": details}
    finally:
        _current.reset(token)


def _specs(tasks: Iterable[Callable[..., Any]] | None) -> dict[str, TaskSpec]:
    registered = [spec for name in REGISTRY.names if (spec := REGISTRY.get(name)) is not None]
    if tasks is None:
        return {spec.name: spec for spec in registered}
    by_function = {spec.function: spec for spec in registered}
    chosen = {}
    for function in tasks:
        if function not in by_function:
            raise ValueError(f"{getattr(function, '__name__', function)} is not a task: decorate it with @task.")
        chosen[by_function[function].name] = by_function[function]
    return chosen


def _seq(event_id: str | None) -> int:
    return int(event_id.rpartition("-")[2]) if event_id else 0
