"""The locked sets: exact, hashed, no addresses, in step with `pyproject.toml` and with the robot."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "tests" / "locks"
AGENT = ROOT / "agent" / "src" / "ot2_agent" / "requirements.lock"
ORCHESTRATOR = ROOT / "orchestrator" / "requirements.lock"
EVERY = [AGENT, ORCHESTRATOR, *sorted(LOCKS.glob("*.lock"))]
STALE = "the set is stale: make lock"

REPORT = json.loads((LOCKS / "armv7l.json").read_text())
ROBOTS = {"3.10": 25, "3.12": 40}
"""Python on a robot -> the minor version of its glibc 2."""


class Pin(NamedTuple):
    """One requirement of a lock."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]


def pins(path: Path) -> Iterator[Pin]:
    """The requirements of a lock; anything else in it is an error."""
    text = re.sub(r"(?m)^#.*\n", "", path.read_text()).replace("\\\n", " ")
    for line in text.splitlines():
        requirement, *options = re.split(r"\s--hash=", line.strip())
        pin = re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)(?: ; (.+))?", requirement.strip())
        assert pin, f"{path.name}: not a pin: {line}"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", option.strip()) for option in options), line
        yield Pin(
            pin[1],
            pin[2],
            pin[3] or "",
            frozenset(option.strip().removeprefix("sha256:") for option in options),
        )


def versions(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for pin in pins(path):
        found.setdefault(pin.name, set()).add(pin.version)
    return found


def project(package: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
    return found


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_every_requirement_is_exact_and_hashed(path: Path) -> None:
    found = list(pins(path))
    assert found
    assert all(pin.hashes for pin in found)


@pytest.mark.parametrize("path", [*EVERY, *sorted(LOCKS.iterdir())], ids=lambda path: path.name)
def test_no_address_of_a_package_index_is_written_down(path: Path) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", path.read_text())


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        (project("agent")["optional-dependencies"]["server"], AGENT),
        (project("orchestrator")["dependencies"], ORCHESTRATOR),
    ],
    ids=["agent", "orchestrator"],
)
def test_a_lock_satisfies_its_pyproject(wanted: list[str], path: Path) -> None:
    locked = versions(path)
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name.startswith("ot2-"):
            continue  # ours, from beside it
        assert name in locked, STALE
        assert all(requirement.specifier.contains(version) for version in locked[name]), STALE


@pytest.mark.parametrize("name", ["test.lock", "dev.lock"])
def test_what_is_tested_is_what_users_get(name: str) -> None:
    tested = versions(LOCKS / name)
    for shipped in (AGENT, ORCHESTRATOR):
        assert versions(shipped).items() <= tested.items(), STALE


def test_the_two_opentrons_are_the_pairs_that_are_tested() -> None:
    old, new = versions(LOCKS / "opentrons-8.2.0.lock"), versions(LOCKS / "opentrons-9.0.0.lock")
    assert (old["opentrons"], new["opentrons"]) == ({"8.2.0"}, {"9.0.0"})
    assert {version[0] for version in old["pydantic"]} == {"1"}
    assert {version[0] for version in new["pydantic"]} == {"2"}


# The robot


def test_the_proof_for_the_robot_is_about_this_very_lock() -> None:
    assert REPORT["lock_sha256"] == hashlib.sha256(AGENT.read_bytes()).hexdigest(), "make prove"
    assert REPORT["pythons"].keys() == ROBOTS.keys()


@pytest.mark.parametrize("python", ROBOTS)
def test_the_robot_gets_exactly_what_is_locked_for_it(python: str) -> None:
    environment = REPORT["pythons"][python]["markers"]
    assert (environment["platform_machine"], environment["python_version"]) == ("armv7l", python)
    wanted = {pin.name: pin for pin in pins(AGENT) if not pin.marker or Marker(pin.marker).evaluate(environment)}
    wheels = {wheel["name"]: wheel for wheel in REPORT["pythons"][python]["wheels"]}
    assert wheels.keys() == wanted.keys()
    for name, wheel in wheels.items():
        assert wheel["version"] == wanted[name].version
        assert wheel["sha256"] in wanted[name].hashes


@pytest.mark.parametrize("python", ROBOTS)
def test_every_wheel_loads_on_the_robot(python: str) -> None:
    told = REPORT["pythons"][python]
    for wheel in told["wheels"]:
        name, version, _, tags = parse_wheel_filename(wheel["file"])
        assert (name, str(version)) == (wheel["name"], wheel["version"])
        assert any(loads(tag, python) for tag in tags), wheel["file"]
    assert told["total_bytes"] == sum(wheel["bytes"] for wheel in told["wheels"])
    assert told["total_bytes"] < 10e6, "a robot has little room: what grew so much?"


def loads(tag: Tag, python: str) -> bool:
    """Whether a robot with this Python loads a wheel with this tag."""
    if tag.abi == "none" and tag.platform == "any":
        return tag.interpreter in ("py3", "py2.py3")
    here = f"cp{python.replace('.', '')}"
    old_enough = int(tag.interpreter.removeprefix("cp3") or 0) <= int(python.partition(".")[2])
    built_for = (tag.interpreter == here == tag.abi) or (tag.abi == "abi3" and old_enough)
    glibc = re.fullmatch(r"manylinux_2_(\d+)_armv7l", tag.platform.replace("manylinux2014", "manylinux_2_17"))
    return built_for and glibc is not None and int(glibc[1]) <= ROBOTS[python]
