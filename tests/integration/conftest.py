"""A real agent in a process of its own, and tasks that leave a trace of every call."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

DEADLINE_S = 30.0
"""How long anything may take before the test calls it lost. Nothing ever waits that long."""

TASKS = '''
import os, signal
from pathlib import Path
from typing import Annotated, Literal
from ot2_agent import DeviceServer, Param, Refuse, current_run, task

HERE = Path(__file__).parent

def trace(what):
    with open(HERE / "calls", "a") as file:
        file.write(f"{what}\\n")

@task(effects="none")
def add(a: int, b: int = 2) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    trace(f"add {a} {b}")
    return a + b

@task
def mix(
    R: Annotated[int, Param(ge=0, le=300, unit="uL")],
    well: Annotated[str, Param(pattern="^[A-H]([1-9]|1[0-2])$")] = "A1",
    speed: Literal["slow", "fast"] = "slow",
    names: list[str] = [],
) -> str:
    """Mix a colour."""
    trace(f"mix {R} {well}")
    return well

@task(effects="motion", timeout_s=60, grace_s=5)
def hold(name: str = "x") -> str:
    """Wait for a file called `name`, ready to end at any time."""
    run = current_run()
    trace(f"hold {name}")
    run.progress(0.5, "holding")
    while not (HERE / name).exists():
        run.sleep(0.01)
    return name

@task(effects="none", timeout_s=60, grace_s=5)
def idle(name: str = "x") -> str:
    """As hold, but nothing moves."""
    return hold(name)

@task(effects="consumes", timeout_s=60, grace_s=0.05)
def stuck() -> None:
    """Never looks whether it is to end."""
    trace("stuck")
    current_run().value("stuck", True)
    while True:
        signal.pause()

@task(effects="motion", timeout_s=60, grace_s=0.05)
def stuck_motion() -> None:
    stuck()

@task(effects="consumes")
def die() -> None:
    trace("die")
    os._exit(3)

@task(effects="motion")
def boom(text: str = "the tip is gone") -> None:
    """Fail."""
    trace("boom")
    raise RuntimeError(text)

class Mute(Exception):
    def __str__(self):
        raise ValueError("not even that")

@task(effects="none")
def mute() -> None:
    raise Mute()

@task
def refuse() -> None:
    trace("refuse")
    raise Refuse("there is no plate")

@task(effects="none")
async def later(a: int) -> int:
    """An async one."""
    import asyncio
    await asyncio.sleep(0)
    trace(f"later {a}")
    return a

@task(effects="none")
def chat(lines: int = 3) -> int:
    """Print, report and measure."""
    run = current_run()
    for n in range(lines):
        print("line", n)
        run.progress((n + 1) / lines, f"step {n}")
    run.value("absorbance", 0.42, "AU")
    return lines

if __name__ == "__main__":
    DeviceServer(port=0).run()
'''


class Process:
    """A program whose words are read as they come, so that a test can wait for them."""

    def __init__(self, command: list[str], env: Mapping[str, str], cwd: Path) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.said = ""
        self.process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def hears(self, text: str) -> str:
        """The first line with `text` in it from now on; fails when the program ends, or takes too long."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"never said {text!r}, but:\n{self.said}")
            if line is None:
                self._lines.put(None)
                pytest.fail(f"ended without saying {text!r}, but:\n{self.said}")
            self.said += line
            if text in line:
                return line

    def wait(self) -> int:
        """Its exit code, once it has ended by itself; everything it said is in `said`."""
        code = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        while (line := self._lines.get(timeout=DEADLINE_S)) is not None:
            self.said += line
        self._lines.put(None)
        return code

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Whatever state it is in, it is gone afterwards."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


class Home:
    """A folder for one agent: its task file, its journal, its locks. Ends what was started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.tasks = self.write("tasks.py", TASKS)
        self.state = folder / "state"
        self.started: list[Process] = []
        self.clients: list[httpx.Client] = []

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    @property
    def env(self) -> dict[str, str]:
        folder = self.folder
        own = {"HOME": folder, "XDG_STATE_HOME": folder / "xdg", "OT2_AGENT_HARDWARE_DIR": folder / "hardware"}
        return {**os.environ, **{name: str(value) for name, value in own.items()}, "PYTHONUNBUFFERED": "1"}

    def python(self, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Run this Python with these arguments."""
        process = Process([sys.executable, *arguments], {**self.env, **(env or {})}, self.folder)
        self.started.append(process)
        return process

    def command(self, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Run `ot2-agent ARGUMENTS`."""
        return self.python("-m", "ot2_agent", *arguments, env=env)

    def serve(self, *flags: str, tasks: str | Path | None = None, env: Mapping[str, str] | None = None) -> Process:
        """`ot2-agent serve`, not waited for."""
        own = [] if "--state-dir" in flags else ["--state-dir", str(self.state)]
        port = [] if "--port" in flags else ["--port", "0"]
        return self.command("serve", str(tasks or self.tasks), *port, *own, *flags, env=env)

    def agent(self, *flags: str, tasks: str | Path | None = None) -> Agent:
        """A serving agent."""
        process = self.serve(*flags, tasks=tasks)
        url = process.hears(" serves ").split(" on ")[-1].strip()
        return Agent(self, process, url)

    def client(self, url: str) -> httpx.Client:
        client = httpx.Client(base_url=url, timeout=DEADLINE_S, trust_env=False)
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for process in self.started:
            process.end()


class Agent:
    """One serving agent and the calls that tests make."""

    def __init__(self, home: Home, process: Process, url: str) -> None:
        self.home, self.process, self.url = home, process, url
        self.http = home.client(url)
        self._made = 0

    def calls(self, what: str = "") -> list[str]:
        """What the tasks really did, in order."""
        path = self.home.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(what)]

    def release(self, name: str) -> None:
        """Let `hold(name)` end."""
        (self.home.folder / name).touch()

    def new_id(self) -> str:
        self._made += 1
        return f"test-{id(self):x}-{self._made}"

    def submit(
        self, task: str, run_id: str | None = None, wait: float | None = None, **parameters: Any
    ) -> httpx.Response:
        query = {} if wait is None else {"wait": wait}
        headers = {"Idempotency-Key": run_id or self.new_id()}
        return self.http.post(f"/tasks/{task}/runs", params=query, headers=headers, json=parameters)

    def raw(self, body: bytes, task: str = "add", run_id: str | None = None, **headers: str) -> httpx.Response:
        """A submission whose body is exactly this."""
        own = {"Idempotency-Key": run_id or self.new_id(), "Content-Type": "application/json"}
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(f"/tasks/{task}/runs", content=body, headers={**own, **more})

    def ended(self, run_id: str) -> dict[str, Any]:
        """The run, once it has ended."""
        answer: dict[str, Any] = self.http.get(f"/runs/{run_id}", params={"wait": DEADLINE_S}).json()
        assert "status" in answer, f"{run_id} has not ended: {answer}"
        return answer

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/status").json()
        return found

    def hear(self, run_id: str, kind: str) -> dict[str, Any]:
        """The first event of this kind of a run."""
        return next(event for event in self.events(run_id) if event["kind"] == kind)

    def events(self, run_id: str, after: str | None = None) -> Iterator[dict[str, Any]]:
        """The events of a run as they come; each with its `id` and `event` of the stream."""
        headers = {"Last-Event-ID": after} if after else {}
        with self.http.stream("GET", f"/runs/{run_id}/events", headers=headers) as stream:
            assert stream.status_code == 200, stream.read()
            assert stream.headers["content-type"].startswith("text/event-stream")
            yield from frames(stream.iter_lines())

    def hold(self, task: str = "hold", **headers: str) -> str:
        """A run that is really going on, until its name is released; returns its id, which is the name, too."""
        run_id = self.new_id()
        parameters = {"name": run_id} if task in ("hold", "idle") else {}
        answer = self.raw(json.dumps(parameters).encode(), task, run_id, **headers)
        assert answer.status_code == 202, answer.text
        self.hear(run_id, "progress" if task in ("hold", "idle") else "value")
        return run_id

    def ready(self) -> None:
        """Back to taking runs, whatever a test left: resolve, reset, startup."""
        lock = self.status()["details"]["lock"]
        if lock and "resolve" in lock["needs"]:
            self.http.post(f"/runs/{lock['run_id']}/resolve", json={"verdict": "not_done", "by": "test"})
        if lock:
            assert self.http.post("/control/reset", json={"lock_id": lock["lock_id"]}).status_code == 200
        if self.status()["components"]["worker"]["state"] == "down":
            self.http.post("/control/startup")
        self.until(lambda: self.status()["components"]["worker"]["connected"])

    @staticmethod
    def until(condition: Callable[[], Any]) -> None:
        """Ask until it holds; every question is a whole HTTP exchange, so this does not spin."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "it never came true"


def frames(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events from the lines of a stream."""
    frame: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "data":
            frame.update(json.loads(value))
        elif name in ("id", "event"):
            frame[name] = value
        elif not line and frame:
            yield frame
            frame = {}


def refused(answer: httpx.Response, status: int, code: str, *words: str) -> dict[str, object]:
    """The answer is this problem, its sentence has these words and says that nothing moved."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, object] = answer.json()
    assert problem["status"] == status
    assert problem["code"] == code, problem
    assert problem["type"] == f"urn:ot2-agent:{code}"
    sentence = str(problem["detail"])
    for word in [*words, "Nothing moved."]:
        assert word in sentence, sentence
    return problem


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A folder for an agent that only this test uses."""
    made = Home(tmp_path / "agent")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for all tests that leave it as they found it."""
    made = Home(tmp_path_factory.mktemp("shared"))
    try:
        agent = made.agent("--queue-places", "2")
        yield agent
        agent.process.signal(signal.SIGTERM)
        assert agent.process.wait() == 0, agent.process.said
    finally:
        made.close()


@pytest.fixture
def agent(shared: Agent) -> Iterator[Agent]:
    """The shared agent; whatever a test does, it answers and takes runs afterwards."""
    yield shared
    shared.ready()
    answer = shared.submit("add", wait=DEADLINE_S, a=1)
    assert (answer.status_code, answer.json()["result"]) == (200, 3), answer.text
