"""The colour-mixing experiment: home, then for each well mix, position the sensor, wait for a measurement, move back.

    python orchestrator_example.py [--wells 6] [--url http://127.0.0.1:8000]

Needs a device that runs `agent/examples/device_example.py`. Reads `OT2_URL` and `OT2_TOKEN`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from ot2_orchestrator import NothingHappened, OrchestratorClient, OT2Error
from plate import Plate, mixed, supports_colour

MIXES = [
    *((300, 0, 0), (0, 300, 0), (0, 0, 300), (150, 150, 0), (0, 150, 150), (150, 0, 150)),
    *((200, 100, 0), (0, 200, 100), (100, 0, 200), (100, 100, 100), (200, 50, 50), (50, 50, 200)),
]
"""Microlitres of red, yellow and blue."""

STEPS = ("mix", "position", "measure", "back")


class Bar:
    """How far the experiment is: one line that is written over in a terminal, a line per well elsewhere."""

    def __init__(self, wells: int) -> None:
        self._total = wells * len(STEPS)
        self._done = 0
        self._live = sys.stdout.isatty()

    def step(self, well: str, what: str) -> None:
        """Say what begins now."""
        if self._live:
            filled = round(30 * self._done / self._total)
            share = 100 * self._done // self._total
            print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {share:3d}% {well:<3} {what:<9}", end="", flush=True)
        self._done += 1

    def note(self, line: str) -> None:
        """A line that stays."""
        print(f"\r{line:<60}" if self._live else line, flush=True)


def measure(red: float, yellow: float, blue: float) -> tuple[int, int, int]:
    """Wait for the sensor's reading of the well under it: red, green and blue light.

    In the lab a microcontroller with an AS7341 light sensor sends it over MQTT: subscribe to it here. This stand-in
    works the reading out from the mix.
    """
    time.sleep(0.1)
    return mixed(red, yellow, blue)


def experiment(robot: OrchestratorClient, wells: int) -> Plate:
    """Mix and measure that many wells. Each call is a run of its own; it runs at most once."""
    plate, bar = Plate(), Bar(wells)
    bar.note("homing")
    robot.tasks.home_robot()  # waits for a device that is still starting
    bar.note(f"ready: {robot.tasks.get_robot_status()}")
    for number, (red, yellow, blue) in enumerate(MIXES[:wells], 1):
        well = f"A{number}"
        bar.step(well, "mix")
        robot.tasks.mix_color(R=red, Y=yellow, B=blue, mix_well=well)
        plate.fill(well, red, yellow, blue)
        bar.step(well, "position")
        robot.tasks.move_sensor_to_measurement_position(mix_well=well)
        bar.step(well, "measure")
        reading = measure(red, yellow, blue)
        bar.step(well, "back")
        robot.tasks.move_sensor_back()
        bar.note(f"{well:<3} R {red:3d}  Y {yellow:3d}  B {blue:3d} uL   measured {reading}")
    return plate


def main() -> int:
    options = argparse.ArgumentParser(description="Mix colours on an OT-2 and measure them.")
    options.add_argument("--wells", type=int, default=6, choices=range(1, len(MIXES) + 1), metavar=f"1..{len(MIXES)}")
    options.add_argument("--url", default=os.environ.get("OT2_URL", "http://127.0.0.1:8000"))
    given = options.parse_args()
    try:
        with OrchestratorClient(given.url, os.environ.get("OT2_TOKEN") or None) as robot:
            plate = experiment(robot, given.wells)
    except OT2Error as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        if error.run_id and not isinstance(error, NothingHappened):
            print(f"Do not start again before you know what became of run {error.run_id}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\n{plate.draw(supports_colour())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
