"""What a task may do to its process without harming anybody else: the agent, the journal, the next run."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import PATIENCE_S, RunningAgent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the lifeline and /proc are Linux's")

HANGS = """
import ctypes, os, re, signal, time
from pathlib import Path
from ot2_agent import current_run, task

HERE = Path(__file__).parent

def here():
    (HERE / "begun").write_text(str(os.getpid()))

@task(effects="none", grace_s=0.2)
def hang(how: str) -> None:
    if how == "ignores SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        here()
        while True:
            time.sleep(60)
    if how == "holds the GIL in C":
        sleep = ctypes.PyDLL(None).sleep
        here()
        sleep(600)
    if how == "a regex without end":
        here()
        re.match(r"(a+)+$", "a" * 60 + "b")
    if how == "swallows every exception":
        here()
        while True:
            try:
                while True:
                    current_run().sleep(0.01)
            except BaseException:
                pass

@task(effects="none")
def add(a: int, b: int = 2) -> int:
    return a + b
"""
WAYS = ("ignores SIGTERM", "holds the GIL in C", "a regex without end", "swallows every exception")

ABUSE = """
import os, subprocess, sys, time
from pathlib import Path
from ot2_agent import current_run, task

HERE = Path(__file__).parent

@task(effects="none")
def add(a: int, b: int = 2) -> int:
    print("adding", a, b)
    return a + b

@task(effects="none")
def rubbish() -> int:
    os.write(1, bytes(range(256)) * 100 + b"\\n")
    sys.stdout.buffer.write(b"\\xff\\xfe\\x00\\n")
    print("after \\ud800 the rubbish")
    return 1

@task(effects="none")
def close_stdout() -> str:
    os.close(1)
    with open(HERE / "data.txt", "w") as file:
        print("into the void")
        file.write("data")
    return (HERE / "data.txt").read_text()

@task(effects="none")
def replace_stdout() -> int:
    sys.stdout.close()
    sys.stdout = sys.stderr = None
    return 2

@task(effects="none")
def fork_and_return(n: int = 1) -> int:
    return sum(os.fork() == 0 for _ in range(n)) or os.getpid()

@task(effects="none")
def fork_and_linger() -> int:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(600)
    (HERE / "child").write_text(str(pid))
    return pid

@task(effects="none")
def start_a_program() -> int:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (HERE / "child").write_text(str(child.pid))
    return child.pid

@task(effects="none")
def leave(code: int = 3) -> None:
    print("last words")
    os._exit(code)

@task(effects="consumes")
def leave_a_mess() -> None:
    os._exit(3)

@task(effects="none")
def crash() -> None:
    import ctypes
    ctypes.string_at(0)

@task(effects="none")
def flood(megabytes: int) -> int:
    block = b"x" * 65535 + b"\\n"
    for _ in range(megabytes * 16):
        os.write(1, block)
    return megabytes

@task(effects="none")
def one_long_line(megabytes: int) -> int:
    for _ in range(megabytes):
        os.write(2, b"y" * (1 << 20))
    return megabytes

@task(effects="none")
def close_everything() -> int:
    os.closerange(3, 200)
    return 1

@task(effects="none")
def scribble(text: str) -> int:
    for fd in range(3, 64):
        try:
            os.write(fd, text.encode())
        except OSError:
            pass
    return 1

@task(effects="none")
def leave_by_sys_exit() -> None:
    sys.exit(5)

@task(effects="none")
def change_folder_and_environment() -> int:
    os.chdir("/")
    os.environ.clear()
    os.umask(0o777)
    return 1

@task(effects="none")
def giant_result(megabytes: int) -> str:
    return "z" * (megabytes << 20)

@task(effects="none")
def many_logs(n: int) -> int:
    run = current_run()
    for i in range(n):
        run.log("line", i)
    return n
"""


def alive(pid: int) -> bool:
    """Whether it lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(true: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.005)


def number_in(path: Path) -> int:
    """A pid that a task wrote down, once it has."""
    wait_until(lambda: path.exists() and path.read_text() != "", f"{path.name} is written")
    return int(path.read_text())


# It dies with its agent


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[RunningAgent]:
    with RunningAgent(tmp_path, HANGS) as agent:
        yield agent


@pytest.mark.parametrize("how", WAYS)
def test_a_worker_dies_with_its_agent_whatever_it_is_doing(hanging: RunningAgent, how: str) -> None:
    hanging.call("hang", {"how": how}, run_id="stuck", wait=0)
    worker = number_in(hanging.folder / "begun")
    hanging.kill()
    wait_until(lambda: not alive(worker), "the worker died")
    hanging.start()
    told = hanging.call("hang", {"how": how}, run_id="stuck")
    assert (told["state"], told["replayed"], told["interrupted"]) == ("unknown", True, True)
    assert hanging.call("add", {"a": 1})["result"] == 3


@pytest.mark.parametrize("how", WAYS)
def test_a_worker_that_does_not_heed_a_cancel_is_killed(hanging: RunningAgent, how: str) -> None:
    hanging.call("hang", {"how": how}, run_id="stuck", wait=0)
    worker = number_in(hanging.folder / "begun")
    hanging.post("/runs/stuck/cancel")
    told = hanging.run("stuck")
    assert (told["state"], told["interrupted"]) == ("cancelled", True)
    wait_until(lambda: not alive(worker), "the worker died")
    wait_until(lambda: hanging.call("add", {"a": 1}).get("result") == 3, "the next worker serves")


# One owner


def test_a_second_agent_on_the_same_hardware_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, HANGS) as first:
        second = RunningAgent(tmp_path, HANGS)
        with pytest.raises(RuntimeError, match=f"already driven by ot2-agent, process {first.pid} at {first.url}"):
            second.start()
        assert second.stop() != 0
        assert first.call("add", {"a": 1})["result"] == 3


def test_a_lock_that_a_worker_still_holds_keeps_a_second_agent_out_until_that_worker_is_dead(tmp_path: Path) -> None:
    """The worker below unties itself from its agent; the next agent must see it dead before it starts its own."""
    cut = (
        HANGS
        + """
@task(effects="none")
def untie() -> None:
    import fcntl
    for fd in range(3, 64):
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_ASYNC)
        except OSError:
            pass
    here()
    ctypes.PyDLL(None).sleep(600)
"""
    )
    with RunningAgent(tmp_path, cut) as agent:
        agent.call("untie", run_id="loose", wait=0)
        worker = number_in(tmp_path / "begun")
        agent.kill()
        assert alive(worker)
        agent.start()
        assert not alive(worker)
        assert agent.run("loose")["state"] == "unknown"
        assert agent.worker_pid != worker


# It harms nobody


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    with RunningAgent(tmp_path_factory.mktemp("abuse"), ABUSE) as running:
        yield running


def works(agent: RunningAgent) -> None:
    """The agent takes the next run and gives its value, perhaps with a new worker."""
    assert agent.alive
    told: dict[str, Any] = {}

    def served() -> bool:
        told.clear()
        told.update(agent.call("add", {"a": 40}))
        return told.get("code") != "starting"

    wait_until(served, "a worker serves")
    assert told.get("result") == 42, told


def log_of(agent: RunningAgent, run_id: str) -> str:
    lines = agent.get(f"/runs/{run_id}/events").text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    return "\n".join(event["data"].get("text", "") for event in events if event["kind"] == "log")


def test_binary_rubbish_on_stdout_becomes_log(agent: RunningAgent) -> None:
    told = agent.call("rubbish")
    assert (told["state"], told["result"]) == ("succeeded", 1)
    assert "the rubbish" in log_of(agent, told["run_id"])
    works(agent)


def test_a_closed_stdout_is_put_back_and_the_file_that_took_its_place_is_kept_clean(agent: RunningAgent) -> None:
    told = agent.call("close_stdout")
    assert told["state"] == "succeeded"
    assert any("put back" in warning for warning in told["warnings"])
    again = agent.call("add", {"a": 1})
    assert "adding 1 2" in log_of(agent, again["run_id"])


def test_stdout_objects_that_a_task_replaced_are_there_again(agent: RunningAgent) -> None:
    assert agent.call("replace_stdout")["state"] == "succeeded"
    again = agent.call("add", {"a": 7})
    assert "adding 7 2" in log_of(agent, again["run_id"])


def test_a_forked_child_that_returns_from_the_task_does_not_speak_for_the_worker(agent: RunningAgent) -> None:
    worker = agent.worker_pid
    told = agent.call("fork_and_return", {"n": 3})
    assert (told["state"], told["result"]) == ("succeeded", worker)
    works(agent)
    assert agent.worker_pid == worker


@pytest.mark.parametrize("task", ["fork_and_linger", "start_a_program"])
def test_what_a_task_left_running_goes_with_its_worker(tmp_path: Path, task: str) -> None:
    with RunningAgent(tmp_path, ABUSE) as agent:
        assert agent.call(task)["state"] == "succeeded"
        child = number_in(tmp_path / "child")
        works(agent)
        assert alive(child)
        assert agent.call("leave")["state"] == "failed"
        wait_until(lambda: not alive(child), "the child died with its worker")
        works(agent)


def test_a_lingering_child_does_not_keep_the_next_agent_out(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, ABUSE) as agent:
        agent.call("fork_and_linger")
        child = number_in(tmp_path / "child")
        agent.kill()
        agent.start()
        works(agent)
        if alive(child):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("task", "how"), [("leave", "exit code 3"), ("crash", "SIGSEGV"), ("close_everything", "SIGKILL")]
)
def test_a_worker_that_ends_in_a_task_is_told_and_replaced(tmp_path: Path, task: str, how: str) -> None:
    with RunningAgent(tmp_path, ABUSE) as agent:
        told = agent.call(task)
        assert (told["state"], told["interrupted"]) == ("failed", True)
        assert how in told["error"]
        works(agent)


def test_a_worker_that_ends_in_a_task_with_effects_locks_the_device(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, ABUSE) as agent:
        assert agent.call("leave_a_mess", run_id="mess")["state"] == "unknown"
        assert agent.call("add", {"a": 1})["code"] == "not_ready"
        assert agent.post("/control/startup").status_code == 412
        assert agent.post("/control/reset", {"lock_id": "mess"}).status_code == 412
        assert agent.post("/runs/mess/resolve", {"verdict": "done", "by": "Ada"}).status_code == 200
        assert agent.post("/control/reset", {"lock_id": "another"}).status_code == 412
        assert agent.post("/control/reset", {"lock_id": "mess"}).status_code == 200
        assert agent.post("/control/startup").status_code == 200
        works(agent)


def test_the_last_words_of_a_worker_are_heard(agent: RunningAgent) -> None:
    told = agent.call("leave")
    assert "last words" in log_of(agent, told["run_id"])
    works(agent)


@pytest.mark.parametrize("task", ["flood", "one_long_line"])
def test_a_flood_of_output_costs_the_agent_no_memory(tmp_path: Path, task: str) -> None:
    with RunningAgent(tmp_path, ABUSE) as agent:
        works(agent)
        before = resident_mb(agent.pid)
        assert agent.call(task, {"megabytes": 200})["result"] == 200
        assert resident_mb(agent.pid) - before < 60
        works(agent)


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


@pytest.mark.parametrize(
    "text",
    ["rubbish\n", "rubbish without an end", '{"type": "outcome"}\n', "[]\n", "\x00" * 99],
    ids=["a line", "no line", "a frame", "JSON", "zeros"],
)
def test_rubbish_on_every_descriptor_ends_the_worker_and_nothing_else(tmp_path: Path, text: str) -> None:
    with RunningAgent(tmp_path, ABUSE) as agent:
        told = agent.call("scribble", {"text": text}, run_id="scribble")
        assert told["state"] in ("succeeded", "failed"), told
        works(agent)
        with pytest.raises(RuntimeError, match="already driven by"):
            RunningAgent(tmp_path, ABUSE).start()  # the lock, scribbled over, still locks


def test_sys_exit_in_a_task_fails_the_task_alone(agent: RunningAgent) -> None:
    worker = agent.worker_pid
    assert agent.call("leave_by_sys_exit")["state"] == "failed"
    works(agent)
    assert agent.worker_pid == worker


def test_a_task_that_changes_its_folder_environment_and_umask_harms_nobody(tmp_path: Path) -> None:
    with RunningAgent(tmp_path, ABUSE) as agent:
        assert agent.call("change_folder_and_environment")["state"] == "succeeded"
        works(agent)
        agent.call("leave")
        works(agent)


def test_a_giant_result_is_delivered_or_cut_with_a_warning(agent: RunningAgent) -> None:
    assert len(agent.call("giant_result", {"megabytes": 3})["result"]) == 3 << 20
    cut = agent.call("giant_result", {"megabytes": 300})
    assert (cut["state"], len(cut["result"]), len(cut["warnings"])) == ("succeeded", 10_000, 1)
    works(agent)


def test_many_log_lines_stay_within_what_is_kept(agent: RunningAgent) -> None:
    told = agent.call("many_logs", {"n": 50_000})
    assert told["result"] == 50_000
    assert "line 49999" in log_of(agent, told["run_id"])
    works(agent)
