"""The processes that are measured: the agent with its worker, and the floor. And what they weigh."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PATIENCE_S = 20.0
MB = 1024.0


@dataclass
class Served:
    """A server that answers, and how long it took to (seconds from exec to the first answered call)."""

    process: subprocess.Popen[bytes]
    port: int
    started_in: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Caller:
    """One connection of the standard library's client, kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def run(self, task: str, **parameters: Any) -> Any:
        """The result of one run, waited for in the same call."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        self._connection.request("POST", f"/tasks/{task}/runs?wait=60", json.dumps(parameters), headers)
        return self._read()["result"]

    def get(self, path: str) -> Any:
        self._connection.request("GET", path)
        return self._read()

    def _read(self) -> Any:
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {body[:500]!r}")
        return json.loads(body)

    def close(self) -> None:
        self._connection.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def agent(folder: Path) -> Iterator[Served]:
    """`ot2-agent serve` over a journal of its own in `folder`."""
    port = free_port()
    words = ["serve", str(HERE / "tasks.py"), "--port", str(port), "--state-dir", str(folder / "state")]
    settings = ["--python", sys.executable, "--device-id", "bench", "--log-level", "warning"]
    with _serving([sys.executable, "-m", "ot2_agent", *words, *settings], port, folder) as served:
        yield served


@contextmanager
def floor(folder: Path) -> Iterator[Served]:
    """The bare FastAPI route."""
    port = free_port()
    with _serving([sys.executable, str(HERE / "floor.py"), str(port)], port, folder) as served:
        yield served


@contextmanager
def _serving(command: list[str], port: int, folder: Path) -> Iterator[Served]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OT2_AGENT_")}
    begin = time.perf_counter()
    with open(folder / "log.txt", "ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**kept, "OT2_AGENT_HARDWARE_DIR": str(folder / "hardware")},
        )  # fmt: skip
    try:
        _first_answer(process, port, folder / "log.txt")
        yield Served(process, port, time.perf_counter() - begin)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


def _first_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Call until a call is answered."""
    deadline = time.perf_counter() + PATIENCE_S
    while True:
        try:
            caller = Caller(port)
            try:
                caller.run("add", a=1, b=2)
            finally:
                caller.close()
            return
        except (OSError, RuntimeError, http.client.HTTPException):
            if process.poll() is not None or time.perf_counter() > deadline:
                raise RuntimeError(f"it does not answer:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.005)


# --- memory ---------------------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """A process and its children: the agent and its worker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        children += (thread / "children").read_text().split()
    return [pid, *sorted({int(child) for child in children})]


def memory(pids: list[int], kind: str = "Rss") -> float:
    """Resident memory of processes, MB. `Rss` counts shared pages once for each, `Pss` shares them out."""
    total = 0.0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(float(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / MB
    return total
