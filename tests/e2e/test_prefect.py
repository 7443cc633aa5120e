"""The client inside a Prefect flow, in the environment of the newest Prefect: what no opentrons could share."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.running import RunningAgent

TASKS = """
from ot2_agent import task

@task(effects="none")
def add(a: int, b: int) -> int:
    return a + b
"""
FLOW = """
import sys
from prefect import flow
from ot2_orchestrator import OrchestratorClient

@flow
def campaign(url):
    with OrchestratorClient(url) as robot:
        return [robot.execute_task("add", a=n, b=1) for n in range(3)]

print("results", campaign(sys.argv[1]))
"""


@pytest.mark.prefect
def test_a_prefect_flow_calls_tasks(prefect_python: Path, here_python: Path, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    home = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with RunningAgent(tmp_path, TASKS, python=here_python, agent_python=here_python) as agent:
        done = subprocess.run(
            [str(prefect_python), str(tmp_path / "flow.py"), agent.url],
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **home},
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert "results [1, 2, 3]" in done.stdout, done.stderr
