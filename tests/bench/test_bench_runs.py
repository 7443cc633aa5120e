"""The benchmark can be run and its table is complete. Its figures are for people: nothing is timed in tests."""

import subprocess
import sys
from pathlib import Path

ROWS = (
    "serve to first answered call",
    "one durable call, p50, http.client",
    "one durable call, p99, http.client",
    "one durable call, p50, OrchestratorClient",
    "one durable call, p99, OrchestratorClient",
    "one commit",
    "resident memory, agent + worker",
    "print of",
    "GET /status meanwhile, p50",
    "GET /status meanwhile, p99",
    "memory after the third such task",
    "the same against before any",
)


def test_a_quick_run_prints_every_row_of_the_table() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent), "--quick"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert head == ["what", "value", "floor", "ratio", "must", "verdict"]
    assert len(rows) == len(ROWS)
    for row, what in zip(rows, ROWS, strict=True):
        assert row[0].startswith(what)
        assert row[1]
