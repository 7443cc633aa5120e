"""The wire over HTTP as other programs see it: every route, its answers, its options, its order."""

from __future__ import annotations

import re
import threading
from typing import Any

import httpx
import jsonschema
import pytest

from .conftest import DEADLINE_S, Agent, Home, frames
from .openapi import complaints

# --- what the device says of itself ---------------------------------------------------------------------------------


def test_the_root_has_the_original_fields_and_the_contracts(agent: Agent) -> None:
    root = agent.http.get("/").json()
    assert root["available_tasks"] == list(agent.http.get("/tasks").json())
    assert root["docs"] == "/docs"
    assert "is running" in root["message"]
    assert root["protocol_version"] == "1.2"
    assert root["equipment_id"] == agent.status()["equipment_id"]


def test_the_status_tells_what_it_would_honour(agent: Agent) -> None:
    status = agent.status()
    assert status["equipment_status"] == "dry_run"  # simulated: never mistaken for a robot
    assert (status["activity"], status["required_actions"], status["allowed_actions"]) == ("idle", [], ["run"])
    run_id = agent.hold()
    busy = agent.status()
    assert (busy["activity"], busy["details"]["current_run"]["run_id"]) == ("running", run_id)
    assert busy["details"]["current_run"]["progress"] == {"fraction": 0.5, "message": "holding"}
    agent.release(run_id)
    agent.ended(run_id)
    done = agent.status()
    assert done["metrics"]["cycles_total"]["value"] == busy["metrics"]["cycles_total"]["value"] + 1
    assert done["device_time"].endswith("Z")


def test_the_catalogue_tells_types_defaults_units_and_limits(agent: Agent) -> None:
    mix = agent.http.get("/tasks/mix").json()
    assert mix == agent.http.get("/tasks").json()["mix"]
    assert (mix["doc"], mix["effects"], mix["is_async"], mix["timeout_s"]) == ("Mix a colour.", "consumes", False, 3600)
    red = mix["parameters"]["R"]
    assert (red["required"], red["unit"]) == (True, "uL")
    assert mix["parameters"]["well"]["default"] == "A1"
    assert agent.http.get("/tasks/later").json()["is_async"] is True
    jsonschema.Draft202012Validator.check_schema(mix["schema"])
    jsonschema.validate({"R": 300, "well": "H12"}, mix["schema"])
    for wrong in ({"R": 301}, {"R": 1, "well": "I1"}, {"R": 1, "x": 1}, {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, mix["schema"])
    missing = agent.http.get("/tasks/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "task_not_found")


def test_the_docs_work_without_internet(agent: Agent) -> None:
    page = agent.http.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert set(re.findall(r"https?://[^/\"'\s]+|[\"'](?=//)", page.text)) <= {agent.url}
    files = re.findall(r"<(?:script|link)[^>]*(?:src|href)=[\"']([^\"']+)[\"']", page.text)
    assert any(name.endswith(".js") for name in files)
    for name in files:
        got = agent.http.get(httpx.URL(agent.url + "/docs").join(name))
        assert (got.status_code, bool(got.content)) == (200, True), name
    assert "/openapi.json" in page.text


def test_the_openapi_page_is_valid_and_every_task_has_its_own_typed_body(agent: Agent) -> None:
    page = agent.http.get("/openapi.json").json()
    assert complaints(page) == []
    catalogue = agent.http.get("/tasks").json()
    for name, entry in catalogue.items():
        post = page["paths"][f"/tasks/{name}/runs"]["post"]
        assert (
            post["requestBody"]["content"]["application/json"]["schema"]["properties"].keys()
            == entry["parameters"].keys()
        )
        assert {"200", "202", "404", "409", "412", "413", "422", "429", "503", "507"} <= post["responses"].keys()
    for path in ("/", "/health", "/status", "/tasks", "/runs", "/runs/{run_id}", "/runs/{run_id}/events", "/events"):
        assert "get" in page["paths"][path]
    for path in ("/runs/{run_id}/cancel", "/runs/{run_id}/resolve", "/control/reset", "/control/startup"):
        assert "post" in page["paths"][path]
    assert "post" in page["paths"]["/execute/{task}"]


def test_the_openapi_page_describes_what_is_really_answered(agent: Agent) -> None:
    page = agent.http.get("/openapi.json").json()
    answer = agent.submit("add", wait=DEADLINE_S, a=1).json()
    fits(page, "Answer", answer)
    fits(page, "Problem", agent.submit("nothing").json())
    fits(page, "Problem", agent.http.get("/nothing").json())
    fits(page, "Page", agent.http.get("/runs").json())
    fits(page, "Status", agent.status())


def fits(page: dict[str, Any], name: str, value: Any) -> None:
    jsonschema.validate(value, {"$ref": f"#/components/schemas/{name}", "components": page["components"]})


# --- a run ----------------------------------------------------------------------------------------------------------


def test_a_submission_is_202_with_its_place_and_the_run_can_be_followed(agent: Agent) -> None:
    run_id = agent.new_id()
    answer = agent.submit("idle", run_id, name=run_id)
    assert (answer.status_code, answer.headers["location"]) == (202, f"/runs/{run_id}")
    taken = answer.json()
    assert (taken["run_id"], taken["request_id"], taken["task"]) == (run_id, run_id, "idle")
    assert taken["state"] in ("accepted", "running")
    assert "status" not in taken
    assert taken["submitted_at"].endswith("Z")
    agent.release(run_id)
    done = agent.http.get(answer.headers["location"], params={"wait": DEADLINE_S}).json()
    assert (done["state"], done["status"], done["result"]) == ("succeeded", "success", run_id)
    assert done["submitted_at"] <= done["started_at"] <= done["finished_at"]
    assert (done["error"], done["error_code"], done["parameters"]) == (None, None, {"name": run_id})
    assert done["timestamp"] == pytest.approx(done["timestamp"], abs=1)


def test_waiting_answers_200_when_it_ended_in_time_and_202_when_not(agent: Agent) -> None:
    ended = agent.submit("add", wait=DEADLINE_S, a=1)
    assert (ended.status_code, ended.json()["state"], ended.json()["result"]) == (200, "succeeded", 3)
    run_id = agent.new_id()
    not_yet = agent.submit("idle", run_id, wait=0.05, name=run_id)
    assert (not_yet.status_code, not_yet.json()["state"]) == (202, "running")
    assert agent.http.get(f"/runs/{run_id}", params={"wait": 0.05}).json()["state"] == "running"
    agent.release(run_id)
    agent.ended(run_id)


def test_without_an_id_the_agent_makes_one_and_says_it(agent: Agent) -> None:
    first = agent.http.post("/tasks/add/runs?wait=30", json={"a": 7000}).json()
    second = agent.http.post("/tasks/add/runs?wait=30", json={"a": 7000}).json()
    assert first["run_id"] != second["run_id"]
    assert agent.calls("add 7000") == ["add 7000 2"] * 2


def test_the_same_request_again_is_the_same_run_while_it_runs_and_after(agent: Agent) -> None:
    run_id = agent.hold("idle")
    again = agent.submit("idle", run_id, name=run_id)
    assert (again.status_code, again.json()["replayed"], again.json()["state"]) == (202, True, "running")
    answers: list[httpx.Response] = []
    waiting = threading.Thread(
        target=lambda: answers.append(agent.submit("idle", run_id, wait=DEADLINE_S, name=run_id)), daemon=True
    )
    waiting.start()
    agent.release(run_id)
    waiting.join(DEADLINE_S)
    assert answers[0].json()["result"] == run_id
    after = agent.submit("idle", run_id, name=run_id)
    assert (after.status_code, after.json()["replayed"], after.json()["result"]) == (200, True, run_id)
    assert agent.calls(f"hold {run_id}") == [f"hold {run_id}"]


def test_the_same_content_is_judged_as_numbers_not_as_spelling(agent: Agent) -> None:
    run_id = agent.new_id()
    agent.raw(b'{"a": 8000, "b": 1}', run_id=run_id)
    agent.ended(run_id)
    again = agent.raw(b'{ "b": 1.0, "a": 8e3 }', run_id=run_id)
    assert (again.status_code, again.json()["result"]) == (200, 8001)
    other = agent.raw(b'{"a": 8000}', run_id=run_id)
    assert (other.status_code, other.json()["code"]) == (409, "run_conflict")
    assert agent.calls("add 8000") == ["add 8000 1"]


def test_a_task_that_fails_is_told_with_its_type_and_traceback(agent: Agent) -> None:
    answer = agent.submit("boom", wait=DEADLINE_S)
    run = answer.json()
    assert (answer.status_code, run["state"], run["status"], run["error_code"]) == (
        200,
        "failed",
        "error",
        "task_failed",
    )
    assert run["error"] == "RuntimeError: the tip is gone"
    assert run["error_details"]["type"] == "RuntimeError"
    assert "raise RuntimeError(text)" in run["error_details"]["traceback"]
    assert "ot2_agent/worker.py" not in run["error_details"]["traceback"]
    assert agent.status()["last_error"]["code"] == "task_failed"


def test_an_exception_that_cannot_say_what_it_is_fails_its_run_and_no_more(agent: Agent) -> None:
    run = agent.submit("mute", wait=DEADLINE_S).json()
    assert (run["state"], run["interrupted"], run["error"]) == ("failed", False, "Mute")


def test_a_task_that_refuses_is_rejected_and_the_sentence_is_its_own(agent: Agent) -> None:
    run_id = agent.new_id()
    answer = agent.submit("refuse", run_id, wait=DEADLINE_S)
    run = answer.json()
    assert (answer.status_code, run["state"], run["error_code"]) == (200, "rejected", "rejected")
    assert run["error"] == "there is no plate"
    again = agent.submit("refuse", run_id).json()
    assert (again["state"], again["error"], again["replayed"]) == ("rejected", "there is no plate", True)
    assert agent.calls("refuse") == ["refuse"]


def test_an_async_task_runs_like_any_other(agent: Agent) -> None:
    assert agent.submit("later", wait=DEADLINE_S, a=5).json()["result"] == 5


def test_options_travel_in_headers_or_in_the_query_and_the_header_wins(agent: Agent) -> None:
    query: dict[str, Any] = {"wait": DEADLINE_S, "labels": '{"campaign": "query"}', "run_id": agent.new_id()}
    asked = agent.http.post("/tasks/add/runs", params=query, json={"a": 1}).json()
    assert (asked["run_id"], asked["labels"]) == (query["run_id"], {"campaign": "query"})
    run_id = agent.new_id()
    headers = {"Idempotency-Key": run_id, "OT2-Labels": '{"campaign": "header"}', "OT2-On-Behalf-Of": "Ada"}
    asked = agent.http.post("/tasks/add/runs", params=query, headers=headers, json={"a": 1}).json()
    assert (asked["run_id"], asked["labels"]) == (run_id, {"campaign": "header"})


# --- history --------------------------------------------------------------------------------------------------------


def test_history_is_paged_newest_first_without_a_gap_or_a_double(agent: Agent) -> None:
    made = [agent.submit("add", wait=DEADLINE_S, a=n).json()["run_id"] for n in range(7)]
    seen: list[str] = []
    cursor = None
    while len(seen) < 7:
        query = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = agent.http.get("/runs", params=query).json()
        seen += [run["run_id"] for run in page["runs"]]
        agent.submit("add", wait=DEADLINE_S, a=99)  # what comes later does not move the pages
        cursor = page["next"]
    assert seen[:7] == made[::-1]


def test_history_is_filtered_by_state_and_task(agent: Agent) -> None:
    failed = agent.submit("boom", wait=DEADLINE_S).json()["run_id"]
    agent.submit("add", wait=DEADLINE_S, a=1)
    found = agent.http.get("/runs", params={"state": "failed", "limit": 1}).json()["runs"]
    assert [run["run_id"] for run in found] == [failed]
    assert {run["task"] for run in agent.http.get("/runs", params={"task": "boom"}).json()["runs"]} == {"boom"}
    assert agent.http.get("/runs", params={"task": "boom", "state": "succeeded"}).json() == {"runs": [], "next": None}
    run_id = agent.hold("idle")
    active = agent.http.get("/runs", params={"state": "running"}).json()["runs"]
    assert [run["run_id"] for run in active] == [run_id]
    agent.release(run_id)
    agent.ended(run_id)


def test_the_last_page_says_so(home: Home) -> None:
    agent = home.agent()
    for n in range(4):
        agent.submit("add", wait=DEADLINE_S, a=n)
    first = agent.http.get("/runs", params={"limit": 2}).json()
    last = agent.http.get("/runs", params={"limit": 2, "cursor": first["next"]}).json()
    assert [run["parameters"]["a"] for run in first["runs"] + last["runs"]] == [3, 2, 1, 0]
    rest = agent.http.get("/runs", params={"limit": 2, "cursor": last["next"]}).json() if last["next"] else {"runs": []}
    assert rest["runs"] == []


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "501"}, {"limit": "x"}, {"cursor": "-1"}, {"cursor": "²"}, {"state": "done"}]
)
def test_a_question_for_history_that_makes_no_sense_is_400(agent: Agent, query: dict[str, str]) -> None:
    answer = agent.http.get("/runs", params=query)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert next(iter(query)) in answer.json()["detail"]


# --- events ---------------------------------------------------------------------------------------------------------


def test_events_come_live_in_order_and_the_stream_ends_with_the_run(agent: Agent) -> None:
    run_id = agent.hold("idle")
    stream = agent.events(run_id)
    first = next(stream)
    assert (first["kind"], first["event"], first["data"]["state"]) == ("state", "state", "running")
    assert next(stream)["data"] == {"fraction": 0.5, "message": "holding"}
    agent.release(run_id)
    rest = list(stream)
    assert (rest[-1]["kind"], rest[-1]["data"]["state"], rest[-1]["data"]["result"]) == ("state", "succeeded", run_id)


def test_output_progress_and_values_are_events_and_kept_after_the_end(agent: Agent) -> None:
    run_id = agent.new_id()
    agent.submit("chat", run_id, wait=DEADLINE_S)
    for _ in range(2):
        events = list(agent.events(run_id))
        assert [event["data"]["fraction"] for event in events if event["kind"] == "progress"] == [1 / 3, 2 / 3, 1.0]
        text = "\n".join(event["data"]["text"] for event in events if event["kind"] == "log")
        assert text.split("\n") == ["line 0", "line 1", "line 2"]
        [value] = [event["data"] for event in events if event["kind"] == "value"]
        assert value == {"name": "absorbance", "value": 0.42, "unit": "AU"}
        assert events[-1]["data"]["state"] == "succeeded"
        assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)


def test_a_stream_is_taken_up_where_it_was_left_while_the_run_goes_on(agent: Agent) -> None:
    run_id = agent.hold("idle")
    stream = agent.events(run_id)
    seen = [next(stream), next(stream)]
    stream.close()  # type: ignore[attr-defined]
    agent.release(run_id)
    rest = list(agent.events(run_id, after=seen[-1]["id"]))
    assert [event["kind"] for event in rest] == ["state"]
    assert rest[0]["data"]["state"] == "succeeded"
    assert not {event["id"] for event in seen} & {event["id"] for event in rest}


def test_a_stream_is_taken_up_after_the_end_too(agent: Agent) -> None:
    run_id = agent.new_id()
    agent.submit("chat", run_id, wait=DEADLINE_S)
    events = list(agent.events(run_id))
    half = events[len(events) // 2]
    rest = list(agent.events(run_id, after=half["id"]))
    assert [event["id"] for event in rest[:-1]] == [event["id"] for event in events[len(events) // 2 + 1 : -1]]
    assert rest[-1]["data"]["state"] == "succeeded"
    assert len(list(agent.events(run_id, after=f"{half['epoch']}-x"))) == len(events)
    odd = agent.http.get(f"/runs/{run_id}/events", headers={b"Last-Event-ID": f"{half['epoch']}-²".encode("latin-1")})
    assert odd.status_code == 200
    from_the_start = list(agent.events(run_id, after="999-5"))  # an id of another life of the agent
    assert len(from_the_start) == len(events)


def test_all_runs_are_on_one_stream_too(agent: Agent) -> None:
    before = agent.hear(agent.submit("add", wait=DEADLINE_S, a=1).json()["run_id"], "state")
    run_id = agent.new_id()
    agent.submit("add", run_id, wait=DEADLINE_S, a=1)
    with agent.http.stream("GET", "/events", headers={"Last-Event-ID": before["id"]}) as stream:
        for event in frames(stream.iter_lines()):
            if event["run_id"] == run_id and event["kind"] == "state" and event["data"]["state"] == "succeeded":
                break


def test_events_of_a_run_that_was_never_heard_of_are_404(agent: Agent) -> None:
    answer = agent.http.get("/runs/never-heard-of/events")
    assert (answer.status_code, answer.json()["code"]) == (404, "run_not_found")
