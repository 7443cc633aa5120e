"""The wire over HTTP where runs do not simply succeed: cancel, time limits, the queue, locks, strangers at the door."""

from __future__ import annotations

import signal
import threading

import pytest

from .conftest import DEADLINE_S, Agent, Home

# --- cancel ---------------------------------------------------------------------------------------------------------


def test_a_running_run_ends_at_its_next_checkpoint_and_nothing_is_locked(agent: Agent) -> None:
    run_id = agent.hold()
    asked = agent.http.post(f"/runs/{run_id}/cancel", json={"reason": "wrong plate"})
    assert asked.status_code == 200
    ended = agent.ended(run_id)
    assert (ended["state"], ended["interrupted"], ended["error_code"]) == ("cancelled", False, "cancelled")
    assert agent.status()["details"]["lock"] is None
    again = agent.http.post(f"/runs/{run_id}/cancel")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")


def test_a_queued_run_is_cancelled_before_it_begins(agent: Agent) -> None:
    run_id = agent.hold("idle")
    behind = agent.new_id()
    assert agent.submit("add", behind, a=31337).status_code == 202
    answer = agent.http.post(f"/runs/{behind}/cancel").json()
    assert (answer["state"], answer["started_at"], "Nothing moved." in answer["error"]) == ("cancelled", None, True)
    assert agent.status()["details"]["queue"]["runs"] == []
    agent.release(run_id)
    assert agent.ended(run_id)["state"] == "succeeded"
    assert agent.calls("add 31337") == []


def test_an_id_that_was_never_heard_of_is_cancelled_and_will_never_run(agent: Agent) -> None:
    run_id = agent.new_id()
    answer = agent.http.post(f"/runs/{run_id}/cancel")
    assert (answer.status_code, answer.json()["state"], answer.json()["run_id"]) == (200, "cancelled", run_id)
    late = agent.submit("add", run_id, wait=DEADLINE_S, a=4242)
    assert (late.status_code, late.json()["state"]) == (200, "cancelled")
    assert agent.calls("add 4242") == []


def test_a_run_that_ended_is_not_changed_by_a_cancel(agent: Agent) -> None:
    run_id = agent.submit("add", wait=DEADLINE_S, a=1).json()["run_id"]
    assert agent.http.post(f"/runs/{run_id}/cancel").json()["state"] == "succeeded"
    assert agent.ended(run_id)["result"] == 3


def test_a_task_that_never_looks_is_killed_after_its_grace_and_keeps_its_state(agent: Agent) -> None:
    run_id = agent.hold("stuck")
    agent.http.post(f"/runs/{run_id}/cancel")
    ended = agent.ended(run_id)
    assert (ended["state"], ended["interrupted"]) == ("cancelled", True)
    assert "Look at the deck" in ended["error"] or "look at it" in ended["error"]
    assert agent.status()["details"]["lock"]["needs"] == ["resolve", "reset"]


# --- time limits ----------------------------------------------------------------------------------------------------


def test_a_run_whose_time_is_up_ends_itself_within_its_grace(agent: Agent) -> None:
    run_id = agent.new_id()
    agent.raw(b'{"name": "never"}', "hold", run_id, OT2_Timeout_S="0.1")
    ended = agent.ended(run_id)
    assert (ended["state"], ended["interrupted"], ended["error_code"]) == ("timed_out", False, "timed_out")
    assert agent.status()["details"]["lock"] is None


def test_a_run_that_does_not_end_within_its_grace_is_killed_and_interrupted(agent: Agent) -> None:
    run_id = agent.new_id()
    agent.raw(b"{}", "stuck", run_id, OT2_Timeout_S="0.1")
    ended = agent.ended(run_id)
    assert (ended["state"], ended["interrupted"]) == ("timed_out", True)
    assert "0.05 s of grace" in ended["error"]
    assert agent.status()["equipment_status"] == "requires_init"


def test_a_killed_run_that_only_moved_needs_a_reset_but_no_verdict(agent: Agent) -> None:
    run_id = agent.new_id()
    agent.raw(b"{}", "stuck_motion", run_id, OT2_Timeout_S="0.1")
    agent.ended(run_id)
    lock = agent.status()["details"]["lock"]
    assert (lock["run_id"], lock["needs"]) == (run_id, ["reset"])
    assert agent.http.post("/control/reset", json={"lock_id": lock["lock_id"]}).status_code == 200


def test_a_request_that_waited_too_long_for_its_turn_expires_in_the_queue(agent: Agent) -> None:
    run_id = agent.hold("idle")
    late = agent.new_id()
    agent.raw(b'{"a": 5151}', run_id=late, OT2_Start_Within_S="0.05")
    ended = agent.ended(late)
    assert (ended["state"], ended["started_at"], "Nothing moved." in ended["error"]) == ("expired", None, True)
    again = agent.raw(b'{"a": 5151}', run_id=late, OT2_Start_Within_S="0.05")
    assert (again.status_code, again.json()["code"]) == (412, "expired")
    agent.release(run_id)
    assert agent.ended(run_id)["state"] == "succeeded"
    assert agent.calls("add 5151") == []


def test_a_request_with_its_own_age_limit_does_not_start_when_its_turn_comes_too_late(agent: Agent) -> None:
    run_id = agent.hold("idle")
    first, late = agent.new_id(), agent.new_id()
    agent.raw(b'{"a": 5252}', run_id=late, OT2_Expires_In_S="0.05")
    agent.raw(b'{"a": 5253}', run_id=first, OT2_Start_Within_S="0.1")
    assert agent.ended(first)["state"] == "expired"  # so more than 0.05 s have passed for the other one, too
    agent.release(run_id)
    assert agent.ended(late)["state"] == "expired"
    assert agent.calls("add 525") == []


# --- the queue ------------------------------------------------------------------------------------------------------


def test_the_queue_is_first_come_first_served_and_full_at_its_bound(agent: Agent) -> None:
    run_id = agent.hold("idle")
    waiting = [agent.new_id(), agent.new_id()]
    for n, behind in enumerate(waiting):
        answer = agent.submit("add", behind, a=610 + n)
        assert (answer.status_code, answer.json()["state"]) == (202, "accepted")
    assert agent.status()["details"]["queue"] == {"runs": waiting, "places": 2}
    full = agent.submit("add", one_more := agent.new_id(), a=612)
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    assert "Nothing moved." in full.json()["detail"]
    assert full.headers["retry-after"]
    assert agent.submit("add", waiting[0], a=610).status_code == 202  # a repeat needs no place
    agent.release(run_id)
    for behind in waiting:
        assert agent.ended(behind)["state"] == "succeeded"
    assert agent.calls("add 61") == ["add 610 2", "add 611 2"]
    assert agent.submit("add", one_more, a=612).status_code == 429  # what was refused stays refused


def test_what_waits_behind_a_failure_is_dropped_and_told_why(agent: Agent) -> None:
    run_id = agent.hold()
    waiting = [agent.new_id(), agent.new_id()]
    for behind in waiting:
        agent.submit("add", behind, a=777)
    agent.http.post(f"/runs/{run_id}/cancel")
    for behind in waiting:
        ended = agent.ended(behind)
        assert (ended["state"], ended["started_at"]) == ("not_started", None)
        assert run_id in ended["error"]
        assert "Nothing moved." in ended["error"]
        again = agent.submit("add", behind, a=777)
        assert (again.status_code, again.json()["code"]) == (412, "not_started")
    assert agent.calls("add 777") == []


def test_a_failure_of_a_task_without_effects_drops_nobody(agent: Agent) -> None:
    run_id = agent.hold("idle")
    behind = agent.new_id()
    agent.submit("add", behind, a=778)
    agent.http.post(f"/runs/{run_id}/cancel")
    assert agent.ended(behind)["state"] == "succeeded"


def test_the_queue_may_be_kept_after_a_failure_when_the_settings_say_so(home: Home) -> None:
    agent = home.agent("--keep-queue-after-failure")
    run_id = agent.hold()
    behind = agent.new_id()
    agent.submit("add", behind, a=1)
    agent.http.post(f"/runs/{run_id}/cancel")
    assert agent.ended(behind)["state"] == "succeeded"


# --- after a run was cut off ----------------------------------------------------------------------------------------


def test_the_conversation_after_a_worker_died_resolve_reset_startup(agent: Agent) -> None:
    run_id = agent.new_id()
    died = agent.submit("die", run_id, wait=DEADLINE_S).json()
    assert (died["state"], died["interrupted"], died["error_code"]) == ("unknown", True, "outcome_unknown")
    assert "exit code 3" in died["error"]
    status = agent.status()
    assert status["equipment_status"] == "requires_init"
    lock = status["details"]["lock"]
    assert (lock["run_id"], lock["needs"]) == (run_id, ["resolve", "reset"])
    assert f"POST /runs/{run_id}/resolve" in status["required_actions"][0]
    assert "run" not in status["allowed_actions"]

    no = agent.submit("add", a=1)
    assert (no.status_code, no.json()["code"], no.json()["details"]["lock"]["run_id"]) == (412, "not_ready", run_id)
    for path, body in (("/control/reset", {"lock_id": lock["lock_id"]}), ("/control/startup", {})):
        answer = agent.http.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (412, "not_ready"), path

    resolve = f"/runs/{run_id}/resolve"
    for body in ({}, {"verdict": "maybe", "by": "Ada"}, {"verdict": "done"}, {"verdict": "done", "by": ""}):
        assert agent.http.post(resolve, json=body).status_code == 400, body
    resolved = agent.http.post(resolve, json={"verdict": "partly", "by": "Ada", "note": "B2 is empty"})
    assert (resolved.status_code, resolved.json()["state"]) == (200, "unknown")
    said = resolved.json()["resolution"]
    assert (said["verdict"], said["by"], said["note"]) == ("partly", "Ada", "B2 is empty")
    assert agent.http.post(resolve, json={"verdict": "partly", "by": "Ada"}).status_code == 200
    assert agent.http.post(resolve, json={"verdict": "done", "by": "Bob"}).status_code == 412

    wrong = agent.http.post("/control/reset", json={"lock_id": "another"})
    assert (wrong.status_code, run_id in wrong.json()["detail"]) == (412, True)
    assert "reset" in agent.status()["allowed_actions"]
    assert agent.http.post("/control/reset", json={"lock_id": lock["lock_id"]}).json()["details"]["lock"] is None
    assert agent.http.post("/control/reset", json={"lock_id": lock["lock_id"]}).status_code == 412
    if "startup" in agent.status()["allowed_actions"]:
        assert agent.http.post("/control/startup").status_code == 200
    agent.until(lambda: agent.status()["components"]["worker"]["connected"])
    assert agent.status()["required_actions"] == []
    assert agent.ended(run_id)["resolution"]["by"] == "Ada"
    assert agent.calls("die") == ["die"]


def test_only_a_run_that_was_cut_off_is_resolved(agent: Agent) -> None:
    run_id = agent.submit("add", wait=DEADLINE_S, a=1).json()["run_id"]
    answer = agent.http.post(f"/runs/{run_id}/resolve", json={"verdict": "done", "by": "Ada"})
    assert (answer.status_code, answer.json()["code"]) == (412, "not_ready")
    never = agent.http.post("/runs/never-heard-of/resolve", json={"verdict": "done", "by": "Ada"})
    assert (never.status_code, never.json()["code"]) == (404, "run_not_found")


def test_a_startup_that_is_not_needed_is_refused(agent: Agent) -> None:
    answer = agent.http.post("/control/startup")
    assert (answer.status_code, answer.json()["code"]) == (412, "not_ready")


def test_a_lock_outlives_the_agent(home: Home) -> None:
    agent = home.agent()
    run_id = agent.submit("die", wait=DEADLINE_S).json()["run_id"]
    agent.process.signal(signal.SIGTERM)
    assert agent.process.wait() == 0, agent.process.said
    again = home.agent()
    assert again.status()["details"]["lock"]["run_id"] == run_id
    assert again.submit("add", a=1).status_code == 412
    again.ready()
    assert again.submit("add", wait=DEADLINE_S, a=1).json()["result"] == 3


# --- who may come in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "127.0.0.1.evil.example"])
def test_a_host_name_that_is_not_ours_is_turned_away(agent: Agent, host: str) -> None:
    for method, path in (("GET", "/status"), ("POST", "/tasks/add/runs"), ("POST", "/execute/add")):
        answer = agent.http.request(method, path, headers={"Host": host}, json={"a": 9090})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "Nothing moved." in answer.json()["detail"]
    assert agent.calls("add 9090") == []


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "[::1]:8000", "127.0.0.1", "LOCALHOST"])
def test_the_names_of_loopback_are_ours(agent: Agent, host: str) -> None:
    assert agent.http.get("/status", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1.evil.example"])
def test_a_web_page_of_somebody_else_may_not_call(agent: Agent, origin: str) -> None:
    answer = agent.http.post("/tasks/add/runs", headers={"Origin": origin}, json={"a": 9191})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert agent.calls("add 9191") == []
    assert "access-control-allow-origin" not in answer.headers


def test_our_own_page_may_call(agent: Agent) -> None:
    assert agent.http.get("/status", headers={"Origin": agent.url}).status_code == 200


def test_a_further_name_can_be_allowed(home: Home) -> None:
    agent = home.agent("--allowed-hosts", '["ot2.lab"]')
    assert agent.http.get("/status", headers={"Host": "ot2.lab:8000"}).status_code == 200
    assert agent.http.get("/status", headers={"Host": "ot3.lab"}).status_code == 403


def test_fifty_at_once_run_one_after_the_other_and_each_once(home: Home) -> None:
    agent = home.agent("--queue-places", "100")
    ids = [agent.new_id() for _ in range(50)]
    answers: dict[str, int] = {}

    def call(run_id: str, number: int) -> None:
        answers[run_id] = agent.submit("add", run_id, wait=DEADLINE_S, a=number).json()["result"]

    threads = [threading.Thread(target=call, args=(run_id, n % 50), daemon=True) for n, run_id in enumerate(ids * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert answers == {run_id: n + 2 for n, run_id in enumerate(ids)}
    assert sorted(agent.calls("add")) == sorted(f"add {n} 2" for n in range(50))
