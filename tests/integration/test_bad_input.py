"""What bad input gets: the right status, a sentence with the next step, nothing half accepted; and the agent lives."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Agent, refused


@pytest.fixture
def untouched(agent: Agent) -> Iterator[Agent]:
    """The agent; afterwards no task was called and nothing is accepted, running or waiting."""
    before = agent.calls()
    yield agent
    assert agent.calls() == before
    details = agent.status()["details"]
    assert (details["current_run"], details["queue"]["runs"], details["lock"]) == (None, [], None)


def unknown(agent: Agent, run_id: str) -> bool:
    return agent.http.get(f"/runs/{run_id}").status_code == 404


# --- what cannot be read --------------------------------------------------------------------------------------------

UNREADABLE = {
    "not JSON": (b"{", "is not JSON", "line 1"),
    "no quotes": (b"{a: 1}", "is not JSON", "column 2"),
    "something behind it": (b'{"a": 1} tail', "is not JSON", "column"),
    "an array": (b"[1, 2]", "must be a JSON object", "an array"),
    "a string": (b'"a"', "must be a JSON object", "a string"),
    "a number": (b"5", "must be a JSON object", "an integer"),
    "null": (b"null", "must be a JSON object", "null"),
    "NaN": (b'{"a": NaN}', "NaN is not a JSON number", ""),
    "Infinity": (b'{"a": Infinity}', "Infinity is not a JSON number", ""),
    "minus Infinity": (b'{"a": -Infinity}', "-Infinity is not a JSON number", ""),
    "a number beyond double": (b'{"a": 1e999}', "1e999 is too large", ""),
    "an endless integer": (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON", ""),
    "a key twice": (b'{"a": 1, "a": 2}', "'a' stands twice", ""),
    "a key twice, deep inside": (b'{"a": {"b": {"c": 1, "c": 1}}}', "'c' stands twice", ""),
    "not UTF-8": (b'{"a": "\xff"}', "is not UTF-8", ""),
    "half a character": (b'{"a": "\\ud800"}', "is not UTF-8", ""),
    "65 levels": (b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "deeper than 64 levels", ""),
    "100,000 levels": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeper than 64 levels", ""),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_body_that_cannot_be_read_is_400_and_leaves_no_record(untouched: Agent, name: str) -> None:
    body, *words = UNREADABLE[name]
    run_id = untouched.new_id()
    refused(untouched.raw(body, run_id=run_id), 400, "malformed", *words)
    assert unknown(untouched, run_id)
    again = untouched.raw(b'{"a": 20}', run_id=untouched.new_id(), OT2_Dry_Run="true")  # it still reads and answers
    assert again.status_code == 422


def test_a_body_of_ten_megabytes_is_413_whether_its_length_was_told_or_not(untouched: Agent) -> None:
    big = b'{"a": "' + b"x" * 10_000_000 + b'"}'
    run_id = untouched.new_id()
    refused(untouched.raw(big, run_id=run_id), 413, "too_large", "1048576 bytes")
    chunks = untouched.http.post("/tasks/add/runs", content=(big[n : n + 65536] for n in range(0, len(big), 65536)))
    refused(chunks, 413, "too_large")
    answer = untouched.http.post("/execute/add", content=big)
    assert (answer.status_code, "Nothing moved." in answer.json()["detail"]) == (413, True)
    assert unknown(untouched, run_id)


def test_bodies_of_the_other_posts_are_read_as_strictly(untouched: Agent) -> None:
    for path in ("/runs/a/cancel", "/runs/a/resolve", "/control/reset", "/control/startup"):
        refused(untouched.http.post(path, content=b"[]"), 400, "malformed", "must be a JSON object")
        refused(untouched.http.post(path, content=b'{"a": NaN}'), 400, "malformed", "NaN")
        refused(untouched.http.post(path, content=b"x" * 2_000_000), 413, "too_large")
    assert unknown(untouched, "a")


# --- tasks and parameters -------------------------------------------------------------------------------------------


def test_an_unknown_task_is_404_and_the_near_one_is_named(untouched: Agent) -> None:
    problem = refused(untouched.submit("mixx", R=1), 404, "task_not_found", "mixx", "did you mean mix?")
    assert problem["details"]["did_you_mean"] == "mix"  # type: ignore[index]
    refused(untouched.submit("ADD", a=1), 404, "task_not_found", "did you mean add?")
    problem = refused(untouched.submit("zzzzzz"), 404, "task_not_found", "zzzzzz", "add", "mix")
    assert "add" in problem["details"]["tasks"]  # type: ignore[index]


ILL_FITTING: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "an unknown one": ({"R": 1, "wel": "A1"}, "wel", ("wel", "did you mean well?")),
    "an unknown one with its case wrong": ({"r": 1}, "r", ("did you mean R?",)),
    "a missing one": ({}, "R", ("mix needs R", "an integer", "uL")),
    "a string for an int": ({"R": "255"}, "R", ("R must be an integer", "'255'")),
    "a fraction for an int": ({"R": 5.5}, "R", ("R", "5.5")),
    "true for an int": ({"R": True}, "R", ("R",)),
    "null for an int": ({"R": None}, "R", ("R", "null")),
    "too much": ({"R": 301}, "R", ("R", "301", "300", "uL")),
    "too little": ({"R": -1}, "R", ("R", "-1", "0", "uL")),
    "no well": ({"R": 1, "well": "Z9"}, "well", ("well", "Z9")),
    "not one of the choices": ({"R": 1, "speed": "medium"}, "speed", ("speed", "medium", "slow", "fast")),
    "an item of a list": ({"R": 1, "names": ["a", 5]}, "names", ("names",)),
    "not a list": ({"R": 1, "names": "a"}, "names", ("names",)),
}


@pytest.mark.parametrize("name", ILL_FITTING)
def test_parameters_that_do_not_fit_are_422_and_the_field_is_named(untouched: Agent, name: str) -> None:
    parameters, field, words = ILL_FITTING[name]
    run_id = untouched.new_id()
    answer = untouched.submit("mix", run_id, **parameters)
    problem = refused(answer, 422, "invalid_parameters", *words)
    assert str(problem["details"]["field"]).startswith(field)  # type: ignore[index]
    record = untouched.http.get(f"/runs/{run_id}").json()
    assert (record["state"], record["started_at"], record["error"]) == ("rejected", None, problem["detail"])


def test_a_refusal_stands_when_the_same_request_comes_again(untouched: Agent) -> None:
    run_id = untouched.new_id()
    first = refused(untouched.submit("mix", run_id, R=999), 422, "invalid_parameters")
    again = refused(untouched.submit("mix", run_id, R=999), 422, "invalid_parameters")
    assert (first["detail"], first["run_id"]) == (again["detail"], run_id)
    refused(untouched.submit("mix", run_id, R=1), 409, "run_conflict", run_id)


def test_five_point_zero_is_a_whole_number_and_an_empty_body_is_no_parameters(agent: Agent) -> None:
    assert agent.submit("add", wait=30, a=5.0).json()["result"] == 7
    problem = refused(agent.raw(b""), 422, "invalid_parameters", "a")
    assert problem["details"]["field"] == "a"  # type: ignore[index]


# --- ids and options ------------------------------------------------------------------------------------------------


def test_the_same_id_with_other_content_is_409_and_runs_nothing(agent: Agent) -> None:
    run_id = agent.new_id()
    assert agent.submit("add", run_id, wait=30, a=1000).status_code == 200
    refused(agent.submit("add", run_id, wait=30, a=1001), 409, "run_conflict", run_id, "an id of its own")
    refused(agent.submit("later", run_id, wait=30, a=1000), 409, "run_conflict", run_id)
    assert agent.calls("add 100") == ["add 1000 2"]
    assert agent.calls("later 1000") == []


@pytest.mark.parametrize("run_id", ["x" * 65, "a/b", "a b", "ä", "a\\b", "<script>", "." * 65])
def test_an_id_that_is_not_one_is_400_with_the_rule(untouched: Agent, run_id: str) -> None:
    headers = {"Idempotency-Key": run_id.encode("utf-8")}
    answer = untouched.http.post("/tasks/add/runs", headers=headers, json={"a": 1})  # type: ignore[arg-type]
    refused(answer, 400, "malformed", "run_id", "1 to 64")
    refused(untouched.http.post("/tasks/add/runs", params={"run_id": run_id}, json={"a": 1}), 400, "malformed")


@pytest.mark.parametrize("run_id", ["x" * 65, "a%2Fb", "a%20b", "%00"])
def test_an_id_that_is_not_one_cannot_be_asked_for_either(untouched: Agent, run_id: str) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/resolve")):
        answer = untouched.http.request(method, f"/runs/{run_id}{path}")
        assert answer.status_code in (400, 404), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("option", ["OT2-Timeout-S", "OT2-Start-Within-S", "OT2-Expires-In-S"])
@pytest.mark.parametrize("value", ["-1", "0", "1e12", "inf", "nan", "soon", ""])
def test_an_absurd_time_is_400_and_names_the_option(untouched: Agent, option: str, value: str) -> None:
    name = option.removeprefix("OT2-").replace("-", "_").lower()
    run_id = untouched.new_id()
    refused(untouched.raw(b'{"a": 1}', run_id=run_id, **{option: value}), 400, "malformed", name)
    assert unknown(untouched, run_id)
    refused(untouched.http.post("/tasks/add/runs", params={name: value}, json={"a": 1}), 400, "malformed", name)


def test_other_options_that_are_not_of_their_form_are_400(untouched: Agent) -> None:
    for headers, word in (
        ({"OT2-Labels": "[1]"}, "labels"),
        ({"OT2-Labels": "{"}, "The labels header is not JSON"),
        ({"OT2-Labels": '{"a": 1}'}, "labels"),
        ({"OT2-Dry-Run": "maybe"}, "dry_run"),
        ({"OT2-Expires-At": "tomorrow"}, "tomorrow"),
        ({"OT2-Expires-At": "2030-01-01T00:00:00"}, "zone"),
        ({"OT2-On-Behalf-Of": "x" * 300}, "on_behalf_of"),
    ):
        refused(untouched.raw(b'{"a": 1}', **headers), 400, "malformed", word)
    for wait in ("-1", "nan", "long"):
        answer = untouched.http.post("/tasks/add/runs", params={"wait": wait}, json={"a": 1})
        refused(answer, 400, "malformed", "wait")


def test_a_dry_run_is_refused_as_not_supported_and_never_runs_for_real(untouched: Agent) -> None:
    for body in (b'{"a": 1}', b'{"a": "nonsense"}'):
        refused(untouched.raw(body, OT2_Dry_Run="true"), 422, "not_supported", "dry run", "never runs for real")
    answer = untouched.http.post("/tasks/add/runs", params={"dry_run": "1"}, json={"a": 1})
    refused(answer, 422, "not_supported")


def test_a_request_that_is_too_old_on_arrival_is_expired(untouched: Agent) -> None:
    answer = untouched.raw(b'{"a": 1}', OT2_Expires_At="2026-01-02T00:00:00Z")
    refused(answer, 412, "expired", "expired", "this device's clock")


def test_a_route_that_is_not_there_is_a_problem_too(untouched: Agent) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("DELETE", "/runs", 405), ("GET", "/tasks/add/runs", 405)):
        answer = untouched.http.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (status, "no_route")
        assert answer.headers["content-type"] == "application/problem+json"
        assert path in answer.json()["detail"]
        assert "/docs" in answer.json()["detail"]


def test_bytes_that_are_not_http_end_their_connection_and_nothing_else(untouched: Agent) -> None:
    host, _, port = untouched.url.removeprefix("http://").partition(":")
    for noise in (b"\x16\x03\x01 this is TLS\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /tasks/add/runs HTTP/1.1\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(noise)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    assert untouched.http.get("/health").json() == {"status": "healthy"}


def test_a_caller_that_goes_away_in_the_middle_of_its_body_starts_nothing(untouched: Agent) -> None:
    host, _, port = untouched.url.removeprefix("http://").partition(":")
    run_id = untouched.new_id()
    head = f"POST /tasks/add/runs HTTP/1.1\r\nHost: {host}\r\nIdempotency-Key: {run_id}\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(head.encode() + b'{"a": 1')
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
    assert unknown(untouched, run_id)
