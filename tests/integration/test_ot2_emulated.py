"""opentrons itself, two versions of it, simulated and against its own emulator behind the tap."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from ot2_agent import tap

SDK = Path(tap.__file__).parent
EXAMPLES = SDK.parents[1] / "examples"
LABWARE = EXAMPLES / "labware"

OPEN = """
import sys
from ot2_agent import ot2
def opened(level="2.13", **more):
    global protocol, tips, inks, plate, pipette
    protocol = ot2.protocol_context(level, **more)
    plate = protocol.load_labware("corning_96_wellplate_360ul_flat", 1)
    inks = protocol.load_labware("opentrons_6_tuberack_falcon_50ml_conical", 3)
    tips = protocol.load_labware("opentrons_96_tiprack_300ul", 9)
    pipette = protocol.load_instrument("p300_single_gen2", "right", tip_racks=[tips])
"""


class Bench:
    """Runs programs in a robot's Python that has this SDK and nothing else of ours."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        self.record = folder / "moves.jsonl"
        self.running: list[subprocess.Popen[str]] = []
        (folder / "sdk").mkdir()
        (folder / "sdk" / "ot2_agent").symlink_to(SDK)
        (folder / "state").mkdir()

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        own = {
            "PYTHONPATH": str(self.folder / "sdk"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OT2_AGENT_STATE_DIR": str(self.folder / "state"),
        }
        started = subprocess.Popen(
            [str(self.python), *arguments],
            env={**os.environ, **own, **variables},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(started)
        return started

    def run(self, program: str, **variables: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr of a program that begins with OPEN."""
        started = self.start("-c", OPEN + program, **variables)
        out, err = started.communicate(timeout=100)
        return started.returncode, out, err

    def emulator(self, speed: float = 0.0) -> str:
        """Start an emulator; its address."""
        started = self.start(
            "-m", "ot2_agent.emulator", "--port", "0", "--record", str(self.record), "--speed", str(speed)
        )
        first = stdout(started).readline()
        assert first.startswith("emulator ready on 127.0.0.1:"), first or started.communicate()[1]
        return first.split()[-1]

    def effects(self) -> list[tap.Effect]:
        return tap.effects(tap.read(self.record))

    def close(self) -> None:
        for each in self.running:
            each.kill()
            each.communicate()


def stdout(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


@pytest.fixture
def bench(worker_python: Path, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(worker_python, tmp_path)
    yield made
    made.close()


def emulated(address: str) -> dict[str, str]:
    return {"OT2_AGENT_MODE": "emulated", "OT2_AGENT_EMULATOR": address}


# What the tap sees


def test_each_volume_is_read_back_from_the_recording(bench: Bench) -> None:
    volumes = [20, 25.5, 33.3, 47, 62, 85, 99, 101, 123, 160, 222, 275, 300]
    code, _, err = bench.run(
        f"""
opened()
protocol.home()
for volume in {volumes}:
    pipette.pick_up_tip(tips["B1"])
    pipette.aspirate(volume, inks["B1"])
    pipette.dispense(volume, plate["A1"])
    pipette.blow_out(plate["A1"].top(-5))
    pipette.drop_tip(tips["B1"])
""",
        **emulated(bench.emulator()),
    )
    assert code == 0, err
    assert err == ""
    found = bench.effects()
    for kind in ("aspirate", "dispense"):
        moved = [effect for effect in found if effect.kind == kind]
        assert len(moved) == len(volumes)
        assert [[effect.is_volume(volume) for effect in moved].count(True) for volume in volumes] == [1] * len(volumes)
    for kind in ("pick_up", "blow_out", "drop_tip"):
        assert len([effect for effect in found if effect.kind == kind]) == len(volumes)


@pytest.mark.parametrize("level", ["2.13", "2.20"])
def test_portions_of_a_tip_are_read_back(bench: Bench, level: str) -> None:
    code, _, err = bench.run(
        f"""
opened({level!r})
protocol.home()
pipette.pick_up_tip(tips["B1"])
pipette.aspirate(200, inks["B1"])
for portion, well in ((120, "A1"), (30, "A2"), (50, "A3")):
    pipette.dispense(portion, plate[well])
pipette.return_tip()
""",
        **emulated(bench.emulator()),
    )
    assert code == 0, err
    moved = [(effect.kind, effect) for effect in bench.effects() if effect.ul]
    assert [kind for kind, _ in moved] == ["aspirate", "dispense", "dispense", "dispense"]
    assert [effect.is_volume(ul) for (_, effect), ul in zip(moved, (200, 120, 30, 50), strict=True)] == [True] * 4


def test_a_halt_ends_the_move_of_a_killed_worker_and_the_next_one_can_go_on(bench: Bench) -> None:
    address = bench.emulator(speed=50)
    worker = bench.start(
        "-c",
        OPEN + 'opened(); protocol.home(); pipette.pick_up_tip(tips["B1"]); pipette.flow_rate.aspirate = 1\n'
        'pipette.aspirate(300, inks["B1"])',  # 300 s, 6 s at this speed
        **emulated(address),
    )
    until(lambda: any(effect.kind == "aspirate" for effect in bench.effects()), worker)
    worker.kill()
    worker.wait()
    assert "Emergency Stop" in say(address, "M112")
    (cut,) = [effect for effect in bench.effects() if effect.kind == "aspirate"]
    assert 0 < cut.ul < 299

    code, _, err = bench.run("opened(); protocol.home()", **emulated(address))
    assert code == 0, err
    assert [effect for effect in bench.effects() if effect.kind == "aspirate"] == [cut]


def test_a_worker_that_lives_through_a_halt_hears_the_alarm_and_the_recording_tells_what_moved(
    bench: Bench,
) -> None:
    address = bench.emulator(speed=50)
    worker = bench.start(
        "-c",
        OPEN + 'opened(); protocol.home(); pipette.pick_up_tip(tips["B1"]); pipette.flow_rate.aspirate = 1\n'
        'pipette.aspirate(300, inks["B1"])',
        **emulated(address),
    )
    until(lambda: any(effect.kind == "aspirate" for effect in bench.effects()), worker)
    say(address, "M112")
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 1
    assert "ALARM" in err
    (cut,) = [effect for effect in bench.effects() if effect.kind == "aspirate"]
    assert cut.ul < 299


def until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does and the recording shows."""
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def say(address: str, line: str) -> str:
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(line.encode() + b"\r\n\r\n")
        answer = b""
        while not answer.endswith(tap.ACK):
            answer += connection.recv(1000)
        return answer.decode()


# Modes


@pytest.mark.parametrize("level", ["2.13", "2.20"])
@pytest.mark.parametrize("mode", ["simulated", "emulated"])
def test_labware_is_found_by_name_and_only_what_makes_the_hardware_act_is_counted(
    bench: Bench, mode: str, level: str
) -> None:
    code, out, err = bench.run(
        f"""
def grown(action):
    before = ot2.commands_sent()
    action()
    return ot2.commands_sent() > before
print(grown(lambda: opened({level!r}, labware={str(LABWARE)!r})))
print(grown(lambda: protocol.load_labware("color_sensor_rack", 10)["A2"]))
print(grown(lambda: protocol.comment("hello")))
print(grown(lambda: protocol.home()))
print(grown(lambda: pipette.pick_up_tip(tips["B1"])))
print(grown(lambda: pipette.aspirate(50, inks["B1"])))
print(grown(lambda: pipette.move_to(plate["A1"].top())))
print(ot2.protocol_context({level!r}) is protocol)
ot2.close()
""",
        **(emulated(bench.emulator()) if mode == "emulated" else {}),
    )
    assert code == 0, err
    assert out.split() == ["False"] * 3 + ["True"] * 5
    assert err == ""


def test_settings_of_opentrons_go_to_the_state_folder_and_nowhere_else(bench: Bench) -> None:
    home = bench.folder / "home"
    home.mkdir()
    code, _, err = bench.run("opened()", HOME=str(home))
    assert code == 0, err
    assert list(home.iterdir()) == []
    assert (bench.folder / "state" / "opentrons").is_dir()


def test_settings_without_a_state_folder_leave_nothing_behind(opentrons_900: Path, tmp_path: Path) -> None:
    bench = Bench(opentrons_900, tmp_path)
    temporary = bench.folder / "tmp"
    temporary.mkdir()
    code, _, err = bench.run("opened()", TMPDIR=str(temporary), OT2_AGENT_STATE_DIR="")
    assert code == 0, err
    assert list(temporary.iterdir()) == []


# Sentences


SENTENCES = {
    'opened("9.99")': "opened no protocol context of API level 9.99 (simulated): ",
    'opened(labware="nowhere")': "nowhere has no definitions (*.json).",
    'open("a.json", "w").write("{"); opened(labware=".")': "a.json is not a labware definition: ",
    'open("a.json", "w").write("{}"); opened(labware=".")': "a.json is not a labware definition: ",
    'opened(); opened("2.12")': "has a protocol context of API level 2.13 and can have no second one of 2.12",
    'opened(labware="there")': "comes too late; name the folder in the first call.",
}


def test_what_is_not_so_is_a_sentence(bench: Bench) -> None:
    code, out, err = bench.run(f"""
for each in {list(SENTENCES)}:
    try:
        exec(each)
    except ot2.HardwareError as exc:
        print(exc)
""")
    assert (code, err) == (0, "")
    for said, sentence in zip(out.splitlines(), SENTENCES.values(), strict=True):
        assert sentence in said


def test_real_without_a_robot_is_a_sentence(bench: Bench) -> None:
    if Path("/dev/ttyAMA0").exists():
        pytest.skip("this computer has the UART of an OT-2")
    code, _, err = bench.run("opened()", OT2_AGENT_MODE="real")
    assert code == 1
    assert "The mode is real, but /dev/ttyAMA0, the motion controller of an OT-2, is not there." in err


def test_no_emulator_is_a_sentence_with_address_and_command(bench: Bench) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers, and nobody else takes it
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = bench.run("opened()", **emulated(address))
    assert code == 1
    assert f"No emulated OT-2 answers at {address}" in err.splitlines()[-1]
    assert "`ot2-agent emulate`" in err.splitlines()[-1]


def test_real_after_opentrons_took_this_for_no_robot_is_a_sentence(opentrons_900: Path, tmp_path: Path) -> None:
    bench = Bench(opentrons_900, tmp_path)
    code, _, err = bench.run("import opentrons; opened()", OT2_AGENT_MODE="real", OT_API_CONFIG_DIR=str(bench.folder))
    assert code == 1
    assert "opentrons was imported before the protocol context was opened" in err.splitlines()[-1]


# The emulator


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_emulator_says_one_line_and_ends_when_told(opentrons_900: Path, tmp_path: Path, number: int) -> None:
    bench = Bench(opentrons_900, tmp_path)
    started = bench.start("-m", "ot2_agent.emulator", "--port", "0", TMPDIR=str(tmp_path))
    address = stdout(started).readline().split()[-1]
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port))):  # somebody is connected
        started.send_signal(number)
        out, err = started.communicate(timeout=20)
    assert (started.returncode, out, err) == (0, "", "")
    assert not list(tmp_path.glob("ot2-emulator-*"))


def test_an_emulator_that_cannot_serve_as_asked_says_why_and_exits_78(opentrons_900: Path, tmp_path: Path) -> None:
    bench = Bench(opentrons_900, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, sentence in (
            (["--port", port], f"Port {port} on 127.0.0.1 cannot be used: "),
            (
                ["--port", "0", "--record", str(tmp_path)],
                f"The recording {tmp_path} cannot be written: Is a directory",
            ),
        ):
            started = bench.start("-m", "ot2_agent.emulator", *arguments)
            out, err = started.communicate(timeout=60)
            assert (started.returncode, out) == (78, "")
            assert err.startswith(sentence)
            assert len(err.splitlines()) == 1
