"""The journal as a file: what it keeps, how it is paged, and what becomes of it when somebody damages it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ot2_agent.server.journal import SCHEMA, Journal, JournalProblem, Memory, Reader, Reserve
from ot2_agent.server.states import IllegalMove, Lock
from ot2_agent.wire import Answer, Event, Request, State

INIT = "ot2-agent init"


class Shelf:
    """A journal and what is remembered of it elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state" / "journal.db"
        self.memory = folder / "memory" / "device.json"
        self.opened: list[Reader] = []

    def open(self) -> Journal:
        journal = Journal.open(self.path, Memory(self.memory))
        self.opened.append(journal)
        return journal

    def reader(self) -> Reader:
        reader = Reader(self.path)
        self.opened.append(reader)
        return reader

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def copy(self, name: str) -> Shelf:
        """All of it as it is now on the disk, elsewhere: what a power cut would leave."""
        made = Shelf(self.path.parent.parent / name)
        for folder, theirs in ((self.path.parent, made.path.parent), (self.memory.parent, made.memory.parent)):
            shutil.copytree(folder, theirs)
        return made


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    for each in made.opened:
        each.close()


def submit(
    journal: Journal, run_id: str, state: State = State.RUNNING, task: str = "mix", **parameters: object
) -> bool:
    request = Request(run_id, task, parameters)
    ended_at = 3.0 if state.ended else None
    answer = Answer(run_id, task, state, submitted_at=1.0, finished_at=ended_at, sender="test", mode="simulated")
    return journal.record(request, answer, effects="consumes")


def finish(journal: Journal, run_id: str, state: State = State.SUCCEEDED, **more: object) -> None:
    done = Answer(run_id, "mix", state, finished_at=3.0)
    journal.finish(replace(done, **more), [])  # type: ignore[arg-type]  # by name, as the tests say it


# What it keeps


def test_what_was_written_is_there_for_the_next_one(shelf: Shelf) -> None:
    journal = shelf.open()
    lock = Lock("a", "a", ("resolve", "reset"))
    assert submit(journal, "a", R=10)
    journal.set_lock(lock)
    finish(journal, "a", State.UNKNOWN, error="who knows", interrupted=True)
    journal.remember("epoch", 7)
    journal.close()
    again = shelf.open()
    row = again.find("a")
    assert row is not None
    answer = row.answer("robot")
    assert (answer.state, answer.error, answer.interrupted) == (State.UNKNOWN, "who knows", True)
    assert (answer.parameters, answer.mode, answer.sender, answer.seq) == ({"R": 10}, "simulated", "test", 1)
    assert again.lock() == lock
    assert again.fact("epoch") == 7
    again.set_lock(None)
    assert again.lock() is None


def test_a_known_id_is_not_recorded_again(shelf: Shelf) -> None:
    journal = shelf.open()
    assert submit(journal, "a", R=10)
    assert not submit(journal, "a", R=99)
    row = journal.find("a")
    assert row is not None
    assert row.request["parameters"] == {"R": 10}


def test_the_first_end_stands(shelf: Shelf) -> None:
    journal = shelf.open()
    submit(journal, "a")
    finish(journal, "a", result=1)
    with pytest.raises(JournalProblem, match="no run a in a state that can change"):
        finish(journal, "a", State.FAILED, error="late")
    row = journal.find("a")
    assert row is not None
    assert (row.state, row.outcome) == (State.SUCCEEDED, {"result": 1})


def test_a_run_that_ended_or_runs_cannot_begin(shelf: Shelf) -> None:
    journal = shelf.open()
    submit(journal, "runs")
    submit(journal, "waits", State.ACCEPTED)
    journal.begin("waits", 2.0)
    for run_id in ("runs", "waits", "unheard"):
        with pytest.raises(JournalProblem, match=f"no run {run_id}"):
            journal.begin(run_id, 2.0)


def test_a_run_cannot_begin_its_record_with_an_end_it_cannot_have(shelf: Shelf) -> None:
    with pytest.raises(IllegalMove):
        submit(shelf.open(), "a", State.SUCCEEDED)


def test_together_is_all_or_nothing(shelf: Shelf) -> None:
    journal = shelf.open()
    submit(journal, "a")
    submit(journal, "b")
    submit(journal, "c")
    finish(journal, "c")
    with pytest.raises(JournalProblem, match="no run c"):
        finish_together(journal, "a", "b", "c")
    assert [row.run_id for row in journal.unfinished()] == ["a", "b"]
    finish_together(journal, "a", "b")
    assert journal.unfinished() == []


def finish_together(journal: Journal, *run_ids: str) -> None:
    with journal.together():
        for run_id in run_ids:
            finish(journal, run_id)


def test_unfinished_runs_come_oldest_first(shelf: Shelf) -> None:
    journal = shelf.open()
    for run_id, state in (("z", State.RUNNING), ("r", State.REJECTED), ("a", State.ACCEPTED)):
        submit(journal, run_id, state)
    assert [row.run_id for row in journal.unfinished()] == ["z", "a"]


def test_a_resolution_leaves_the_state(shelf: Shelf) -> None:
    journal = shelf.open()
    submit(journal, "a")
    finish(journal, "a", State.UNKNOWN)
    journal.resolve("a", {"verdict": "done", "by": "Ada"})
    row = journal.find("a")
    assert row is not None
    assert (row.state, row.resolution) == (State.UNKNOWN, {"verdict": "done", "by": "Ada"})


def test_events_of_an_ended_run_are_kept(shelf: Shelf) -> None:
    journal = shelf.open()
    submit(journal, "a")
    events = [Event("a", "log", {"text": f"line {n} µl"}, 1.0 + n, n, 2) for n in range(1, 4)]
    journal.finish(Answer("a", "mix", State.SUCCEEDED, finished_at=3.0), [event.encode() for event in events])
    assert shelf.reader().events("a") == events
    assert shelf.reader().events("unheard") == []


# Paging and filters


@pytest.fixture
def full(shelf: Shelf) -> Journal:
    """r1 to r20: the even ones are of `mix`, every fifth one is rejected, the rest succeeded."""
    journal = shelf.open()
    for n in range(1, 21):
        state = State.REJECTED if n % 5 == 0 else State.RUNNING
        submit(journal, f"r{n}", state, task="mix" if n % 2 == 0 else "wash")
        if state is State.RUNNING:
            finish(journal, f"r{n}")
    return journal


def numbers(rows: list[object]) -> list[int]:
    return [int(row.run_id[1:]) for row in rows]  # type: ignore[attr-defined]


def test_history_is_newest_first_and_pages_without_gap_or_repeat(full: Journal) -> None:
    seen: list[int] = []
    before = None
    while rows := full.history(before=before, limit=7):
        seen += numbers([*rows])
        before = rows[-1].seq
    assert seen == list(range(20, 0, -1))


def test_runs_that_come_while_somebody_pages_do_not_shift_the_pages(full: Journal) -> None:
    first = full.history(limit=5)
    submit(full, "r21")
    assert numbers([*full.history(before=first[-1].seq, limit=5)]) == [15, 14, 13, 12, 11]


def test_history_filters_by_state_and_task(full: Journal) -> None:
    assert numbers([*full.history(state="rejected")]) == [20, 15, 10, 5]
    assert numbers([*full.history(state="rejected", task="mix")]) == [20, 10]
    assert numbers([*full.history(task="wash", limit=2)]) == [19, 17]
    assert full.history(task="nothing of that name") == []


def test_a_reader_sees_what_was_committed_and_cannot_write(shelf: Shelf, full: Journal) -> None:
    reader = shelf.reader()
    assert len(reader.history(limit=100)) == 20
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._db.execute("DELETE FROM runs")


# Damage


def closed(shelf: Shelf, runs: int = 30) -> None:
    """A journal of some runs, closed in good order."""
    journal = shelf.open()
    for n in range(runs):
        submit(journal, f"r{n}", note="x" * 200)
        finish(journal, f"r{n}", result=f"result {n} " + "y" * 200)
    journal.close()


def refused(shelf: Shelf) -> str:
    """The sentence with which it does not open; what is there is left as it is."""
    was = shelf.path.read_bytes() if shelf.path.exists() else None
    with pytest.raises(JournalProblem) as caught:
        shelf.open()
    unchanged = was == (shelf.path.read_bytes() if shelf.path.exists() else None)
    assert unchanged
    return str(caught.value)


def test_the_first_journal_of_a_device_is_made(shelf: Shelf) -> None:
    assert shelf.open().history() == []
    assert Memory(shelf.memory).journal_id() == shelf.open().fact("journal_id")


def test_a_journal_of_a_newer_release_is_refused_and_left_alone(shelf: Shelf) -> None:
    closed(shelf)
    db = sqlite3.connect(shelf.path)
    db.execute(f"PRAGMA user_version={SCHEMA + 1}")
    db.close()
    said = refused(shelf)
    assert "newer release" in said
    assert INIT not in said  # a newer agent is what helps, not forgetting


def remove(shelf: Shelf) -> None:
    shelf.path.unlink()


def remove_all(shelf: Shelf) -> None:
    shutil.rmtree(shelf.path.parent)


def empty(shelf: Shelf) -> None:
    os.truncate(shelf.path, 0)


def cut_in_half(shelf: Shelf) -> None:
    os.truncate(shelf.path, shelf.path.stat().st_size // 2)


def cut_to_a_stump(shelf: Shelf) -> None:
    os.truncate(shelf.path, 50)


def zero_its_header(shelf: Shelf) -> None:
    with shelf.path.open("r+b") as file:
        file.write(bytes(100))


def fill_a_page_with_rubbish(shelf: Shelf) -> None:
    with shelf.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 4096)


def write_text_into_it(shelf: Shelf) -> None:
    shelf.path.write_text("This is not a journal.\n" * 500)


def damage_what_is_remembered(shelf: Shelf) -> None:
    shelf.memory.write_text('{"journal_id"')


@pytest.mark.parametrize(
    "damage",
    [remove, remove_all, empty, cut_in_half, cut_to_a_stump, zero_its_header, fill_a_page_with_rubbish,
     write_text_into_it, damage_what_is_remembered],
    ids=lambda damage: damage.__name__,
)  # fmt: skip
def test_a_journal_that_is_gone_or_damaged_is_never_made_anew(shelf: Shelf, damage: Callable[[Shelf], None]) -> None:
    closed(shelf)
    damage(shelf)
    for _ in range(2):  # nor at the second try
        assert INIT in refused(shelf)


def test_a_journal_whose_end_was_lost_is_refused(shelf: Shelf) -> None:
    """The WAL holds the last commits until it is folded in; without it the database says that all is well."""
    journal = shelf.open()
    submit(journal, "a")
    cut = shelf.copy("after a power cut")
    cut.beside("-wal").unlink()
    assert "ends at run 0, but the device had recorded 1" in refused(cut)


def test_a_crash_loses_nothing_that_was_committed(shelf: Shelf) -> None:
    journal = shelf.open()
    submit(journal, "a")
    finish(journal, "a", result=42)
    submit(journal, "b")
    cut = shelf.copy("after a power cut")
    again = cut.open()
    found = {row.run_id: (row.state, row.outcome.get("result")) for row in again.history()}
    again.close()
    assert found == {"a": (State.SUCCEEDED, 42), "b": (State.RUNNING, None)}


def test_an_older_copy_of_the_journal_is_refused(shelf: Shelf) -> None:
    closed(shelf, runs=3)
    old = shelf.path.read_bytes()
    journal = shelf.open()
    submit(journal, "later")
    journal.close()
    shelf.path.write_bytes(old)
    assert "ends at run 3, but the device had recorded 4" in refused(shelf)


def test_the_journal_of_another_device_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    closed(shelf)
    other = Shelf(tmp_path / "other")
    closed(other, runs=99)
    shutil.copy(other.path, shelf.path)
    assert "another device's" in refused(shelf)


def test_a_journal_that_is_found_where_none_is_remembered_is_taken_up(shelf: Shelf) -> None:
    """The folder that remembers may be lost with a reinstalled system; the journal itself is the better witness."""
    closed(shelf, runs=3)
    shutil.rmtree(shelf.memory.parent)
    shelf.open().close()
    remove(shelf)
    assert "is gone, though this device had one" in refused(shelf)


def test_a_count_that_is_too_low_is_no_damage(shelf: Shelf) -> None:
    """It is written without fsync: after a power cut it may be behind."""
    closed(shelf, runs=3)
    shelf.memory.with_suffix(".count").write_bytes(struct.pack("<q", 1))
    shelf.open()
    shelf.memory.with_suffix(".count").write_bytes(b"")
    shelf.open()


FIELDS = {
    "outcome": b"result 7 ",
    "request": b'"parameters"',
    "request_json": b'"note":"x',
    "state": b"succeededmix",
}


@pytest.mark.parametrize("field", ["outcome", "request", "request_json", "state"])
def test_a_flipped_byte_in_a_record_is_noticed_when_it_is_read(shelf: Shelf, field: str) -> None:
    closed(shelf)
    content = shelf.path.read_bytes()
    at = content.index(FIELDS[field]) + {"request_json": 7, "state": 1, "request": 0}.get(field, 3)
    flipped = bytes([content[at] ^ 1])
    shelf.path.write_bytes(content[:at] + flipped + content[at + 1 :])
    journal = shelf.open()  # SQLite's own check does not see it
    with pytest.raises(JournalProblem, match=r"record of run r\d+ is damaged") as caught:
        journal.history(limit=100)
    assert INIT in str(caught.value)


def test_damage_that_appears_while_it_is_open_is_a_problem_of_the_journal(shelf: Shelf) -> None:
    closed(shelf, runs=400)
    journal = shelf.open()
    with shelf.path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * (shelf.path.stat().st_size - 3 * 4096))
    with pytest.raises(JournalProblem):
        [journal.find(f"r{n}") for n in range(400)]
    with pytest.raises(JournalProblem):
        [submit(journal, f"new {n}") for n in range(400)]


# A full disk


def test_the_reserve_takes_real_blocks_and_gives_them_back(shelf: Shelf, tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    reserve = Reserve(path)
    reserve.take()
    assert path.stat().st_blocks * 512 >= 1 << 20
    assert reserve.release()
    assert not reserve.release()
    assert not path.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here: " + mounted.stderr.decode(errors="replace").strip())
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take every byte there is."""
    hog = folder / "hog"
    with hog.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return hog


def test_the_outcome_of_a_run_fits_on_a_disk_that_filled_up_meanwhile(small_disk: Path) -> None:
    shelf = Shelf(small_disk)
    journal = shelf.open()
    submit(journal, "a")
    fill(small_disk)
    finish(journal, "a", result="z" * 50_000)
    journal.close()
    (small_disk / "hog").unlink()
    row = shelf.open().find("a")
    shelf.opened[-1].close()
    assert row is not None
    assert row.state is State.SUCCEEDED


def as_many_as_fit(journal: Journal) -> int:
    for n in range(10_000):
        try:
            submit(journal, f"r{n}")
            finish(journal, f"r{n}", result="z" * 10_000)
        except sqlite3.OperationalError as exc:
            if "full" not in str(exc):
                raise
            return n
    return 10_000


def test_on_a_full_disk_many_outcomes_fit_then_it_says_so_and_what_was_committed_stays(small_disk: Path) -> None:
    shelf = Shelf(small_disk)
    journal = shelf.open()
    fill(small_disk)
    kept = as_many_as_fit(journal)
    assert 100 <= kept < 10_000  # the reserve alone holds a hundred
    assert len([row for row in journal.history(limit=20_000) if row.state is State.SUCCEEDED]) == kept
    (small_disk / "hog").unlink()
    submit(journal, "later")
    finish(journal, "later")
    journal.close()


def test_a_journal_opens_on_a_full_disk(small_disk: Path) -> None:
    shelf = Shelf(small_disk)
    closed(shelf, runs=3)
    fill(small_disk)
    journal = shelf.open()
    assert len(journal.history()) == 3
    journal.close()


def test_a_count_that_cannot_be_written_does_not_unsay_what_was_committed(shelf: Shelf) -> None:
    """The folder that remembers may be on a full disk of its own. The row is there: the run must go on."""
    journal = shelf.open()
    shelf.memory.with_suffix(".count").mkdir()
    assert submit(journal, "a")
    finish(journal, "a")


def test_a_journal_that_another_program_holds_is_not_called_damaged(shelf: Shelf) -> None:
    closed(shelf, runs=3)
    holder = sqlite3.connect(shelf.path, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalProblem, match="end the program that holds it") as caught:
        shelf.open()
    holder.close()
    assert INIT not in str(caught.value)
    assert len(shelf.open().history()) == 3
