"""A real agent for tests: `python -m ot2_agent serve` as a process of its own, over folders of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

_SERVES = re.compile(r" serves .* on (http://\S+)")
PATIENCE_S = 30.0
"""How long anything may take before a test gives up: nothing is timed here, a machine may be busy."""


class RunningAgent:
    """An agent that can be killed and started again over the same folders. `with RunningAgent(tmp_path, TASKS) as it:`

    Args:
        folder: where state, hardware locks and the task file are; one agent of a folder lives at a time.
        tasks: the source of the task module, or the path of one that is there.
        flags: further flags of `ot2-agent serve`, e.g. "--mode", "emulated".
        python: the worker's interpreter; by default the one that runs the tests.
        agent_python: the agent's own interpreter; by default the one that runs the tests.
        env: further variables of the agent.
    """

    def __init__(
        self,
        folder: Path,
        tasks: str | Path,
        *flags: str,
        python: Path | str = sys.executable,
        agent_python: Path | str = sys.executable,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.flags = flags
        self.state = folder / "state"
        self.hardware = folder / "hardware"
        self.url = ""
        self.log: list[str] = []
        """Everything the agent wrote to stderr, line by line, all its lives."""
        self.process: subprocess.Popen[str] | None = None
        self._python, self._agent_python, self._env = str(python), str(agent_python), dict(env or {})
        self._reader: threading.Thread | None = None
        self._tasks = tasks if isinstance(tasks, Path) else folder / "tasks.py"
        if isinstance(tasks, str):
            self._tasks.write_text(tasks)

    # --- life

    def __enter__(self) -> RunningAgent:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> RunningAgent:
        """Start it and wait until it says where it serves.

        Raises:
            RuntimeError: it ended before; the text is what it said.
        """
        self.launch()
        try:
            serving = self.serving()
        except BaseException:
            self.kill()
            raise
        if not serving:
            code = self.wait()
            raise RuntimeError(f"the agent ended with exit code {code}:\n" + "\n".join(self.log))
        return self

    def launch(self) -> None:
        """Start it and do not wait. Started again, it listens where it did."""
        assert not self.alive, "it lives already"
        port = self.url.rpartition(":")[2] or "0"
        self.url = ""
        self._said = threading.Event()
        command = [self._agent_python, "-m", "ot2_agent", "serve", str(self._tasks), "--port", port]
        self.process = subprocess.Popen(
            [*command, "--state-dir", str(self.state), "--python", self._python, *self.flags],
            env={**os.environ, "OT2_AGENT_HARDWARE_DIR": str(self.hardware), **self._env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process, self._said), daemon=True)
        self._reader.start()

    def serving(self) -> bool:
        """Wait until it says where it serves; False when it ended instead."""
        assert self._said.wait(PATIENCE_S), "the agent says nothing:\n" + "\n".join(self.log)
        return bool(self.url)

    def _read(self, process: subprocess.Popen[str], said: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                self.log.append(line.rstrip("\n"))
                if found := _SERVES.search(line):
                    self.url = found[1]
                    said.set()
        said.set()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL to the agent alone, and see it dead."""
        assert self.process is not None
        self.process.kill()
        self.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, wait for it, kill it when it does not; its exit code."""
        if self.process is None:
            return 0
        if self.alive:
            self.process.send_signal(number)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def wait(self) -> int:
        """Wait for its end; its exit code. What it wrote is in `log` then, whole."""
        assert self.process is not None
        code = self.process.wait(PATIENCE_S)
        if self._reader is not None:
            self._reader.join(PATIENCE_S)
        return code

    # --- talking to it

    def http(self) -> httpx.Client:
        """A client of it, to be closed by the caller; no time-out of its own but `PATIENCE_S`."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False)

    def get(self, path: str, **query: Any) -> httpx.Response:
        with self.http() as http:
            return http.get(path, params=query)

    def post(self, path: str, body: Mapping[str, Any] | None = None, **headers: str) -> httpx.Response:
        with self.http() as http:
            return http.post(path, json=dict(body or {}), headers=headers)

    def call(
        self, task: str, parameters: Mapping[str, Any] | None = None, *, run_id: str = "", wait: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Submit a run and wait for its end, up to `wait` seconds: the answer, or the problem."""
        headers = {"Idempotency-Key": run_id} if run_id else {}
        query = {"wait": f"{wait:g}"} if wait else {}
        with self.http() as http:
            told = http.post(f"/tasks/{task}/runs", params=query, json=dict(parameters or {}), headers=headers)
        answer: dict[str, Any] = told.json()
        return answer

    def run(self, run_id: str, wait: float = PATIENCE_S) -> dict[str, Any]:
        """What is known of a run, at its end when that comes within `wait` seconds."""
        answer: dict[str, Any] = self.get(f"/runs/{run_id}", wait=wait).json()
        return answer

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.get("/status").json()
        return answer

    @property
    def worker_pid(self) -> int:
        """The worker's pid, as the agent wrote it into the lock."""
        [lock] = self.hardware.glob("*.lock")
        return int(json.loads(lock.read_text()).get("worker", 0))
