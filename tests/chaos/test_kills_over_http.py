"""Agent, worker, both or the client are killed at random during calls over HTTP, while ids are sent again and again.

Each run leaves marks of its own (lines in a file, or volumes at the emulator's tap), so what it did is counted outside
of Python: nothing happens twice, and whoever asked is told what became of it. `OT2_CHAOS_SEED` repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from ot2_agent import tap

from tests.running import RunningAgent

SEED = int(os.environ.get("OT2_CHAOS_SEED", "20240607"))
FAULTS = 40
FAULTS_EMULATED = 8
VICTIMS = ("agent", "worker", "agent and worker", "client")
STEPS = 6
GIVE_UP_S = 60.0
ASK_AGAIN = ("starting", "stopping")
"""Codes after which the same id may be sent again: nothing was recorded."""

WRITES_MARKS = """
import os
from ot2_agent import current_run, task

@task(effects="consumes", timeout_s=60, grace_s=1)
def mix(mark: str, steps: int) -> str:
    run = current_run()
    for step in range(steps):
        fd = os.open(os.environ["OT2_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{mark} {step}\\n".encode())
        os.close(fd)
        run.sleep(0.02)
    return mark
"""

PIPETTES = """
from ot2_agent import ot2, task

protocol = ot2.protocol_context()
plate = protocol.load_labware("corning_96_wellplate_360ul_flat", 1)
tips = protocol.load_labware("opentrons_96_tiprack_300ul", 9)
pipette = protocol.load_instrument("p300_single_gen2", "right", tip_racks=[tips])
protocol.home()

@task(effects="consumes", timeout_s=60, grace_s=1)
def mix(mark: str, volume: int) -> str:
    if not pipette.has_tip:
        pipette.pick_up_tip(tips["A1"])
    pipette.aspirate(volume, plate["A1"])
    pipette.dispense(volume, plate["B1"])
    return mark
"""

CLIENT = """
import json, sys
from ot2_orchestrator import OrchestratorClient
url, run_id, parameters = sys.argv[1:]
OrchestratorClient(url).submit("mix", json.loads(parameters), run_id=run_id).result()
"""


Call = tuple[str, dict[str, Any]]
"""A run's id and its parameters."""


class Caller(threading.Thread):
    """Sends one id again and again until it is told how the run ended, or why it did not run."""

    def __init__(self, agent: RunningAgent, run_id: str, parameters: dict[str, Any]) -> None:
        super().__init__(name=f"caller of {run_id}", daemon=True)
        self.run_id, self.sent = run_id, 0
        self.told: dict[str, Any] = {}
        self._agent, self._parameters = agent, parameters
        self.start()

    def run(self) -> None:
        give_up = time.monotonic() + GIVE_UP_S
        while not self.told and time.monotonic() < give_up:
            try:
                self._ask()
            except (httpx.TransportError, httpx.UnsupportedProtocol):
                time.sleep(0.02)

    def _ask(self) -> None:
        self.sent += 1
        with self._agent.http() as http:
            answer = http.post(
                "/tasks/mix/runs",
                params={"wait": "0.1"},
                json=self._parameters,
                headers={"Idempotency-Key": self.run_id},
            )
        said = answer.json()
        if answer.status_code == 200 or ("code" in said and said["code"] not in ASK_AGAIN):
            self.told = said

    def outcome(self) -> str:
        """The state or the code that it was told."""
        self.join(GIVE_UP_S)
        assert self.told, f"seed {SEED}: nobody told the caller of {self.run_id} anything, {self.sent} times"
        return str(self.told.get("state") or self.told["code"])


class Storm:
    """One agent under faults; every run that was asked for is remembered."""

    def __init__(self, agent: RunningAgent, dice: random.Random, last_s: float) -> None:
        self.agent, self.dice, self.last_s = agent, dice, last_s
        self.callers: list[Caller] = []
        self.faults: Counter[str] = Counter()

    def strike(self, victim: str, first: Call, second: Call) -> None:
        """Call `first` twice at once and `second` behind it, kill the victim, bring all back, hear what is told."""
        self.faults[victim] += 1
        after = self.dice.uniform(0.0, self.last_s)
        worker = self.agent.worker_pid
        if victim == "client":
            self.kill_a_client(*first, after)
        callers = [Caller(self.agent, *call) for call in (first, first, second)]
        self.callers += callers
        if victim != "client":
            time.sleep(after)  # a random moment is what this is about
        if "agent" in victim:
            self.agent.kill()
        if "worker" in victim:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        if not self.agent.alive:
            self.agent.start()
        for caller in callers:
            caller.outcome()
        self.look_and_unlock()

    def kill_a_client(self, run_id: str, parameters: dict[str, Any], after: float) -> None:
        """The product's own client, in a process of its own."""
        words = [self.agent.url, run_id, json.dumps(parameters)]
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        wait_until(lambda: client.poll() is not None or self.heard_of(run_id))
        time.sleep(after)
        client.kill()
        _, said = client.communicate()
        assert client.returncode in (0, -signal.SIGKILL), said.decode()

    def heard_of(self, run_id: str) -> bool:
        return self.agent.get(f"/runs/{run_id}").status_code == 200

    def look_and_unlock(self) -> None:
        """What a person does after a run was cut off."""
        wait_until(lambda: self.status()["components"]["worker"]["state"] != "starting")
        lock = self.status()["details"]["lock"]
        if lock is not None:
            if "resolve" in lock["needs"]:
                self.post(f"/runs/{lock['run_id']}/resolve", {"verdict": "partly", "by": "storm"})
            self.post("/control/reset", {"lock_id": lock["lock_id"]})
        if self.status()["components"]["worker"]["state"] == "down":
            self.post("/control/startup", {})
        wait_until(lambda: self.status()["components"]["worker"]["state"] == "ready")

    def status(self) -> dict[str, Any]:
        return self.agent.status()

    def post(self, path: str, body: dict[str, Any]) -> None:
        answer = self.agent.post(path, body)
        assert answer.status_code == 200, f"seed {SEED}: {path}: {answer.text}"

    def verdict(self, done: Callable[[str], list[str]], whole: int) -> str:
        """Compare what was told with what is recorded and with what happened.

        Args:
            done: the marks that a run left.
            whole: how many a run leaves that came to its end.
        """
        states: Counter[str] = Counter()
        for caller in self.callers:
            run_id, told = caller.run_id, caller.outcome()
            recorded = self.agent.run(run_id, wait=0)
            marks = done(run_id)
            why = f"seed {SEED}, run {run_id}: told {told}, recorded {recorded}, did {marks}"
            assert len(set(marks)) == len(marks), f"twice: {why}"
            assert told == recorded["state"] or told in (recorded["error_code"], "not_ready"), f"told otherwise: {why}"
            assert len(marks) == whole or recorded["state"] != "succeeded", f"not done: {why}"
            assert not marks or recorded["started_at"], f"silent: {why}"
            assert not marks or recorded["state"] in ("succeeded", "unknown"), f"silent: {why}"
            states[recorded["state"]] += 1
        return f"OT2_CHAOS_SEED={SEED}: {dict(self.faults)}; callers were told {dict(states)}; 0 twice, 0 silent"


def wait_until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while not true():
        assert time.monotonic() < give_up, f"seed {SEED}: it never came true"
        time.sleep(0.01)


def victims(dice: random.Random, faults: int) -> Iterator[tuple[int, str]]:
    """Each kind as often as the others, in a random order."""
    order = [VICTIMS[n % len(VICTIMS)] for n in range(faults)]
    dice.shuffle(order)
    return enumerate(order)


@pytest.mark.chaos
@pytest.mark.slow
def test_whoever_is_killed_nothing_is_done_twice_and_nobody_is_left_in_the_dark(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    dice = random.Random(SEED)
    with RunningAgent(tmp_path, WRITES_MARKS, env={"OT2_MARKS": str(marks)}) as agent:
        storm = Storm(agent, dice, last_s=0.2)
        for n, victim in victims(dice, FAULTS):
            calls = [(f"{name}-{n}", {"mark": f"{name}-{n}", "steps": STEPS}) for name in ("first", "second")]
            storm.strike(victim, *calls)
        lines = marks.read_text().splitlines()
        print(storm.verdict(lambda run_id: [line for line in lines if line.split()[0] == run_id], STEPS))


@pytest.fixture
def emulator(opentrons_820: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of an emulated OT-2, and what its tap records."""
    record = tmp_path / "moves.jsonl"
    words = ["emulate", "--python", str(opentrons_820), "--port", "0", "--record", str(record)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ot2_agent", *words],
        env={**os.environ, "OT2_AGENT_STATE_DIR": str(tmp_path / "emulator")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said.startswith("emulator ready on "), said
        yield said.split()[-1], record
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.chaos
@pytest.mark.slow
def test_no_drop_is_dispensed_twice_at_the_tap(emulator: tuple[str, Path], opentrons_820: Path, tmp_path: Path) -> None:
    """Each run has a volume of its own, so that the plunger's way tells whose it was."""
    address, record = emulator
    dice = random.Random(SEED)
    flags = ("--mode", "emulated", "--emulator", address)
    volumes: dict[str, int] = {}
    with RunningAgent(tmp_path, PIPETTES, *flags, python=opentrons_820) as agent:
        storm = Storm(agent, dice, last_s=0.25)
        for n, victim in victims(dice, FAULTS_EMULATED):
            ids = (f"first-{n}", f"second-{n}")
            volumes.update({run_id: 30 + 6 * (2 * n + place) for place, run_id in enumerate(ids)})
            calls = [(run_id, {"mark": run_id, "volume": volumes[run_id]}) for run_id in ids]
            storm.strike(victim, *calls)
        effects = [each for each in tap.effects(tap.read(record)) if each.kind in ("aspirate", "dispense")]
        print(storm.verdict(lambda run_id: [e.kind for e in effects if e.is_volume(volumes[run_id])], whole=2))
