"""The transitions of runs, driven by a state machine over a model of a device: its line, its journal, its lock."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from ot2_agent.server.states import (
    LEGAL,
    Effects,
    IllegalMove,
    Line,
    Lock,
    after_crash,
    check,
    drops_queue,
    lock_after,
    worker_died,
)
from ot2_agent.wire import ACTIVE, State

ENDS = sorted(set(State) - ACTIVE)
STATES = st.sampled_from(sorted(State))
EFFECTS: st.SearchStrategy[Effects] = st.sampled_from(["none", "motion", "consumes"])
ENDS_OF_A_RUNNING = sorted(LEGAL[State.RUNNING] - ACTIVE)


class Device(RuleBasedStateMachine):
    """What `device.py` does with these transitions, without a worker, a journal or a clock.

    `told` is the journal: the states of each id in the order they were written. `starts` counts how often the worker
    would have heard of an id.
    """

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, list[State]] = {}
        self.effects: dict[str, Effects] = {}
        self.starts: dict[str, int] = {}
        self.lock: Lock | None = None
        self.line = Line(0)
        self.made = 0

    @initialize(places=st.integers(0, 3))
    def switch_on(self, places: int) -> None:
        self.places = places
        self.line = Line(places)

    def write(self, run_id: str, then: State) -> None:
        now = self.told[run_id][-1] if run_id in self.told else None
        self.told.setdefault(run_id, []).append(check(now, then))
        if then is State.RUNNING:
            self.starts[run_id] = self.starts.get(run_id, 0) + 1

    def state(self, run_id: str) -> State:
        return self.told[run_id][-1]

    # --- what callers do

    @rule(target=ids, effects=EFFECTS)
    def submit(self, effects: Effects) -> str:
        self.made += 1
        run_id = f"r{self.made}"
        self.effects[run_id] = effects
        if self.lock is not None or self.line.full:
            self.write(run_id, State.REJECTED)
        elif self.line.idle:
            self.write(run_id, State.RUNNING)
            self.line.start(run_id)
        else:
            self.write(run_id, State.ACCEPTED)
            self.line.join(run_id)
        return run_id

    @rule(run_id=ids)
    def submit_again(self, run_id: str) -> None:
        """A known id gets its record; nothing may be written for it as if it were new."""
        if State.RUNNING in self.told[run_id]:
            with pytest.raises(IllegalMove):
                check(self.state(run_id), State.ACCEPTED)
        if run_id in self.line:
            with pytest.raises(IllegalMove):
                self.line.join(run_id)
        if not self.line.idle:
            with pytest.raises(IllegalMove):
                self.line.start(run_id)

    @rule(target=ids)
    def cancel_an_id_never_heard_of(self) -> str:
        self.made += 1
        run_id = f"r{self.made}"
        self.effects[run_id] = "none"
        self.write(run_id, State.CANCELLED)
        return run_id

    @rule(run_id=ids, end=st.sampled_from([State.CANCELLED, State.EXPIRED]))
    def give_up_its_place(self, run_id: str, end: State) -> None:
        if self.state(run_id) is State.ACCEPTED:
            self.write(run_id, end)
            self.line.leave(run_id)
            self.next()

    # --- what the worker does

    @precondition(lambda self: self.line.running)
    @rule(end=st.sampled_from(ENDS_OF_A_RUNNING), interrupted=st.booleans())
    def end(self, end: State, interrupted: bool) -> None:
        run_id = self.running()
        lock = lock_after(run_id, end, self.effects[run_id], interrupted=interrupted)
        self.write(run_id, end)
        self.line.leave(run_id)
        if lock is not None or drops_queue(end, self.effects[run_id]):
            for dropped in self.line.clear():
                self.write(dropped, State.NOT_STARTED)
        self.lock = lock or self.lock
        self.next()

    @precondition(lambda self: self.line.running)
    @rule(back=st.booleans())
    def ask_a_person(self, back: bool) -> None:
        """running -> waiting -> running is one run, told to the worker once."""
        run_id = self.running()
        self.told[run_id].append(check(State.RUNNING, State.WAITING))
        if back:
            self.told[run_id].append(check(State.WAITING, State.RUNNING))
        else:
            self.end(State.CANCELLED, True)

    @precondition(lambda self: self.line.running)
    @rule()
    def die(self) -> None:
        self.end(worker_died(self.effects[self.running()]), True)

    def running(self) -> str:
        assert self.line.running is not None
        return self.line.running

    # --- crashes and people

    @rule()
    def crash(self) -> None:
        """The agent is killed and started again: it knows what was written, and starts nothing by itself."""
        starts = dict(self.starts)
        for run_id in self.told:
            found = self.state(run_id)
            then = after_crash(found)
            if found.ended:
                assert then is found
                continue
            self.write(run_id, then)
            lock = lock_after(run_id, then, self.effects[run_id], interrupted=then is State.UNKNOWN)
            self.lock = lock or self.lock
        self.line = Line(self.places)
        assert self.starts == starts

    @precondition(lambda self: self.lock is not None)
    @rule()
    def a_person_looks(self) -> None:
        assert self.lock is not None
        resolved = self.lock.resolved()
        assert resolved.needs == ("reset",)
        assert Lock.decode(resolved.encode()) == resolved
        self.lock = None
        self.next()

    @rule(run_id=consumes(ids))
    def forget(self, run_id: str) -> None:
        """Nobody asks for this one any more; its record stays."""

    def next(self) -> None:
        if self.lock is None and (run_id := self.line.call()) is not None:
            self.write(run_id, State.RUNNING)

    # --- what must hold, always

    @invariant()
    def never_two_running(self) -> None:
        active = [run_id for run_id in self.told if self.state(run_id) in (State.RUNNING, State.WAITING)]
        assert active == ([self.line.running] if self.line.running else [])

    @invariant()
    def no_id_ran_twice(self) -> None:
        assert set(self.starts.values()) <= {1}

    @invariant()
    def first_end_stands(self) -> None:
        for states in self.told.values():
            assert not any(state.ended for state in states[:-1])

    @invariant()
    def line_is_bounded_and_in_order(self) -> None:
        waiting = list(self.line.waiting)
        assert len(waiting) <= self.places
        assert waiting == [run_id for run_id in self.told if self.state(run_id) is State.ACCEPTED]
        assert len(set(waiting)) == len(waiting)

    @invariant()
    def nothing_waits_on_a_device_that_could_run_it(self) -> None:
        assert self.line.running or self.lock or not self.line.waiting

    @invariant()
    def who_was_cut_off_with_effects_locked_the_device(self) -> None:
        if self.lock is not None:
            assert self.effects[self.lock.run_id] != "none"
            assert self.state(self.lock.run_id).ended
            assert self.line.running is None


TestDevice = Device.TestCase


# Each table, whole


@given(now=st.none() | STATES, then=STATES)
def test_check_allows_exactly_what_the_table_has(now: State | None, then: State) -> None:
    if then in LEGAL[now]:
        assert check(now, then) is then
    else:
        with pytest.raises(IllegalMove, match="cannot go from"):
            check(now, then)


def test_every_state_has_its_row() -> None:
    assert set(LEGAL) == {None, *State}


@pytest.mark.parametrize("end", ENDS)
def test_from_an_end_there_is_no_way(end: State) -> None:
    assert LEGAL[end] == frozenset()


@pytest.mark.parametrize("end", ENDS)
def test_a_crash_changes_no_end(end: State) -> None:
    assert after_crash(end) is end


def test_after_a_crash_what_had_not_begun_is_not_started_and_what_had_is_unknown() -> None:
    assert after_crash(State.ACCEPTED) is State.NOT_STARTED
    assert after_crash(State.RUNNING) is State.UNKNOWN
    assert after_crash(State.WAITING) is State.UNKNOWN


def test_no_state_that_may_have_moved_something_ends_as_if_nothing_had() -> None:
    for state in (State.RUNNING, State.WAITING):
        assert not LEGAL[state] & {State.NOT_STARTED, State.EXPIRED, State.ACCEPTED}


@given(end=st.sampled_from(ENDS), effects=EFFECTS, interrupted=st.booleans())
def test_a_lock_follows_exactly_on_a_cut_off_run_with_effects(end: State, effects: Effects, interrupted: bool) -> None:
    lock = lock_after("r", end, effects, interrupted=interrupted)
    assert (lock is not None) == (effects != "none" and (interrupted or end is State.UNKNOWN))
    if lock is not None:
        assert lock.needs == {"motion": ("reset",), "consumes": ("resolve", "reset")}[effects]
        assert Lock.decode(lock.encode()) == lock


@given(end=st.sampled_from(ENDS), effects=EFFECTS)
def test_only_success_or_a_run_without_effects_lets_the_next_one_start(end: State, effects: Effects) -> None:
    assert drops_queue(end, effects) == (end is not State.SUCCEEDED and effects != "none")


def test_a_worker_that_died_by_itself_leaves_doubt_only_where_there_are_effects() -> None:
    assert worker_died("none") is State.FAILED
    assert worker_died("motion") is worker_died("consumes") is State.UNKNOWN


def test_a_line_of_no_places_runs_one_and_takes_no_other() -> None:
    line = Line(0)
    before = (line.idle, line.full)
    line.start("a")
    assert (before, (line.idle, line.full)) == ((True, False), (False, True))
    assert line.call() is None
    with pytest.raises(IllegalMove):
        line.start("b")
    line.leave("a")
    assert line.idle


def test_one_that_leaves_the_line_makes_no_gap() -> None:
    line = Line(3)
    line.start("a")
    for run_id in "bcd":
        line.join(run_id)
    assert line.full
    line.leave("c")
    line.leave("a")
    assert (line.call(), list(line.waiting)) == ("b", ["d"])
    assert line.clear() == ["d"]
