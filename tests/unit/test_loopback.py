"""The loopback device: tasks of a test's own process, with the manners of a real device."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from ot2_agent import Param, Refuse, current_run, task
from ot2_orchestrator import (
    AsyncOrchestratorClient,
    Cancelled,
    DeviceOffline,
    InvalidParameters,
    LoopbackTransport,
    NotStarted,
    NotSupported,
    OrchestratorClient,
    Rejected,
    RunConflict,
    RunNotFound,
    StillRunning,
    TaskFailed,
    TaskNotFound,
    loopback,
)

Volume = Annotated[float, Param(ge=0, le=300, unit="uL")]


class Bench:
    """What the tasks below do, and how far they may go."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.begun = threading.Event()
        self.gate = threading.Event()


bench = Bench()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    bench.__init__()  # type: ignore[misc]  # the tasks hold this very object
    yield
    bench.gate.set()


@task("loopback_mix")
def mix(R: Volume, well: str = "A1") -> dict[str, Any]:
    """Mix in one well."""
    if R > 200:
        raise Refuse("R must be at most 200 uL.")
    run = current_run()
    run.progress(0.5, "half")
    run.value("absorbance", 0.42, "AU")
    run.log("mixing", well)
    bench.done.append(well)
    return {"well": well, "run": run.id, "labels": run.labels}


@task("loopback_slow")
def slow(well: str = "A1") -> str:
    """Wait at the gate, then pass a checkpoint."""
    bench.begun.set()
    bench.gate.wait(30)
    current_run().checkpoint()
    bench.done.append(well)
    return well


@task("loopback_patient")
def patient() -> None:
    """Sleep until somebody cancels it."""
    bench.begun.set()
    current_run().sleep(30)


@task("loopback_broken")
def broken(late: bool = False) -> None:
    """Fail, or refuse too late."""
    if late:
        current_run().progress(0.1)
        raise Refuse("Too late.")
    raise OSError("the pipette fell off")


@task("loopback_later")
async def later(n: int) -> int:
    await asyncio.sleep(0)
    return n + 1


@task("loopback_odd", effects="none")
def odd() -> Any:
    return float("nan")


TASKS: list[Callable[..., Any]] = [mix, slow, patient, broken, later, odd]


@pytest.fixture
def robot() -> Iterator[OrchestratorClient]:
    with loopback(TASKS) as client:
        yield client


def test_a_task_runs_and_returns_its_value(robot: OrchestratorClient) -> None:
    made = robot.tasks.loopback_mix(R=100, well="B2")
    assert made["well"] == "B2"
    assert bench.done == ["B2"]
    assert robot("loopback_later", n=1) == 2


def test_the_catalogue_is_that_of_a_device(robot: OrchestratorClient) -> None:
    catalogue = robot.get_available_tasks()
    assert list(catalogue) == [f"loopback_{name}" for name in ("mix", "slow", "patient", "broken", "later", "odd")]
    assert catalogue["loopback_mix"]["parameters"]["R"]["unit"] == "uL"
    assert robot.health_check()
    assert robot.status()["activity"] == "idle"


def test_without_a_list_every_registered_task_is_there() -> None:
    with loopback() as robot:
        assert {"loopback_mix", "loopback_odd"} <= set(robot.get_available_tasks())


def test_a_function_that_is_no_task_is_refused() -> None:
    def plain() -> None: ...

    with pytest.raises(ValueError, match=r"plain is not a task: decorate it with @task"):
        LoopbackTransport([plain])


def test_the_same_id_runs_once(robot: OrchestratorClient) -> None:
    first = robot.submit("loopback_mix", {"R": 1}, run_id="ink.A1").result()
    again = robot.submit("loopback_mix", {"R": 1.0}, run_id="ink.A1")
    assert again.result() == first
    assert again.answer is not None
    assert again.answer.replayed
    assert bench.done == ["A1"]


def test_the_same_id_with_other_content_is_a_conflict(robot: OrchestratorClient) -> None:
    robot.submit("loopback_mix", {"R": 1}, run_id="ink.A1").result()
    with pytest.raises(RunConflict, match="Nothing moved"):
        robot.submit("loopback_mix", {"R": 2}, run_id="ink.A1")


def test_parameters_that_do_not_fit_are_refused_and_stay_refused(robot: OrchestratorClient) -> None:
    for _ in range(2):
        with pytest.raises(InvalidParameters, match="R") as caught:
            robot.submit("loopback_mix", {"R": 301}, run_id="ink.A1")
    assert caught.value.details["field"] == "R"
    assert bench.done == []


def test_a_task_that_is_not_there_is_refused(robot: OrchestratorClient) -> None:
    with pytest.raises(TaskNotFound, match="loopback_mix"):
        robot("mix", R=1)


def test_a_refusal_before_anything_moved_is_a_rejection_and_later_a_failure(robot: OrchestratorClient) -> None:
    with pytest.raises(Rejected, match="at most 200"):
        robot("loopback_mix", R=250)
    with pytest.raises(TaskFailed, match="Too late"):
        robot("loopback_broken", late=True)


def test_a_task_that_raises_tells_type_and_traceback(robot: OrchestratorClient) -> None:
    with pytest.raises(TaskFailed, match="OSError: the pipette fell off") as caught:
        robot("loopback_broken")
    assert caught.value.details["type"] == "OSError"
    assert "pipette fell off" in caught.value.details["traceback"]


def test_what_json_cannot_say_is_still_a_success(robot: OrchestratorClient, caplog: pytest.LogCaptureFixture) -> None:
    assert robot("loopback_odd") == "nan"
    assert "loopback_odd" in caplog.text


def test_events_tell_of_states_progress_values_and_logs(robot: OrchestratorClient) -> None:
    run = robot.submit("loopback_mix", {"R": 1}, labels={"campaign": "ink"})
    events = list(run.events())
    assert [event.kind for event in events] == ["state", "state", "progress", "value", "log", "state"]
    states = [event.data["state"] for event in events if event.kind == "state"]
    assert states == ["accepted", "running", "succeeded"]
    assert list(run.events(after=events[3].id)) == events[4:]
    assert run.result()["labels"] == {"campaign": "ink"}
    assert run.progress == {"fraction": 0.5, "message": "half"}


def test_runs_run_one_at_a_time_in_order(robot: OrchestratorClient) -> None:
    runs = [robot.submit("loopback_slow", {"well": well}) for well in ("A1", "A2", "A3")]
    assert bench.begun.wait(30)
    assert [run.state for run in runs] == ["running", "accepted", "accepted"]
    assert robot.status()["details"]["queue"] == [runs[1].id, runs[2].id]
    bench.gate.set()
    assert [run.result() for run in runs] == ["A1", "A2", "A3"]
    assert bench.done == ["A1", "A2", "A3"]


def test_cancel_before_start_never_runs_the_task(robot: OrchestratorClient) -> None:
    first, second = (robot.submit("loopback_slow", {"well": well}) for well in ("A1", "A2"))
    assert second.cancel()
    bench.gate.set()
    with pytest.raises(Cancelled):
        second.result()
    assert first.result() == "A1"
    assert bench.done == ["A1"]


@pytest.mark.parametrize("name", ["loopback_slow", "loopback_patient"])
def test_cancel_while_it_runs_lands_at_the_next_checkpoint(robot: OrchestratorClient, name: str) -> None:
    run = robot.submit(name)
    assert bench.begun.wait(30)
    assert run.cancel()
    bench.gate.set()
    with pytest.raises(Cancelled, match="checkpoint"):
        run.result()
    assert bench.done == []


def test_cancelling_an_id_never_heard_of_keeps_it_from_running_late(robot: OrchestratorClient) -> None:
    assert robot.cancel("late")
    with pytest.raises(Cancelled):
        robot.submit("loopback_mix", {"R": 1}, run_id="late").result()
    assert bench.done == []


def test_only_a_success_lets_the_next_one_start(robot: OrchestratorClient) -> None:
    first, second = robot.submit("loopback_slow"), robot.submit("loopback_mix", {"R": 1})
    assert bench.begun.wait(30)
    first.cancel()
    bench.gate.set()
    with pytest.raises(NotStarted, match=first.id):
        second.result()
    assert robot("loopback_mix", R=1)["well"] == "A1"


def test_a_time_out_of_the_caller_leaves_the_run_alone(robot: OrchestratorClient) -> None:
    run = robot.submit("loopback_slow")
    with pytest.raises(StillRunning):
        run.result(timeout=0.01)
    bench.gate.set()
    assert run.result() == "A1"


def test_runs_are_listed_newest_first(robot: OrchestratorClient) -> None:
    ids = [robot.submit("loopback_mix", {"R": n}).id for n in range(5)]
    assert [run.id for run in robot.runs(limit=3)] == ids[:1:-1]
    assert robot.runs(state="failed") == []
    assert len(robot.runs(task="loopback_mix")) == 5


def test_what_the_device_cannot_do_says_so(robot: OrchestratorClient) -> None:
    with pytest.raises(RunNotFound):
        robot.run("nobody").result()
    with pytest.raises(NotSupported):
        robot.resolve("nobody", "done", by="Ada")


def test_a_closed_device_is_offline() -> None:
    robot = loopback([mix])
    robot.close()
    robot.close()
    with pytest.raises(DeviceOffline, match="closed"):
        robot("loopback_mix", R=1)


def test_the_same_transport_serves_asyncio() -> None:
    async def experiment() -> list[Any]:
        async with AsyncOrchestratorClient(transport=LoopbackTransport(TASKS)) as robot:
            value = await robot.tasks.loopback_mix(R=1, well="C3")
            run = await robot.submit("loopback_slow", {"well": "C4"})
            waiting = asyncio.create_task(run.result())
            kinds = []
            async for event in run.events():
                kinds.append(event.kind)
                bench.gate.set()
            return [value["well"], await waiting, kinds, await run.state]

    assert asyncio.run(experiment()) == ["C3", "C4", ["state", "state", "state"], "succeeded"]


def test_a_waiting_coroutine_leaves_the_loop_free_and_can_be_cancelled() -> None:
    async def experiment() -> str:
        async with AsyncOrchestratorClient(transport=LoopbackTransport(TASKS)) as robot:
            run = await robot.submit("loopback_slow")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(run.result(), 0.01)
            bench.gate.set()
            return str(await run.result())

    assert asyncio.run(experiment()) == "A1"


def test_the_agents_server_is_never_imported() -> None:
    program = "import sys, ot2_orchestrator; print([name for name in sys.modules if 'ot2_agent.server' in name])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
