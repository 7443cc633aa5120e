"""The client core on a scripted transport: what is sent, how often, and what its caller is told. No network."""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any

import pytest
from ot2_agent import errors
from ot2_agent.wire import Answer, Event, Request, State
from ot2_orchestrator import (
    AsyncOrchestratorClient,
    DeviceOffline,
    InvalidParameters,
    LostContact,
    MalformedRequest,
    NothingHappened,
    NotReady,
    OrchestratorClient,
    OutcomeUnknown,
    Patience,
    RunNotFound,
    Starting,
    StillRunning,
    TaskFailed,
    Unauthorized,
)
from ot2_orchestrator.flows import Flow, Pause
from ot2_orchestrator.operations import Known, Operations
from ot2_orchestrator.transports.base import NoAnswer

WHERE = "http://robot"
REQUEST = Request("run-1", "mix", {"R": 1})
REFUSED = NoAnswer("connection refused", maybe_received=False)
LOST = NoAnswer("timed out", maybe_received=True)
DROPPED = NoAnswer("server disconnected", maybe_received=True, dropped=True)

Reply = Mapping[str, Any] | BaseException


def told(state: str, run_id: str = "run-1", **more: Any) -> dict[str, Any]:
    return Answer(run_id, "mix", State(state), **more).encode()


ACCEPTED, RUNNING, SUCCEEDED = told("accepted"), told("running"), told("succeeded", result=7)


# Flows in virtual time


class Stage:
    """Plays a flow against replies; time passes only in pauses and in answers that take `seconds_per_answer`."""

    def __init__(self, *replies: Reply, seconds_per_answer: float = 0.0, **patience: float) -> None:
        self.now = 0.0
        self.asked: list[tuple[str, dict[str, Any], float]] = []
        self.pauses: list[float] = []
        self.operations = Operations(WHERE, Patience(clock=lambda: self.now, **patience))
        self._replies = list(replies)
        self._seconds = seconds_per_answer

    def play(self, flow: Flow[Any]) -> Any:
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    self.pauses.append(step.seconds)
                    self.now += step.seconds
                    step = flow.send({})
                    continue
                self.asked.append((step.op, dict(step.body), step.timeout))
                self.now += self._seconds
                reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
                step = flow.throw(reply) if isinstance(reply, BaseException) else flow.send(reply)
        except StopIteration as end:
            return end.value

    def execute(self, timeout: float | None = None) -> Answer:
        answer = self.play(self.operations.execute(Known("run-1"), REQUEST, timeout))
        assert isinstance(answer, Answer)
        return answer


def test_a_short_task_takes_one_message() -> None:
    stage = Stage(SUCCEEDED)
    assert stage.execute().result == 7
    ((op, body, timeout),) = stage.asked
    assert op == "submit"
    assert body == {"run_id": "run-1", "task": "mix", "parameters": {"R": 1}, "wait": 20.0}
    assert timeout > body["wait"]


def test_a_long_task_is_asked_for_until_it_has_ended() -> None:
    stage = Stage(RUNNING, RUNNING, RUNNING, SUCCEEDED, seconds_per_answer=20)
    assert stage.execute().result == 7
    assert [op for op, _, _ in stage.asked] == ["submit", "get", "get", "get"]
    assert not stage.pauses


def test_a_device_that_answers_too_soon_is_not_asked_in_a_tight_loop() -> None:
    stage = Stage(RUNNING, RUNNING, SUCCEEDED)
    stage.execute()
    assert stage.pauses == [0.25]


def test_the_same_id_is_sent_again_until_the_device_answers() -> None:
    stage = Stage(REFUSED, LOST, REFUSED, SUCCEEDED)
    assert stage.execute().result == 7
    assert {body["run_id"] for _, body, _ in stage.asked} == {"run-1"}
    assert len(stage.asked) == 4
    assert len(stage.pauses) == 3
    assert all(1.7 <= pause <= 2.3 for pause in stage.pauses)


def test_a_device_out_of_reach_is_offline_and_nothing_was_sent() -> None:
    stage = Stage(REFUSED)
    with pytest.raises(DeviceOffline, match=r"connection refused\. Nothing was sent") as caught:
        stage.execute()
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value, NothingHappened)
    assert caught.value.__cause__ is REFUSED
    assert 25 < stage.now <= 30


@pytest.mark.parametrize("replies", [[LOST, REFUSED], [REFUSED, LOST, REFUSED], [DROPPED, REFUSED], [LOST]])
def test_one_try_that_may_have_arrived_is_lost_contact(replies: list[Reply]) -> None:
    with pytest.raises(LostContact, match="send nothing new") as caught:
        Stage(*replies).execute()
    assert not isinstance(caught.value, NothingHappened)
    assert caught.value.run_id == "run-1"


def test_a_closed_connection_is_tried_again_at_once() -> None:
    stage = Stage(DROPPED, SUCCEEDED)
    assert stage.execute().result == 7
    assert stage.pauses == [0.0]


def test_a_device_that_starts_gets_the_same_id_again() -> None:
    stage = Stage(Starting("Not yet."), Starting("Not yet.", code="stopping"), SUCCEEDED)
    assert stage.execute().result == 7
    assert len({body["run_id"] for _, body, _ in stage.asked}) == 1


def test_a_device_that_never_comes_up_is_still_starting_and_nothing_happened() -> None:
    with pytest.raises(Starting, match="Not yet") as caught:
        Stage(Starting("Not yet.")).execute()
    assert caught.value.__cause__ is not caught.value


def test_an_unusable_journal_needs_a_person_and_is_told_at_once() -> None:
    stage = Stage(Starting("Give the command.", code="journal_unusable"))
    with pytest.raises(Starting, match="Give the command"):
        stage.execute()
    assert not stage.pauses


def test_a_final_failure_is_not_tried_again() -> None:
    stage = Stage(NoAnswer("its certificate is not trusted", maybe_received=False, final=True))
    with pytest.raises(DeviceOffline, match="certificate"):
        stage.execute()
    assert len(stage.asked) == 1


def test_a_refusal_is_raised_as_it_is() -> None:
    with pytest.raises(InvalidParameters, match="R is too large"):
        Stage(InvalidParameters("R is too large. Nothing moved.")).execute()


def test_unauthorized_proves_nothing_of_an_earlier_try() -> None:
    with pytest.raises(LostContact):
        Stage(LOST, Unauthorized("Token expired.")).execute()
    with pytest.raises(Unauthorized):
        Stage(REFUSED, Unauthorized("Token expired.")).execute()


def test_an_answer_that_cannot_be_read_is_not_nothing_happened() -> None:
    with pytest.raises(LostContact, match="not an answer of an OT-2 agent"):
        Stage({"hello": "world"}).execute()


def test_the_callers_time_ends_the_waiting() -> None:
    stage = Stage(RUNNING, seconds_per_answer=4)
    with pytest.raises(StillRunning, match="goes on") as caught:
        stage.execute(timeout=10)
    assert isinstance(caught.value, TimeoutError)
    assert [body["wait"] for _, body, _ in stage.asked] == [10, 6, 2]
    assert all(timeout <= 12 for _, _, timeout in stage.asked)
    assert {op for op, _, _ in stage.asked} == {"submit", "get"}


def test_the_callers_time_bounds_the_resending_too() -> None:
    stage = Stage(REFUSED)
    with pytest.raises(DeviceOffline):
        stage.execute(timeout=5)
    assert stage.now <= 5


def test_no_time_to_wait_still_asks_once() -> None:
    stage = Stage(SUCCEEDED)
    known = Known("run-1", sent=True, answer=Answer.decode(RUNNING))
    assert stage.play(stage.operations.wait(known, stage.operations.deadline(0))).result == 7


def test_a_device_that_dies_and_comes_back_while_we_wait_is_asked_again() -> None:
    stage = Stage(RUNNING, DROPPED, REFUSED, REFUSED, Starting("Not yet."), SUCCEEDED)
    assert stage.execute().result == 7
    assert [op for op, _, _ in stage.asked] == ["submit"] + ["get"] * 5


def test_a_run_that_can_no_longer_be_asked_for_is_lost_contact_and_tells_later() -> None:
    stage = Stage(RUNNING, REFUSED)
    known = Known("run-1")
    with pytest.raises(LostContact):
        stage.play(stage.operations.execute(known, REQUEST, None))
    later = Stage(SUCCEEDED)
    assert later.play(later.operations.wait(known, None)).result == 7


def test_a_device_that_forgot_an_accepted_run_leaves_its_outcome_unknown() -> None:
    with pytest.raises(OutcomeUnknown, match="journal was lost or replaced"):
        Stage(RUNNING, RunNotFound("Never heard of it.")).execute()


def test_a_run_that_nobody_sent_is_not_found() -> None:
    stage = Stage(RunNotFound("Never heard of it."))
    with pytest.raises(RunNotFound):
        stage.play(stage.operations.look(Known("run-9")))


@pytest.mark.parametrize("refusal", [Unauthorized("No."), NotReady("No."), MalformedRequest("No.")])
def test_a_refusal_to_tell_of_our_run_never_says_that_nothing_happened(refusal: NothingHappened) -> None:
    with pytest.raises(LostContact, match="send nothing new"):
        Stage(RUNNING, refusal).execute()
    stranger = Stage(refusal)
    with pytest.raises(type(refusal)):
        stranger.play(stranger.operations.look(Known("somebody-elses")))


def test_cancelling_is_repeated_until_the_device_has_heard_it() -> None:
    stage = Stage(REFUSED, LOST, told("cancelled"))
    assert stage.play(stage.operations.cancel(Known("run-1"), "enough")).state is State.CANCELLED
    assert stage.asked[0][1] == {"run_id": "run-1", "reason": "enough"}


def test_cancelling_a_run_that_has_ended_tells_how() -> None:
    stage = Stage(NotReady("It has ended.", code="already_ended"), SUCCEEDED)
    assert stage.play(stage.operations.cancel(Known("run-1"), None)).state is State.SUCCEEDED


def test_a_change_that_may_have_arrived_is_lost_contact_and_one_that_cannot_have_is_offline() -> None:
    for reply, expected in ((LOST, LostContact), (REFUSED, DeviceOffline)):
        stage = Stage(reply)
        with pytest.raises(expected):
            stage.play(stage.operations.change("reset", {"lock_id": "x"}))
        assert len(stage.asked) == 1


def test_a_listing_is_read_page_by_page() -> None:
    first = {"runs": [told("succeeded", f"a{n}") for n in range(100)], "next": "c1"}
    second = {"runs": [told("succeeded", f"b{n}") for n in range(20)], "next": "c2"}
    stage = Stage(first, second)
    found = stage.play(stage.operations.list_runs("succeeded", None, 120))
    assert len(found) == 120
    assert [body for _, body, _ in stage.asked] == [
        {"state": "succeeded", "limit": 100},
        {"state": "succeeded", "limit": 20, "cursor": "c1"},
    ]


def test_a_listing_of_another_server_is_offline() -> None:
    stage = Stage({"runs": [{"name": "x"}]})
    with pytest.raises(DeviceOffline):
        stage.play(stage.operations.list_runs(None, None, 5))


# Both clients on one script


class Script:
    """A transport for threads and asyncio that answers from a list; the last reply stays."""

    where = WHERE

    def __init__(self, *replies: Reply, streams: Sequence[Sequence[Event | BaseException]] = ()) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.listened: list[str | None] = []
        self.closed = False
        self._replies = list(replies)
        self._streams = list(streams)

    def call(self, op: str, body: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
        self.calls.append((op, dict(body)))
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply, BaseException):
            raise reply
        return {**reply, "run_id": body.get("run_id", "")} if "state" in reply else reply

    async def async_call(self, op: str, body: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
        return self.call(op, body, timeout)

    def events(self, run_id: str, after: str | None) -> Generator[Event, None, None]:
        self.listened.append(after)
        for event in self._streams.pop(0):
            if isinstance(event, BaseException):
                raise event
            yield event

    async def async_events(self, run_id: str, after: str | None) -> AsyncGenerator[Event, None]:
        for event in self.events(run_id, after):
            yield event

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


SOON = Patience(contact_timeout_s=0.2, resend_every_s=0.01)


class Face:
    """One of the two clients, its methods called alike."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, script: Script, job: Callable[[Any], Any], **options: Any) -> Any:
        """What `job` makes of a client; an awaitable or an async generator is run to its end."""
        if self.kind == "sync":
            with OrchestratorClient(transport=script, patience=SOON, **options) as client:
                made = job(client)
                return list(made) if inspect.isgenerator(made) else made
        return asyncio.run(self._awaited(script, job, options))

    async def _awaited(self, script: Script, job: Callable[[Any], Any], options: dict[str, Any]) -> Any:
        async with AsyncOrchestratorClient(transport=script, patience=SOON, **options) as client:
            made = job(client)
            if inspect.isasyncgen(made):
                return [item async for item in made]
            return await made if inspect.isawaitable(made) else made


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)


def test_executing_returns_the_value(face: Face) -> None:
    script = Script(SUCCEEDED)
    assert face(script, lambda robot: robot.execute_task("mix", {"R": 1}, B=2)) == 7
    assert script.calls[0][1]["parameters"] == {"R": 1, "B": 2}
    assert script.closed


def test_calling_the_client_is_executing(face: Face) -> None:
    assert face(Script(SUCCEEDED), lambda robot: robot("mix", R=1)) == 7


def test_every_call_has_an_id_of_its_own(face: Face) -> None:
    script = Script(SUCCEEDED)
    face(script, lambda robot: robot("mix", R=1))
    face(script, lambda robot: robot("mix", R=1))
    assert len({body["run_id"] for _, body in script.calls}) == 2


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("failed", errors.TaskFailed),
        ("timed_out", errors.TimedOut),
        ("cancelled", errors.Cancelled),
        ("rejected", errors.Rejected),
        ("expired", errors.Expired),
        ("not_started", errors.NotStarted),
        ("unknown", errors.OutcomeUnknown),
    ],
)
def test_each_bad_ending_raises_its_class_with_the_run(face: Face, state: str, expected: type[Exception]) -> None:
    with pytest.raises(expected) as caught:
        face(Script(told(state, error="It went wrong.")), lambda robot: robot("mix", R=1))
    assert str(caught.value) == "It went wrong."
    assert caught.value.run.id == caught.value.run_id  # type: ignore[attr-defined]
    assert caught.value.run.answer.state == state  # type: ignore[attr-defined]


def test_lost_contact_carries_the_run_that_was_sent(face: Face) -> None:
    script = Script(LOST)
    with pytest.raises(LostContact) as caught:
        face(script, lambda robot: robot("mix", R=1))
    assert caught.value.run.id == script.calls[0][1]["run_id"]
    assert caught.value.run.answer is None


def test_a_time_out_carries_the_run(face: Face) -> None:
    with pytest.raises(StillRunning) as caught:
        face(Script(RUNNING), lambda robot: robot("mix", R=1), timeout=0.01)
    assert caught.value.run.answer.state is State.RUNNING


def test_submit_returns_as_soon_as_the_run_was_accepted(face: Face) -> None:
    script = Script(ACCEPTED)
    run = face(
        script,
        lambda robot: robot.submit("mix", {"R": 1}, run_id="ink.A1", timeout_s=60, labels={"campaign": "ink"}),
    )
    ((op, body),) = script.calls
    assert op == "submit"
    assert body["wait"] == 0
    assert (body["run_id"], body["timeout_s"], body["labels"]) == ("ink.A1", 60, {"campaign": "ink"})
    assert (run.id, run.answer.state) == ("ink.A1", "accepted")


@pytest.mark.parametrize(
    "options", [{"run_id": "a/b"}, {"run_id": "x" * 65}, {"timeout_s": -1}, {"start_within_s": float("inf")}]
)
def test_options_of_no_use_are_refused_before_anything_is_sent(face: Face, options: dict[str, Any]) -> None:
    script = Script(ACCEPTED)
    with pytest.raises(MalformedRequest, match="Nothing moved"):
        face(script, lambda robot: robot.submit("mix", {}, **options))
    assert not script.calls


def test_the_same_parameter_twice_with_another_value_is_refused(face: Face) -> None:
    script = Script(SUCCEEDED)
    with pytest.raises(InvalidParameters, match=r"R was given twice to mix: 1 and 2"):
        face(script, lambda robot: robot.execute_task("mix", {"R": 1}, R=2))
    assert not script.calls
    assert face(script, lambda robot: robot.execute_task("mix", {"R": 1}, R=1)) == 7


class Colour(enum.Enum):
    RED = "red"


class Scalar:
    """As an optimiser's array library hands out numbers."""

    def tolist(self) -> float:
        return 1.5


def test_numbers_of_array_libraries_and_enums_travel_as_json(face: Face) -> None:
    script = Script(SUCCEEDED)
    face(script, lambda robot: robot("mix", R=Scalar(), colour=Colour.RED))
    assert script.calls[0][1]["parameters"] == {"R": 1.5, "colour": "red"}


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}, b"x"])
def test_what_json_cannot_say_is_refused_by_name(face: Face, value: Any) -> None:
    script = Script(SUCCEEDED)
    with pytest.raises(InvalidParameters, match=r"R of mix cannot be sent.*Nothing was sent"):
        face(script, lambda robot: robot("mix", R=value))
    assert not script.calls


def test_a_handle_has_the_manners_of_a_future(face: Face) -> None:
    script = Script(RUNNING, SUCCEEDED)
    assert face(script, lambda robot: robot.run("run-1").done()) is False
    assert face(script, lambda robot: robot.run("run-1").result(timeout=5)) == 7
    failed = Script(told("failed", error="Broken."))
    error = face(failed, lambda robot: robot.run("run-1").exception())
    assert isinstance(error, TaskFailed)
    assert error.run.id == "run-1"
    with pytest.raises(RuntimeError, match="Broken"):
        face(failed, lambda robot: robot.run("run-1").result())
    assert face(script, lambda robot: robot.run("run-1").exception()) is None


def test_state_and_progress_are_asked_for_until_the_run_has_ended(face: Face) -> None:
    script = Script(told("running", progress={"fraction": 0.5, "message": "half"}), SUCCEEDED)
    assert face(script, lambda robot: robot.run("run-1").progress) == {"fraction": 0.5, "message": "half"}
    assert face(script, lambda robot: robot.run("run-1").state) == "succeeded"
    asked = len(script.calls)
    ended = Known("run-1", answer=Answer.decode(SUCCEEDED))

    def look_again(robot: Any) -> Any:
        run = robot.run("run-1")
        run.known = ended
        return run.state

    assert face(script, look_again) == "succeeded"
    assert len(script.calls) == asked


@pytest.mark.parametrize(("state", "cancelled"), [("running", True), ("cancelled", True), ("succeeded", False)])
def test_cancel_says_whether_the_run_is_or_will_be_cancelled(face: Face, state: str, cancelled: bool) -> None:
    script = Script(told(state))
    assert face(script, lambda robot: robot.cancel("run-1", "enough")) is cancelled
    assert script.calls == [("cancel", {"run_id": "run-1", "reason": "enough"})]


def test_resolve_reset_and_startup_are_passed_on(face: Face) -> None:
    resolved = Script(told("unknown", resolution={"verdict": "partly", "by": "Ada"}))
    run = face(resolved, lambda robot: robot.resolve("run-1", "partly", by="Ada", note="half full"))
    assert run.answer.resolution["verdict"] == "partly"
    assert resolved.calls[0][1] == {"run_id": "run-1", "verdict": "partly", "by": "Ada", "note": "half full"}
    script = Script({"equipment_status": "ready"})
    assert face(script, lambda robot: robot.reset("run-1"))["equipment_status"] == "ready"
    assert face(script, lambda robot: robot.startup())["equipment_status"] == "ready"
    assert script.calls == [("reset", {"lock_id": "run-1"}), ("startup", {})]


def test_health_is_a_plain_yes_or_no(face: Face) -> None:
    for reply, healthy in (({"status": "healthy"}, True), ({"status": "ill"}, False), (REFUSED, False), (LOST, False)):
        assert face(Script(reply), lambda robot: robot.health_check()) is healthy
    assert face(Script(Unauthorized("No.")), lambda robot: robot.health_check()) is False


def test_runs_are_handles_that_know_their_state(face: Face) -> None:
    runs = face(Script({"runs": [ACCEPTED, SUCCEEDED], "next": None}), lambda robot: robot.runs(limit=5))
    assert [run.answer.state for run in runs] == ["accepted", "succeeded"]


# Events


def event(seq: int, kind: str = "progress", data: Mapping[str, Any] | None = None) -> Event:
    return Event("run-1", kind, data or {"fraction": seq / 10}, 0.0, seq, epoch=3)


END = event(9, "state", SUCCEEDED)


def test_events_go_on_behind_the_last_one_after_a_lost_connection(face: Face) -> None:
    script = Script(RUNNING, streams=[[event(1), event(2), DROPPED], [REFUSED], [event(3)], [END]])
    seen = face(script, lambda robot: robot.run("run-1").events())
    assert [item.seq for item in seen] == [1, 2, 3, 9]
    assert script.listened == [None, "3-2", "3-2", "3-3"]


def test_the_last_event_tells_the_handle_how_it_ended(face: Face) -> None:
    script = Script(RUNNING, streams=[[END]])
    kept: list[Any] = []

    def listen(robot: Any) -> Any:
        kept.append(robot.run("run-1"))
        return kept[0].events()

    face(script, listen)
    assert kept[0].answer.result == 7


def test_events_of_a_run_that_ended_meanwhile_end_too(face: Face) -> None:
    assert face(Script(SUCCEEDED, streams=[[]]), lambda robot: robot.run("run-1").events()) == []


def test_events_of_a_device_that_stays_away_are_lost_contact(face: Face) -> None:
    script = Script(RUNNING, streams=[[event(1), DROPPED], *([REFUSED] for _ in range(100))])
    with pytest.raises(LostContact) as caught:
        face(script, lambda robot: robot.run("run-1").events())
    assert caught.value.run.id == "run-1"


# Interrupted callers


def test_ctrl_c_says_that_the_run_goes_on_and_how_to_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script(RUNNING, KeyboardInterrupt())
    with OrchestratorClient(transport=script) as robot, pytest.raises(KeyboardInterrupt):
        robot("mix", R=1)
    said = capsys.readouterr().err
    run_id = script.calls[0][1]["run_id"]
    assert said.count("\n") == 1
    assert f"Run {run_id} on {WHERE} goes on" in said
    assert f"client.cancel('{run_id}')" in said
    assert "cancel" not in {op for op, _ in script.calls}


def test_ctrl_c_before_the_device_answered_does_not_claim_that_the_run_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with OrchestratorClient(transport=Script(KeyboardInterrupt())) as robot, pytest.raises(KeyboardInterrupt):
        robot("mix", R=1)
    assert "may have reached" in capsys.readouterr().err


def test_ctrl_c_while_asking_for_the_status_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with OrchestratorClient(transport=Script(KeyboardInterrupt())) as robot, pytest.raises(KeyboardInterrupt):
        robot.status()
    assert capsys.readouterr().err == ""


class Silent(Script):
    """Never answers a `get`, and says when it was asked."""

    def __init__(self) -> None:
        super().__init__(RUNNING)
        self.asked = asyncio.Event()

    async def async_call(self, op: str, body: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
        if op == "get":
            self.asked.set()
            await asyncio.Event().wait()
        return await super().async_call(op, body, timeout)


def test_a_cancelled_coroutine_does_not_cancel_the_run_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def waits_and_is_cancelled() -> Silent:
        script = Silent()
        client = AsyncOrchestratorClient(transport=script)
        waiting = asyncio.create_task(client.execute_task("mix", R=1))
        await script.asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return script

    with caplog.at_level(logging.WARNING, "ot2_orchestrator"):
        script = asyncio.run(waits_and_is_cancelled())
    assert [op for op, _ in script.calls] == ["submit"]
    assert "goes on; to end it: client.cancel(" in caplog.text


# Tasks as functions

CATALOGUE = {
    "mix": {
        "name": "mix",
        "doc": "Mix in one well.",
        "parameters": {
            "R": {"type": "float", "required": True, "unit": "uL"},
            "well": {"type": "str", "required": False, "default": "A1", "doc": "where"},
            "mode": {"type": "Mode", "required": True},
        },
    },
    "home": {"name": "home", "doc": "", "parameters": {}},
}


def test_a_task_has_its_signature_its_doc_and_its_name() -> None:
    with OrchestratorClient(transport=Script(CATALOGUE)) as robot:
        mix = robot.tasks.mix
        assert str(inspect.signature(mix)) == "(*, R: float, well: str = 'A1', mode: 'Mode')"
        assert mix.__name__ == "mix"
        assert inspect.getdoc(mix) == "Mix in one well.\n\nParameters:\n    R [uL]: float\n    well: where"
        assert {"mix", "home"} <= set(dir(robot.tasks))
        assert list(robot.tasks) == ["mix", "home"]
        assert repr(robot.tasks["home"]) == "<task home()>"


def test_a_task_runs_when_it_is_called() -> None:
    script = Script(CATALOGUE, SUCCEEDED)
    with OrchestratorClient(transport=script) as robot:
        assert robot.tasks.mix(R=1, mode="x") == 7
    assert [op for op, _ in script.calls] == ["tasks", "submit"]


def test_a_task_takes_its_parameters_by_name_only() -> None:
    script = Script(CATALOGUE)
    with OrchestratorClient(transport=script) as robot, pytest.raises(InvalidParameters, match="by name"):
        robot.tasks.mix(100)


def test_a_task_that_is_not_there_names_the_nearest() -> None:
    with OrchestratorClient(transport=Script(CATALOGUE)) as robot:
        with pytest.raises(AttributeError, match="did you mean mix"):
            robot.tasks.mixx  # the attribute is what is tested
        with pytest.raises(KeyError):
            robot.tasks["nothing"]


def test_the_tasks_of_a_device_that_is_away_or_starting_are_taken_on_trust() -> None:
    nothing: list[Reply] = [{}, REFUSED]
    for catalogue in nothing:
        with OrchestratorClient(transport=Script(catalogue, SUCCEEDED)) as robot:
            assert robot.tasks.mix(R=1) == 7


def test_completing_a_name_never_raises_and_private_names_ask_nobody() -> None:
    script = Script(REFUSED)
    with OrchestratorClient(transport=script) as robot:
        assert "mix" not in dir(robot.tasks)
        asked = len(script.calls)
        assert not hasattr(robot.tasks, "_repr_html_")
    assert len(script.calls) == asked


def test_the_asynchronous_tasks_are_awaited_and_know_their_signature_once_asked() -> None:
    async def experiment() -> None:
        async with AsyncOrchestratorClient(transport=Script(CATALOGUE, SUCCEEDED)) as robot:
            await robot.get_available_tasks()
            assert str(inspect.signature(robot.tasks.mix)).startswith("(*, R: float")
            assert await robot.tasks.mix(R=1, mode="x") == 7

    asyncio.run(experiment())


# The two faces are one


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    for one, other in ((OrchestratorClient, AsyncOrchestratorClient),):
        names = {name for name in vars(one) if not name.startswith("_")}
        assert names == {name for name in vars(other) if not name.startswith("_")}
        for name in names - {"tasks"}:
            mine, theirs = inspect.signature(getattr(one, name)), inspect.signature(getattr(other, name))
            assert list(mine.parameters.values()) == list(theirs.parameters.values()), name


def test_every_exported_name_is_there() -> None:
    import ot2_orchestrator

    assert sorted(ot2_orchestrator.__all__) == sorted(set(ot2_orchestrator.__all__))
    for name in ot2_orchestrator.__all__:
        assert hasattr(ot2_orchestrator, name), name
    ours = {cls.__name__ for cls in errors.BY_CODE.values()} | {"OT2Error", "NothingHappened", "RunFailed"}
    assert ours <= set(ot2_orchestrator.__all__)
