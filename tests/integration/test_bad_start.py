"""What keeps an agent from starting, or from taking runs: one sentence, exit code 78, nothing begun; and Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from .conftest import Agent, Home, Process, refused

# --- what keeps an agent from starting ------------------------------------------------------------------------------


def ends(process: Process, code: int, *words: str) -> str:
    """It ends by itself with this code, and says these words; no Python traceback of ours."""
    assert process.wait() == code, process.said
    for word in words:
        assert word in process.said, process.said
    return process.said


def test_a_port_that_is_taken_names_its_owner_and_the_next_step(home: Home) -> None:
    first = home.agent()
    port = first.url.rpartition(":")[2]
    process = home.serve("--port", port, "--state-dir", str(home.folder / "other"))
    said = ends(process, 78, f"Port {port}", f"process {first.process.process.pid}", "Nothing was started.", "--port")
    assert "Traceback" not in said
    assert first.submit("add", wait=30, a=1).json()["result"] == 3


BROKEN = {
    "an exception": ("x = 1\nraise RuntimeError('no such labware')\n", "tasks.py:2: RuntimeError: no such labware"),
    "a missing module": ("import not_there_at_all\n", "tasks.py:1: ModuleNotFoundError"),
    "a syntax error": ("def f(:\n    pass\n", "tasks.py:1: SyntaxError"),
    "a parameter of no JSON type": (
        "from ot2_agent import task\n\n@task\ndef f(x: complex) -> None: ...\n",
        "RegistrationError",
    ),
    "its own exit": ("import sys\nsys.exit('bye')\n", "tasks.py:2: SystemExit: bye"),
    "an error in a function far below": (
        "def a():\n    b()\ndef b():\n    1 / 0\na()\n",
        "tasks.py:4: ZeroDivisionError",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_module_that_does_not_import_ends_with_the_users_own_line_first(home: Home, name: str) -> None:
    text, line = BROKEN[name]
    said = ends(home.serve(tasks=home.write("tasks.py", text)), 78, line, "does not import")
    own = said[said.index("ot2-agent: ") :]
    assert "tasks.py" in own.splitlines()[0]
    assert "ot2_agent/worker.py" not in said
    assert "importlib" not in said
    if "Registration" not in line:
        assert "Traceback" in said or "SyntaxError" in said


def test_a_module_without_tasks_says_what_to_write(home: Home) -> None:
    said = ends(home.serve(tasks=home.write("tasks.py", "x = 1\n")), 78, "registers no task", "@task")
    assert "Traceback" not in said


def test_a_task_file_that_is_not_there(home: Home) -> None:
    ends(home.serve(tasks=home.folder / "nothing.py"), 78, "nothing.py", "Nothing was started.")
    ends(home.command("serve"), 78, "No task module", "ot2-agent serve tasks.py")


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false", "/bin/ls", "/etc/passwd", "/tmp"])
def test_an_interpreter_that_is_none_is_named(home: Home, python: str) -> None:
    said = ends(home.serve("--python", python), 78, python, "--python PY")
    assert "Traceback" not in said


def test_an_interpreter_without_opentrons_says_so_when_the_tasks_need_it(home: Home) -> None:
    tasks = "from ot2_agent import ot2, task\nprotocol = ot2.protocol_context()\n@task\ndef f() -> None: ...\n"
    said = ends(home.serve(tasks=home.write("tasks.py", tasks)), 78, "tasks.py:2", "opentrons")
    assert "--python" in said or "pip install" in said


def test_without_an_emulator_the_tasks_are_not_served_and_it_is_named(home: Home, opentrons_820: Path) -> None:
    tasks = "from ot2_agent import ot2, task\nprotocol = ot2.protocol_context()\n@task\ndef f() -> None: ...\n"
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can be there
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        path = home.write("tasks.py", tasks)
        process = home.serve("--mode", "emulated", "--emulator", address, "--python", str(opentrons_820), tasks=path)
        ends(process, 78, address, "ot2-agent emulate", "tasks.py:2")


def test_a_state_directory_that_cannot_be_written_is_named(home: Home) -> None:
    blocked = home.write("file", "")
    said = ends(home.serve("--state-dir", str(blocked / "state")), 78, str(blocked), "--state-dir DIR")
    assert "Nothing was started." in said
    assert "Traceback" not in said
    ends(home.serve("--state-dir", "/proc/nothing"), 78, "/proc/nothing", "Nothing was started.")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_state_directory_of_somebody_else_is_named(home: Home) -> None:
    home.state.mkdir(mode=0o500)
    ends(home.serve(), 78, str(home.state), "Permission denied", "Nothing was started.")


def test_a_second_agent_on_the_same_hardware_names_the_first(home: Home) -> None:
    first = home.agent()
    said = ends(home.serve(), 78, "already driven by", str(first.process.process.pid), first.url)
    assert "Nothing was started." in said
    ends(home.command("init", "--yes", "--state-dir", str(home.state)), 78, "already driven by")
    assert first.submit("add", wait=30, a=1).json()["result"] == 3


BAD_FLAGS = {
    "a host that is not loopback": (["--host", "0.0.0.0"], ("0.0.0.0", "not loopback", "ssh -L")),
    "tokens": (["--require-auth", "true"], ("require_auth", "does not have")),
    "a flag that is none": (["--prot", "8000"], ("--prot", "is not a setting")),
    "a mode that is none": (["--mode", "Real"], ("mode", "Real", "simulated")),
    "an env file that is not there": (["--env-file", "/nowhere/env"], ("/nowhere/env",)),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_a_setting_that_does_not_fit_ends_with_78_and_one_sentence(home: Home, name: str) -> None:
    flags, words = BAD_FLAGS[name]
    said = ends(home.serve(*flags), 78, *words, "Nothing was started.")
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1, said
    assert not home.state.exists()


def test_a_bad_variable_is_as_bad_as_a_bad_flag(home: Home) -> None:
    ends(home.serve(env={"OT2_AGENT_MODE": "fast"}), 78, "mode", "fast", "Nothing was started.")


# --- the journal ----------------------------------------------------------------------------------------------------


def stopped_after_one_run(home: Home) -> None:
    agent = home.agent()
    assert agent.submit("add", "the-first", wait=30, a=1).status_code == 200
    agent.process.signal(signal.SIGTERM)
    assert agent.process.wait() == 0, agent.process.said


def journal_is_refused(home: Home, *words: str) -> Agent:
    """It serves, says what is wrong everywhere, and takes no run."""
    agent = home.agent()
    refused(agent.submit("add", "another", a=1), 503, "journal_unusable", *words)
    execute = agent.http.post("/execute/add", json={"a": 1})
    assert execute.status_code == 503
    assert words[0] in execute.json()["detail"]
    status = agent.status()
    assert status["equipment_status"] == "error"
    assert "run" not in status["allowed_actions"]
    assert words[0] in status["message"]
    assert agent.http.get("/runs").json()["code"] == "journal_unusable"
    assert agent.http.get("/runs/the-first").status_code == 503
    assert agent.http.get("/runs/the-first/events").status_code == 503
    assert agent.http.post("/runs/the-first/cancel").status_code == 503
    assert agent.http.post("/control/startup").status_code == 503
    assert agent.http.get("/health").json() == {"status": "healthy"}
    assert agent.calls() == ["add 1 2"]
    agent.process.signal(signal.SIGTERM)
    assert agent.process.wait() == 0, agent.process.said
    return agent


def test_a_journal_that_is_gone_is_never_made_anew_until_a_person_says_init(home: Home) -> None:
    stopped_after_one_run(home)
    for path in home.state.glob("journal.db*"):
        path.unlink()
    journal_is_refused(home, "is gone", "ot2-agent init")
    unsure = home.command("init", "--state-dir", str(home.state))
    ends(unsure, 1, "Nothing was changed.", "ot2-agent init --yes")
    ends(home.command("init", "--yes", "--state-dir", str(home.state)), 0, "Done.")
    assert home.agent().submit("add", "the-first", wait=30, a=2).json()["result"] == 4


def test_a_damaged_journal_is_kept_and_not_used(home: Home) -> None:
    damage = b"SQLite format 3\0" + b"\xff" * 5000
    stopped_after_one_run(home)
    (home.state / "journal.db").write_bytes(damage)
    journal_is_refused(home, "damaged", "ot2-agent init")
    ends(home.command("init", "--yes", "--state-dir", str(home.state)), 0, "Done.")
    assert [path.read_bytes() for path in home.state.glob("journal.db.*.old")] == [damage]
    assert home.agent().submit("add", wait=30, a=2).json()["result"] == 4


def test_an_empty_journal_is_a_journal_that_is_gone(home: Home) -> None:
    stopped_after_one_run(home)
    for path in home.state.glob("journal.db*"):
        path.write_bytes(b"")
    journal_is_refused(home, "is gone", "ot2-agent init")


def test_a_journal_of_a_newer_release_is_left_alone(home: Home) -> None:
    stopped_after_one_run(home)
    with closing(sqlite3.connect(home.state / "journal.db")) as db:
        db.execute("PRAGMA user_version=999")
    before = (home.state / "journal.db").read_bytes()
    journal_is_refused(home, "newer release", "layout 999", "Install that release")
    assert (home.state / "journal.db").read_bytes() == before


def test_a_journal_that_is_an_older_copy_is_not_trusted(home: Home) -> None:
    stopped_after_one_run(home)
    copy = (home.state / "journal.db").read_bytes()
    agent = home.agent()
    assert agent.submit("add", "the-second", wait=30, a=5).status_code == 200
    agent.process.signal(signal.SIGTERM)
    assert agent.process.wait() == 0
    for path in home.state.glob("journal.db-*"):
        path.unlink()
    (home.state / "journal.db").write_bytes(copy)
    again = home.agent()
    refused(again.submit("add", "the-second", a=5), 503, "journal_unusable", "older copy", "ot2-agent init")
    assert again.calls("add 5") == ["add 5 2"]


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_on_an_idle_agent_ends_it_at_once(home: Home) -> None:
    agent = home.agent()
    agent.process.signal(signal.SIGINT)
    said = ends(agent.process, 0)
    assert "Traceback" not in said


def test_ctrl_c_waits_for_the_run_tells_what_waits_and_takes_nothing_new(home: Home) -> None:
    agent = home.agent()
    run_id = agent.hold()
    assert agent.submit("add", "behind", a=1).status_code == 202
    agent.process.signal(signal.SIGINT)
    agent.process.hears(f"Waiting for run {run_id}")
    refused(agent.submit("add", "too-late", a=1), 503, "stopping", "shutting down")
    behind = agent.ended("behind")
    assert (behind["state"], "Nothing moved." in behind["error"]) == ("not_started", True)
    agent.release(run_id)
    assert agent.process.wait() == 0, agent.process.said
    again = home.agent()
    assert again.ended(run_id)["state"] == "succeeded"
    assert again.ended("behind")["state"] == "not_started"
    assert again.calls("add") == []


def test_ctrl_c_twice_kills_the_run_and_says_so_afterwards(home: Home) -> None:
    agent = home.agent()
    run_id = agent.hold("stuck")
    with agent.http.stream("GET", f"/runs/{run_id}/events") as stream:
        next(stream.iter_lines())  # somebody watches
        agent.process.signal(signal.SIGINT)
        agent.process.hears("Ctrl-C again kills it")
        agent.process.signal(signal.SIGINT)
        code = agent.process.wait()
    assert code in (0, 1, 130), agent.process.said
    assert "Traceback" not in agent.process.said
    again = home.agent()
    found = again.ended(run_id)
    assert (found["state"], found["interrupted"]) in (("cancelled", True), ("unknown", True)), found
    refused(again.submit("add", a=1), 412, "not_ready", run_id)
    assert again.calls("stuck") == ["stuck"]
