"""The READMEs tell the truth: their code parses, the quick start runs, every setting is there."""

from __future__ import annotations

import ast
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from ot2_agent.server.settings import Settings, table
from ot2_orchestrator import OrchestratorClient

from tests.running import RunningAgent
from tests.talking import Talking

ROOT = Path(__file__).resolve().parents[2]
READMES = {name: (ROOT / name / "README.md").read_text() for name in (".", "agent", "orchestrator")}
QUICKSTART = ROOT / "agent" / "examples" / "quickstart.py"
DEAD_END = """
import os
from ot2_agent import task

@task
def mix_color(R: float, Y: float, B: float, mix_well: str) -> str:
    if mix_well == "A1":
        os._exit(3)
    return f"mixed in {mix_well}"
"""
SERVES = r" serves mix_color on (http://\S+)"


def between(text: str, mark: str) -> str:
    """What stands between `<!-- mark -->` and `<!-- /mark -->`."""
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", text, re.DOTALL)
    assert found, f"the marks of {mark} are gone"
    return found[1].strip()


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def quick_start(part: str) -> str:
    """The one block of Python of a part of the quick start."""
    (code,) = code_blocks(between(READMES["."], part))
    return code


@pytest.mark.parametrize("name", READMES)
def test_every_block_of_python_parses(name: str) -> None:
    blocks = code_blocks(READMES[name])
    assert blocks
    for block in blocks:
        compile(block, f"{name}/README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("name", READMES)
def test_every_link_into_the_repository_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", READMES[name])
    assert [link for link in links if not (ROOT / name / link).exists()] == []


@pytest.mark.parametrize("name", READMES)
def test_every_path_that_a_command_names_exists(name: str) -> None:
    named = set(re.findall(r"\b(?:agent|orchestrator|tests)/[\w/.]+\.(?:py|md)\b", READMES[name]))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for line in re.findall(r"\bmake ([a-z ]+)", READMES["."]) for word in line.split()[:1]}
    assert {"demo", "test"} <= named & targets
    in_table = {
        word for line in re.findall(r"^\| `make ([a-z ]+)", READMES["."], re.MULTILINE) for word in line.split()
    }
    assert in_table <= targets


def test_the_table_of_settings_is_the_generated_one() -> None:
    assert between(READMES["agent"], "settings") == table()


def test_the_env_example_names_every_setting_and_no_other() -> None:
    text = (ROOT / "agent" / ".env.example").read_text()
    named = re.findall(r"^#?(OT2_AGENT_[A-Z_]+)=", text, re.MULTILINE)
    assert sorted(named) == sorted(f"OT2_AGENT_{name.upper()}" for name in Settings.model_fields)


def test_every_line_of_the_env_example_is_understood(tmp_path: Path) -> None:
    text = (ROOT / "agent" / ".env.example").read_text()
    everything = tmp_path / "env"
    everything.write_text(re.sub(r"^#(OT2_AGENT_)", r"\1", text, flags=re.MULTILINE))
    settings = Settings(_env_file=everything)
    assert (settings.device_id, settings.allowed_hosts, settings.port) == ("ot2-002", ["ot2-002"], 8000)


def test_the_quick_start_shows_the_example_as_it_is() -> None:
    assert quick_start("device").strip() == QUICKSTART.read_text().strip()


def test_the_quick_start_runs_as_it_stands(
    opentrons_820: Path, agent_python: Path, client_python: Path, tmp_path: Path
) -> None:
    device, experiment = tmp_path / "color_robot.py", tmp_path / "experiment.py"
    device.write_text(quick_start("device"))
    home = {
        "OT2_AGENT_PYTHON": str(agent_python),
        "OT2_AGENT_PORT": "0",
        "OT2_AGENT_HARDWARE_DIR": str(tmp_path / "hardware"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT / "agent" / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with Talking([opentrons_820, device], home) as robot:
        url = robot.says(SERVES)[1]
        experiment.write_text(quick_start("client").replace("http://localhost:8000", url))
        with Talking([client_python, experiment]) as caller:
            assert caller.ends() == 0, caller.text
        for line in ("^mixed in A1$", "^mixed in A2$", "mixed in A3"):
            caller.says(line)
        robot.send(signal.SIGINT)
        assert robot.ends() == 0, robot.text


def shell_lines(heading: str, url: str) -> str:
    """The shell block under a heading, for a device at another address."""
    section = READMES["."].split(f"# {heading}\n", 1)[1]
    block = re.search(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert block, f"no shell block under {heading}"
    return block[1].replace("http://127.0.0.1:8000", url)


def sh(lines: str) -> str:
    """Run them as a user's shell does; every one must succeed, also by its HTTP status."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    strict = re.sub(r"^curl ", "curl --silent --show-error --fail --noproxy '*' ", lines, flags=re.MULTILINE)
    done = subprocess.run(["sh", "-e"], input=strict, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_lines_of_curl_work(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, DEAD_END) as device:
        said = sh(shell_lines("With curl", device.url))
    assert said.count('"mixed in B1"') == 5, said
    assert "event: state" in said


def test_the_lines_after_an_interruption_unlock_the_device(tmp_path: Path) -> None:
    body = {"R": 1, "Y": 1, "B": 1, "mix_well": "A1"}
    with RunningAgent(tmp_path, DEAD_END) as device:
        assert device.call("mix_color", body, run_id="ink-07.B1")["state"] == "unknown"
        assert device.post("/tasks/mix_color/runs", body).status_code == 412
        sh(shell_lines("After an interruption", device.url))
        with OrchestratorClient(device.url) as robot:  # it waits for the new worker
            assert robot.execute_task("mix_color", {**body, "mix_well": "A2"}) == "mixed in A2"
