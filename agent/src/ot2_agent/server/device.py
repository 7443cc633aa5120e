"""The device: the one object that every transport calls. Owns the journal, the line of runs and the worker.

Everything that changes anything happens in one thread, the reactor's; the public methods may be called from any. A
`Reply` is called exactly once, in that thread. What is told was committed before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import NotReady, OT2Error, RunConflict, RunNotFound, Starting
from ..pipe import Frame
from ..wire import REFUSED, Answer, Event, Request, State, iso
from . import outcomes, status
from .events import EventLog, Told
from .intake import DEFAULT_START_WITHIN_S, Limits, refusal, stale
from .journal import DISK_TROUBLE, Journal, JournalProblem, Reader, Row
from .live import Live, Reply, TaskEntry
from .reactor import Reactor, boot_clock
from .refusals import RefusalBook
from .runner import Starter, Worker
from .states import Line, Lock, drops_queue, lock_after
from .status import Identity, Snapshot

log = logging.getLogger(__name__)

_RESTARTS = 3


@dataclass(frozen=True)
class Rules:
    """What the device is told by the settings."""

    limits: Limits
    queue_places: int = 16
    keep_queue_after_failure: bool = False
    script: bool = False
    """Whether a script is the worker: it is there already, so a lock does not keep it from being heard."""


@dataclass
class _End:
    """How a run ends, from the moment it is known until it is committed."""

    live: Live
    answer: Answer
    lock: Lock | None
    dropped: list[Live] = field(default_factory=list)


class Device:
    """See the module's first lines.

    Args:
        journal: the open journal, or the sentence that says why it cannot be used.
        starter: makes the next worker.
    """

    def __init__(self, who: Identity, rules: Rules, journal: Journal | str, starter: Starter) -> None:
        self.who = who
        self.events = EventLog()
        self.catalogue: Mapping[str, dict[str, Any]] = {}
        self.snapshot = Snapshot(started_at=time.time(), activity_since=time.time(), places=rules.queue_places)
        self.ready = threading.Event()
        """Set once the first worker is ready, or cannot become it."""
        self.reactor = Reactor("device")
        self._rules = rules
        self._starter = starter
        self.use(journal)
        self._readers = threading.local()
        self._line = Line(rules.queue_places)
        self._live: dict[str, Live] = {}
        self._tasks: dict[str, TaskEntry] = {}
        self._worker: Worker | None = None
        self._import_failed: Frame | None = None
        self._lock: Lock | None = None
        self._last_output = ""
        self._restarts = 0
        self._refusals = RefusalBook(who)
        self._idle_waiters: list[Callable[[], None]] = []

    def use(self, journal: Journal | str) -> None:
        """The journal, or the sentence that says why there is none. Before `start`."""
        self._journal = None if isinstance(journal, str) else journal
        self._problem = journal if isinstance(journal, str) else None

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Explain what the last agent left behind, then start the worker (unless something is locked)."""
        self.reactor.start()
        self.reactor.post(self._wake_up)

    def _wake_up(self) -> None:
        if self._journal is None:
            self._show(journal_problem=self._problem, worker="down", worker_message="the journal cannot be used")
            self.ready.set()
            return
        try:
            self._take_up(self._journal)
        except (JournalProblem, *DISK_TROUBLE) as exc:
            self._distrust(exc)
            self._show(worker="down", worker_message="the journal cannot be used")
            self.ready.set()
            return
        if self._lock is None or self._rules.script:
            self._start_worker()
        else:
            self._show(worker="down", worker_message="a run was cut off")
            self.ready.set()

    def _take_up(self, journal: Journal) -> None:
        """Go on where the last agent left off."""
        self.events.epoch = int(journal.fact("epoch") or 0) + 1
        journal.remember("epoch", self.events.epoch)
        self._learn(journal.fact("catalogue") or {})
        self._recover()
        self._show(epoch=self.events.epoch, lock=self._lock)

    def _recover(self) -> None:
        """Give every run that a crash left open its end, and lock what must be looked at."""
        journal = self._need_journal()
        self._lock = journal.lock()
        left = journal.unfinished()
        with journal.together():
            for row in left:
                answer = outcomes.after_crash(row, self.who.device_id)
                journal.finish(answer, [])
                lock = lock_after(row.run_id, answer.state, row.effects, interrupted=answer.interrupted)
                if lock is not None:
                    self._lock = lock
                    journal.set_lock(lock)
        for row in left:
            log.warning("run %s of %s was left %s by the last agent", row.run_id, row.task, row.state)

    def drain(self, done: Callable[[], None]) -> None:
        """Take no new work and drop what waits; `done` is called once nothing runs. From any thread."""
        self.reactor.post(lambda: self._drain(done))

    def _drain(self, done: Callable[[], None]) -> None:
        self._show(stopping=True)
        self._drop([self._live[run_id] for run_id in self._line.clear()], "the agent was shut down")
        if self._line.running is None:
            done()
            return
        self._idle_waiters.append(done)
        live = self._live[self._line.running]
        live.timers.append(
            self.reactor.after(live.entry.grace_s, lambda: self._ask_to_end(live, "cancelled", "shutdown"))
        )

    def close(self) -> None:
        """End the worker, then the device thread, then the journal. A run that still goes on is cut off."""
        finished = threading.Event()
        self.reactor.post(lambda: self._end_worker(finished))
        finished.wait(10.0)
        self.reactor.stop()
        if self._journal is not None:
            self._journal.close()

    def _end_worker(self, finished: threading.Event) -> None:
        self._show(stopping=True)
        worker = self._worker
        if worker is None or not worker.alive:
            finished.set()
            return
        self._on_closed = finished
        if self._line.running is None:
            worker.send({"type": "bye"})
            self.reactor.after(2.0, worker.kill)
        else:
            live = self._live[self._line.running]
            live.ending, live.ending_by = live.ending or "cancelled", live.ending_by or "the agent was shut down"
            worker.kill()

    on_script_end: Callable[[], None] | None = None
    """Set where a script is the worker: called in the device thread once the script is gone and its run has its end."""
    _on_closed: threading.Event | None = None

    # --- asking ----------------------------------------------------------------------------------------------------

    def find(self, run_id: str) -> Answer:
        """What is known of a run now. From any thread.

        Raises:
            RunNotFound: the device never heard of it.
            JournalProblem: the journal cannot be read.
        """
        live = self._live.get(run_id)
        if live is not None:
            return live.answer
        row = self.reader().find(run_id)
        if row is None:
            raise RunNotFound(f"This device never heard of run {run_id}.", run_id=run_id)
        return self._of_row(row)

    def history(self, **wanted: Any) -> list[Answer]:
        """Runs newest first; see `Reader.history` for the filters."""
        return [self._newest(self._of_row(row)) for row in self.reader().history(**wanted)]

    def wait(self, run_id: str, reply: Reply) -> None:
        """Hear how a run ended, at once when it has. From any thread."""
        self._post(reply, lambda: self._wait(run_id, reply))

    def _wait(self, run_id: str, reply: Reply) -> None:
        live = self._live.get(run_id)
        if live is None:
            reply(self.find(run_id))
        else:
            live.waiters.append(reply)

    def past_events(self, run_id: str) -> list[Event]:
        """What was kept of an ended run's events, its end last."""
        answer = self.find(run_id)
        kept = self.reader().events(run_id)
        last = kept[-1].seq if kept else 0
        when = answer.finished_at or answer.submitted_at or 0.0
        return [*kept, Event(run_id, "state", answer.encode(), when, last + 1, self.events.epoch)]

    def reader(self) -> Reader:
        """This thread's reader of the journal.

        Raises:
            JournalProblem: there is no journal that can be used.
        """
        if self._journal is None:
            raise JournalProblem(self._problem or "The journal cannot be used.")
        found: Reader | None = getattr(self._readers, "reader", None)
        if found is None:
            found = self._readers.reader = Reader(self._journal.path)
        return found

    def _of_row(self, row: Row) -> Answer:
        return replace(row.answer(self.who.device_id), epoch=self.events.epoch)

    def _newest(self, answer: Answer) -> Answer:
        live = self._live.get(answer.run_id)
        return replace(live.answer, seq=answer.seq) if live else answer

    # --- submitting ------------------------------------------------------------------------------------------------

    def submit(self, request: Request, reply: Reply, *, sender: str, until_end: bool = False) -> None:
        """Run a task, once. `reply` hears that it was taken (or how it ended, with `until_end`), or why not.

        From any thread. The same id again gets the run's own answer, whatever else is true by then.
        """
        arrived = boot_clock()
        self._post(reply, lambda: self._submit(request, reply, sender, until_end, arrived))

    def _submit(self, request: Request, reply: Reply, sender: str, until_end: bool, arrived: float) -> None:
        if request.run_id in self._live:
            self._replay(request, reply, until_end)
            return
        full = self._line.full
        why = refusal(request, self.snapshot, self._tasks, self._rules.limits, arrived=arrived, line_full=full)
        if why is not None:
            self._refuse(request, why, reply, sender, until_end)
            return
        entry = self._tasks[request.task]
        at_once = self._line.idle
        answer = outcomes.first(request, self.who, sender, at_once=at_once, epoch=self.events.epoch)
        try:
            fresh = self._need_journal().record(request, answer, effects=entry.effects)
        except DISK_TROUBLE as exc:
            reply(self._unrecordable(exc))
            return
        if not fresh:
            self._replay(request, reply, until_end)
            return
        self._admit(Live(request, answer, entry, arrived), reply, until_end, at_once)

    def _admit(self, live: Live, reply: Reply, until_end: bool, at_once: bool) -> None:
        run_id = live.request.run_id
        self._live[run_id] = live
        if at_once:
            self._line.start(run_id)
            self._run(live)
        else:
            self._line.join(run_id)
            live.timers.append(self.reactor.after(self._patience(live), lambda: self._expire(live)))
            self._show_line()
        self._tell_state(live.answer)
        if until_end:
            live.waiters.append(lambda ended: reply(outcomes.as_told(ended)))
        else:
            reply(live.answer)

    def _patience(self, live: Live) -> float:
        return (live.request.start_within_s or DEFAULT_START_WITHIN_S) + 0.01

    def _replay(self, request: Request, reply: Reply, until_end: bool) -> None:
        """A known id: its own answer, if it is the same request."""
        live = self._live.get(request.run_id)
        row = None if live else self._need_journal().find(request.run_id)
        known = live.request.fingerprint if live else row and row.fingerprint
        if request.fingerprint != known and not (row and row.task == ""):
            task = live.request.task if live else row and row.task
            reply(
                RunConflict(
                    f"Run {request.run_id} is already known with another content (a call of {task}). Nothing moved. "
                    "Give a new run an id of its own.",
                    run_id=request.run_id,
                )
            )
        elif live is None:
            assert row is not None
            reply(outcomes.as_told(replace(self._of_row(row), replayed=True)))
        elif until_end:
            live.waiters.append(lambda ended: reply(outcomes.as_told(replace(ended, replayed=True))))
        else:
            reply(replace(live.answer, replayed=True))

    def _refuse(self, request: Request, why: OT2Error, reply: Reply, sender: str, until_end: bool) -> None:
        """Say no. Recorded under the caller's own id, so that a late duplicate can never run."""
        journal = self._journal
        if journal is not None and request.own_id and journal.find(request.run_id) is not None:
            self._replay(request, reply, until_end)
            return
        why.run_id = request.run_id
        if journal is None or not request.own_id or isinstance(why, Starting):
            reply(why)
            return
        entry = self._tasks.get(request.task)
        self._refusals.keep(journal, request, why, sender, entry.effects if entry else "none")
        reply(why)

    # --- running ---------------------------------------------------------------------------------------------------

    def _run(self, live: Live) -> None:
        """Tell the worker. The journal says `running` already."""
        assert self._worker is not None
        limit = live.limit_s
        self._worker.send(
            {
                "type": "run",
                "run_id": live.request.run_id,
                "task": live.request.task,
                "parameters": dict(live.request.parameters),
                "labels": dict(live.request.labels),
                "mode": self.who.mode,
                "timeout_s": limit,
            }
        )
        live.stop_timers()
        live.timers.append(self.reactor.after(limit, lambda: self._ask_to_end(live, "timed_out", "its time limit")))
        self._show_line()

    def _next(self) -> None:
        """Start the next one that may still start."""
        while self._line.running is None and self._line.waiting and status.why_not_run(self.snapshot) is None:
            live = self._live[self._line.waiting[0]]
            if why := stale(live.request, live.arrived):
                self._finish(_End(live, outcomes.ended(live, State.EXPIRED, why.message), None))
                continue
            self._line.call()
            self._begin(live)

    def _begin(self, live: Live) -> None:
        now = time.time()
        try:
            self._need_journal().begin(live.request.run_id, now)
        except DISK_TROUBLE as exc:
            answer = outcomes.ended(live, State.NOT_STARTED, f"Its start could not be recorded ({exc}). Nothing moved.")
            self._finish(_End(live, answer, None))
            return
        live.answer = replace(live.answer, state=State.RUNNING, started_at=now)
        self._run(live)
        self._tell_state(live.answer)

    def _expire(self, live: Live) -> None:
        if live.answer.state is State.ACCEPTED:
            why = stale(live.request, live.arrived)
            text = why.message if why else "It waited too long in the queue. Nothing moved."
            self._finish(_End(live, outcomes.ended(live, State.EXPIRED, text), None))

    def _ask_to_end(self, live: Live, reason: str, who: str) -> None:
        """The gentle way first: the task ends at its next checkpoint, or is killed after its grace."""
        if live.ending is not None or live.ended or self._worker is None:
            return
        live.ending, live.ending_by = reason, who
        self._worker.send({"type": "cancel", "run_id": live.request.run_id, "reason": reason})
        live.timers.append(self.reactor.after(live.entry.grace_s, lambda: self._kill_for(live)))

    def _kill_for(self, live: Live) -> None:
        if self._line.running == live.request.run_id and self._worker is not None:
            log.warning("run %s did not end within its grace; killing the worker", live.request.run_id)
            self._worker.kill()

    # --- ending ----------------------------------------------------------------------------------------------------

    def _end(self, live: Live, answer: Answer) -> None:
        """The running run ended: what that means for the device and for those who wait. The first end stands."""
        if live.ended:
            return
        live.ended = True
        effects = live.entry.effects
        lock = lock_after(answer.run_id, answer.state, effects, interrupted=answer.interrupted)
        drops = lock is not None or (drops_queue(answer.state, effects) and not self._rules.keep_queue_after_failure)
        dropped = [self._live[run_id] for run_id in self._line.clear()] if drops else []
        self._finish(_End(live, answer, lock, dropped))

    def _finish(self, end: _End) -> None:
        """Commit an end, then tell it. When the disk does not take it, nothing else starts until it does."""
        live, answer = end.live, end.answer
        journal = self._need_journal()
        dropped = [outcomes.dropped(other, answer) for other in end.dropped]
        try:
            if not dropped and end.lock is None:
                journal.finish(answer, live.kept.encode())
            else:
                with journal.together():
                    journal.finish(answer, live.kept.encode())
                    for other in dropped:
                        journal.finish(other, [])
                    if end.lock is not None:
                        journal.set_lock(end.lock)
        except DISK_TROUBLE as exc:
            log.error("the end of run %s cannot be recorded (%s); trying again", answer.run_id, exc)
            self.reactor.after(1.0, lambda: self._finish(end))
            return
        except JournalProblem as exc:
            self._distrust(exc)  # nothing is told that was not recorded; a person has to look anyway
            return
        if end.lock is not None:
            self._lock = end.lock
        self._settle(live, answer)
        for behind, told in zip(end.dropped, dropped, strict=True):
            self._settle(behind, told)
        self._after_end()

    def _settle(self, live: Live, answer: Answer) -> None:
        """Committed: forget what only lives, tell everybody who waits."""
        live.answer = answer
        live.stop_timers()
        run_id = answer.run_id
        if run_id in self._line:
            self._line.leave(run_id)
        del self._live[run_id]
        if answer.state is State.SUCCEEDED:
            self._show_line(cycles_total=self.snapshot.cycles_total + 1, last_error=None)
        elif answer.state not in REFUSED and answer.state is not State.CANCELLED:
            self._show_line(last_error=outcomes.last_error(answer))
        else:
            self._show_line()
        for waiter in live.waiters:
            waiter(answer)
        self._tell_state(answer)

    def _after_end(self) -> None:
        self._next()
        if self._line.idle:
            waiters, self._idle_waiters = self._idle_waiters, []
            for waiter in waiters:
                waiter()

    def _drop(self, lives: list[Live], why: str) -> None:
        for live in lives:
            text = f"It was not started: {why}. Nothing moved."
            self._finish(_End(live, outcomes.ended(live, State.NOT_STARTED, text), None))

    # --- the worker ------------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._show(worker="starting", worker_message="")
        try:
            self._worker = self._starter(self.reactor, self)
        except OSError as exc:
            self._show(worker="failed", worker_message=f"it cannot be started: {exc}")
            self.ready.set()

    def on_hello(self, frame: Frame) -> None:
        """The worker has imported the tasks. It may have been killed meanwhile; then its death follows."""
        if frame["mode"] != self.who.mode:
            log.error("the worker says it is %s, the agent is %s", frame["mode"], self.who.mode)
        self._learn(frame["tasks"])
        if self._journal is not None and self._journal.fact("catalogue") != frame["tasks"]:
            self._journal.remember("catalogue", frame["tasks"])
        versions = {"python": frame["python"], "worker_executable": frame["executable"], **frame["versions"]}
        self._show(worker="ready", worker_message="", versions=versions)
        self.ready.set()
        self._next()

    def on_frame(self, frame: Frame) -> None:
        live = self._live.get(frame["run_id"])
        if live is None or frame["run_id"] != self._line.running:
            return
        if frame["type"] == "event":
            self._hear(live, frame["kind"], frame["data"])
        else:
            error = frame.get("error")
            self._end(
                live,
                outcomes.ended(
                    live,
                    State(frame["state"]),
                    error,
                    result=frame["result"],
                    error_code=frame.get("error_code"),
                    error_details=frame.get("error_details", {}),
                    warnings=tuple(frame["warnings"]),
                ),
            )

    def _hear(self, live: Live, kind: str, data: dict[str, Any]) -> None:
        if kind == "progress":
            live.answer = replace(live.answer, progress={k: v for k, v in data.items() if v not in (None, "")})
            self._show_line()
        live.kept.add(self.events.emit(live.request.run_id, kind, data))

    def on_output(self, text: str) -> None:
        """What the worker printed: the log of the run that runs, or of nobody's."""
        live = self._live.get(self._line.running or "")
        if live is not None:
            self._hear(live, "log", {"text": text, "source": "output"})
        self._last_output = (self._last_output + text + "\n")[-2000:]
        if log.isEnabledFor(logging.DEBUG):
            for line in text.splitlines():
                log.debug("worker: %s", line)

    def on_death(self, how: str, import_failed: Frame | None) -> None:
        """The worker is seen dead, its last words heard: end its run, and start the next one if nothing is in doubt."""
        was_ready = self._worker is not None and self._worker.ready
        self._worker = None
        self._import_failed = import_failed
        self._show(worker="down" if was_ready else "failed", worker_message=self._why_dead(how, was_ready))
        self.ready.set()
        live = self._live.get(self._line.running or "")
        if live is not None:
            self._end(live, outcomes.cut_off(live, how))
        if self._on_closed is not None:
            self._on_closed.set()
        elif self.on_script_end is not None:
            self.on_script_end()
        elif was_ready and not self.snapshot.stopping and self._lock is None and self._line.running is None:
            self._restart()

    def _why_dead(self, how: str, was_ready: bool) -> str:
        failed = self._import_failed
        if failed is not None:
            return f"the tasks do not import ({failed['line']}: {failed['type']}: {failed['message']})"
        said = self._last_output.strip()
        return how if was_ready or not said else f"{how} before it was ready, saying: {said}"

    def _restart(self) -> None:
        """Nothing is in doubt, so start the next worker; but not for ever."""
        self._restarts += 1
        if self._restarts <= _RESTARTS:
            self._start_worker()
            self.reactor.after(600.0, self._forgive)

    def _forgive(self) -> None:
        self._restarts = max(0, self._restarts - 1)

    def _learn(self, catalogue: Mapping[str, dict[str, Any]]) -> None:
        self._tasks = {name: TaskEntry.of(entry) for name, entry in catalogue.items()}
        self.catalogue = dict(catalogue)

    @property
    def import_failed(self) -> Frame | None:
        """What the worker said when the tasks did not import: `type`, `message`, `line`, `traceback`."""
        return self._import_failed

    # --- cancel, resolve, reset, startup -----------------------------------------------------------------------------

    def cancel(self, run_id: str, reply: Reply, *, sender: str) -> None:
        """Ask a run to end. `reply` hears where it is now: a running one may take its grace. From any thread.

        An id that was never heard of is recorded as cancelled: should it arrive late, it does not run.
        """
        self._post(reply, lambda: self._cancel(run_id, reply, sender))

    def _cancel(self, run_id: str, reply: Reply, sender: str) -> None:
        live = self._live.get(run_id)
        if live is None:
            reply(self._cancel_unknown(run_id, sender))
        elif live.answer.state is State.ACCEPTED:
            live.waiters.append(reply)
            text = f"Cancelled by {sender} before it began. Nothing moved."
            self._finish(_End(live, outcomes.ended(live, State.CANCELLED, text), None))
        else:
            self._ask_to_end(live, "cancelled", f"cancelled by {sender}")
            reply(live.answer)

    def _cancel_unknown(self, run_id: str, sender: str) -> Answer | OT2Error:
        journal = self._need_journal()
        row = journal.find(run_id)
        if row is not None:
            return self._of_row(row)
        answer = outcomes.cancelled_unheard(run_id, self.who.device_id, sender, self.events.epoch)
        try:
            journal.record(Request(run_id, ""), answer, effects="none")
        except DISK_TROUBLE as exc:
            return self._unrecordable(exc)
        return answer

    def resolve(self, run_id: str, verdict: str, reply: Reply, *, by: str, note: str | None = None) -> None:
        """A person says what became of a run that was cut off: done, not_done or partly. From any thread."""
        self._post(reply, lambda: reply(self._resolve(run_id, verdict, by, note)))

    def _resolve(self, run_id: str, verdict: str, by: str, note: str | None) -> Answer:
        answer = self.find(run_id)
        if answer.resolution is not None and answer.resolution["verdict"] == verdict:
            return answer
        outcomes.check_resolvable(answer, verdict)
        resolution = {"verdict": verdict, "by": by, "at": iso(time.time()), "note": note}
        journal = self._need_journal()
        lock = self._lock.resolved() if self._lock and self._lock.run_id == run_id else self._lock
        with journal.together():
            journal.resolve(run_id, resolution)
            journal.set_lock(lock)
        self._lock = lock
        self._show(lock=lock)
        resolved = replace(answer, resolution=resolution)
        self._tell_state(resolved)
        return resolved

    def reset(self, lock_id: str, done: Callable[[OT2Error | None], None]) -> None:
        """Unlock, naming what locked: a late duplicate cannot clear a later lock. From any thread."""
        self._post(done, lambda: done(self._reset(lock_id)))

    def _reset(self, lock_id: str) -> OT2Error | None:
        why = status.why_not_reset(self.snapshot)
        if why is not None:
            return why
        assert self._lock is not None
        if lock_id != self._lock.lock_id:
            return NotReady(
                f"The device is locked by {self._lock.lock_id}, not by {lock_id[:80]}. Nothing changed.",
                details={"lock": self._lock.encode()},
            )
        self._need_journal().set_lock(None)
        self._lock = None
        self._show(lock=None)
        self._next()
        return None

    def startup(self, done: Callable[[OT2Error | None], None]) -> None:
        """Start a worker, which imports the user's module. From any thread."""
        self._post(done, lambda: done(self._startup()))

    def _startup(self) -> OT2Error | None:
        why = status.why_not_startup(self.snapshot)
        if why is None:
            self._restarts = 0
            self._start_worker()
        return why

    # --- small things ------------------------------------------------------------------------------------------------

    def _post(self, reply: Callable[[Any], None], call: Callable[[], None]) -> None:
        """Have `call` done in the device thread; whatever goes wrong there is told to the caller, too."""

        def guarded() -> None:
            try:
                if self._journal is None:
                    raise Starting(f"{self._problem} Nothing moved.", code="journal_unusable")
                call()
            except OT2Error as exc:
                reply(exc)
            except JournalProblem as exc:
                self._distrust(exc)
                reply(Starting(f"{exc} Nothing moved.", code="journal_unusable"))
            except DISK_TROUBLE as exc:
                reply(self._unrecordable(exc))

        self.reactor.post(guarded)

    def _distrust(self, problem: Exception) -> None:
        """The journal cannot be trusted any more: take nothing new; what runs is still recorded if it can be."""
        log.error("%s", problem)
        self._show(journal_problem=str(problem))

    def _unrecordable(self, exc: Exception) -> OT2Error:
        log.error("the journal cannot be written: %s", exc)
        return Starting(
            f"The journal cannot be written ({exc}). Nothing moved; the same id may be sent again.",
            code="journal_unusable",
        )

    def _need_journal(self) -> Journal:
        if self._journal is None:
            raise JournalProblem(self._problem or "The journal cannot be used.")
        return self._journal

    def _show(self, **changes: Any) -> None:
        self.snapshot = replace(self.snapshot, **changes)

    def _show_line(self, **more: Any) -> None:
        live = self._live.get(self._line.running or "")
        self._show(
            running=live.answer if live else None,
            queued=tuple(self._line.waiting),
            lock=self._lock,
            activity_since=self.snapshot.activity_since if self.snapshot.busy == bool(live) else time.time(),
            **more,
        )

    def _tell_state(self, answer: Answer) -> None:
        self.events.emit(answer.run_id, "state", Told(answer))
