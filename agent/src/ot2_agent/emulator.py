"""An emulated OT-2 on this computer's loopback: opentrons' own Smoothie emulator behind a tap.

Run by an interpreter that has opentrons: `python -m ot2_agent.emulator --port 9996 --record moves.jsonl
--speed 1`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from .tap import Tap

BAD_CONFIGURATION = 78
HOST = "127.0.0.1"


class EmulatorError(RuntimeError):
    """The emulated OT-2 cannot be started as asked; the message says what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 78 with a sentence on stderr when it cannot as asked."""
    options = _parser().parse_args(argv)
    try:
        return asyncio.run(_run(options, _smoothie(options.left, options.right)))
    except EmulatorError as exc:
        print(exc, file=sys.stderr)
        return BAD_CONFIGURATION
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ot2-agent emulate", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--port", type=_port, default=9996, help="port on 127.0.0.1; 0 picks a free one (9996)")
    add("--record", metavar="FILE", help="append every line of G-code to this file, as JSON lines")
    add("--speed", type=_speed, default=0.0, help="1 moves as slowly as the robot, 0 at once (0)")
    add("--right", default="p300_single_v2.0", metavar="MODEL", help="right pipette (p300_single_v2.0)")
    add("--left", default="", metavar="MODEL", help="left pipette (none)")
    return parser


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port: give 0 to 65535")


def _speed(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(speed := float(text)) and speed >= 0:
            return speed
    raise argparse.ArgumentTypeError(f"{text!r} is not a speed: give 0 (at once), 1 (real) or another one")


def _smoothie(left: str, right: str) -> Any:
    """opentrons' emulator of the motion controller, with these pipettes on it."""
    with tempfile.TemporaryDirectory(prefix="ot2-emulator-") as scratch:  # opentrons writes when imported
        os.environ["OT_API_CONFIG_DIR"] = scratch
        try:
            from opentrons.hardware_control.emulation.parser import Parser
            from opentrons.hardware_control.emulation.settings import PipetteSettings, SmoothieSettings
            from opentrons.hardware_control.emulation.smoothie import SmoothieEmulator
        except ImportError as exc:
            raise EmulatorError(
                f"The emulated OT-2 needs the package opentrons, which {sys.executable} cannot import "
                f"({exc}). Run it with an interpreter that has it."
            ) from exc
    settings = SmoothieSettings(
        left=PipetteSettings(model=left, id="LEFT" if left else ""),
        right=PipetteSettings(model=right, id="RIGHT" if right else ""),
        host=HOST,
        port=0,
    )
    return SmoothieEmulator(parser=Parser(), settings=settings)


async def _run(options: argparse.Namespace, smoothie: Any) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    emulator = await asyncio.start_server(lambda r, w: _serve(smoothie, r, w), HOST, 0)
    tap = await _tap(options, emulator.sockets[0].getsockname()[1])
    await stopped.wait()
    await tap.close()
    emulator.close()
    return 0


async def _tap(options: argparse.Namespace, emulator_port: int) -> Tap:
    try:
        tap = Tap((HOST, emulator_port), options.record, options.speed)
    except OSError as exc:
        raise EmulatorError(
            f"The recording {options.record} cannot be written: {exc.strerror}. Name another file with --record."
        ) from exc
    try:
        port = await tap.start(HOST, options.port)
    except OSError as exc:
        await tap.close()
        raise EmulatorError(
            f"Port {options.port} on {HOST} cannot be used: {exc.strerror}. Is an emulator already there? "
            "End it, or name another port with --port (0 picks a free one)."
        ) from exc
    print(f"emulator ready on {HOST}:{port}", flush=True)
    return tap


async def _serve(smoothie: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """opentrons' own handler of a connection, which raises when its peer has gone."""
    from opentrons.hardware_control.emulation.connection_handler import ConnectionHandler

    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
        await ConnectionHandler(smoothie)(reader, writer)
    writer.close()


if __name__ == "__main__":
    sys.exit(main())
