"""A 96-well plate drawn in the terminal, each well in the colour that was mixed. Standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TextIO

ROWS = "ABCDEFGH"
COLUMNS = range(1, 13)

Colour = tuple[int, int, int]
"""Red, green and blue light, 0 to 255."""

PAINTS: Mapping[str, Colour] = {"R": (222, 38, 38), "Y": (250, 216, 36), "B": (34, 74, 196)}
"""What white light leaves of itself in each of the three liquids."""

LETTERS: Mapping[str, str] = {"R": "R", "Y": "Y", "B": "B", "RY": "O", "YB": "G", "RB": "P", "RYB": "N"}
"""A mix without colours: the paints that make up at least a fifth of it -> red, ..., orange, green, purple, brown."""

LEGEND = "R red  Y yellow  B blue  O orange  G green  P purple  N brown"
_RESET = "\x1b[0m"


def mixed(red: float, yellow: float, blue: float) -> Colour:
    """The colour of a mix of three volumes: paints take light away, so their shares multiply."""
    total = red + yellow + blue
    if total <= 0:
        return (255, 255, 255)
    made = [1.0, 1.0, 1.0]
    for volume, paint in zip((red, yellow, blue), PAINTS.values(), strict=True):
        for channel in range(3):
            made[channel] *= (paint[channel] / 255) ** (volume / total)
    return (round(255 * made[0]), round(255 * made[1]), round(255 * made[2]))


def letter(red: float, yellow: float, blue: float) -> str:
    """One letter for a mix; a dot for nothing."""
    total = red + yellow + blue
    if total <= 0:
        return "."
    volumes = {"R": red, "Y": yellow, "B": blue}
    return LETTERS["".join(name for name, volume in volumes.items() if volume >= total / 5)]


def supports_colour(stream: TextIO = sys.stdout, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether to draw in colour: `NO_COLOR` forbids it, `FORCE_COLOR` demands it, else a terminal decides."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environment.get("TERM") != "dumb"


class Plate:
    """What was mixed in which well."""

    def __init__(self) -> None:
        self._wells: dict[str, tuple[float, float, float]] = {}

    def fill(self, well: str, red: float, yellow: float, blue: float) -> None:
        """Note a mix, volumes in microlitres.

        Raises:
            ValueError: there is no such well.
        """
        if well[:1] not in ROWS or not well[1:].isdigit() or int(well[1:]) not in COLUMNS:
            raise ValueError(f"{well!r} is not a well of a 96-well plate (A1 to H12).")
        self._wells[f"{well[0]}{int(well[1:])}"] = (red, yellow, blue)

    def draw(self, colour: bool | None = None) -> str:
        """The plate as text; `colour` None means what the terminal can do."""
        colour = supports_colour() if colour is None else colour
        lines = ["   " + "".join(f"{column:^4}" for column in COLUMNS).rstrip()]
        lines += [f" {row} {''.join(self._cell(f'{row}{column}', colour) for column in COLUMNS)}" for row in ROWS]
        if not colour and self._wells:
            lines.append(f"   {LEGEND}")
        return "\n".join(line.rstrip() for line in lines)

    def _cell(self, well: str, colour: bool) -> str:
        mix = self._wells.get(well)
        if mix is None:
            return " .  "
        if not colour:
            return f" {letter(*mix)}  "
        red, green, blue = mixed(*mix)
        return f"\x1b[48;2;{red};{green};{blue}m   {_RESET} "
