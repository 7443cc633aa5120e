"""What every test stands on: the interpreters of `.envs/`, a clean environment, no process left behind."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / ".envs"
IN_CI = os.environ.get("CI") == "true"
MARK = "OT2_TEST_SESSION"
PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
SESSION = os.environ[MARK] if PARALLEL else uuid.uuid4().hex

INTERPRETERS = {
    "OT2_TEST_WORKER_820": "opentrons-8.2.0",
    "OT2_TEST_WORKER_900": "opentrons-9.0.0",
    "OT2_TEST_AGENT": "agent",
    "OT2_TEST_CLIENT": "client",
    "OT2_TEST_PREFECT": "prefect",
}
"""Variable that names an interpreter -> the environment that is taken when the variable is not set."""


def pytest_configure() -> None:
    """A developer's own settings stay outside; the interpreters are found once, also for children."""
    for key in [key for key in os.environ if key.startswith("OT2_") and key not in (*INTERPRETERS, "OT2_CHAOS_SEED")]:
        del os.environ[key]
    for variable, name in INTERPRETERS.items():
        path = ENVS / name / "bin" / "python"
        if variable not in os.environ and path.exists():
            os.environ[variable] = str(path)
    os.environ[MARK] = SESSION
    os.environ["XDG_STATE_HOME"] = os.environ["OT2_AGENT_HARDWARE_DIR"] = scratch()
    quiet_hypothesis()


def scratch() -> str:
    """Where agents of this session keep locks and state unless a test says otherwise; gone with the session."""
    folder = tempfile.mkdtemp(prefix="ot2-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def quiet_hypothesis() -> None:
    """Nothing is timed in tests; in CI every run tries the same examples."""
    settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("ci", settings.get_profile("here"), derandomize=True, database=None, print_blob=True)
    settings.load_profile("ci" if IN_CI else "here")


# Interpreters


def interpreter(variable: str) -> Path:
    """The interpreter that a variable names. Not here: the test is skipped, and in CI it fails."""
    path = Path(os.environ.get(variable, ""))
    if path.is_file() and os.access(path, os.X_OK):
        return path
    reason = f"{variable} is not set and .envs/{INTERPRETERS[variable]} is not there: make envs"
    if IN_CI and variable != "OT2_TEST_PREFECT":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(params=["OT2_TEST_WORKER_820", "OT2_TEST_WORKER_900"], ids=["opentrons-8.2.0", "opentrons-9.0.0"])
def worker_python(request: pytest.FixtureRequest) -> Path:
    """A robot's Python, once with pydantic 1 and once with pydantic 2; nothing of ours is installed there."""
    return interpreter(request.param)


@pytest.fixture
def opentrons_820() -> Path:
    """The Python with opentrons 8.2.0 and pydantic 1."""
    return interpreter("OT2_TEST_WORKER_820")


@pytest.fixture
def opentrons_900() -> Path:
    """The Python with opentrons 9.0.0 and pydantic 2."""
    return interpreter("OT2_TEST_WORKER_900")


@pytest.fixture
def agent_python() -> Path:
    """The Python of an agent: its locked set, and nothing else."""
    return interpreter("OT2_TEST_AGENT")


@pytest.fixture
def client_python() -> Path:
    """The Python of a client: httpx, and nothing else."""
    return interpreter("OT2_TEST_CLIENT")


@pytest.fixture
def prefect_python() -> Path:
    """The Python of the newest Prefect that can be installed."""
    return interpreter("OT2_TEST_PREFECT")


@pytest.fixture
def here_python() -> Path:
    """The Python that runs the tests: it holds what agent and client need, on each version that is tested."""
    return Path(sys.executable)


# Nothing is left behind


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that a test started and did not end is an error; it is ended here, named with its test."""
    left = {} if PARALLEL else settled(deadline=time.monotonic() + 5)
    if not left:
        return
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
    print("\nERROR: processes that tests left behind:", *left.values(), sep="\n  ", file=sys.stderr)
    for pid in left:
        end(pid)


def settled(deadline: float) -> dict[int, str]:
    """What is still there when everything had time to end."""
    left = dict(started_here())
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = dict(started_here())
    return left


def started_here() -> Iterator[tuple[int, str]]:
    """Living processes that inherited the mark of this session: pid, and what it is."""
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            variables = dict(part.partition("=")[::2] for part in read(folder / "environ") if "=" in part)
            if pid != os.getpid() and variables.get(MARK) == SESSION:
                test = variables.get("PYTEST_CURRENT_TEST", "?")
                yield pid, f"{pid}: {' '.join(read(folder / 'cmdline'))}  (test: {test})"
        except OSError:
            continue  # ended meanwhile, or somebody else's


def read(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").split("\0")


def end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
