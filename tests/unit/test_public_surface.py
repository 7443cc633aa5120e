"""The public names of both packages, and how they are called. What is taken away or renamed here breaks somebody."""

from __future__ import annotations

import importlib
import importlib.resources
import inspect
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import ot2_agent
import ot2_orchestrator
import pytest
from ot2_agent import DeviceServer, Param, Run, create_server, current_run, errors, mqtt_task, ot2, task, wire
from ot2_orchestrator import AsyncOrchestratorClient, AsyncRun, OrchestratorClient, create_client, loopback

ERRORS = """
    Cancelled Claimed DeviceOffline DiskLow Expired InvalidParameters LostContact MalformedRequest NothingHappened
    NotReady NotStarted NotSupported OT2Error OutcomeUnknown QueueFull Rejected RunConflict RunFailed RunNotFound
    Starting StillRunning TaskFailed TaskNotFound TimedOut Unauthorized
"""

NAMES = {
    "ot2_agent": """
        CancelRequested DeviceServer Param Refuse RegistrationError Run create_server current_run mqtt_task ot2 task
    """,
    "ot2_orchestrator": f"""
        {ERRORS} Answer AsyncOrchestratorClient AsyncRun AsyncTransport Event LoopbackTransport OrchestratorClient
        Patience Run State Transport create_client loopback
    """,
    "ot2_agent.ot2": "HardwareError Mode Well96 close commands_sent mode protocol_context versions",
}


@pytest.mark.parametrize("module", NAMES)
def test_a_package_has_these_names_and_no_others(module: str) -> None:
    package = importlib.import_module(module)
    assert sorted(package.__all__) == sorted(NAMES[module].split())
    for name in package.__all__:
        assert getattr(package, name) is not None, name


@pytest.mark.parametrize("package", [ot2_agent, ot2_orchestrator])
def test_everything_public_says_what_it_is(package: ModuleType) -> None:
    for name in package.__all__:
        thing = getattr(package, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name


def test_both_packages_tell_their_version() -> None:
    assert ot2_agent.__version__ == ot2_orchestrator.__version__
    assert ot2_agent.__version__.count(".") == 2


@pytest.mark.parametrize("module", ["ot2_agent", "ot2_orchestrator"])
def test_a_package_is_typed(module: str) -> None:
    package = importlib.import_module(module)
    assert (importlib.resources.files(package) / "py.typed").is_file()


# --- how they are called --------------------------------------------------------------------------------------------

SUBMIT = "task, parameters, *, run_id, timeout_s, start_within_s, labels"
METHODS = {
    "execute_task": "task_name, parameters, **kwargs",
    "submit": SUBMIT,
    "get_available_tasks": "",
    "status": "",
    "health_check": "",
    "run": "run_id",
    "runs": "*, state, task, limit",
    "cancel": "run_id, reason",
    "resolve": "run_id, verdict, *, by, note",
    "reset": "lock_id",
    "startup": "",
    "close": "",
}
RUN = {
    "refresh": "",
    "done": "",
    "result": "timeout",
    "exception": "timeout",
    "cancel": "reason",
    "events": "after",
}
CLIENT = "base_url, auth_token, timeout, *, ca_file, transport, patience"


def called(function: Callable[..., Any]) -> str:
    """A signature by names alone: `a, b, *, c, **kwargs`."""
    made: list[str] = []
    star: dict[Any, str] = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
    keyword_only = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword_only:
            made.append("*")
            keyword_only = True
        if parameter.name != "self":
            made.append(star.get(parameter.kind, "") + parameter.name)
    return ", ".join(made)


def public(kind: type[Any]) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


@pytest.mark.parametrize("kind", [OrchestratorClient, AsyncOrchestratorClient])
def test_both_clients_have_these_methods(kind: type[Any]) -> None:
    assert called(kind) == CLIENT
    assert public(kind) == {*METHODS, "tasks"}
    assert {name: called(getattr(kind, name)) for name in METHODS} == METHODS
    assert called(kind.__call__) == METHODS["execute_task"]


@pytest.mark.parametrize("kind", [ot2_orchestrator.Run, AsyncRun])
def test_both_runs_have_these_methods(kind: type[Any]) -> None:
    assert public(kind) == {*RUN, "state", "progress"}
    assert {name: called(getattr(kind, name)) for name in RUN} == RUN


def test_the_async_client_is_the_sync_one_awaited() -> None:
    for sync, awaited in ((OrchestratorClient, AsyncOrchestratorClient), (ot2_orchestrator.Run, AsyncRun)):
        assert public(sync) == public(awaited)
        for name in public(sync):
            if inspect.isfunction(getattr(sync, name)):
                assert called(getattr(sync, name)) == called(getattr(awaited, name)), name


def test_the_functions_of_the_orchestrator() -> None:
    assert called(create_client) == "base_url, **kwargs"
    assert called(loopback) == "tasks, **kwargs"


def test_the_task_authors_half() -> None:
    assert called(DeviceServer) == "title, description, version, host, port, require_auth, *, device_id, state_dir"
    assert public(DeviceServer) == {"run", "start", "get_app", "app"}
    assert called(create_server) == "**kwargs"
    assert called(task) == "name, *, effects, timeout_s, grace_s"
    assert mqtt_task is task
    limits = "ge, gt, le, lt, multiple_of, min_length, max_length, pattern, unit, doc"
    assert called(Param) == f"*, {limits}"
    assert called(current_run) == ""
    methods = {
        "progress": "fraction, message",
        "value": "name, value, unit",
        "log": "*parts, *, level",
        "checkpoint": "",
        "sleep": "seconds",
    }
    assert {name: called(getattr(Run, name)) for name in methods} == methods
    assert public(Run) == {*methods, "id", "task", "mode", "deadline", "cancelled"}
    assert next(iter(inspect.signature(ot2.protocol_context).parameters)) == "api_level"


# --- the error tree -------------------------------------------------------------------------------------------------

CODES = {
    "device_offline": ("DeviceOffline", 503, ConnectionError),
    "unauthorized": ("Unauthorized", 401, PermissionError),
    "forbidden": ("Unauthorized", 403, PermissionError),
    "malformed": ("MalformedRequest", 400, ValueError),
    "unsupported_version": ("MalformedRequest", 400, ValueError),
    "too_large": ("MalformedRequest", 413, ValueError),
    "task_not_found": ("TaskNotFound", 404, ValueError),
    "run_not_found": ("RunNotFound", 404, LookupError),
    "invalid_parameters": ("InvalidParameters", 422, ValueError),
    "not_supported": ("NotSupported", 422, Exception),
    "rejected": ("Rejected", 400, ValueError),
    "claimed": ("Claimed", 423, Exception),
    "not_ready": ("NotReady", 412, Exception),
    "already_ended": ("NotReady", 412, Exception),
    "queue_full": ("QueueFull", 429, Exception),
    "expired": ("Expired", 412, Exception),
    "clock_unset": ("Expired", 412, Exception),
    "not_started": ("NotStarted", 412, Exception),
    "run_conflict": ("RunConflict", 409, Exception),
    "disk_low": ("DiskLow", 507, Exception),
    "starting": ("Starting", 503, Exception),
    "stopping": ("Starting", 503, Exception),
    "journal_unusable": ("Starting", 503, Exception),
    "lost_contact": ("LostContact", 503, ConnectionError),
    "still_running": ("StillRunning", 504, TimeoutError),
    "task_failed": ("TaskFailed", 500, RuntimeError),
    "timed_out": ("TimedOut", 500, RuntimeError),
    "cancelled": ("Cancelled", 500, RuntimeError),
    "outcome_unknown": ("OutcomeUnknown", 500, Exception),
}
ANSWERS = ("NothingHappened", "LostContact", "StillRunning", "RunFailed", "OutcomeUnknown")
"""Each error is below exactly one of these: may I send it again?"""


def test_the_codes_of_the_wire_their_status_and_their_exception() -> None:
    found = {code: (cls.__name__, cls.codes[code]) for code, cls in errors.BY_CODE.items()}
    assert found == {code: (name, status) for code, (name, status, _) in CODES.items()}
    for code, (name, _, builtin) in CODES.items():
        exc = errors.from_code(code, "a sentence", run_id="r", details={"field": "R"})
        assert isinstance(exc, (getattr(errors, name), builtin))
        assert isinstance(exc, builtin)
        assert (exc.code, exc.message, exc.run_id, exc.details) == (code, "a sentence", "r", {"field": "R"})


def test_every_error_answers_whether_it_may_be_sent_again() -> None:
    answers = tuple(getattr(errors, name) for name in ANSWERS)
    for cls in errors.BY_CODE.values():
        assert sum(issubclass(cls, answer) for answer in answers) == 1, cls


def test_a_code_of_a_newer_device_is_still_an_error() -> None:
    exc = errors.from_code("brand_new", "a sentence")
    assert type(exc) is errors.OT2Error
    assert (exc.code, exc.http_status) == ("brand_new", 500)


def test_the_states_of_the_wire() -> None:
    states = "accepted running waiting succeeded failed cancelled timed_out rejected expired not_started unknown"
    assert [state.value for state in wire.State] == states.split()
    assert [state.value for state in wire.State if not state.ended] == ["accepted", "running", "waiting"]
    assert wire.WIRE_VERSION == "1.0"


def test_the_fields_of_an_answer_on_the_wire() -> None:
    always = """
        run_id request_id device_id task parameters state warnings interrupted replayed progress submitted_at
        started_at finished_at timestamp duration_s resolution sender labels mode epoch seq
    """
    ended = "status result error error_code error_details"
    running = wire.Answer("r", "t", wire.State.RUNNING).encode()
    assert sorted(running) == sorted(always.split())
    assert sorted(wire.Answer("r", "t", wire.State.FAILED).encode()) == sorted([*always.split(), *ended.split()])


def test_the_commands_of_both_packages_answer_for_themselves() -> None:
    said = subprocess.run([sys.executable, "-m", "ot2_agent", "--help"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    for command in ("serve", "check", "healthcheck", "emulate", "runs", "init"):
        assert command in said.stdout
    assert "SUPPRESS" not in said.stdout
    assert "script" not in said.stdout
