"""The plate of the example: colours that a painter would expect, letters where there is no colour."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

PLATE = Path(__file__).resolve().parents[2] / "orchestrator" / "examples" / "plate.py"


@pytest.fixture(scope="module")
def plate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_plate", PLATE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pure_mix_has_the_colour_of_its_paint(plate: ModuleType) -> None:
    assert plate.mixed(300, 0, 0) == plate.PAINTS["R"]
    assert plate.mixed(0, 10, 0) == plate.PAINTS["Y"]
    assert plate.mixed(0, 0, 1) == plate.PAINTS["B"]
    assert plate.mixed(0, 0, 0) == (255, 255, 255)


def test_yellow_and_blue_make_green_and_red_and_yellow_make_orange(plate: ModuleType) -> None:
    red, green, blue = plate.mixed(0, 150, 150)
    assert green > red
    assert green > blue
    red, green, blue = plate.mixed(150, 150, 0)
    assert red > green > blue


def test_a_drawing_in_colour_has_the_colour_of_each_well(plate: ModuleType) -> None:
    made = plate.Plate()
    made.fill("B12", 300, 0, 0)
    lines = made.draw(colour=True).splitlines()
    assert len(lines) == 9
    assert "\x1b[48;2;222;38;38m" in lines[2]
    assert "\x1b" not in "".join(lines[:2] + lines[3:])
    widths = {len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in lines[1:]}
    assert widths <= {48, 49, 50}


@pytest.mark.parametrize(
    ("mix", "letter"),
    [
        ((300, 0, 0), "R"),
        ((0, 1, 0), "Y"),
        ((0, 0, 300), "B"),
        ((150, 150, 0), "O"),
        ((0, 150, 150), "G"),
        ((150, 0, 150), "P"),
        ((100, 100, 100), "N"),
        ((10, 280, 10), "Y"),
        ((0, 0, 0), "."),
    ],
)
def test_a_drawing_without_colour_has_letters_and_a_legend(
    plate: ModuleType, mix: tuple[int, int, int], letter: str
) -> None:
    made = plate.Plate()
    made.fill("A1", *mix)
    drawn = made.draw(colour=False)
    assert drawn.splitlines()[1].split()[:2] == ["A", letter]
    assert "G green" in drawn
    assert "\x1b" not in drawn


def test_every_mix_has_a_letter(plate: ModuleType) -> None:
    for red in range(0, 301, 25):
        for yellow in range(0, 301 - red, 25):
            assert plate.letter(red, yellow, 300 - red - yellow) in "RYBOGPN"


@pytest.mark.parametrize("well", ["", "A", "A0", "A13", "I1", "AA1", "1A", "a1"])
def test_a_well_that_does_not_exist_is_refused(plate: ModuleType, well: str) -> None:
    with pytest.raises(ValueError, match="not a well"):
        plate.Plate().fill(well, 1, 1, 1)


def test_colour_needs_a_terminal_unless_it_is_forced_or_forbidden(plate: ModuleType) -> None:
    assert plate.supports_colour(Terminal(), {})
    assert not plate.supports_colour(io.StringIO(), {})
    assert not plate.supports_colour(Terminal(), {"NO_COLOR": "1"})
    assert not plate.supports_colour(Terminal(), {"NO_COLOR": "1", "FORCE_COLOR": "1"})
    assert plate.supports_colour(io.StringIO(), {"FORCE_COLOR": "1"})
    assert not plate.supports_colour(Terminal(), {"TERM": "dumb"})


def test_the_module_needs_nothing_but_the_standard_library(plate: ModuleType) -> None:
    names = re.findall(r"^(?:import|from) (\w+)", PLATE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(names) <= sys.stdlib_module_names
