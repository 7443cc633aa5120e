"""The API of the kit that this one succeeds: a script written for it runs here with only its import line changed."""

from __future__ import annotations

import asyncio
import inspect
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import ot2_agent
import pytest
from ot2_agent import DeviceServer, create_server
from ot2_orchestrator import AsyncOrchestratorClient, OrchestratorClient, Patience, create_client

from .conftest import Agent, Home

ORIGINAL = """
from pathlib import Path
from ot2_agent import DeviceServer, create_server, task

def trace(what):
    with open(Path(__file__).with_name("calls"), "a") as file:
        file.write(what + chr(10))

@task
def bare(n: int) -> int:
    return n + 1

@task()
def with_parentheses(n: int) -> int:
    return n + 1

@task("positional")
def f(n: int) -> int:
    return n + 1

@task(name="keyword")
def g(n: int) -> int:
    return n + 1

@task
async def awaited(n: int) -> int:
    return n + 1

@task
def mix_color(R: int, Y: int, B: int, mix_well: str) -> str:
    \"\"\"Mix three colours.\"\"\"
    if R + Y + B > 300:
        raise ValueError("The sum of the proportions must be <= 300")
    trace(f"mix_color {R} {Y} {B} {mix_well}")
    return mix_well

@task
def get_robot_status() -> dict:
    return {"status": "idle", "position": [1, 2.5, None]}

@task
def defaults(a: int, b: float = 1.5, c: str = "x"):
    return [a, b, c]

# The decorator gives back the plain function.
assert [function(1) for function in (bare, with_parentheses, f, g)] == [2, 2, 2, 2]

server = create_server(title="Our OT-2", port=0)

if __name__ == "__main__":
    server.run(log_level="warning")
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """The script as its author starts it: `python device.py`."""
    home = Home(tmp_path_factory.mktemp("original"))
    try:
        yield started(home)
    finally:
        home.close()


def started(home: Home, text: str = ORIGINAL) -> Agent:
    process = home.python(str(home.write("device.py", text)), env={"OT2_AGENT_STATE_DIR": str(home.state)})
    return Agent(home, process, process.hears(" serves ").split(" on ")[-1].strip())


# --- the device -----------------------------------------------------------------------------------------------------


def parameters(function: Any) -> dict[str, Any]:
    return {name: item.default for name, item in inspect.signature(function).parameters.items()}


def test_the_device_server_takes_the_originals_arguments_in_their_order() -> None:
    found = parameters(DeviceServer)
    assert list(found)[:6] == ["title", "description", "version", "host", "port", "require_auth"]
    assert (found["title"], found["version"], found["require_auth"]) == ("OT-2 Device Server", "1.0.0", False)
    assert isinstance(create_server(title="x", port=1), DeviceServer)
    assert ot2_agent.mqtt_task is ot2_agent.task


def test_run_takes_what_went_to_uvicorn_and_names_what_it_does_not_take() -> None:
    with pytest.raises(TypeError, match="host, port and log_level, not workers"):
        DeviceServer().run(workers=4)


def test_every_spelling_of_the_decorator_registers_and_gives_back_the_function(original: Agent) -> None:
    for name in ("bare", "with_parentheses", "positional", "keyword", "awaited"):
        answer = original.http.post(f"/execute/{name}", json={"n": 1})
        assert (answer.status_code, answer.json()["result"]) == (200, 2), name


def test_the_root_says_what_the_original_said(original: Agent) -> None:
    root = original.http.get("/").json()
    assert root["message"] == "Our OT-2 is running"
    assert root["docs"] == "/docs"
    assert set(root["available_tasks"]) == set(original.http.get("/tasks").json())


def test_the_tasks_are_an_object_by_name_with_the_originals_fields(original: Agent) -> None:
    tasks = original.http.get("/tasks").json()
    mix = tasks["mix_color"]
    assert (mix["name"], mix["doc"], mix["is_async"]) == ("mix_color", "Mix three colours.", False)
    assert tasks["awaited"]["is_async"] is True
    assert list(mix["parameters"]) == ["R", "Y", "B", "mix_well"]
    for parameter in mix["parameters"].values():
        assert {"type", "default", "required"} <= parameter.keys()
        assert parameter["required"] is True
    optional = tasks["defaults"]["parameters"]
    assert [(p["required"], p["default"]) for p in optional.values()] == [(True, None), (False, 1.5), (False, "x")]


def test_execute_answers_with_the_four_fields_and_nothing_else(original: Agent) -> None:
    body = {"R": 100, "Y": 100, "B": 100, "mix_well": "A1"}
    answer = original.http.post("/execute/mix_color", json=body)
    assert answer.status_code == 200
    assert answer.json() == {"task_name": "mix_color", "parameters": body, "result": "A1", "status": "success"}
    status = original.http.post("/execute/get_robot_status").json()
    assert status["result"] == {"status": "idle", "position": [1, 2.5, None]}


def test_execute_of_an_unknown_task_is_404_and_lists_the_tasks(original: Agent) -> None:
    answer = original.http.post("/execute/nothing_like_it", json={})
    assert answer.status_code == 404
    assert isinstance(answer.json()["detail"], str)
    assert "mix_color" in answer.json()["detail"]
    assert "get_robot_status" in answer.json()["detail"]


@pytest.mark.parametrize("body", [{}, {"n": 1, "m": 2}, {"n": "255"}, {"n": None}])
def test_execute_with_parameters_that_do_not_bind_is_400(original: Agent, body: dict[str, Any]) -> None:
    answer = original.http.post("/execute/bare", json=body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"n": NaN}', b'{"n": 1, "n": 2}'])
def test_execute_with_a_body_that_cannot_be_read_is_400(original: Agent, body: bytes) -> None:
    answer = original.http.post("/execute/bare", content=body)
    assert answer.status_code == 400
    assert "Nothing moved." in answer.json()["detail"]


def test_execute_of_a_task_that_raises_is_500_with_its_sentence(original: Agent) -> None:
    answer = original.http.post("/execute/mix_color", json={"R": 300, "Y": 1, "B": 0, "mix_well": "A1"})
    assert answer.status_code == 500
    assert "must be <= 300" in answer.json()["detail"]
    assert isinstance(answer.json()["detail"], str)


def test_execute_of_a_task_that_refuses_is_400(agent: Agent) -> None:
    answer = agent.http.post("/execute/refuse", json={})
    assert (answer.status_code, answer.json()) == (400, {"detail": "there is no plate"})


def test_execute_blocks_until_the_task_has_ended(agent: Agent) -> None:
    """The connection is silent while the task runs, and speaks once it has ended."""
    run_id = agent.new_id()
    host, _, port = agent.url.removeprefix("http://").partition(":")
    body = b'{"name": "%s"}' % run_id.encode()
    head = f"POST /execute/idle HTTP/1.1\r\nHost: {host}\r\nIdempotency-Key: {run_id}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(head.encode() + body)
        agent.until(lambda: agent.http.get(f"/runs/{run_id}").status_code == 200)
        agent.hear(run_id, "progress")
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(30)
        agent.release(run_id)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")


def test_run_may_be_told_host_and_port(home: Home) -> None:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    text = (
        f"from ot2_agent import *\n@task\ndef f():\n    return 1\nDeviceServer().run(host='localhost', port={port})\n"
    )
    agent = started(home, text)
    assert agent.url.endswith(f":{port}")
    assert agent.http.post("/execute/f").json()["result"] == 1


def test_a_host_beyond_loopback_is_refused_with_the_way_that_works(home: Home) -> None:
    text = "from ot2_agent import *\n@task\ndef f():\n    return 1\nDeviceServer(host='0.0.0.0', port=0).run()\n"
    process = home.python(str(home.write("device.py", text)))
    assert process.wait() == 78
    assert "not loopback" in process.said
    assert "ssh -L" in process.said


def test_the_script_ends_with_ctrl_c(home: Home) -> None:
    agent = started(home)
    agent.process.signal(signal.SIGINT)
    assert agent.process.wait() == 0, agent.process.said
    assert "Traceback" not in agent.process.said


# --- in somebody else's server --------------------------------------------------------------------------------------


def under_uvicorn(home: Home, app: str, **env: str) -> Agent:
    port = ["--port", "0", "--log-level", "info"]
    process = home.python("-m", "uvicorn", app, *port, env={"OT2_AGENT_STATE_DIR": str(home.state), **env})
    url = process.hears("Uvicorn running on").split(" on ")[1].split()[0]
    made = Agent(home, process, url)
    made.until(lambda: made.status()["components"]["worker"]["state"] != "starting")
    return made


@pytest.mark.parametrize("app", ["device:server.app", "device:app"])
def test_the_application_works_in_another_server(home: Home, app: str) -> None:
    home.write("device.py", ORIGINAL + "\napp = server.get_app()\n")
    agent = under_uvicorn(home, app)
    assert agent.http.get("/").json()["message"] == "Our OT-2 is running"
    assert agent.http.post("/execute/bare", json={"n": 1}).json()["result"] == 2
    agent.process.signal(signal.SIGINT)
    agent.process.wait()
    assert "Traceback" not in agent.process.said


def test_its_worker_needs_nothing_of_the_agents_environment(home: Home, opentrons_820: Path) -> None:
    home.write("device.py", ORIGINAL + "\napp = server.get_app()\n")
    agent = under_uvicorn(home, "device:app", OT2_AGENT_WORKER_PYTHON=str(opentrons_820))
    assert agent.http.post("/execute/bare", json={"n": 1}).json()["result"] == 2
    assert agent.status()["details"]["versions"]["opentrons"] == "8.2.0"


def test_a_second_process_on_one_robot_is_refused_with_the_command_that_works(home: Home) -> None:
    home.write("device.py", ORIGINAL)
    first = under_uvicorn(home, "device:server.app")
    second = home.python(
        "-m", "uvicorn", "device:server.app", "--port", "0", env={"OT2_AGENT_STATE_DIR": str(home.state)}
    )
    assert second.wait() != 0
    assert "already driven by" in second.said
    assert "ot2-agent serve" in second.said
    assert first.http.post("/execute/bare", json={"n": 1}).json()["result"] == 2


def test_an_application_whose_tasks_do_not_work_does_not_start(home: Home) -> None:
    home.write("device.py", "from ot2_agent import DeviceServer\nserver = DeviceServer()\n")
    process = home.python("-m", "uvicorn", "device:server.app", "--port", "0")
    assert process.wait() != 0
    assert "device.py registers no task. Put @task above a function in it." in process.said


# --- the client -----------------------------------------------------------------------------------------------------

CLIENTS = [OrchestratorClient, AsyncOrchestratorClient]


class Both:
    """The one conversation through the sync or the async client."""

    def __init__(self, kind: type[Any], url: str, **more: Any) -> None:
        self.client, self._async = kind(url, **more), kind is AsyncOrchestratorClient
        self._loop = asyncio.new_event_loop() if self._async else None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return (lambda *args, **kwargs: self._finish(method(*args, **kwargs))) if callable(method) else method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._finish(self.client(*args, **kwargs))

    def _finish(self, value: Any) -> Any:
        return self._loop.run_until_complete(value) if self._loop else value

    def __enter__(self) -> Both:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish(self.client.close())
        if self._loop:
            self._loop.close()


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_client_takes_the_originals_arguments_in_their_order(kind: type[Any]) -> None:
    found = parameters(kind)
    assert list(found)[:3] == ["base_url", "auth_token", "timeout"]
    assert found["auth_token"] is None
    assert found["timeout"] is None  # on purpose: waits until the run has ended
    execute = parameters(kind.execute_task)
    assert list(execute) == ["self", "task_name", "parameters", "kwargs"]
    assert execute["parameters"] is None
    assert isinstance(create_client("http://127.0.0.1:1", timeout=5), OrchestratorClient)


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_client_returns_the_value_and_merges_dict_and_keywords(original: Agent, kind: type[Any]) -> None:
    with Both(kind, original.url) as client:
        assert client.execute_task("mix_color", {"R": 1, "Y": 2}, B=3, mix_well="B2") == "B2"
        assert client.execute_task("defaults", a=1) == [1, 1.5, "x"]
        assert client("bare", n=1) == 2
        assert client("bare", {"n": 2}) == 3
        assert client.execute_task("get_robot_status") == {"status": "idle", "position": [1, 2.5, None]}
        assert client.get_available_tasks() == original.http.get("/tasks").json()
        assert client.health_check() is True
    assert "mix_color 1 2 3 B2" in original.calls()


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_client_raises_what_the_original_raised(original: Agent, kind: type[Any]) -> None:
    with Both(kind, original.url) as client:
        with pytest.raises(ValueError, match="nothing"):
            client.execute_task("nothing")
        with pytest.raises(ValueError, match="n"):
            client.execute_task("bare")
        with pytest.raises(ValueError, match="R"):
            client.execute_task("mix_color", R="255", Y=0, B=0, mix_well="A1")
        with pytest.raises(RuntimeError, match="must be <= 300"):
            client.execute_task("mix_color", R=300, Y=300, B=300, mix_well="A1")


@pytest.mark.parametrize("kind", CLIENTS)
def test_an_unreachable_device_is_a_connection_error_and_not_healthy(kind: type[Any]) -> None:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can be there
        patience = Patience(contact_timeout_s=0.5)
        with Both(kind, f"http://127.0.0.1:{sock.getsockname()[1]}", patience=patience) as client:
            with pytest.raises(ConnectionError):
                client.execute_task("bare", n=1)
            with pytest.raises(ConnectionError):
                client.get_available_tasks()
            assert client.health_check() is False


def test_the_clients_are_context_managers(original: Agent) -> None:
    with create_client(original.url) as client:
        assert client.execute_task("bare", n=1) == 2

    async def awaited() -> Any:
        async with AsyncOrchestratorClient(original.url) as client:
            return await client.execute_task("bare", n=1)

    assert asyncio.run(awaited()) == 2


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_clients_time_out_ends_its_waiting_and_not_the_run(agent: Agent, kind: type[Any]) -> None:
    name = agent.new_id()
    with Both(kind, agent.url, timeout=0.3) as client, pytest.raises(TimeoutError):
        client.execute_task("idle", name=name)
    [run] = [run for run in agent.http.get("/runs").json()["runs"] if run["parameters"].get("name") == name]
    assert run["state"] == "running"
    agent.release(name)
    assert agent.ended(run["run_id"])["state"] == "succeeded"


def test_the_token_travels_as_a_bearer() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(30)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def ask() -> None:
            with create_client(url, auth_token="secret-word") as client:
                client.health_check()

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        connection, _ = server.accept()
        connection.settimeout(30)
        with connection:
            heard = connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + b'{"status":"healthy"}')
        thread.join(30)
    assert b"authorization: bearer secret-word" in heard.lower()
