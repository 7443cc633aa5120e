"""The device's memory (SQLite): every run id ever heard of, and how each run ended. Knows no transport and no worker.

A commit is on the disk when the call returns (WAL, `synchronous=FULL`). One thread writes; any thread may open a
`Reader`. A journal that is missing where there was one, or damaged, is never silently made anew.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..wire import Answer, Event, Request, State
from .states import Effects, Lock, check

log = logging.getLogger(__name__)

SCHEMA = 1
"""The journal's layout, kept in `user_version`. A newer one is refused, an older one is migrated by adding only."""

_TABLES = """
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    task TEXT NOT NULL,
    effects TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    sender TEXT NOT NULL,
    submitted_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    request TEXT NOT NULL,
    outcome TEXT,
    outcome_crc INTEGER,
    resolution TEXT,
    events BLOB
);
CREATE INDEX runs_by_state ON runs (state, seq);
CREATE INDEX runs_by_task ON runs (task, seq);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_COLUMNS = (
    "seq, run_id, state, task, effects, fingerprint, sender, submitted_at, started_at, finished_at, request, outcome, "
    "outcome_crc, resolution"
)
_RESERVE_BYTES = 1 << 20
_WAL_PAGES = 1100


DISK_TROUBLE = (sqlite3.OperationalError, OSError)
"""What a write raises when the disk is full or somebody holds the journal: it may go through later."""


class JournalProblem(RuntimeError):
    """The journal cannot be trusted or cannot be used; the sentence says which command a person must give."""


class Row:
    """One run as the journal knows it."""

    __slots__ = (
        "seq", "run_id", "state", "task", "effects", "fingerprint", "sender", "submitted_at", "started_at",
        "finished_at", "request", "outcome", "outcome_crc", "resolution",
    )  # fmt: skip
    seq: int
    run_id: str
    state: State
    task: str
    effects: Effects
    fingerprint: str
    sender: str
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    request: dict[str, Any]
    outcome: dict[str, Any]
    resolution: dict[str, Any] | None

    def __init__(self, values: tuple[Any, ...]) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            setattr(self, name, value)
        self.outcome = _checked(values[11], values[12], self.run_id)
        try:
            self.state = State(values[2])
            self.request = json.loads(values[10])
            self.resolution = None if values[13] is None else json.loads(values[13])
        except ValueError as exc:
            raise _damaged(self.run_id) from exc

    def answer(self, device_id: str) -> Answer:
        """The run as it is told to callers."""
        return Answer(
            run_id=self.run_id,
            task=self.task,
            state=self.state,
            device_id=device_id,
            parameters=self.request.get("parameters", {}),
            labels=self.request.get("labels", {}),
            mode=self.request.get("mode"),
            sender=self.sender,
            submitted_at=self.submitted_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            resolution=self.resolution,
            seq=self.seq,
            **{**self.outcome, "warnings": tuple(self.outcome.get("warnings", ()))},
        )


def _checked(text: str | None, crc: int | None, run_id: str) -> dict[str, Any]:
    if text is None:
        return {}
    if zlib.crc32(text.encode()) != crc:
        raise _damaged(run_id)
    made: dict[str, Any] = json.loads(text)
    return made


def _damaged(run_id: str) -> JournalProblem:
    return JournalProblem(f"The record of run {run_id} is damaged. {_ASK_INIT}")


_ASK_INIT = (
    "No run is taken until a person has looked at the deck and said `ot2-agent init` "
    "(the old journal is kept beside the new one)."
)
_OUTCOME = ("result", "error", "error_code", "error_details", "warnings", "interrupted", "progress")


def outcome_of(answer: Answer) -> str:
    """The part of an answer that an ended run keeps, as JSON."""
    kept = {name: getattr(answer, name) for name in _OUTCOME if getattr(answer, name) not in (None, {}, (), False)}
    return json.dumps(kept, separators=(",", ":"))


class Reader:
    """Reads runs. Each thread has its own; it never waits for the writer."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA query_only=1")

    def find(self, run_id: str) -> Row | None:
        """The run with this id, None when the journal never heard of it.

        Raises:
            JournalProblem: the record is damaged.
        """
        values = self._one(f"SELECT {_COLUMNS} FROM runs WHERE run_id=?", run_id)
        return None if values is None else Row(values)

    def history(
        self, *, before: int | None = None, state: str | None = None, task: str | None = None, limit: int = 50
    ) -> list[Row]:
        """Runs newest first; `before` is the `seq` of the last one already seen."""
        wanted = {"seq <": before, "state =": state, "task =": task}
        used = {clause: value for clause, value in wanted.items() if value is not None}
        where = " AND ".join(f"{clause} ?" for clause in used) or "1"
        sql = f"SELECT {_COLUMNS} FROM runs WHERE {where} ORDER BY seq DESC LIMIT ?"
        return [Row(values) for values in self._all(sql, *used.values(), limit)]

    def events(self, run_id: str) -> list[Event]:
        """What was kept of the events of an ended run (all but its states)."""
        values = self._one("SELECT events FROM runs WHERE run_id=?", run_id)
        if values is None or values[0] is None:
            return []
        return [Event.decode(data) for data in json.loads(zlib.decompress(values[0]))]

    def fact(self, name: str) -> Any:
        """A remembered fact by name (decoded JSON), None when there is none."""
        values = self._one("SELECT value FROM facts WHERE name=?", name)
        return None if values is None else json.loads(values[0])

    def close(self) -> None:
        self._db.close()

    def _one(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        with _explained():
            found: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
            return found

    def _all(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with _explained():
            return self._db.execute(sql, values).fetchall()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as exc:
        raise JournalProblem(f"The journal cannot be read ({exc}). {_ASK_INIT}") from exc


class Journal(Reader):
    """The writer; one per device, in the device's thread. Every method that writes has committed when it returns,
    unless it stands inside `together()`."""

    def __init__(self, path: Path, memory: Memory) -> None:
        self.path = path
        self._memory = memory
        self._reserve = Reserve(path.with_suffix(".reserve"))
        self._reserve.release()  # opening a WAL journal on a full disk needs a little room
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2.0)
        try:
            self._prepare()
        except sqlite3.OperationalError as exc:
            self._db.close()
            raise JournalProblem(
                f"The journal {path} cannot be used ({exc}). Make room on the disk or end the program that holds it, "
                "then start the agent again; nothing was changed."
            ) from exc
        except sqlite3.DatabaseError as exc:
            self._db.close()
            raise JournalProblem(f"The journal {path} is damaged ({exc}). {_ASK_INIT}") from exc
        except JournalProblem:
            self._db.close()
            raise

    # --- opening

    @classmethod
    def open(cls, path: Path, memory: Memory) -> Journal:
        """Open the journal, or make the first one where there never was one.

        Raises:
            JournalProblem: there was one and it is gone, damaged, of a newer release, or another one.
        """
        known = memory.journal_id()
        if not path.exists() or path.stat().st_size == 0:
            if known is not None:
                raise JournalProblem(f"The journal {path} is gone, though this device had one. {_ASK_INIT}")
            return cls.create(path, memory)
        journal = cls(path, memory)
        try:
            journal._recognise(known)
            journal._make_room_ahead()
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def create(cls, path: Path, memory: Memory) -> Journal:
        """Make a new, empty journal. Only for a device that never had one, or when a person said so."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        journal_id = uuid.uuid4().hex
        db = sqlite3.connect(fresh, isolation_level=None)
        db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={SCHEMA}; COMMIT;")
        db.execute("INSERT INTO facts VALUES ('journal_id', ?)", (json.dumps(journal_id),))
        db.close()
        os.replace(fresh, path)
        _sync_folder(path.parent)
        memory.start(journal_id, path)
        journal = cls(path, memory)
        journal._make_room_ahead()
        return journal

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise JournalProblem(
                f"The journal {self.path} was written by a newer release (layout {version}, this one knows {SCHEMA}). "
                "Install that release or a newer one; nothing was changed."
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise JournalProblem(f"The journal {self.path} is damaged ({found}). {_ASK_INIT}")

    def _make_room_ahead(self) -> None:
        """Hold room for outcomes; a disk that is full already is no reason not to open."""
        try:
            self._grow_wal()
        except sqlite3.OperationalError:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._reserve.take()

    def _grow_wal(self) -> None:
        """Commits into a WAL that has its size are quicker, and need no room on a full disk."""
        page = self._db.execute("PRAGMA page_size").fetchone()[0]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("CREATE TABLE IF NOT EXISTS filler (body BLOB)")
        self._db.execute("INSERT INTO filler VALUES (zeroblob(?))", (_WAL_PAGES * page,))
        self._db.execute("DROP TABLE filler")
        self._db.execute("COMMIT")
        self._db.execute("PRAGMA wal_checkpoint(RESTART)")

    def _recognise(self, known: str | None) -> None:
        """Is this the journal that the device had, with nothing missing at its end?"""
        own = self.fact("journal_id")
        if known is None:
            self._memory.start(own, self.path)
        elif own != known:
            raise JournalProblem(f"The journal {self.path} is another device's, or an older copy. {_ASK_INIT}")
        count, wanted = self._last_seq(), self._memory.high_water()
        if count < wanted:
            raise JournalProblem(
                f"The journal {self.path} ends at run {count}, but the device had recorded {wanted}: "
                f"it is an older copy or lost its end. {_ASK_INIT}"
            )

    def _last_seq(self) -> int:
        last: int | None = self._db.execute("SELECT max(seq) FROM runs").fetchone()[0]
        return last or 0

    # --- writing

    @contextmanager
    def together(self) -> Iterator[None]:
        """Everything written inside is one commit: all of it or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException as exc:
            if self._db.in_transaction:  # a full disk has rolled it back already
                self._db.execute("ROLLBACK")
            if isinstance(exc, sqlite3.OperationalError):
                self._make_room(exc)  # for the next try
            raise
        self._commit()

    def record(self, request: Request, answer: Answer, *, effects: Effects) -> bool:
        """Write a run down for the first time; False when the id is already known, and nothing is changed then."""
        check(None, answer.state)
        kept = {**request.encode(), "mode": answer.mode}
        outcome = outcome_of(answer) if answer.ended else None
        values = (
            request.run_id, answer.state.value, request.task, effects, request.fingerprint, answer.sender or "",
            answer.submitted_at, answer.started_at, answer.finished_at, json.dumps(kept, separators=(",", ":")),
            outcome, None if outcome is None else zlib.crc32(outcome.encode()),
        )  # fmt: skip
        cursor = self._write(
            "INSERT INTO runs (run_id, state, task, effects, fingerprint, sender, submitted_at, started_at, "
            "finished_at, request, outcome, outcome_crc) VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
            values,
        )
        if cursor.rowcount == 0:
            return False
        self._memory.raise_high_water(cursor.lastrowid or 0)
        return True

    def begin(self, run_id: str, now: float) -> None:
        """accepted -> running. Committed before the worker hears of the run."""
        self._move(
            "UPDATE runs SET state='running', started_at=? WHERE run_id=? AND state='accepted'", (now, run_id), run_id
        )

    def finish(self, answer: Answer, events: list[dict[str, Any]]) -> None:
        """An end, whichever; only a run that has none yet can get one."""
        outcome = outcome_of(answer)
        packed = zlib.compress(json.dumps(events).encode(), 1) if events else None
        self._move(
            "UPDATE runs SET state=?, finished_at=?, outcome=?, outcome_crc=?, events=? "
            "WHERE run_id=? AND state IN ('accepted','running','waiting')",
            (answer.state.value, answer.finished_at, outcome, zlib.crc32(outcome.encode()), packed, answer.run_id),
            answer.run_id,
        )

    def resolve(self, run_id: str, resolution: Mapping[str, Any]) -> None:
        """What a person said became of a run that was cut off. Its state stays."""
        self._move("UPDATE runs SET resolution=? WHERE run_id=?", (json.dumps(dict(resolution)), run_id), run_id)

    def remember(self, name: str, value: Any) -> None:
        """Keep a fact (JSON) under a name; None forgets it."""
        if value is None:
            self._write("DELETE FROM facts WHERE name=?", (name,))
        else:
            self._write("INSERT OR REPLACE INTO facts VALUES (?,?)", (name, json.dumps(value)))

    def unfinished(self) -> list[Row]:
        """Runs without an end, oldest first: what a crash left."""
        sql = f"SELECT {_COLUMNS} FROM runs WHERE state IN ('accepted','running','waiting') ORDER BY seq"
        return [Row(values) for values in self._all(sql)]

    def lock(self) -> Lock | None:
        """Why nothing may start, None when nothing is in the way."""
        found = self.fact("lock")
        return None if found is None else Lock.decode(found)

    def set_lock(self, lock: Lock | None) -> None:
        self.remember("lock", None if lock is None else lock.encode())

    def close(self) -> None:
        super().close()
        self._reserve.take()
        self._memory.close()

    def _move(self, sql: str, values: tuple[Any, ...], run_id: str) -> None:
        if self._write(sql, values).rowcount != 1:
            raise JournalProblem(f"The journal has no run {run_id} in a state that can change. {_ASK_INIT}")

    def _write(self, sql: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.OperationalError as exc:
            if self._db.in_transaction or not self._make_room(exc):
                raise
            return self._db.execute(sql, values)
        except sqlite3.DatabaseError as exc:
            raise JournalProblem(f"The journal {self.path} is damaged ({exc}). {_ASK_INIT}") from exc

    def _commit(self) -> None:
        try:
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as exc:
            if not self._make_room(exc):
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _make_room(self, exc: sqlite3.OperationalError) -> bool:
        """On a full disk give the reserve up, once, so that an outcome can still be written."""
        return "full" in str(exc) and self._reserve.release()


class Reserve:
    """Disk space kept back for outcomes. `ftruncate` would reserve nothing, so the blocks are really allocated."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _RESERVE_BYTES)
            finally:
                os.close(fd)
        except OSError:
            self.release()

    def release(self) -> bool:
        """Give it up; False when there was none."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True


class Memory:
    """What is remembered of the journal outside its own folder: its id, and how many runs it had.

    The count is written without `fsync`: after a power cut it may be too low, never too high.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = path.with_suffix(".count")
        self._fd: int | None = None

    def journal_id(self) -> str | None:
        """The id of the journal that the device has had; None when it never had one."""
        try:
            return str(json.loads(self._path.read_text())["journal_id"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as exc:
            raise JournalProblem(f"{self._path} is damaged ({exc}). {_ASK_INIT}") from exc

    def start(self, journal_id: str, journal: Path) -> None:
        """Remember a new journal; its count begins at nothing."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._count.unlink(missing_ok=True)
        self.close()
        fresh = self._path.with_suffix(".new")
        content = {"journal_id": journal_id, "journal": str(journal), "since": time.time()}
        with open(fresh, "w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)
        _sync_folder(self._path.parent)

    def high_water(self) -> int:
        try:
            return int(struct.unpack("<q", self._count.read_bytes())[0])
        except (FileNotFoundError, struct.error):
            return 0

    def raise_high_water(self, seq: int) -> None:
        """Count a run that was committed; a disk that does not take the count does not undo that."""
        try:
            if self._fd is None:
                self._fd = os.open(self._count, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._fd, struct.pack("<q", seq), 0)
        except OSError as exc:
            log.debug("the count beside %s cannot be written (%s)", self._path, exc)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
