"""The journal's owner is killed at every point around its commits: nothing runs twice, nothing committed is lost.

A child process does what an agent does to a real journal and announces each step on a pipe, before and after; the
parent kills it at a step that the seed chooses. `OT2_CHAOS_SEED` repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from ot2_agent.server import outcomes
from ot2_agent.server.journal import Journal, Memory
from ot2_agent.server.states import Lock, lock_after
from ot2_agent.wire import Answer, Request, State

SEED = int(os.environ.get("OT2_CHAOS_SEED", "20240607"))
KILLS = 320
Announce = Callable[..., None]


def one_life(folder: Path, life: int, seed: int, announce: Announce) -> None:
    """What an agent does: recover, then runs one after the other, some queued, some cut off, old ids sent again.

    Each step is announced `before` and, once the call has returned, `after`; what the worker would do in between is
    announced as `ran`.
    """
    dice = random.Random(seed)
    announce("open", "before")
    journal = Journal.open(folder / "journal.db", Memory(folder / "memory" / "device.json"))
    announce("open", "after")
    recover(journal, announce)
    known = [row.run_id for row in journal.history(limit=500)]
    for n in range(100):
        run_id = f"l{life}n{n}"
        resent = dice.choice(known) if known and dice.random() < 0.3 else None
        if resent is not None:
            submit(journal, resent, State.RUNNING, announce)
        queued = dice.random() < 0.4
        submit(journal, run_id, State.ACCEPTED if queued else State.RUNNING, announce)
        if queued:
            step(announce, "begin", run_id, lambda run_id=run_id: journal.begin(run_id, 2.0))  # type: ignore[misc]
            announce("ran", run_id)
        finish(journal, run_id, dice.choice([State.SUCCEEDED, State.FAILED, State.UNKNOWN]), announce)
        known.append(run_id)


def recover(journal: Journal, announce: Announce) -> None:
    """As `Device._recover` does it."""
    announce("recover", "before")
    with journal.together():
        for row in journal.unfinished():
            answer = outcomes.after_crash(row, "robot")
            journal.finish(answer, [])
            lock = lock_after(row.run_id, answer.state, row.effects, interrupted=answer.interrupted)
            if lock is not None:
                journal.set_lock(lock)
    announce("recover", "after")


def step(announce: Announce, what: str, run_id: str, call: Callable[[], object]) -> object:
    announce(what, "before", run_id)
    told = call()
    announce(what, "after", run_id)
    return told


def submit(journal: Journal, run_id: str, state: State, announce: Announce) -> None:
    answer = Answer(run_id, "mix", state, submitted_at=1.0, sender="test")
    fresh = step(announce, "submit", run_id, lambda: journal.record(Request(run_id, "mix"), answer, effects="consumes"))
    if fresh and state is State.RUNNING:
        announce("ran", run_id)


def finish(journal: Journal, run_id: str, state: State, announce: Announce) -> None:
    answer = replace(Answer(run_id, "mix", state, finished_at=3.0), result=run_id * 20, error=str(state))
    announce("finish", "before", run_id, state.value)
    if state is State.UNKNOWN:
        with journal.together():
            journal.finish(answer, [{"text": "x" * 500}])
            journal.set_lock(Lock(run_id, run_id, ("resolve", "reset")))
    else:
        journal.finish(answer, [])
    announce("finish", "after", run_id, state.value)


# The parent


def lives(folder: Path, life: int, seed: int, kill_at: int) -> list[list[str]]:
    """One life of the child; what it announced until it was killed at step `kill_at`, the step itself included."""
    hears, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hears)
        _child(folder, life, seed, says)
    os.close(says)
    heard: list[list[str]] = []
    try:
        with open(hears, "rb") as stream:
            for line in stream:
                heard.append(json.loads(line))
                if len(heard) == kill_at:
                    os.kill(pid, signal.SIGKILL)
    finally:
        _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"the child ended by itself: {status}, after {heard[-3:]}"
    return heard


def _child(folder: Path, life: int, seed: int, says: int) -> None:
    def announce(*words: str) -> None:
        os.write(says, json.dumps(words).encode() + b"\n")

    try:
        one_life(folder, life, seed, announce)
    except BaseException as exc:
        print(f"child: {type(exc).__name__}: {exc}", file=sys.stderr, flush=True)
    os._exit(1)


@dataclass
class Seen:
    """What was announced over all lives: what the world outside knows."""

    ran: Counter[str] = field(default_factory=Counter)
    begun: set[str] = field(default_factory=set)
    """Told as taken."""
    tried: set[str] = field(default_factory=set)
    ended: dict[str, str] = field(default_factory=dict)
    """Told as ended, and how."""

    def take(self, heard: list[list[str]]) -> None:
        for what, *rest in heard:
            if what == "ran":
                self.ran[rest[0]] += 1
            elif what == "submit":
                (self.tried if rest[0] == "before" else self.begun).add(rest[1])
            elif what == "finish" and rest[0] == "after":
                self.ended[rest[1]] = rest[2]


def kills(seed: int) -> Iterator[tuple[int, int, int]]:
    """(life, seed of that life, step at which it is killed)."""
    dice = random.Random(seed)
    for life in range(KILLS):
        yield life, dice.randrange(1 << 30), dice.choice([1, 2, 3, 4, 5, 6, 7, 8, dice.randint(9, 40)])


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child needs none of the parent's threads
def test_an_owner_killed_at_any_commit_runs_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    print(f"OT2_CHAOS_SEED={SEED}")
    seen, where = Seen(), Counter[str]()
    for life, seed, kill_at in kills(SEED):
        heard = lives(tmp_path, life, seed, kill_at)
        point = heard[kill_at - 1]
        where[" ".join(point[: 1 if point[0] == "ran" else 2])] += 1
        seen.take(heard)
        if life % 20 == 19 or life == KILLS - 1:
            look(tmp_path, seen)
    print(f"{KILLS} kills, {len(seen.begun)} runs told as taken, {len(seen.ended)} as ended; killed at: {dict(where)}")
    points = {f"{what} {when}" for what in ("open", "recover", "submit", "begin", "finish") for when in AROUND}
    assert points | {"ran"} <= set(where), "not every point was tried"


AROUND = ("before", "after")


def look(folder: Path, seen: Seen) -> None:
    """Open it as the next agent would, and compare with what the world was told."""
    journal = Journal.open(folder / "journal.db", Memory(folder / "memory" / "device.json"))
    recover(journal, lambda *words: None)
    rows = {row.run_id: row for row in journal.history(limit=100_000)}
    journal.close()
    assert max(seen.ran.values(), default=0) <= 1, [run_id for run_id, count in seen.ran.items() if count > 1]
    assert seen.begun <= set(rows) <= seen.tried
    assert all(row.state.ended for row in rows.values())
    for run_id, state in seen.ended.items():
        assert (rows[run_id].state, rows[run_id].outcome["result"]) == (state, run_id * 20)
    for run_id in seen.ran:
        assert rows[run_id].state is not State.NOT_STARTED, f"{run_id} ran, and the journal says that it did not"
