"""Makes the environments in `.envs/`, each from a locked, hashed set. Standard library only.

    python .ci/env.py make NAME...          make what is missing or stale; nothing to do takes no time
    python .ci/env.py make --if-possible    the same, but an interpreter that is not here is only reported
    python .ci/env.py others                the environments for other Pythons that this machine can make
    python .ci/env.py list                  every environment, and what it would be made with

An environment is stale when its lock, its Python, a `pyproject.toml` or the place of this folder changed. The
stamp that tells is written last, so what was interrupted is made again. A second make waits for the first.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / ".envs"
LOCKS = "tests/locks"
AGENT_LOCK = "agent/src/ot2_agent/requirements.lock"
ORCHESTRATOR_LOCK = "orchestrator/requirements.lock"

Minor = tuple[int, int]
HERE: Minor = sys.version_info[:2]
OPENTRONS: tuple[Minor, ...] = ((3, 10), (3, 11), (3, 12), (3, 13))
PROBE = "import sys, venv, ensurepip, ssl, sqlite3; print('%d %d' % sys.version_info[:2])"


class Unavailable(Exception):
    """An environment that cannot be made on this machine; the message says why and what to do."""


@dataclass(frozen=True)
class Spec:
    """One environment: its locked sets, which of our packages it holds, and which Pythons will do."""

    locks: tuple[str, ...]
    packages: tuple[str, ...] = ()
    pythons: tuple[Minor, ...] = ()
    """In order of preference; the Python that runs this comes first when the tuple is empty."""

    def wanted(self) -> tuple[Minor, ...]:
        return self.pythons or (HERE,)


def preferring(first: Minor, allowed: tuple[Minor, ...]) -> tuple[Minor, ...]:
    """`first`, then the Python that runs this, then the others that are allowed."""
    return tuple(dict.fromkeys(minor for minor in (first, HERE, *allowed) if minor in allowed))


OURS = ("agent", "orchestrator")
SPECS: dict[str, Spec] = {
    "dev": Spec((f"{LOCKS}/dev.lock",), OURS),
    "agent": Spec((AGENT_LOCK, f"{LOCKS}/build.lock"), ("agent",)),
    "client": Spec((ORCHESTRATOR_LOCK, f"{LOCKS}/build.lock"), OURS),
    "opentrons-8.2.0": Spec((f"{LOCKS}/opentrons-8.2.0.lock",), (), preferring((3, 10), OPENTRONS)),
    "opentrons-9.0.0": Spec((f"{LOCKS}/opentrons-9.0.0.lock",), (), preferring((3, 12), OPENTRONS)),
    "prefect": Spec((f"{LOCKS}/prefect.lock",), OURS, preferring(HERE, ((3, 12), (3, 13), (3, 11)))),
    "lock": Spec((f"{LOCKS}/lock.lock",)),
}


def spec_of(name: str) -> Spec:
    """The environment called `name`; `test-3.13` and the like hold the tests' set for that Python."""
    if name in SPECS:
        return SPECS[name]
    kind, _, version = name.partition("-")
    major, _, minor = version.partition(".")
    if kind == "test" and major.isdigit() and minor.isdigit():
        return Spec((f"{LOCKS}/test.lock",), OURS, ((int(major), int(minor)),))
    raise Unavailable(f"There is no environment {name!r}. Choose from: {', '.join(SPECS)}, test-3.N.")


# Interpreters


def candidates() -> Iterator[Path]:
    """Every place where a Python may be, best first; nothing says yet that it runs."""
    yield Path(sys.executable)
    for folder in os.get_exec_path():
        for minor in range(10, 20):
            yield Path(folder) / f"python3.{minor}"
    for pattern in (".pyenv/versions/3.*/bin/python3", ".local/share/uv/python/cpython-3.*/bin/python3"):
        yield from sorted(Path.home().glob(pattern), reverse=True)


def clean_environment() -> dict[str, str]:
    """This environment without what leads another interpreter or its pip astray. Mirrors and CAs stay."""
    astray = {
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "PIP_USER",
        "PIP_TARGET",
        "PIP_PREFIX",
        "__PYVENV_LAUNCHER__",
    }
    return {key: value for key, value in os.environ.items() if key not in astray}


def minor_of(python: Path) -> Minor | None:
    """The version of an interpreter that runs and can make environments, else None (a shim may not run)."""
    command = [str(python), "-c", PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=clean_environment(), cwd="/")
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    return (int(words[0]), int(words[1])) if done.returncode == 0 and len(words) == 2 else None


@lru_cache(maxsize=1)
def interpreters() -> Mapping[Minor, Path]:
    """The first usable interpreter of each version from 3.10 on."""
    found: dict[Minor, Path] = {}
    for path in dict.fromkeys(candidates()):
        version = minor_of(path) if os.access(path, os.X_OK) else None
        if version and version >= (3, 10):
            found.setdefault(version, path)
    return found


def choose(name: str, spec: Spec) -> Path:
    """The interpreter for one environment."""
    if spec.wanted()[0] == HERE:
        require_venv()
        return Path(sys.executable)
    for minor in spec.wanted():
        if minor in interpreters():
            return interpreters()[minor]
    versions = ", ".join(map(dotted, sorted(spec.wanted())))
    here = ", ".join(map(dotted, sorted(interpreters())))
    wanted = dotted(max(spec.wanted()))
    raise Unavailable(
        f"{name} needs Python {versions}, and this machine has {here}. "
        f"Next step: install one, e.g. apt install python{wanted} python{wanted}-venv, and run make again."
    )


def require_venv() -> None:
    try:
        import ensurepip  # noqa: F401  (Debian ships it in a package of its own)
        import venv  # noqa: F401
    except ImportError as missing:
        raise Unavailable(
            f"Python {dotted(HERE)} ({sys.executable}) cannot make environments: {missing}. "
            f"Next step: apt install python{dotted(HERE)}-venv, or make PYTHON=/path/to/another/python3."
        ) from missing


def dotted(minor: Minor) -> str:
    return ".".join(map(str, minor))


# Making


def stamp_of(spec: Spec) -> dict[str, str]:
    """What an environment depends on."""
    files = [*spec.locks, *(f"{package}/pyproject.toml" for package in spec.packages)]
    stamp = {file: hashlib.sha256((ROOT / file).read_bytes()).hexdigest() for file in files}
    return {
        **stamp,
        "root": str(ROOT),
        "wanted": " ".join(map(dotted, spec.wanted())),
        "with": sys.version.split()[0],
    }


def is_fresh(name: str, spec: Spec) -> bool:
    place = ENVS / name
    try:
        return bool(json.loads((place / "stamp.json").read_text()) == stamp_of(spec)) and os.access(
            place / "bin" / "python", os.X_OK
        )
    except (OSError, ValueError):
        return False


@contextmanager
def only_one(name: str) -> Iterator[None]:
    """Keeps a second make out of the same environment."""
    ENVS.mkdir(exist_ok=True)
    with (ENVS / f".{name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: another make is at it, waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make(name: str) -> None:
    """Makes one environment, unless it is there and fresh."""
    spec = spec_of(name)
    if is_fresh(name, spec):
        return
    with only_one(name):
        if not is_fresh(name, spec):
            build(name, spec, choose(name, spec))


def build(name: str, spec: Spec, python: Path) -> None:
    started = time.monotonic()
    place = ENVS / name
    say(f"{name}: making it with {python}")
    shutil.rmtree(place, ignore_errors=True)
    run(name, [str(python), "-m", "venv", str(place)])
    pip = [
        str(place / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "install",
        "--no-deps",
    ]
    locks = [word for lock in spec.locks for word in ("-r", str(ROOT / lock))]
    run(name, [*pip, "--require-hashes", "--only-binary", ":all:", *locks])
    if spec.packages:
        editable = [word for package in spec.packages for word in ("-e", str(ROOT / package))]
        run(name, [*pip, "--no-build-isolation", *editable])
    (place / "stamp.json").write_text(json.dumps(stamp_of(spec), indent=1))
    say(f"{name}: ready after {time.monotonic() - started:.0f} s")


def run(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), cwd=ROOT)
    if done.returncode:
        raise Unavailable(
            f"{name}: this command failed with {done.returncode}:\n  {' '.join(command)}\n"
            f"{done.stdout}{done.stderr}"
            "Next step: if the package index could not be reached, check network, proxy and PIP_* settings; "
            "then run make again."
        )


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


# Commands


def make_all(names: Sequence[str], *, if_possible: bool) -> int:
    """Makes several, two at a time; says what could not be made."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        pending = [pool.submit(make, name) for name in dict.fromkeys(names)]
    problems = [problem for problem in (done.exception() for done in pending) if problem]
    for problem in problems:
        if not isinstance(problem, Unavailable):
            raise problem
        say(f"{'Left out: ' if if_possible else ''}{problem}")
    return 1 if problems and not if_possible else 0


def others() -> list[str]:
    """The tests' environments for the oldest and the newest Python here, without the one that runs this."""
    ends = {(3, 10), max(interpreters())} & set(interpreters()) - {HERE}
    return [f"test-{dotted(minor)}" for minor in sorted(ends)]


def show() -> None:
    for name in [*SPECS, *others()]:
        spec = spec_of(name)
        try:
            state = "ready" if is_fresh(name, spec) else f"to be made with {choose(name, spec)}"
        except Unavailable as why:
            state = str(why)
        print(f"{name:16} {state}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes the environments in .envs/ from locked, hashed sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="make what is missing or stale")
    making.add_argument("--if-possible", action="store_true", help="report what this machine cannot make, and go on")
    making.add_argument("names", nargs="*", metavar="NAME")
    commands.add_parser("others", help="names of the test environments for other Pythons")
    commands.add_parser("list", help="every environment and its state")
    arguments = parser.parse_args()
    if arguments.command == "make":
        return make_all(arguments.names, if_possible=arguments.if_possible)
    if arguments.command == "others":
        print(" ".join(others()))
    else:
        show()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unavailable as why:
        sys.exit(str(why))
    except KeyboardInterrupt:
        sys.exit("Interrupted. What was half made is made anew next time.")
