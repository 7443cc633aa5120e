"""Refreshes every locked set, and proves that the agent's exists as wheels for the robot.

    .envs/lock/bin/python .ci/lock.py            all sets to the newest versions, then the proof
    .envs/lock/bin/python .ci/lock.py --prove    only the proof, for the set as it is

The proof resolves nothing: it takes the pins whose markers hold *on the robot*, downloads each wheel for the
robot's platform, checks its hash against the lock, and writes what it found to `tests/locks/armv7l.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.utils import parse_wheel_filename

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
LOCKS = "tests/locks"
AGENT_LOCK = "agent/src/ot2_agent/requirements.lock"
ORCHESTRATOR_LOCK = "orchestrator/requirements.lock"
REPORT = f"{LOCKS}/armv7l.json"
HEADER = "# Made by `make lock`: exact versions and hashes, complete (install with --no-deps --require-hashes).\n"
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)\s*(?:;\s*(?P<marker>[^\\\n]+?))?\s*\\?$")

ROBOTS = {"3.10": (2, 25), "3.12": (2, 40)}
"""Python on the robot -> its glibc: software 7.2 to 8.8, and 9.0."""


@dataclass(frozen=True)
class Pin:
    """One locked requirement."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]

    def holds(self, environment: dict[str, str]) -> bool:
        return self.marker is None or Marker(self.marker).evaluate(environment)

    def line(self) -> str:
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.hashes)])


# Locking


def dependencies(package: str, extra: str | None = None) -> list[str]:
    """What a package asks for, without our own distributions, which no index has."""
    project = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
    wanted: list[str] = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [line for line in wanted if not line.startswith("ot2-")]


def lock(output: str, wanted: Sequence[str], *options: str, python: str = "3.10") -> None:
    """Resolves `wanted` (files and requirements) for every platform from `python` on."""
    files = [word for word in wanted if (ROOT / word).is_file()]
    lines = "\n".join(word for word in wanted if word not in files)
    command = [
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--upgrade",
        "--generate-hashes",
        "--no-header",
    ]
    command += ["--only-binary", ":all:", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"]
    command += [
        "--python",
        sys.executable,
        "--python-version",
        python,
        "--constraints",
        f"{LOCKS}/constraints.txt",
    ]
    command += [*options, *files, "-"]
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        sys.exit(f"{output}: uv found no solution. Hold something back in {LOCKS}/constraints.txt?\n{done.stderr}")
    (ROOT / output).write_text(HEADER + done.stdout)
    print(f"{output}: {len(pins(output))} packages")


def lock_all() -> None:
    """Every set. One version for all Pythons where we decide; the tests' set contains what the users get."""
    one_version = ("--fork-strategy", "fewest")
    lock(AGENT_LOCK, dependencies("agent", "server"), *one_version)
    lock(ORCHESTRATOR_LOCK, dependencies("orchestrator"), "--constraints", AGENT_LOCK, *one_version)
    lock(f"{LOCKS}/build.lock", [f"{LOCKS}/build.in"], *one_version)
    lock(f"{LOCKS}/lock.lock", [f"{LOCKS}/lock.in"], *one_version)
    lock(f"{LOCKS}/test.lock", [f"{LOCKS}/test.in", AGENT_LOCK, ORCHESTRATOR_LOCK], *one_version)
    lock(f"{LOCKS}/dev.lock", [f"{LOCKS}/dev.in", f"{LOCKS}/test.lock"], *one_version)
    overrides = ("--overrides", f"{LOCKS}/opentrons.overrides")
    for version in ("8.2.0", "9.0.0"):
        lock(f"{LOCKS}/opentrons-{version}.lock", [f"{LOCKS}/opentrons-{version}.in"], *overrides, *one_version)
    prefect = [f"{LOCKS}/prefect.in", f"{LOCKS}/build.in", *dependencies("orchestrator")]
    lock(f"{LOCKS}/prefect.lock", prefect, *one_version, python="3.11")


def pins(path: str) -> list[Pin]:
    return list(parse((ROOT / path).read_text()))


def parse(text: str) -> Iterator[Pin]:
    """The pins of a lock file."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        found = PIN.match(block.partition("\n")[0])
        if found:
            hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", block))
            yield Pin(found["name"], found["version"], found["marker"], hashes)


# The proof


def markers(python: str) -> dict[str, str]:
    """What markers see on the robot."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": "armv7l",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
        "extra": "",
    }


def platforms(glibc: tuple[int, int]) -> list[str]:
    """What a robot with this glibc can load; `linux_armv7l` promises no glibc, so it is not among them."""
    return [f"manylinux_2_{minor}_armv7l" for minor in range(glibc[1], 4, -1)] + ["manylinux2014_armv7l"]


def download(wanted: Sequence[Pin], python: str, folder: Path) -> None:
    """Fetches the wheels that fit the robot; the hashes are checked by pip."""
    listed = folder / "wanted.txt"
    listed.write_text("\n".join(pin.line() for pin in wanted))
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--implementation", "cp"]
    command += ["--python-version", python.replace(".", ""), "--dest", str(folder), "-r", str(listed)]
    for platform in platforms(ROBOTS[python]):
        command += ["--platform", platform]
    done = subprocess.run(command, capture_output=True, text=True)
    listed.unlink()
    if done.returncode:
        sys.exit(
            f"Not everything in {AGENT_LOCK} exists as a wheel for armv7l on Python {python}:\n{done.stderr}"
            f"Next step: hold it back in {LOCKS}/constraints.txt to the newest version that does; say why."
        )


def prove_one(python: str) -> dict[str, Any]:
    """What a robot with this Python would install."""
    wanted = [pin for pin in pins(AGENT_LOCK) if pin.holds(markers(python))]
    with tempfile.TemporaryDirectory() as folder:
        download(wanted, python, Path(folder))
        wheels = [describe(path) for path in sorted(Path(folder).iterdir())]
    total = sum(wheel["bytes"] for wheel in wheels)
    print(f"armv7l, Python {python}: {len(wheels)} wheels, {total / 1e6:.1f} MB")
    glibc = ".".join(map(str, ROBOTS[python]))
    return {"glibc": glibc, "markers": markers(python), "total_bytes": total, "wheels": wheels}


def describe(path: Path) -> dict[str, Any]:
    name, version, _, _ = parse_wheel_filename(path.name)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {"name": name, "version": str(version), "file": path.name, "bytes": len(content), "sha256": digest}


def prove() -> None:
    digest = hashlib.sha256((ROOT / AGENT_LOCK).read_bytes()).hexdigest()
    report = {
        "lock": AGENT_LOCK,
        "lock_sha256": digest,
        "pythons": {python: prove_one(python) for python in ROBOTS},
    }
    (ROOT / REPORT).write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Refreshes the locked sets and proves the agent's for armv7l.")
    parser.add_argument("--prove", action="store_true", help="only prove the set as it is")
    if not parser.parse_args().prove:
        lock_all()
    prove()


if __name__ == "__main__":
    main()
