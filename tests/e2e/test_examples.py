"""The examples as a user runs them: each process in its own environment, nothing imported from them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from ot2_agent.tap import effects, read

from tests.running import RunningAgent
from tests.talking import Talking

ROOT = Path(__file__).resolve().parents[2]
DEVICE = ROOT / "agent" / "examples" / "device_example.py"
ORCHESTRATOR = ROOT / "orchestrator" / "examples" / "orchestrator_example.py"
DEMO = ROOT / "orchestrator" / "examples" / "demo.py"
DEMO_TAKES_S = 100.0


@pytest.fixture
def doors() -> Iterator[ExitStack]:
    """What is opened here is closed in the end, last first."""
    with ExitStack() as stack:
        yield stack


# The original experiment


def test_the_experiment_runs_from_one_environment_on_an_emulated_robot_in_another(
    worker_python: Path, agent_python: Path, client_python: Path, tmp_path: Path, doors: ExitStack
) -> None:
    recording = tmp_path / "gcode.jsonl"
    home = {"XDG_STATE_HOME": str(tmp_path / "home"), "OT2_AGENT_STATE_DIR": str(tmp_path / "emulator")}
    emulate = [agent_python, "-m", "ot2_agent", "emulate", "--port", "0", "--record", recording]
    emulator = doors.enter_context(Talking([*emulate, "--speed", "0", "--python", worker_python], home))
    address = emulator.says(r"emulator ready on (\S+)")[1]
    agent = doors.enter_context(
        RunningAgent(
            *(tmp_path, DEVICE, "--mode", "emulated", "--emulator", address),
            python=worker_python,
            agent_python=agent_python,
            env={"XDG_STATE_HOME": str(tmp_path / "home")},
        )
    )
    experiment = [client_python, ORCHESTRATOR, "--wells", "4", "--url", agent.url]
    caller = doors.enter_context(Talking(experiment, {"NO_COLOR": "1"}))
    assert caller.ends() == 0, caller.text
    caller.says(r"ready: .*emulated")
    caller.says(r"A1 .*R 300 .*measured \(")
    caller.says(r"A4 .*R 150 +Y 150 .*measured \(")
    caller.says(r"^ A  R   Y   B   O ")
    happened = [effect.kind for effect in effects(read(recording))]
    assert (happened.count("aspirate"), happened.count("dispense")) == (5, 5), "three wells of one ink, one of two"
    assert happened.count("pick_up") == happened.count("drop_tip") == 5 + 4, "a tip per ink, the sensor per well"


def test_without_a_device_the_experiment_says_so(client_python: Path, free_port: int) -> None:
    with Talking([client_python, ORCHESTRATOR, "--url", f"http://127.0.0.1:{free_port}"]) as caller:
        assert caller.ends() == 1
    caller.says(r"^DeviceOffline: .*Nothing was sent")


# make demo


def demo(*worker: Path, agent_python: Path, client_python: Path, folder: Path) -> Talking:
    """The demo, writing into `folder` alone."""
    command = [client_python, DEMO, "--agent-python", agent_python, "--worker-python", *worker]
    return Talking(command, {"TMPDIR": str(folder), "NO_COLOR": "1"})


@pytest.mark.slow
def test_the_demo_mixes_is_cut_off_and_dispenses_nothing_twice(
    opentrons_820: Path, agent_python: Path, client_python: Path, tmp_path: Path
) -> None:
    with demo(opentrons_820, agent_python=agent_python, client_python=client_python, folder=tmp_path) as it:
        assert it.ends(DEMO_TAKES_S) == 0, it.text
    it.says(r"^worker +Python 3\.\d+\.\d+ +opentrons 8\.2\.0 +pydantic 1\.")
    it.says(r"^agent +Python .* pydantic 2\.")
    for well in ("A1", "A2", "A3"):
        it.says(rf"^{well} .*aspirated 1x, dispensed 1x")
    for well in ("B1", "B2", "B3"):
        it.says(rf"^{well} .*aspirated 2x, dispensed 2x")
    it.says(r"^ B  O   G   P ")
    it.says(r"LostContact: Lost contact with http")
    it.says(r"\.run: <Run ")
    it.says(r"Asked for run \w+: unknown")
    it.says(r"same id: unknown, the same answer")
    it.says(r"dispensed [12]x, of three inks, as before: nothing was dispensed twice")
    it.says(r"^C2 .*aspirated 3x, dispensed 3x")
    it.says(r"^3\.  curl ")
    assert not list(tmp_path.iterdir()), "it left files behind"


@pytest.mark.slow
def test_the_demo_leaves_nothing_behind_when_it_is_interrupted(
    opentrons_820: Path, agent_python: Path, client_python: Path, tmp_path: Path
) -> None:
    with demo(opentrons_820, agent_python=agent_python, client_python=client_python, folder=tmp_path) as it:
        it.says(r"^A1 ", DEMO_TAKES_S)
        it.send(signal.SIGINT)
        it.send(signal.SIGINT)
        assert it.ends() == 130, it.text
    assert "Traceback" not in it.text
    assert not list(tmp_path.iterdir()), "it left files behind"


@pytest.mark.parametrize("worker", ["python-without-opentrons", "no-python-at-all"])
def test_a_demo_without_opentrons_is_a_sentence(
    worker: str, agent_python: Path, client_python: Path, tmp_path: Path
) -> None:
    python = agent_python if worker == "python-without-opentrons" else tmp_path / "python3"
    with demo(python, agent_python=agent_python, client_python=client_python, folder=tmp_path) as it:
        assert it.ends() == 1
    it.says(r"^The demo failed: .*(has no opentrons|cannot be run).*")
    assert "Traceback" not in it.text
    assert not list(tmp_path.iterdir())
