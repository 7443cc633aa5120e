"""The tap between opentrons and its emulator, and what it reads out of G-code. The emulator here says ok, only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ot2_agent import gcode, tap
from ot2_agent.tap import ACK, ALARM, HALTED, LOCKED, Tap

CURRENTS = "M907 A0.1 B0.3 C1.0 X0.3 Y0.3 Z0.1 G4 P0.005"
PREPARE = f"{CURRENTS} G0 C-14.5"
PICK_UP = "G0 F600 M907 A0.125 B0.3 C0.05 X0.3 Y0.3 Z0.1 G4 P0.005 G0 A18.24 G0 F24000"
ASPIRATE_100 = f"G0 F602 {CURRENTS} G0 C-3.175 G0 C-3.475 G0 F24000"
ASPIRATE_50 = f"G0 F602 {CURRENTS} G0 C-8.561 G0 C-8.861 G0 F24000"
DISPENSE = f"G0 F602 {CURRENTS} G0 C-14.5 G0 F24000"
BLOW_OUT = f"G0 F602 {CURRENTS} G0 C-19.0 G0 F24000"
BACK_TO_BOTTOM = f"{CURRENTS} G0 C-14.2 G0 C-14.5"
DROP_TIP = f"G0 F420 {CURRENTS} G0 C-37.0 G0 F24000"
START = ["G28.2 ABCZ", PREPARE, "G0 A35.24", PICK_UP]


class Clock:
    """Seconds that go forward when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Driver:
    """One connection to the tap, as opentrons' driver would have it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Driver:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, line: str) -> None:
        self.writer.write(line.encode() + b"\r\n\r\n")

    async def answer(self) -> str:
        return (await self.reader.readuntil(ACK))[: -len(ACK)].decode().strip()

    async def say(self, *lines: str) -> str:
        """Send lines one after the other; the last answer."""
        answer = ""
        for line in lines:
            self.send(line)
            answer = await self.answer()
        return answer

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class Rig:
    """A tap in front of an emulator that says ok and remembers what it was asked."""

    def __init__(self, tap: Tap, port: int, heard: list[str], record: Path) -> None:
        self.tap, self.port, self.heard, self.record = tap, port, heard, record

    def lines(self) -> list[str]:
        return [record.line for record in tap.read(self.record)]


@asynccontextmanager
async def rig(record: Path, *, speed: float = 0.0, clock: Clock | None = None) -> AsyncIterator[Rig]:
    heard: list[str] = []

    async def emulator(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            for line in data.split(b"\r\n\r\n")[:-1]:
                heard.append(line.decode())
                if line == b"bye":
                    writer.close()
                    return
                writer.write(ACK)
        writer.close()

    server = await asyncio.start_server(emulator, "127.0.0.1", 0)
    between = Tap(server.sockets[0].getsockname()[:2], record, speed, clock or Clock())
    try:
        yield Rig(between, await between.start(), heard, record)
    finally:
        await between.close()
        server.close()
        await server.wait_closed()


Story = Callable[[Rig], Awaitable[None]]


def play(story: Story, record: Path, *, speed: float = 0.0, clock: Clock | None = None) -> None:
    async def told() -> None:
        async with rig(record, speed=speed, clock=clock) as made:
            await asyncio.wait_for(story(made), 20)

    asyncio.run(told())


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "moves.jsonl"


# Recording


def test_each_line_is_recorded_with_its_time_connection_and_number_before_it_is_answered(
    record: Path,
) -> None:
    async def story(rig: Rig) -> None:
        first, second = await Driver.connect(rig.port), await Driver.connect(rig.port)
        await first.say("", "G90")
        await second.say("M400")
        assert [(each.line, each.conn, each.seq) for each in tap.read(record)] == [
            ("", 1, 1),
            ("G90", 1, 2),
            ("M400", 2, 3),
        ]
        times = [each.t for each in tap.read(record)]
        assert times == sorted(times)
        assert rig.heard == ["", "G90", "M400"]
        await first.close()
        await second.close()

    play(story, record)


def test_a_line_that_was_cut_off_is_dropped(record: Path) -> None:
    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        await driver.say("G90")
        driver.writer.write(b"G0 X10")
        await driver.close()
        await (another := await Driver.connect(rig.port)).say("M400")
        await another.close()
        assert rig.lines() == ["G90", "M400"]

    play(story, record)


def test_a_line_whose_sender_is_gone_still_takes_effect(record: Path) -> None:
    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        driver.send("G0 X10.5")
        await driver.close()
        another = await Driver.connect(rig.port)
        while "X:10.5" not in await another.say("M114.2"):
            pass
        await another.close()

    play(story, record)


def test_lines_that_come_in_pieces_or_together_are_the_same_lines(record: Path) -> None:
    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        for piece in (b"G9", b"0\r\n", b"\r", b"\nG91\r\n\r\nM400\r\n\r\n"):
            driver.writer.write(piece)
            await driver.writer.drain()
        for _ in range(3):
            await driver.answer()
        await driver.close()
        assert rig.lines() == ["G90", "G91", "M400"]

    play(story, record)


def test_a_client_that_sends_no_end_of_line_is_hung_up_on(record: Path) -> None:
    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        driver.writer.write(b"x" * 100_000)
        assert await driver.reader.read() == b""
        await driver.close()

    play(story, record)


def test_a_driver_is_hung_up_on_when_the_emulator_is_gone(record: Path) -> None:
    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        await driver.say("G90")
        driver.send("bye")
        assert await driver.reader.read() == b""
        await driver.close()

    play(story, record)


def test_half_a_record_of_a_killed_tap_is_not_read_and_not_glued_to_the_next(record: Path) -> None:
    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        await driver.say("M400")
        await driver.close()

    record.write_text(json.dumps({"line": "G90", "seq": 1}) + '\n{"line": "G9')
    assert [each.line for each in tap.read(record)] == ["G90"]
    play(story, record)
    assert [each.line for each in tap.read(record)] == ["G90", "M400"]


def test_reading_what_is_no_recording_names_file_and_line(record: Path) -> None:
    record.write_text('{"line": "G90"}\nhello\n')
    with pytest.raises(ValueError, match=r"moves.jsonl, line 2, is not a record"):
        tap.read(record)


# Motion


def test_position_follows_relative_and_absolute_moves_and_homing(record: Path) -> None:
    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        assert await driver.say("G28.6") == "X:0 Y:0 Z:0 A:0 B:0 C:0"
        await driver.say("G28.2 XY", "G91 G0 Y-28 G0 Y10 G90", "G0 X12.5 F600")
        assert await driver.say("M114.2") == "M114.2\r\n\r\nok MCS: X:12.5 Y:335.0 Z:0.0 A:0.0 B:0.0 C:0.0"
        assert await driver.say("G28.6") == "X:1 Y:1 Z:0 A:0 B:0 C:0"
        await driver.close()

    play(story, record)


def test_a_move_is_acknowledged_at_once_and_waited_for_by_m400(record: Path) -> None:
    clock = Clock()

    async def story(rig: Rig) -> None:
        driver, other = await Driver.connect(rig.port), await Driver.connect(rig.port)
        await driver.say("G0 F600 G0 X100")  # 10 s
        driver.send("M400")
        clock.now += 5
        assert "X:50.0 " in await other.say("M114.2")
        assert rig.heard[-1] == "M400"
        clock.now += 6
        assert "X:100.0 " in await other.say("M114.2")
        await driver.close()
        await other.close()

    play(story, record, speed=1.0, clock=clock)


def test_m400_is_answered_when_the_move_has_ended(record: Path) -> None:
    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        assert await driver.say("G28.2 ABCZ", "G0 X100 Y100", "M400") == ""
        await driver.close()

    play(story, record, speed=10_000)


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("G0 F600 G0 X100", 10),
        ("M203.1 X5 G0 F6000 G0 X100", 20),  # the axis allows less than the feed rate asks for
        ("G0 F600 G0 X30 Y40", 5),
        ("G28.2 C", 19 / 40),
        ("M907 X1.25 G4 P0.5", 0.5),
        ("M907 A0.1 C1.0", 0),
        ("G0 F24000", 0),
    ],
)
def test_duration_comes_from_distance_feed_rate_and_the_slowest_axis(line: str, seconds: float) -> None:
    assert sum(step.seconds for step in gcode.Machine().apply(line)) == pytest.approx(seconds)


@pytest.mark.parametrize("line", ["G0 X1", "M907 X1 G4 P0.005 G0 C-3.2", "G28.2 ABCZ", "G38.2 F420 Z-40"])
def test_lines_that_move_something_are_told_from_others(line: str) -> None:
    assert gcode.moves(line)


@pytest.mark.parametrize("line", ["", "M400", "G0 F24000", "G28.6", "M114.2", "M18 ZABC", "version", "M369 R", "G91"])
def test_queries_and_settings_move_nothing(line: str) -> None:
    assert not gcode.moves(line)


# Halt and alarm


def test_a_halt_ends_the_move_in_progress_and_wakes_who_waits_for_it_with_the_alarm(record: Path) -> None:
    clock = Clock()

    async def story(rig: Rig) -> None:
        driver, halter = await Driver.connect(rig.port), await Driver.connect(rig.port)
        await driver.say("G0 F600 G0 X100")
        driver.send("M400")
        await halter.say("M114.2")
        clock.now += 4
        assert await halter.say("M112") == HALTED
        assert await driver.answer() == ALARM
        assert await driver.say("G0 X200") == LOCKED
        clock.now += 100
        assert "X:40.0 " in await halter.say("M114.2")
        assert await halter.say("M999", "G28.6") == "X:0 Y:0 Z:0 A:0 B:0 C:0"
        await driver.close()
        await halter.close()
        assert tap.read(record)[-3].refused is False
        assert [each.line for each in tap.read(record) if each.refused] == ["G0 X200"]
        assert "G0 X200" not in rig.heard

    play(story, record, speed=1.0, clock=clock)


def test_without_a_halt_the_move_of_a_killed_sender_goes_on_to_its_end(record: Path) -> None:
    clock = Clock()

    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        await driver.say("G0 F600 G0 X100")
        await driver.close()
        clock.now += 11
        other = await Driver.connect(rig.port)
        assert "X:100.0 " in await other.say("M114.2")
        await other.close()

    play(story, record, speed=1.0, clock=clock)


def test_who_connects_during_an_alarm_can_clear_it_and_nothing_moves_before(record: Path) -> None:
    async def story(rig: Rig) -> None:
        halter = await Driver.connect(rig.port)
        halter.writer.write(b"M112\n")  # a halt needs no empty line after it
        assert await halter.answer() == HALTED
        assert await halter.say("G28.2 X") == LOCKED
        await halter.close()
        driver = await Driver.connect(rig.port)
        assert await driver.say("") == ""  # how the driver begins
        assert await driver.say("M400") == LOCKED
        assert await driver.say("M999", "G0 X10", "M400") == ""
        assert "X:10.0 " in await driver.say("M114.2")
        await driver.close()

    play(story, record)


def test_m112_with_its_empty_line_in_a_second_piece_is_one_halt(record: Path) -> None:
    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        driver.writer.write(b"M112\r\n")
        assert await driver.answer() == HALTED
        driver.writer.write(b"\r\n")
        await driver.say("M999")
        await driver.close()
        assert [line for line in rig.lines() if line] == ["M112", "M999"]

    play(story, record)


# Effects


def kinds(effects: list[tap.Effect]) -> list[str]:
    return [effect.kind for effect in effects]


def test_a_transfer_is_one_pick_up_aspirate_dispense_blow_out_and_drop() -> None:
    lines = [*START, ASPIRATE_100, DISPENSE, BLOW_OUT, BACK_TO_BOTTOM, DROP_TIP, "G28.2 C", PREPARE]
    found = tap.effects(lines)
    assert kinds(found) == ["pick_up", "aspirate", "dispense", "blow_out", "drop_tip"]
    assert {effect.axis for effect in found} == {"C"}
    assert [effect.mm for effect in found] == [17.0, 11.025, 11.025, 4.5, 22.5]
    assert [effect.is_volume(100) for effect in found] == [False, True, True, False, False]


def test_volumes_in_two_portions_are_told_by_what_the_tip_holds() -> None:
    found = tap.effects([*START, ASPIRATE_50, ASPIRATE_100, DISPENSE])
    assert [(effect.kind, round(effect.ul)) for effect in found[1:]] == [
        ("aspirate", 50),
        ("aspirate", 50),
        ("dispense", 100),
    ]


def test_a_push_through_the_bottom_is_a_dispense_and_a_blow_out() -> None:
    found = tap.effects([*START, ASPIRATE_100, BLOW_OUT])
    assert [(effect.kind, effect.mm) for effect in found[2:]] == [("dispense", 11.025), ("blow_out", 4.5)]


def test_refused_lines_have_no_effect() -> None:
    lines = [tap.Record(line) for line in [*START, ASPIRATE_100]]
    assert kinds(tap.effects([*lines, tap.Record(DISPENSE, refused=True)])) == ["pick_up", "aspirate"]


def test_a_dispense_that_a_halt_cut_off_counts_for_as_far_as_it_came(record: Path) -> None:
    clock = Clock()

    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        await driver.say(*START, ASPIRATE_100)
        clock.now += 1000
        await driver.say("M400", DISPENSE)
        clock.now += 0.5  # of 1.1 s
        await driver.say("M112")
        await driver.close()

    play(story, record, speed=1.0, clock=clock)
    last = tap.effects(tap.read(record))[-1]
    assert last.kind == "dispense"
    assert last.mm == pytest.approx(0.495 * 602 / 60, abs=0.01)
    assert last.ul == pytest.approx(45, abs=2)


def test_a_halt_before_the_move_began_undoes_its_effect(record: Path) -> None:
    clock = Clock()

    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        await driver.say(*START)
        clock.now += 1000
        await driver.say(ASPIRATE_100, "M112")
        await driver.close()

    play(story, record, speed=1.0, clock=clock)
    assert kinds(tap.effects(tap.read(record))) == ["pick_up"]


def test_a_recording_of_two_lives_of_a_tap_counts_both(record: Path) -> None:
    async def story(rig: Rig) -> None:
        driver = await Driver.connect(rig.port)
        await driver.say(*START, ASPIRATE_100, DISPENSE)
        await driver.close()

    play(story, record)
    play(story, record)
    assert kinds(tap.effects(tap.read(record))) == ["pick_up", "aspirate", "dispense"] * 2


@given(st.floats(0, 32.4), st.floats(0.01, 5))
def test_more_plunger_is_more_volume(mm: float, more: float) -> None:
    assert gcode.volume_ul(mm + more) > gcode.volume_ul(mm)
