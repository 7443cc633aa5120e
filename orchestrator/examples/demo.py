"""The whole kit in half a minute: colours mixed on an emulated OT-2, and an agent that is killed in the middle of it.

    python demo.py --agent-python PY --worker-python PY        (what `make demo` runs)

Emulator, worker, agent and client are processes of their own, in three environments. What reached the robot is
counted at a tap in front of the emulator, never in Python. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from ot2_agent.tap import effects, read
from ot2_orchestrator import LostContact, OrchestratorClient, OT2Error, OutcomeUnknown, Patience, Run
from plate import Plate, supports_colour

TASKS = Path(__file__).resolve().parents[2] / "agent" / "examples" / "device_example.py"
SPEED = "25"
"""How much faster than a robot the emulator moves: slow enough to watch, and to be killed in the middle."""

Mix = tuple[int, int, int]
MIXES: dict[str, Mix] = {
    "A1": (300, 0, 0),
    "A2": (0, 300, 0),
    "A3": (0, 0, 300),
    "B1": (150, 150, 0),
    "B2": (0, 150, 150),
    "B3": (150, 0, 150),
}
"""Well -> microlitres of red, yellow and blue."""
CUT_OFF, LAST = ("C1", (100, 100, 100)), ("C2", (60, 180, 60))

PATIENCE = Patience(contact_timeout_s=3.0, resend_every_s=0.5)
"""A caller who gives up early: this is a demonstration. By default a client tries for 30 s."""

PROBE = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
def find(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
print(json.dumps(["%d.%d.%d" % sys.version_info[:3], find("opentrons"), find("pydantic")]))
"""


class Broken(Exception):
    """Something did not hold; the sentence says what."""


def check(holds: bool, sentence: str) -> None:
    if not holds:
        raise Broken(sentence)


# --- processes ------------------------------------------------------------------------------------------------------


class Stage:
    """A folder that goes away in the end, and the processes that live in it."""

    def __init__(self, agent_python: str, worker_python: str) -> None:
        self.agent_python, self.worker_python = agent_python, worker_python
        self.folder = Path(tempfile.mkdtemp(prefix="ot2-demo-"))
        (self.folder / "tmp").mkdir()
        self.recording = self.folder / "gcode.jsonl"
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it behind
        for child in reversed(self._children):
            end(child, at_once=error is not None)
        with suppress(Broken):
            until(self._is_gone, "folder to go away", 10)

    def start_emulator(self) -> str:
        """Start the emulated OT-2; returns its address."""
        options = ["--port", "0", "--record", str(self.recording), "--speed", SPEED, "--python", self.worker_python]
        return self._start("emulator", ["emulate", *options], r"emulator ready on (\S+)")[1]

    def start_agent(self, emulator: str, port: str) -> tuple[subprocess.Popen[bytes], str]:
        """Start the agent; returns it and its address once it serves."""
        options = ["--mode", "emulated", "--emulator", emulator, "--python", self.worker_python, "--port", port]
        return self._start("agent", ["serve", str(TASKS), *options], r" serves .* on (http://\S+)")

    def _start(self, name: str, arguments: list[str], ready: str) -> tuple[subprocess.Popen[bytes], str]:
        log = self.folder / f"{name}-{len(self._children)}.log"
        with log.open("wb") as out:
            child = subprocess.Popen(
                [self.agent_python, "-m", "ot2_agent", *arguments],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is for us; we end the others
            )
        self._children.append(child)
        try:
            until(lambda: child.poll() is not None or re.search(ready, log.read_text()), f"start of the {name}", 60)
        except Broken as exc:
            raise Broken(f"{exc} It said:\n{log.read_text()[-3000:]}") from None
        found = re.search(ready, log.read_text())
        if found is None:
            raise Broken(f"The {name} ended with exit code {child.poll()}. It said:\n{log.read_text()[-3000:]}")
        return child, found[1]

    def _is_gone(self) -> bool:
        shutil.rmtree(self.folder, ignore_errors=True)  # a worker whose agent was killed takes a moment to end
        return not self.folder.exists()

    def _environment(self) -> dict[str, str]:
        """Ours without settings of yours; everything that is written goes into the folder."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("OT2_", "PYTHON", "OT_"))}
        folder = str(self.folder)
        return {
            **kept,
            "OT2_AGENT_STATE_DIR": f"{folder}/state",
            "OT2_AGENT_HARDWARE_DIR": f"{folder}/hardware",
            "XDG_STATE_HOME": folder,
            "TMPDIR": f"{folder}/tmp",
        }


def end(child: subprocess.Popen[bytes], *, at_once: bool) -> None:
    """End a process, politely unless in haste. An agent takes its worker along, however it ends."""
    if at_once:
        child.kill()
    child.terminate()
    try:
        child.wait(4)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def until(holds: Callable[[], Any], what: str, seconds: float) -> None:
    """Wait until something holds.

    Raises:
        Broken: the time is up.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        check(time.monotonic() < deadline, f"Waited {seconds:.0f} s in vain for the {what}.")
        time.sleep(0.02)


def leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


# --- what the robot did ---------------------------------------------------------------------------------------------


class Counter:
    """Counts at the tap what happened at the pipette since the last `begin`."""

    def __init__(self, recording: Path) -> None:
        self._recording = recording
        self._seen = 0

    def begin(self) -> None:
        self._seen = len(effects(read(self._recording))) if self._recording.exists() else 0

    def now(self) -> tuple[int, int]:
        """Aspirates and dispenses."""
        new = [effect.kind for effect in effects(read(self._recording))[self._seen :]]
        return new.count("aspirate"), new.count("dispense")


def at_the_tap(aspirated: int, dispensed: int) -> str:
    return f"at the tap: aspirated {aspirated}x, dispensed {dispensed}x"


def say(*parts: Any) -> None:
    print(*parts, flush=True)


def quoted(text: str) -> str:
    return textwrap.fill(text, 110, initial_indent="  | ", subsequent_indent="  | ", break_long_words=False)


def chapter(title: str) -> None:
    say(f"\n== {title}")


# --- the story ------------------------------------------------------------------------------------------------------


def show_environments(stage: Stage) -> None:
    """That these conflict is why there are three."""
    found = {}
    for name, python in {"worker": stage.worker_python, "agent": stage.agent_python, "client": sys.executable}.items():
        found[name] = probe(python)
        version, opentrons, pydantic = found[name]
        has = [f"{what} {which or '-'}" for what, which in (("opentrons", opentrons), ("pydantic", pydantic))]
        say(f"{name:<8} Python {version:<9} {has[0]:<17} {has[1]}")
    worker, agent = found["worker"], found["agent"]
    check(bool(worker[1]), f"{stage.worker_python} has no opentrons. Name an interpreter that has: --worker-python PY")
    if str(worker[2]).split(".")[0] != str(agent[2]).split(".")[0]:
        say(f"No one environment could hold both: opentrons {worker[1]} wants pydantic 1, the agent pydantic 2.")
    else:
        say("Each can be changed without touching the others: they share nothing but messages.")


def probe(python: str) -> tuple[str, str | None, str | None]:
    """An interpreter's version, and those of opentrons and pydantic in it."""
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        raise Broken(
            f"{python} cannot be run ({exc}). opentrons has wheels for Python 3.10 to 3.13: where this computer's "
            "python3 is another one, name one that it has, e.g. make demo PYTHON=python3.12"
        ) from None
    version, opentrons, pydantic = json.loads(done.stdout)
    return version, opentrons, pydantic


def mix(robot: OrchestratorClient, counter: Counter, plate: Plate, well: str, volumes: Mix) -> None:
    """Mix one well, show how far it is, and count at the tap what that was."""
    counter.begin()
    run = robot.submit("mix_color", parameters(well, volumes))
    watch(run, well)
    run.result()
    aspirated, dispensed = counter.now()
    inks = sum(volume > 0 for volume in volumes)
    red, yellow, blue = volumes
    line = f"{well:<3} R {red:3d}  Y {yellow:3d}  B {blue:3d} uL   {at_the_tap(aspirated, dispensed)}"
    say(f"\r{line}" if sys.stdout.isatty() else line)
    check((aspirated, dispensed) == (inks, inks), f"{well} wanted {inks} aspirates and {inks} dispenses.")
    plate.fill(well, *volumes)


def watch(run: Run, well: str) -> None:
    """A bar that follows the run's own progress; only in a terminal."""
    for event in run.events():
        if event.kind == "progress" and sys.stdout.isatty():
            filled = round(20 * float(event.data.get("fraction") or 0))
            bar = f"[{'#' * filled}{'.' * (20 - filled)}]"
            print(f"\r{well:<3} {bar} {event.data.get('message') or '':<40}", end="", flush=True)


def parameters(well: str, volumes: Mix) -> dict[str, Any]:
    red, yellow, blue = volumes
    return {"R": red, "Y": yellow, "B": blue, "mix_well": well}


def lose_contact(robot: OrchestratorClient, counter: Counter, agent: subprocess.Popen[bytes]) -> Run:
    """Call, and have the agent killed at the first dispense; returns what the caller is left with."""
    well, volumes = CUT_OFF
    counter.begin()

    def kill() -> None:
        with suppress(Broken):  # then the call ends as any other, and that is reported
            until(lambda: counter.now()[1] >= 1, "first dispense", 60)
            agent.kill()

    threading.Thread(target=kill, daemon=True).start()
    say(f"mix_color in {well}, three inks; kill -9 {agent.pid} (the agent) once the first one is in the well.")
    try:
        robot.execute_task("mix_color", parameters(well, volumes))
    except LostContact as lost:
        say(f"The caller is told, after {PATIENCE.contact_timeout_s:.0f} s of trying:")
        say(quoted(f"LostContact: {lost}"))
        say(quoted(f".run: {lost.run!r}"))
        check(agent.wait() == -signal.SIGKILL, "The agent ended, but not by our kill -9.")
        run: Run = lost.run
        return run
    raise Broken("The call ended as if nothing had happened, though its agent was to be killed.")


def ask_again(robot: OrchestratorClient, counter: Counter, run: Run) -> None:
    """The device says that it does not know, however often it is asked, and does nothing."""
    well, volumes = CUT_OFF
    before = counter.now()
    answer = run.refresh()
    say(f"Asked for run {run.id}: {answer.state}. {answer.error}")
    check(answer.state == "unknown", f"The run that was cut off is {answer.state}, not unknown.")
    again = robot.submit("mix_color", parameters(well, volumes), run_id=run.id)
    say(f"Sent again under the same id: {again.state}, the same answer.")
    check(again.answer is not None and again.answer.state == "unknown", "The same id got another answer.")
    error = again.exception()
    check(isinstance(error, OutcomeUnknown), f"The same id raised {error!r}.")
    try:
        robot.execute_task("mix_color", parameters("D1", volumes))
    except OT2Error as exc:
        say("Something new instead:")
        say(quoted(f"{type(exc).__name__}: {exc}"))
    else:
        raise Broken("The device ran a new task though nobody had looked at the deck.")
    aspirated, dispensed = counter.now()
    say(f"After all that, {at_the_tap(aspirated, dispensed)}, of three inks, as before: nothing was dispensed twice.")
    check((aspirated, dispensed) == before and 1 <= dispensed < 3, f"It was {before} before.")


def resolve(robot: OrchestratorClient, run: Run) -> None:
    """A person looks at the deck, writes down what is there, and lets the device go on."""
    robot.resolve(run.id, "partly", by="demo", note="one ink of three is in the well")
    lock = robot.status()["details"]["lock"]
    robot.reset(lock["lock_id"])
    robot.startup()
    until(lambda: "run" in robot.status()["allowed_actions"], "device to take runs", 60)
    say(f"resolve({run.id!r}, 'partly', by='demo'), reset({lock['lock_id']!r}), startup(): ready again.")


def story(stage: Stage) -> None:
    show_environments(stage)
    chapter("An emulated OT-2, an agent and its worker")
    emulator = stage.start_emulator()
    agent, url = stage.start_agent(emulator, "0")
    say(f"emulator on {emulator}, {SPEED} times as fast as a robot; agent on {url}, tasks of {TASKS.name}")
    counter, plate = Counter(stage.recording), Plate()
    with OrchestratorClient(url, patience=PATIENCE) as robot:
        chapter(f"{len(MIXES)} wells over HTTP")
        for well, volumes in MIXES.items():
            mix(robot, counter, plate, well, volumes)
        say(f"\n{plate.draw(supports_colour())}")
        chapter("The agent is killed in the middle of a run")
        run = lose_contact(robot, counter, agent)
        chapter("The agent is started again")
        stage.start_agent(emulator, url.rpartition(":")[2])
        ask_again(robot, counter, run)
        chapter("Somebody looks at the deck, and the work goes on")
        resolve(robot, run)
        mix(robot, counter, plate, *LAST)


def next_steps(stage: Stage) -> None:
    """What to try now, from where this was started."""
    here = Path(__file__).resolve().parent
    agent, worker, tasks, client = (
        os.path.relpath(path)
        for path in (Path(stage.agent_python).with_name("ot2-agent"), stage.worker_python, TASKS, sys.executable)
    )
    chapter("Next, in two terminals")
    say(f"1.  {agent} serve {tasks} --python {worker}")
    say(f"2.  {client} {os.path.relpath(here / 'orchestrator_example.py')}")
    say("3.  curl -X POST 'http://127.0.0.1:8000/tasks/home_robot/runs?wait=60' -H 'Idempotency-Key: first' -d '{}'")
    say("    (again: the same answer, and nothing moves twice; http://127.0.0.1:8000/docs has the rest)")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agent-python", required=True, help="an interpreter with ot2-agent[server]")
    parser.add_argument("--worker-python", required=True, help="an interpreter with opentrons")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    began = time.monotonic()
    try:
        with Stage(os.path.abspath(given.agent_python), os.path.abspath(given.worker_python)) as stage:
            story(stage)
        check(not stage.folder.exists(), f"{stage.folder} is still there.")
        say(f"\nEverything held, in {time.monotonic() - began:.0f} s. Nothing is left of it: no process, no file.")
        next_steps(stage)
    except (Broken, OT2Error) as exc:
        print(f"\nThe demo failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is left of it: no process, no file.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
