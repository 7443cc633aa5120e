"""A TCP tap between opentrons and its emulated OT-2: records lines, gives motion its time, plays the alarm.

opentrons' emulator answers a move at once and knows no halt. Behind a tap it behaves as a robot does where it
matters: a move goes on after its sender died, `M400` waits for it, `M112` ends it, and nothing moves again
before `M999`. What the lines mean is in `gcode.py`; `effects` counts what happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .gcode import AXES, Effect, Machine, Record, Step, commands, effects, moves

__all__ = ["Effect", "Record", "Tap", "effects", "moves", "read"]

TERMINATOR = b"\r\n\r\n"
ACK = b"ok\r\nok\r\n"
HALTED = "ok Emergency Stop Requested - reset or M999 required to exit HALT state"
ALARM = "ALARM: Kill button pressed - reset or M999 to continue"
LOCKED = "error:Alarm lock"
"""What the firmware says, as opentrons' driver understands it. How the real one frames it is unproven."""

_HEARD_IN_ALARM = frozenset({"M999", "M112", "M114.2", "M119", ""})
_EMULATOR_TIMEOUT_S = 10.0


def read(path: Path | str) -> list[Record]:
    """The records of a recording; a last line that is not complete yet is left out.

    Raises:
        ValueError: a line is not a record, with its number.
    """
    records = []
    for number, text in enumerate(Path(path).read_bytes().split(b"\n")[:-1], 1):
        try:
            records.append(Record(**json.loads(text)))
        except (ValueError, TypeError) as exc:
            raise ValueError(f"{path}, line {number}, is not a record of a tap: {exc}") from exc
    return records


class Timeline:
    """When the motions that were accepted begin and end; each begins when the one before it has ended.

    Args:
        speed: 1.0 for real duration, 2.0 for twice as fast, 0 for no duration at all.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._queue: list[tuple[float, float, Step]] = []
        self.still_at = 0.0
        """When the last motion ends, in the clock of `add`."""

    def add(self, steps: list[Step], now: float) -> None:
        self._queue = [entry for entry in self._queue if entry[1] > now]
        begin = max(now, self.still_at)
        for step in steps:
            end = begin + (step.seconds / self._speed if self._speed else 0.0)
            self._queue.append((begin, end, step))
            begin = end
        self.still_at = begin

    def position(self, now: float, at_rest: Mapping[str, float]) -> dict[str, float]:
        """Where the axes are at `now`; `at_rest` is where they will be when everything has ended."""
        for begin, end, step in self._queue:
            if now < end:
                part = max(0.0, (now - begin) / (end - begin))
                way = {axis: step.end[axis] - step.start[axis] for axis in AXES}
                return {axis: round(step.start[axis] + part * way[axis], 3) for axis in AXES}
        return dict(at_rest)

    def clear(self, now: float) -> None:
        """Everything ends here."""
        self._queue, self.still_at = [], now


class Recording:
    """A file of records, one JSON object a line, each flushed before its line is acted on."""

    def __init__(self, path: Path | str | None) -> None:
        if path is not None:
            _drop_torn_line(Path(path))
        self._file: TextIO | None = None if path is None else open(path, "a", encoding="ascii")
        self._seq = 0

    def add(self, line: str, conn: int, **more: Any) -> None:
        self._seq += 1
        at = {"t": time.monotonic(), "time": time.time()}
        record = {**at, "line": line, "conn": conn, "seq": self._seq, **more}
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as exc:  # a full disk must not stop the robot in mid-air; say it once
            print(f"The recording ends at line {self._seq - 1}: {exc}.", file=sys.stderr, flush=True)
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _drop_torn_line(path: Path) -> None:
    """A tap that was killed may have left half a line, which the next record must not be glued to."""
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


@dataclass(eq=False)
class _Session:
    """One connection from a driver, with its own connection to the emulator."""

    conn: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    emulator: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    owes_alarm: bool = False
    """The alarm came while this one was connected: its next answer says so."""


@dataclass(frozen=True)
class _Reply:
    """What a line is answered with: the emulator's answer, unless `text` is set; not before `after`."""

    line: str
    text: str | None = None
    after: float = 0.0


class Tap:
    """Stands between any number of drivers and one emulator. They share one machine, as with a real one.

    Args:
        emulator: host and port of opentrons' Smoothie emulator.
        record: file to append records to.
        speed: 1.0 gives motion its real duration, 0 none.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        emulator: tuple[str, int],
        record: Path | str | None = None,
        speed: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emulator = emulator
        self._recording = Recording(record)
        self._clock = clock
        self._machine = Machine()
        self._timeline = Timeline(speed)
        self._sessions: set[_Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._conns = 0
        self._alarm = False
        self._halt = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; returns the port.

        Raises:
            OSError: the port is taken.
        """
        self._server = await asyncio.start_server(self._connected, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End every connection and stop listening."""
        if self._server is not None:
            self._server.close()
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._recording.close()

    # --- connections ---

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._conns += 1
        conn = self._conns
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            session = _Session(conn, reader, writer, await asyncio.open_connection(*self._emulator))
            self._sessions.add(session)
            try:
                await self._talk(session)
            finally:
                self._sessions.discard(session)
                session.emulator[1].close()

    async def _talk(self, session: _Session) -> None:
        """Lines take effect as they come in, answers follow: a sender that died has still sent its line."""
        replies: asyncio.Queue[_Reply] = asyncio.Queue()
        answering = asyncio.ensure_future(self._answer(session, replies))
        answering.add_done_callback(lambda _: session.writer.close())  # the emulator is gone: hang up
        try:
            async for line in _lines(session.reader):
                replies.put_nowait(self._receive(line, session))
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    async def _answer(self, session: _Session, replies: asyncio.Queue[_Reply]) -> None:
        while True:
            reply = await replies.get()
            text = await self._ask(session, reply.line) if reply.text is None else reply.text
            await self._until(reply.after)
            if session.owes_alarm and reply.text != HALTED:
                text, session.owes_alarm = ALARM, False
            session.writer.write((f"{text}\r\n".encode() if text else b"") + ACK)
            await session.writer.drain()

    async def _ask(self, session: _Session, line: str) -> str:
        reader, writer = session.emulator
        writer.write(line.encode() + TERMINATOR)
        answer = await asyncio.wait_for(reader.readuntil(ACK), _EMULATOR_TIMEOUT_S)
        return answer[: -len(ACK)].decode().removesuffix("\r\n")

    async def _until(self, moment: float) -> None:
        """Wait until then, or until a halt."""
        left = moment - self._clock()
        if left > 0 and not self._alarm:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._halt.wait(), left)

    # --- lines ---

    def _receive(self, line: str, session: _Session) -> _Reply:
        """Record a line and let it act on the machine; the answer may have to wait."""
        now = self._clock()
        codes = [command.code for command in commands(line)]
        if "M112" in codes:
            return self._stop(line, session, now)
        if self._alarm and line not in _HEARD_IN_ALARM:
            self._recording.add(line, session.conn, refused=True)
            return _Reply(line, LOCKED)
        self._recording.add(line, session.conn)
        if "M999" in codes:
            self._alarm = False
            self._halt.clear()
            session.owes_alarm = False
        self._timeline.add(self._machine.apply(line), now)
        waits = "M400" in codes or "G28.2" in codes
        return _Reply(line, self._own_answer(line, now), self._timeline.still_at if waits else 0.0)

    def _own_answer(self, line: str, now: float) -> str | None:
        """Answers that the emulator gets wrong, because it knows neither relative moves nor halts."""
        if line == "M114.2":
            position = self._timeline.position(now, self._machine.position)
            return "M114.2\r\n\r\nok MCS: " + " ".join(f"{axis}:{position[axis]}" for axis in AXES)
        if line == "G28.6":
            return " ".join(f"{axis}:{int(homed)}" for axis, homed in self._machine.homed.items())
        return None

    def _stop(self, line: str, session: _Session, now: float) -> _Reply:
        position = self._timeline.position(now, self._machine.position)
        self._recording.add(line, session.conn, position=position)
        self._machine.halt(position)
        self._timeline.clear(now)
        self._alarm = True
        self._halt.set()
        for other in self._sessions - {session}:
            other.owes_alarm = True
        return _Reply(line, HALTED)


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines of a driver, each ended by an empty one; a halt need not be. A cut-off line is dropped."""
    buffer = b""
    while data := await reader.read(4096):
        buffer += data
        while True:
            line, end, rest = buffer.partition(TERMINATOR)
            if not end and buffer.lstrip().startswith(b"M112"):
                line, end, rest = buffer.partition(b"\n")
                if not line.strip():  # what is left of the terminator before it
                    buffer = buffer.lstrip()
                    continue
            if not end:
                break
            buffer = rest
            yield line.strip().decode("ascii", "replace")
        if len(buffer) > 65536:
            return
