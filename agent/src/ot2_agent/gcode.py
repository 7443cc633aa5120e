"""What a line of OT-2 G-code does: where the axes go, in what time, what plungers moved. Knows no sockets.

The six axes are X and Y (gantry), Z and A (height of the left and right pipette), B and C (plunger of the
left and right pipette). Lengths are millimetres, speeds mm/s, times seconds.
"""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

AXES = "XYZABC"
HOMED: Mapping[str, float] = {"X": 418.0, "Y": 353.0, "Z": 218.0, "A": 218.0, "B": 19.0, "C": 19.0}
"""Where each axis stands after homing (opentrons, drivers/smoothie_drivers/constants.py)."""

_HOMING_SPEED = 80.0
_Position = Mapping[str, float]
_PIPETTES = {"B": "Z", "C": "A"}
"""The height axis beside each plunger axis."""

_COMMAND = re.compile(r"([GM]\d+(?:\.\d+)?)([^GM]*)")
_WORD = re.compile(r"([A-Z])(-?\d*\.?\d+)?")


@dataclass(frozen=True)
class Command:
    """One G-code of a line, e.g. `G0` with {"X": 10.0} or `G28.2` with {"A": None, "Z": None}."""

    code: str
    words: Mapping[str, float | None]

    @property
    def axes(self) -> dict[str, float]:
        return {axis: value for axis, value in self.words.items() if axis in AXES and value is not None}


def commands(line: str) -> list[Command]:
    """Split a line into its commands; what is no G-code (`version`, an empty line) has none."""
    return [
        Command(code, {letter: float(number) if number else None for letter, number in _WORD.findall(rest)})
        for code, rest in _COMMAND.findall(line)
    ]


def moves(line: str) -> bool:
    """Whether a line can set an axis in motion: a move with a target, homing, or a probe."""
    return any(
        (command.code in ("G0", "G1") and command.axes) or command.code in ("G28.2", "G38.2")
        for command in commands(line)
    )


@dataclass(frozen=True)
class Step:
    """One motion, or one dwell: from where to where in how many seconds."""

    code: str
    start: Mapping[str, float]
    end: Mapping[str, float]
    seconds: float


class Machine:
    """What lines act on: position, homing flags, coordinates, feed rate and the axes' highest speeds.

    Acceleration is left out, so durations come out somewhat short.
    """

    def __init__(self) -> None:
        self.position = dict.fromkeys(AXES, 0.0)
        self.homed = dict.fromkeys(AXES, False)
        self.relative = False
        self.feed = 400.0
        self.limits = {"X": 600.0, "Y": 400.0, "Z": 125.0, "A": 125.0, "B": 40.0, "C": 40.0}

    def apply(self, line: str) -> list[Step]:
        """Take one line and return its motions in order; the state is then the one after the last of them."""
        return [step for command in commands(line) if (step := self._one(command)) is not None]

    def halt(self, position: Mapping[str, float]) -> None:
        """The motors stopped at `position`; the controller no longer trusts it."""
        self.position.update(position)
        self.homed = dict.fromkeys(AXES, False)
        self.relative = False

    def _one(self, command: Command) -> Step | None:
        if command.code in ("G0", "G1"):
            return self._move(command)
        if command.code == "G28.2":
            return self._home(command)
        if command.code == "G4":
            return Step("G4", dict(self.position), dict(self.position), command.words.get("P") or 0.0)
        if command.code in ("G90", "G91"):
            self.relative = command.code == "G91"
        elif command.code == "M203.1":
            self.limits.update({axis: speed for axis, speed in command.axes.items() if speed > 0})
        return None

    def _move(self, command: Command) -> Step | None:
        feed = command.words.get("F")
        if feed:
            self.feed = feed / 60
        if not command.axes:
            return None
        start = dict(self.position)
        for axis, value in command.axes.items():
            self.position[axis] = round(start[axis] + value if self.relative else value, 3)
        way = {axis: abs(self.position[axis] - start[axis]) for axis in command.axes}
        seconds = max(math.hypot(*way.values()) / self.feed, *(way[axis] / self.limits[axis] for axis in way))
        return Step("G0", start, dict(self.position), seconds)

    def _home(self, command: Command) -> Step:
        start = dict(self.position)
        axes = [axis for axis in command.words if axis in AXES] or list(AXES)
        seconds = max(abs(HOMED[axis] - start[axis]) / min(self.limits[axis], _HOMING_SPEED) for axis in axes)
        self.position.update({axis: HOMED[axis] for axis in axes})
        self.homed.update(dict.fromkeys(axes, True))
        return Step("G28.2", start, dict(self.position), seconds)


# --- a recording --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One line as it came in at the tap.

    `t` is monotonic and `time` epoch seconds; `conn` numbers the connections from 1, `seq` the lines from 1
    since the tap started. `refused` lines came while the controller was in alarm and moved nothing. A halt
    (`M112`) carries in `position` where the axes came to rest.
    """

    line: str
    t: float = 0.0
    time: float = 0.0
    conn: int = 1
    seq: int = 0
    refused: bool = False
    position: Mapping[str, float] | None = None


# --- effects ------------------------------------------------------------------------------------------------

VOLUME_TOLERANCE_UL = 1.0
"""How far `Effect.ul` may be from the volume asked for: 0.5 uL of reading, and the rounding of G-code."""

_P300_GEN2 = (
    (0.0, 0.0),
    (1.157, 10.0),
    (2.354, 20.0),
    (3.458, 30.0),
    (5.639, 50.0),
    (11.025, 100.0),
    (21.748, 200.0),
    (32.444, 300.0),
)
"""Plunger millimetres above its bottom, and microlitres: a p300_single_gen2 (from its definition)."""

_STILL_MM = 0.01
_DROP_TIP_MM = 10.0
"""A plunger pushed further than this below its bottom ejects the tip; a blow-out goes about 4.5 mm."""
_PRESS_AMPERE = 0.5
"""A pipette is pressed into a tip at a lower current than it is moved with (0.8 A)."""


def volume_ul(mm: float) -> float:
    """Microlitres in a p300_single_gen2, plunger `mm` above the bottom; within 0.5 uL up to 300 uL."""
    knots = [knot for knot, _ in _P300_GEN2]
    right = min(max(bisect(knots, mm), 1), len(knots) - 1)
    (mm_0, ul_0), (mm_1, ul_1) = _P300_GEN2[right - 1], _P300_GEN2[right]
    return ul_0 + (mm - mm_0) * (ul_1 - ul_0) / (mm_1 - mm_0)


@dataclass(frozen=True)
class Effect:
    """One thing that physically happened at a pipette.

    `kind` is `pick_up`, `aspirate`, `dispense`, `blow_out` or `drop_tip`; `axis` the plunger's: C right, B
    left. `mm` is how far the plunger went (a pick-up: how far the pipette pressed), `ul` what that is in a
    p300_single_gen2, 0 for a pick-up, blow-out and drop. `time`, `conn` and `seq` are those of the line that
    did it.
    """

    kind: str
    axis: str
    mm: float
    time: float
    ul: float = 0.0
    conn: int = 1
    seq: int = 0

    def is_volume(self, ul: float, tolerance: float = VOLUME_TOLERANCE_UL) -> bool:
        """Whether this moved `ul` microlitres, give or take `tolerance`.

        Volumes of 20 to 300 uL that are more than twice the tolerance apart are told apart for certain.
        """
        return abs(self.ul - ul) <= tolerance


@dataclass
class _Reading:
    """Effects so far. Bottoms are learnt: where a plunger goes without an own feed rate, nothing flows."""

    machine: Machine = field(default_factory=Machine)
    bottom: dict[str, float] = field(default_factory=dict)
    found: list[Effect] = field(default_factory=list)
    last: tuple[int, Record, Mapping[str, float], dict[str, float]] | None = None

    def take(self, record: Record) -> None:
        if record.position is not None:
            self._halted(record.position)
        elif not record.refused and moves(record.line):
            start, bottom = dict(self.machine.position), dict(self.bottom)
            self.last = (len(self.found), record, start, bottom)
            steps = self.machine.apply(record.line)
            if all(step.code == "G0" for step in steps if step.start != step.end):
                self.found += self._judge(record, start, self.machine.position)
        elif not record.refused:
            self.machine.apply(record.line)

    def _halted(self, position: Mapping[str, float]) -> None:
        """A halt ends the last motion early, so what that line did is judged again from where it stopped."""
        self.machine.halt(position)
        if self.last is None:
            return
        index, record, start, self.bottom = self.last
        del self.found[index:]
        if "G28" not in record.line:
            self.found += self._judge(record, start, self.machine.position)
        self.last = None

    def _judge(self, record: Record, start: _Position, end: _Position) -> Iterator[Effect]:
        gcodes = commands(record.line)
        at_own_feed = any(each.code == "G0" and "F" in each.words and not each.axes for each in gcodes[:1])
        currents = {axis: amp for each in gcodes if each.code == "M907" for axis, amp in each.axes.items()}
        for axis, height in _PIPETTES.items():
            if not at_own_feed:
                if abs(end[axis] - start[axis]) > _STILL_MM:
                    self.bottom[axis] = end[axis]
                continue
            pressed = start[height] - end[height]
            if pressed > _STILL_MM and currents.get(height, 1.0) < _PRESS_AMPERE:
                yield Effect("pick_up", axis, round(pressed, 3), record.time, 0.0, record.conn, record.seq)
            for kind, mm, ul in self._plunger(start[axis], end[axis], self.bottom.get(axis, start[axis])):
                yield Effect(kind, axis, round(mm, 3), record.time, round(ul, 2), record.conn, record.seq)

    def _plunger(self, start: float, end: float, bottom: float) -> Iterator[tuple[str, float, float]]:
        if abs(end - start) <= _STILL_MM:
            return
        if end > start:
            yield "aspirate", end - start, volume_ul(end - bottom) - volume_ul(start - bottom)
            return
        level = max(end, bottom)
        if start - level > _STILL_MM:  # from above the bottom to below it: a dispense, then a blow-out
            yield "dispense", start - level, volume_ul(start - bottom) - volume_ul(level - bottom)
        below = min(start, bottom) - end
        if below > _STILL_MM:
            yield "drop_tip" if bottom - end > _DROP_TIP_MM else "blow_out", below, 0.0


def effects(lines: Iterable[Record | str]) -> list[Effect]:
    """What physically happened, from a recording (or bare lines), in order.

    A recording holds one or more lives of a tap (`seq` starts again at 1). Refused lines did nothing; the
    move that a halt cut off counts for as far as it came. The net way of a line counts, so backlash (0.3 mm
    up and back) does not.
    """
    reading = _Reading()
    for item in lines:
        record = Record(item) if isinstance(item, str) else item
        if record.seq == 1:
            reading = _Reading(found=reading.found)
        reading.take(record)
    return reading.found
