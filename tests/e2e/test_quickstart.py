"""The quick start as a new user tries it: `python quickstart.py` in the robot's Python, then calls from elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from ot2_orchestrator import InvalidParameters, OrchestratorClient, Rejected

from tests.running import PATIENCE_S
from tests.talking import Talking

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "agent" / "examples" / "quickstart.py"
SDK = ROOT / "agent" / "src"
MIX = {"R": 50, "Y": 25.5, "B": 0, "mix_well": "A1"}
SERVES = r" serves mix_color on (http://\S+)"
CALL = """
import sys
from ot2_orchestrator import OrchestratorClient
with OrchestratorClient(sys.argv[1]) as robot:
    print(robot.tasks.mix_color(R=50, Y=25.5, B=0, mix_well="A2"))
"""

Start = Callable[..., Talking]


@pytest.fixture
def start(agent_python: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `python quickstart.py` over folders of this test, in an interpreter that finds the SDK."""
    home = {
        "OT2_AGENT_PYTHON": str(agent_python),
        "OT2_AGENT_PORT": "0",
        "OT2_AGENT_HARDWARE_DIR": str(tmp_path / "hardware"),
        "XDG_STATE_HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(SDK),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with ExitStack() as doors:
        yield lambda python, **more: doors.enter_context(Talking([python, QUICKSTART], {**home, **more}))


def http(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False)


def test_the_script_serves_curl_and_the_client(start: Start, worker_python: Path, client_python: Path) -> None:
    script = start(worker_python)
    url = script.says(SERVES)[1]
    with http(url) as curl:
        wait = {"wait": "30"}
        first = curl.post("/tasks/mix_color/runs", params=wait, json=MIX, headers={"Idempotency-Key": "first"})
        again = curl.post("/tasks/mix_color/runs", params=wait, json=MIX, headers={"Idempotency-Key": "first"})
        as_before = curl.post("/execute/mix_color", json=MIX)
    assert (first.status_code, first.json()["state"], first.json()["result"]) == (200, "succeeded", "mixed in A1")
    assert again.json()["replayed"]
    assert again.json()["finished_at"] == first.json()["finished_at"]
    assert as_before.json()["status"] == "success"
    with Talking([client_python, "-c", CALL, url]) as caller:
        assert caller.ends() == 0, caller.text
    caller.says("^mixed in A2$")
    script.send(signal.SIGINT)
    assert script.ends() == 0, script.text
    assert "Traceback" not in script.text


def test_what_does_not_fit_is_refused_with_a_sentence(start: Start, opentrons_820: Path) -> None:
    url = start(opentrons_820).says(SERVES)[1]
    with OrchestratorClient(url) as robot:
        with pytest.raises(Rejected, match="at most 300 uL"):
            robot.tasks.mix_color(R=200, Y=200, B=0, mix_well="A1")
        with pytest.raises(InvalidParameters, match="R"):
            robot.execute_task("mix_color", R=301, Y=0, B=0, mix_well="A1")
        with pytest.raises(InvalidParameters, match="mix_well"):
            robot.execute_task("mix_color", R=1, Y=0, B=0, mix_well="I1")
        assert robot.tasks.mix_color(R=100, Y=0, B=0, mix_well="H12") == "mixed in H12"


def test_the_same_hardware_is_not_served_twice(start: Start, opentrons_820: Path) -> None:
    first = start(opentrons_820)
    url = first.says(SERVES)[1]
    second = start(opentrons_820)
    assert second.ends() == 78, second.text
    second.says("already driven by")
    assert "Traceback" not in second.text
    assert httpx.get(f"{url}/health", trust_env=False).json()["status"] == "healthy", "the first one was harmed"


@pytest.fixture
def robot(opentrons_820: Path, agent_python: Path, tmp_path: Path) -> Iterator[Callable[[int], dict[str, str]]]:
    """Starts an emulated OT-2; at speed 1, as a robot, a mix takes most of a minute."""
    command = [agent_python, "-m", "ot2_agent", "emulate", "--port", "0", "--python", opentrons_820, "--speed"]
    with ExitStack() as doors:

        def emulated(speed: int) -> dict[str, str]:
            home = {"XDG_STATE_HOME": str(tmp_path / "emulator")}
            emulator = doors.enter_context(Talking([*command, str(speed)], home))
            address = emulator.says(r"emulator ready on (\S+)")[1]
            return {"OT2_AGENT_MODE": "emulated", "OT2_AGENT_EMULATOR": address}

        yield emulated


def test_ctrl_c_once_lets_the_run_end_first(
    start: Start, opentrons_820: Path, robot: Callable[[int], dict[str, str]]
) -> None:
    script = start(opentrons_820, **robot(20))
    with http(script.says(SERVES)[1]) as curl, OrchestratorClient(str(curl.base_url)) as client:
        run = client.submit("mix_color", MIX)
        wait_until_it_runs(curl, run.id)
        script.send(signal.SIGINT)
        script.says("ends after it. Ctrl-C again kills it")
        assert run.result(PATIENCE_S) == "mixed in A1"
    assert script.ends() == 0, script.text
    assert "Traceback" not in script.text


def test_ctrl_c_twice_kills_a_run_and_says_so_and_it_is_unknown_afterwards(
    start: Start, opentrons_820: Path, robot: Callable[[int], dict[str, str]]
) -> None:
    slow = robot(1)
    script = start(opentrons_820, **slow)
    with http(script.says(SERVES)[1]) as curl:
        accepted = curl.post("/tasks/mix_color/runs", json=MIX, headers={"Idempotency-Key": "cut-off"})
        assert accepted.status_code == 202
        wait_until_it_runs(curl, "cut-off")
    script.send(signal.SIGINT)
    script.says("ends after it. Ctrl-C again kills it")
    script.send(signal.SIGINT)
    assert script.ends() == 130, script.text
    script.says("Killed in the middle of a run: look at the deck")
    again = start(opentrons_820, **slow)
    with http(again.says(r" on (http://127\S+)")[1]) as curl:
        found = curl.get("/runs/cut-off").json()
    assert found["state"] == "unknown", found
    assert "The deck may be in any state" in found["error"]


def wait_until_it_runs(curl: httpx.Client, run_id: str) -> None:
    with curl.stream("GET", f"/runs/{run_id}/events") as events:
        for line in events.iter_lines():
            if line.startswith("data:") and '"running"' in line:
                return
    raise AssertionError(f"{run_id} never ran")
