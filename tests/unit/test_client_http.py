"""The client over real sockets: a small device on the wire contract, with every mishap that a network has in store."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ot2_agent.errors import OT2Error, QueueFull, TaskNotFound
from ot2_agent.wire import Answer, Event, State
from ot2_orchestrator import (
    AsyncOrchestratorClient,
    DeviceOffline,
    LostContact,
    OrchestratorClient,
    Patience,
    Starting,
    StillRunning,
    create_client,
)

SOON = Patience(contact_timeout_s=0.5, resend_every_s=0.02, answer_within_s=5.0, slice_s=0.2)
PAGE = b"<html><body><h1>It works!</h1></body></html>"


class Device(ThreadingHTTPServer):
    """Does each run once, by its id. `mishaps` befall the next requests, one each."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.done: dict[str, Answer] = {}
        self.effects: list[str] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.mishaps: list[Callable[[Handler], bool]] = []
        self.ends = True
        self.dead = False
        self.streams: list[tuple[list[Event], bool]] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def run(self, run_id: str, task: str) -> Answer:
        if run_id not in self.done:
            self.effects.append(run_id)
            state = State.SUCCEEDED if self.ends else State.RUNNING
            self.done[run_id] = Answer(run_id, task, state, result=7 if self.ends else None)
        return self.done[run_id]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Device

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def serve(self) -> None:
        if self.server.dead:
            self.reset()
            return
        if self.server.mishaps and self.server.mishaps.pop(0)(self):
            return
        self.work()
        path, _, _ = self.path.partition("?")
        if path.endswith("/events"):
            self.stream()
        elif path == "/tasks":
            self.tell(200, {"mix": {"name": "mix", "doc": "", "parameters": {}}})
        elif path == "/health":
            self.tell(200, {"status": "healthy"})
        elif path.startswith("/runs/") and path.split("/")[2] not in self.server.done:
            self.problem(404, "run_not_found", "Never heard of it.")
        elif path == "/runs":
            self.tell(200, {"runs": [answer.encode() for answer in self.server.done.values()], "next": None})
        elif self.answer is not None:
            self.tell(200 if self.answer.ended else 202, self.answer.encode())
        else:
            self.tell(200, {"equipment_status": "ready"})

    def work(self) -> None:
        """Read the request and do what it asks for."""
        self.answer: Answer | None = None
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        parts = self.path.partition("?")[0].split("/")
        if self.command == "POST" and parts[1] == "tasks":
            self.answer = self.server.run(self.headers["Idempotency-Key"], parts[2])
        elif parts[1] == "runs" and len(parts) > 2:
            self.answer = self.server.done.get(parts[2])

    def stream(self) -> None:
        events, whole = self.server.streams.pop(0)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b": keep-alive\n\n")
        for event in events:
            data = json.dumps(event.encode())
            self.wfile.write(f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode())
        self.close_connection = True
        if not whole:
            self.reset()

    def tell(self, status: int, body: Any, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def problem(self, status: int, code: str, detail: str, **more: Any) -> None:
        self.tell(status, {"code": code, "detail": detail, **more}, "application/problem+json")

    def reset(self) -> None:
        """Drop the connection as a crash does, without a word."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()
        self.rfile = self.wfile = open("/dev/null", "w+b")

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


# Mishaps


def dropped_before_it_was_read(handler: Handler) -> bool:
    handler.reset()
    return True


def dropped_after_the_effect(handler: Handler) -> bool:
    handler.work()
    handler.reset()
    return True


def dropped_in_the_middle_of_the_answer(handler: Handler) -> bool:
    handler.work()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"run_id"')
    handler.reset()
    return True


def closed_without_an_answer(handler: Handler) -> bool:
    handler.work()
    handler.close_connection = True
    return True


def still_starting(handler: Handler) -> bool:
    handler.rfile.read(int(handler.headers.get("content-length", 0)))
    handler.problem(503, "starting", "The device is starting. Nothing was recorded.")
    return True


def page(status: int, kind: str = "text/html") -> Callable[[Handler], bool]:
    def answer(handler: Handler) -> bool:
        handler.rfile.read(int(handler.headers.get("content-length", 0)))
        handler.tell(status, PAGE, kind)
        return True

    return answer


MISHAPS = [
    dropped_before_it_was_read,
    dropped_after_the_effect,
    dropped_in_the_middle_of_the_answer,
    closed_without_an_answer,
    still_starting,
    page(502),
]


# Fixtures


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.stop()


class Face:
    """One of the two clients, its methods called alike."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, url: str, *jobs: Callable[[Any], Any], **options: Any) -> Any:
        """What the last of `jobs` makes of one client; awaitables and generators are run to their end."""
        options.setdefault("patience", SOON)
        if self.kind == "sync":
            with OrchestratorClient(url, **options) as client:
                made = [job(client) for job in jobs][-1]
                return list(made) if inspect.isgenerator(made) else made
        return asyncio.run(self._awaited(url, jobs, options))

    async def _awaited(self, url: str, jobs: tuple[Callable[[Any], Any], ...], options: dict[str, Any]) -> Any:
        made: Any = None
        async with AsyncOrchestratorClient(url, **options) as client:
            for job in jobs:
                made = job(client)
                if inspect.isasyncgen(made):
                    made = [item async for item in made]
                elif inspect.isawaitable(made):
                    made = await made
        return made


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mix(robot: Any) -> Any:
    return robot.execute_task("mix", R=1)


# What is sent


def test_a_call_is_one_request_with_its_id_and_the_parameters_as_body(device: Device, face: Face) -> None:
    assert face(device.url, mix, auth_token="secret") == 7
    ((method, path, headers, body),) = device.requests
    assert (method, path) == ("POST", "/tasks/mix/runs?wait=0.2")
    assert json.loads(body) == {"R": 1}
    assert headers["Idempotency-Key"] == device.effects[0]
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/json"


def test_options_travel_as_headers(device: Device, face: Face) -> None:
    face(
        device.url,
        lambda robot: robot.submit(
            "mix", {"R": 1}, run_id="ink:A1", timeout_s=60, start_within_s=5, labels={"who": "Zoë"}
        ),
    )
    ((_, path, headers, _),) = device.requests
    assert path == "/tasks/mix/runs?wait=0.0"
    assert headers["Idempotency-Key"] == "ink:A1"
    assert (float(headers["OT2-Timeout-S"]), float(headers["OT2-Start-Within-S"])) == (60, 5)
    assert json.loads(headers["OT2-Labels"]) == {"who": "Zoë"}


def test_connections_are_reused(device: Device, face: Face) -> None:
    face(device.url, mix, mix, mix, lambda robot: robot.status())
    assert len(device.requests) == 4
    assert device.connections == 1


def test_a_base_url_may_have_a_path(device: Device) -> None:
    with create_client(device.url + "/robots/", patience=SOON) as robot:
        robot.status()
    assert device.requests[0][1] == "/robots/status"


def test_a_task_name_cannot_leave_its_place_in_the_path(device: Device, face: Face) -> None:
    face(device.url, lambda robot: robot.submit("a/../b?c", {}))
    assert device.requests[0][1].startswith("/tasks/a%2F..%2Fb%3Fc/runs?")


def test_the_routes_of_everything_else(device: Device, face: Face) -> None:
    device.run("r1", "mix")
    face(
        device.url,
        lambda robot: robot.cancel("r1", "enough"),
        lambda robot: robot.resolve("r1", "done", by="Ada"),
        lambda robot: robot.runs(state="succeeded", limit=3),
        lambda robot: robot.reset("r1"),
        lambda robot: robot.startup(),
        lambda robot: robot.get_available_tasks(),
        lambda robot: robot.health_check(),
        lambda robot: robot.run("r1").state,
    )
    assert [(method, path, json.loads(body or b"null")) for method, path, _, body in device.requests] == [
        ("POST", "/runs/r1/cancel", {"reason": "enough"}),
        ("POST", "/runs/r1/resolve", {"verdict": "done", "by": "Ada"}),
        ("GET", "/runs?state=succeeded&limit=3", None),
        ("POST", "/control/reset", {"lock_id": "r1"}),
        ("POST", "/control/startup", {}),
        ("GET", "/tasks", None),
        ("GET", "/health", None),
        ("GET", "/runs/r1?wait=0.0", None),
    ]


# What is told


def test_a_problem_becomes_the_exception_of_its_code(device: Device, face: Face) -> None:
    def full(handler: Handler) -> bool:
        handler.work()
        handler.problem(429, "queue_full", "The queue is full. Nothing moved.", run_id="r1", details={"places": 4})
        return True

    device.mishaps = [full]
    with pytest.raises(QueueFull, match="Nothing moved") as caught:
        face(device.url, mix)
    assert (caught.value.run_id, caught.value.details) == ("r1", {"places": 4})


def test_a_code_of_a_newer_device_is_a_plain_error(device: Device, face: Face) -> None:
    def strange(handler: Handler) -> bool:
        handler.work()
        handler.problem(418, "is_a_teapot", "Short and stout.")
        return True

    device.mishaps = [strange]
    with pytest.raises(OT2Error, match="Short and stout") as caught:
        face(device.url, mix)
    assert type(caught.value) is OT2Error


# What goes wrong on the way


@pytest.mark.parametrize("mishap", MISHAPS)
def test_whatever_happens_to_the_first_try_the_effect_happens_once(
    device: Device, face: Face, mishap: Callable[[Handler], bool]
) -> None:
    device.mishaps = [mishap, mishap]
    assert face(device.url, mix) == 7
    assert len(device.effects) == 1
    assert {headers["Idempotency-Key"] for _, _, headers, _ in device.requests} == set(device.effects)


def test_a_connection_that_the_server_closed_while_idle_is_replaced_without_a_word(device: Device, face: Face) -> None:
    face(device.url, mix, lambda _: setattr(device, "mishaps", [dropped_before_it_was_read]), mix)
    assert len(device.effects) == 2
    device.mishaps = []
    face(
        device.url,
        lambda robot: robot.status(),
        lambda _: setattr(device, "mishaps", [dropped_before_it_was_read]),
        lambda robot: robot.status(),
    )


def test_an_answer_that_never_comes_through_is_lost_contact(device: Device, face: Face) -> None:
    device.mishaps = [dropped_after_the_effect] * 1000
    with pytest.raises(LostContact) as caught:
        face(device.url, mix)
    assert device.effects == [caught.value.run_id]


def test_a_lost_run_tells_its_result_once_the_network_is_back(device: Device) -> None:
    device.mishaps = [dropped_after_the_effect] * 1000
    with OrchestratorClient(device.url, patience=SOON) as robot:
        with pytest.raises(LostContact) as caught:
            mix(robot)
        device.mishaps = []
        assert caught.value.run.result() == 7
    assert len(device.effects) == 1


def test_a_port_where_nobody_listens_is_offline_and_nothing_was_sent(face: Face, free_port: int) -> None:
    with pytest.raises(DeviceOffline, match="Nothing was sent") as caught:
        face(f"http://127.0.0.1:{free_port}", mix)
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__cause__ is not None
    assert type(caught.value.__cause__.__cause__).__module__.startswith("httpx")
    assert face(f"http://127.0.0.1:{free_port}", lambda robot: robot.health_check()) is False


def test_a_device_that_comes_up_while_we_try_gets_the_run(face: Face, free_port: int) -> None:
    up: list[Device] = []
    starting = threading.Timer(0.1, lambda: up.append(Device(free_port)))
    starting.start()
    patient = Patience(contact_timeout_s=20, resend_every_s=0.02)
    try:
        assert face(f"http://127.0.0.1:{free_port}", mix, patience=patient) == 7
    finally:
        starting.join()
        up[0].stop()
    assert len(up[0].effects) == 1


def test_a_device_that_dies_while_we_wait_and_comes_back_tells_the_result(face: Face) -> None:
    first = Device()
    first.ends = False
    port = first.server_address[1]
    second: list[Device] = []

    def die_and_come_back(handler: Handler) -> bool:
        first.dead = True
        handler.reset()
        threading.Thread(target=come_back).start()
        return True

    def come_back() -> None:
        first.stop()
        device = Device(port)
        device.done = {run_id: Answer(run_id, "mix", State.SUCCEEDED, result=7) for run_id in first.effects}
        second.append(device)

    first.mishaps = [lambda _: False, lambda _: False, die_and_come_back]
    patient = Patience(contact_timeout_s=20, resend_every_s=0.02, slice_s=0.05)
    try:
        assert face(f"http://127.0.0.1:{port}", mix, patience=patient) == 7
    finally:
        second[0].stop()
    assert not second[0].effects
    assert {method for method, *_ in second[0].requests} == {"GET"}


def test_a_device_that_only_ever_starts_says_so(device: Device, face: Face) -> None:
    device.mishaps = [still_starting] * 1000
    with pytest.raises(Starting, match="Nothing was recorded"):
        face(device.url, mix)


def test_a_time_out_ends_the_waiting(device: Device, face: Face) -> None:
    device.ends = False
    with pytest.raises(StillRunning) as caught:
        face(device.url, mix, timeout=0.05)
    assert caught.value.run.answer.state == "running"


def test_a_server_that_accepts_and_never_answers_is_lost_contact(face: Face) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        brief = Patience(contact_timeout_s=0.1, resend_every_s=0.02, answer_within_s=0.1, slice_s=0.1)
        with pytest.raises(LostContact):
            face(url, mix, patience=brief)


# Others who answer at that address


@pytest.mark.parametrize("status", [404, 403, 301])
def test_a_web_page_that_refuses_is_no_agent_and_nothing_was_sent_to_one(
    device: Device, face: Face, status: int
) -> None:
    device.mishaps = [page(status)] * 10
    with pytest.raises(DeviceOffline, match=rf"not an OT-2 agent.*status {status}.*It works!.*check the address"):
        face(device.url, mix)
    assert len(device.mishaps) == 9


def test_a_web_page_that_seems_pleased_leaves_it_open_what_happened(device: Device, face: Face) -> None:
    device.mishaps = [page(200)]
    with pytest.raises(LostContact, match="not an OT-2 agent"):
        face(device.url, mix)


def test_a_gateway_that_stays_broken_leaves_it_open_what_happened(device: Device, face: Face) -> None:
    device.mishaps = [page(502)] * 1000
    with pytest.raises(LostContact, match="status 502"):
        face(device.url, mix)


def test_the_json_of_another_server_is_no_answer(device: Device, face: Face) -> None:
    def other(handler: Handler) -> bool:
        handler.rfile.read(int(handler.headers.get("content-length", 0)))
        handler.tell(404, {"detail": "Not Found"})
        return True

    device.mishaps = [other]
    with pytest.raises(DeviceOffline, match="not an OT-2 agent"):
        face(device.url, mix)


def test_a_page_in_place_of_the_status_is_offline(device: Device, face: Face) -> None:
    device.mishaps = [page(200)]
    with pytest.raises(DeviceOffline, match="Nothing was changed"):
        face(device.url, lambda robot: robot.status())
    device.mishaps = [page(200)]
    assert face(device.url, lambda robot: robot.health_check()) is False


# Events


def test_events_go_on_behind_the_last_one_after_a_dropped_stream(device: Device, face: Face) -> None:
    answer = device.run("r1", "mix")
    device.done["r1"] = Answer("r1", "mix", State.RUNNING)
    progress = [Event("r1", "progress", {"fraction": n / 4, "message": "a\u2028b"}, 1.0, n, 5) for n in (1, 2)]
    end = Event("r1", "state", answer.encode(), 2.0, 3, 5)
    device.streams = [(progress, False), ([], True), ([end], True)]
    seen = face(device.url, lambda robot: robot.run("r1").events())
    assert [event.seq for event in seen][-1] == 3
    assert {event.seq for event in seen} <= {1, 2, 3}
    streams = [headers for _, path, headers, _ in device.requests if path.endswith("/events")]
    assert streams[0]["Accept"] == "text/event-stream"
    assert "Last-Event-ID" not in {name.title() for name in streams[0]}


def test_a_resumed_stream_names_the_last_event(device: Device, face: Face) -> None:
    answer = device.run("r1", "mix")
    device.done["r1"] = Answer("r1", "mix", State.RUNNING)
    first = Event("r1", "log", {"text": "hello"}, 1.0, 1, 5)
    device.streams = [([first], True), ([Event("r1", "state", answer.encode(), 2.0, 2, 5)], True)]
    seen = face(device.url, lambda robot: robot.run("r1").events())
    assert [event.seq for event in seen] == [1, 2]
    streams = [headers for _, path, headers, _ in device.requests if path.endswith("/events")]
    assert [headers.get("Last-Event-ID") for headers in streams] == [None, "5-1"]


def test_events_of_an_unknown_run_are_a_problem(device: Device, face: Face) -> None:
    def unknown(handler: Handler) -> bool:
        handler.problem(404, "run_not_found", "Never heard of it.")
        return True

    device.mishaps = [unknown]
    with pytest.raises(LookupError, match="Never heard"):
        face(device.url, lambda robot: robot.run("r1").events())


def test_a_reader_that_stops_early_lets_go_of_its_connection(device: Device) -> None:
    device.done["r1"] = Answer("r1", "mix", State.RUNNING)
    device.streams = [([Event("r1", "log", {"text": "hello"}, 1.0, 1, 5)], True)]
    with OrchestratorClient(device.url, patience=SOON) as robot:
        events = robot.run("r1").events()
        assert next(events).data == {"text": "hello"}
        events.close()


# One client in several places


def test_one_client_serves_several_threads(device: Device) -> None:
    results: list[Any] = []
    with OrchestratorClient(device.url, patience=SOON) as robot:
        threads = [threading.Thread(target=lambda: results.append(mix(robot))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [7] * 8
    assert len(set(device.effects)) == 8


def test_one_asynchronous_client_serves_one_loop_after_the_other(device: Device) -> None:
    robot = AsyncOrchestratorClient(device.url, patience=SOON)

    async def once(*, last: bool) -> Any:
        value = await mix(robot)
        if last:
            await robot.close()
        return value

    async def closing() -> list[Any]:
        async with robot:
            return list(await asyncio.gather(*(mix(robot) for _ in range(5))))

    assert asyncio.run(closing()) == [7] * 5
    assert asyncio.run(once(last=True)) == 7
    assert len(set(device.effects)) == 6


# Bad addresses


@pytest.mark.parametrize("client", [OrchestratorClient, AsyncOrchestratorClient])
@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://robot", "http://", "http://a b:x", "/tmp/socket"])
def test_an_address_that_is_none_is_refused_with_an_example(client: Any, url: str) -> None:
    with pytest.raises(ValueError, match=r"is not a URL like http://localhost:8000"):
        client(url)


def test_secrets_do_not_belong_into_the_address() -> None:
    with pytest.raises(ValueError, match="auth_token"):
        OrchestratorClient("http://user:secret@localhost")
    with pytest.raises(ValueError, match="one word"):
        OrchestratorClient("http://localhost", auth_token="two words")


def test_a_ca_file_that_is_not_there_is_named(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.pem"):
        OrchestratorClient("https://localhost", ca_file=str(tmp_path / "nowhere.pem"))


def test_a_task_that_the_device_does_not_have_is_a_value_error(device: Device, face: Face) -> None:
    def unknown(handler: Handler) -> bool:
        handler.work()
        handler.problem(404, "task_not_found", "No task mix (did you mean mixx?). Nothing moved.")
        return True

    device.mishaps = [unknown]
    with pytest.raises(ValueError, match="did you mean") as caught:
        face(device.url, mix)
    assert isinstance(caught.value, TaskNotFound)
