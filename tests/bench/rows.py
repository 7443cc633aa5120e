"""What is measured, each against its floor in the same run. Rounds take turns, so that a busy moment hits both."""

from __future__ import annotations

import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ot2_orchestrator import OrchestratorClient

from tests.bench import processes
from tests.bench.processes import Caller, Served, family, memory

Call = Callable[[], object]
CLIENTS = ("http.client", "OrchestratorClient")


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int = 25
    calls: int = 40
    starts: int = 5
    lines: int = 100_000
    patience_s: float = 30.0
    """How long calm moments are waited for, altogether."""


QUICK = Effort(rounds=2, calls=3, starts=1, lines=2000, patience_s=0.0)


@dataclass(frozen=True)
class Row:
    """One line of the table; `good` is None where nothing is promised."""

    what: str
    value: str
    floor: str = ""
    ratio: str = ""
    must: str = ""
    good: bool | None = None

    @property
    def verdict(self) -> str:
        return {None: "", True: "good", False: "OVER"}[self.good]

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.what, self.value, self.floor, self.ratio, self.must, self.verdict)


def measure(effort: Effort, folder: Path) -> Iterator[Row]:
    """Every row, as it is known. About a minute; the fresh `folder` takes journals and logs."""
    yield from cold_start(effort, folder)
    with processes.floor(folder) as floor, processes.agent(folder) as agent:
        with committing(folder / "floor.db") as commit:
            yield from one_call(effort, agent, floor, commit)
        yield from resident(agent)
        yield from printing(effort, agent)


# --- start ----------------------------------------------------------------------------------------------------------


def cold_start(effort: Effort, folder: Path) -> Iterator[Row]:
    """From exec to the first answered call; the floor is the same of the bare route."""
    took: dict[str, list[float]] = {"agent": [], "floor": []}
    for _ in range(effort.starts):
        for name, served in (("agent", processes.agent), ("floor", processes.floor)):
            with served(folder) as one:
                took[name].append(one.started_in)
    agent, floor = statistics.median(took["agent"]), statistics.median(took["floor"])
    yield Row(
        "serve to first answered call", f"{agent:.2f} s", f"{floor:.2f} s", f"{agent / floor:.2f}", "value <= 1.0 s",
        agent <= 1.0,
    )  # fmt: skip


# --- a call ---------------------------------------------------------------------------------------------------------


def one_call(effort: Effort, agent: Served, floor: Served, commit: Call) -> Iterator[Row]:
    """A durable call over a warm connection against the bare route, called by the same client."""
    raw = {name: Caller(served.port) for name, served in (("agent", agent), ("floor", floor))}
    ours = {name: OrchestratorClient(served.url) for name, served in (("agent", agent), ("floor", floor))}
    calls: dict[tuple[str, str], Call] = {("sqlite", "commit"): commit}
    for name in ("floor", "agent"):
        calls["http.client", name] = lambda caller=raw[name]: caller.run("add", a=1, b=2)  # type: ignore[misc]
        calls["OrchestratorClient", name] = lambda caller=ours[name]: caller("add", a=1, b=2)  # type: ignore[misc]
    samples = in_turns(calls, effort)
    for name in ("floor", "agent"):
        raw[name].close()
        ours[name].close()
    for client in CLIENTS:
        yield from _call_rows(client, samples[client, "agent"], samples[client, "floor"])
    yield Row(
        "one commit in the journal's mode (a call makes two)", f"{calm(samples['sqlite', 'commit']) * 1000:.2f} ms"
    )


def in_turns(calls: dict[tuple[str, str], Call], effort: Effort) -> dict[tuple[str, str], list[list[float]]]:
    """Seconds of each call by round; in each round every kind has its turn. The first round is not counted.

    A round begins when nobody else is busy here, as far as patience reaches.
    """
    samples: dict[tuple[str, str], list[list[float]]] = {key: [] for key in calls}
    patient_until = time.monotonic() + effort.patience_s
    for _ in range(effort.rounds + 1):
        while time.monotonic() < patient_until and busy_share() > 0.07:
            pass
        for key, call in calls.items():
            samples[key].append([timed(call) for _ in range(effort.calls)])
    return {key: rounds[1:] for key, rounds in samples.items()}


def busy_share() -> float:
    """Which part of the processors was busy in the last tenth of a second, 0 to 1."""
    before = _processor_times()
    time.sleep(0.1)
    idle, total = (now - then for now, then in zip(_processor_times(), before, strict=True))
    return 1 - idle / max(1, total)


def _processor_times() -> tuple[int, int]:
    """Ticks idle, and all ticks (proc(5), /proc/stat)."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def timed(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _call_rows(client: str, agent: list[list[float]], floor: list[list[float]]) -> Iterator[Row]:
    ours, bare = calm(agent), calm(floor)
    yield Row(
        f"one durable call, p50, {client}", f"{ours * 1000:.2f} ms", f"{bare * 1000:.2f} ms", f"{ours / bare:.2f}",
        "ratio <= 2.5 (aim 2.1)", ours / bare <= 2.5,
    )  # fmt: skip
    ours, bare = pooled(agent, 0.99), pooled(floor, 0.99)
    yield Row(
        f"one durable call, p99, {client}", f"{ours * 1000:.2f} ms", f"{bare * 1000:.2f} ms", f"{ours / bare:.2f}"
    )


def calm(rounds: list[list[float]]) -> float:
    """The p50 of a calm round: a quarter of them have a lower one. Who else is busy here shows in the rest."""
    return at(0.25, [median(one) for one in rounds])


median = statistics.median


def pooled(rounds: list[list[float]], quantile: float) -> float:
    return at(quantile, [value for one in rounds for value in one])


def at(quantile: float, values: Sequence[float]) -> float:
    """The value below which this part of all values lies."""
    return sorted(values)[min(len(values) - 1, int(quantile * len(values)))]


@contextmanager
def committing(path: Path) -> Iterator[Call]:
    """A call that commits one short row, WAL and `synchronous=FULL`: what durability costs here, and nothing else."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE runs (body TEXT)")
        yield lambda: db.execute("INSERT INTO runs VALUES (?)", ("x" * 200,))


# --- memory ---------------------------------------------------------------------------------------------------------


def resident(agent: Served) -> Iterator[Row]:
    """Agent and worker after all these calls; the floor is an interpreter that has imported nothing, twice."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as bare:
        assert bare.stdin
        assert bare.stdout
        bare.stdout.readline()
        floor = 2 * memory([bare.pid])
        bare.stdin.write(b"\n")
        bare.stdin.close()
    both = family(agent.process.pid)
    value = memory(both)
    parts = " + ".join(f"{memory([pid]):.0f}" for pid in both)
    yield Row(
        f"resident memory, agent + worker ({parts}; PSS {memory(both, 'Pss'):.0f})",
        f"{value:.0f} MB", f"{floor:.0f} MB", f"{value / floor:.2f}", "value <= 75 MB", value <= 75,
    )  # fmt: skip


# --- printing -------------------------------------------------------------------------------------------------------


def printing(effort: Effort, agent: Served) -> Iterator[Row]:
    """A task that prints much delays nothing but itself, and leaves nothing behind."""
    looker = Caller(agent.port)
    idle = [timed(lambda: looker.get("/status")) for _ in range(effort.calls * 5)]
    both = family(agent.process.pid)
    before, took, busy = [memory(both)], [], []
    for _ in range(3):
        seconds, looks = _print(effort, agent, looker)
        took.append(seconds)
        busy += looks
        before.append(memory(both))
    looker.close()
    bare = median(_bare_print(effort.lines) for _ in range(3))
    yield Row(
        f"print of {effort.lines} lines in a task", f"{median(took):.2f} s", f"{bare:.2f} s",
        f"{median(took) / bare:.2f}",
    )  # fmt: skip
    for name, quantile in (("p50", 0.5), ("p99", 0.99)):
        value, floor = at(quantile, busy) * 1000, at(quantile, idle) * 1000
        must = "value <= 50 ms" if name == "p99" else ""
        yield Row(
            f"GET /status meanwhile, {name}, against idle", f"{value:.2f} ms", f"{floor:.2f} ms",
            f"{value / floor:.2f}", must, value <= 50 if must else None,
        )  # fmt: skip
    grown = before[3] - before[1]
    yield Row(
        "memory after the third such task, against the first", f"{before[3]:.1f} MB", f"{before[1]:.1f} MB",
        f"{before[3] / before[1]:.2f}", "grows <= 3 MB", grown <= 3,
    )  # fmt: skip
    yield Row(
        "the same against before any", f"{before[3]:.1f} MB", f"{before[0]:.1f} MB", f"{before[3] / before[0]:.2f}"
    )


def _print(effort: Effort, agent: Served, looker: Caller) -> tuple[float, list[float]]:
    """Seconds that the printing took, and of each look at /status meanwhile."""
    took: list[float] = []
    caller = Caller(agent.port)
    thread = threading.Thread(target=lambda: took.append(timed(lambda: caller.run("chatter", lines=effort.lines))))
    thread.start()
    looks = []
    while thread.is_alive():
        looks.append(timed(lambda: looker.get("/status")))
        thread.join(0.005)
    caller.close()
    return took[0], looks


def _bare_print(lines: int) -> float:
    """The same lines from a process of its own, line by line into a pipe that somebody empties."""
    code = f"import sys; sys.stdout.reconfigure(line_buffering=True)\nfor n in range({lines}): print('line', n)"
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - begin
