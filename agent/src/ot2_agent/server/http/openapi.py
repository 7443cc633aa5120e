"""The OpenAPI description of the agent's HTTP, every task with its own typed body. Pure: makes one dict.

Written out rather than derived, because the routes take raw requests (facts of speed) and tasks come and go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...errors import BY_CODE
from ...wire import MAX_SECONDS, RUN_ID, State
from ..status import Identity

Schema = dict[str, Any]
_ID: Schema = {"type": "string", "pattern": "^" + RUN_ID.pattern.replace(r"\Z", "$")}
_SECONDS: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SECONDS}
_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 256}


def describe(who: Identity, catalogue: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The whole document for a device with these tasks."""
    paths = _fixed_paths()
    for name, entry in catalogue.items():
        paths[f"/tasks/{name}/runs"] = {"post": _task_operation(name, entry)}
    return {
        "openapi": "3.1.0",
        "info": {"title": who.title, "description": f"{who.description} ({who.mode})", "version": who.version},
        "paths": paths,
        "components": {"schemas": {**_components(), **_task_components(catalogue)}},
    }


def _task_operation(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    doc = str(entry.get("doc") or name)
    limit = f"Effects: {entry['effects']}. Ends after {entry['timeout_s']:g} s at the latest."
    return {
        "tags": ["tasks"],
        "operationId": f"run_{name}",
        "summary": doc.strip().splitlines()[0],
        "description": f"{doc}\n\n{limit}",
        "parameters": _submit_parameters(),
        "requestBody": _body(_at_home(name, entry["schema"])),
        "responses": _submit_responses(),
    }


def _at_home(name: str, schema: Mapping[str, Any]) -> Schema:
    """A task's schema inside this document: its `$defs` are components here, under the task's name."""
    text = json.dumps({key: value for key, value in schema.items() if key not in ("$defs", "$schema")})
    return dict(json.loads(text.replace('"#/$defs/', f'"#/components/schemas/{name}.')))


def _task_components(catalogue: Mapping[str, Mapping[str, Any]]) -> dict[str, Schema]:
    return {
        f"{name}.{part}": _at_home(name, schema)
        for name, entry in catalogue.items()
        for part, schema in entry["schema"].get("$defs", {}).items()
    }


def _submit_parameters() -> list[Schema]:
    header = {
        "Idempotency-Key": ("the run's id; give your own, and the same one when you send the request again", _ID),
        "OT2-Timeout-S": ("longest run, seconds; the task's own limit is the cap", _SECONDS),
        "OT2-Start-Within-S": ("longest time in the queue, seconds (3600)", _SECONDS),
        "OT2-Expires-In-S": ("how long the request is good for, seconds", _SECONDS),
        "OT2-Labels": ("labels kept with the run: a JSON object of strings", {"type": "string"}),
    }
    made: list[Schema] = [
        _query("wait", "answer with the outcome if the run ends in so many seconds", {"type": "number", "minimum": 0})
    ]
    for name, (text, schema) in header.items():
        made.append({"name": name, "in": "header", "description": text, "schema": schema})
    return made


def _query(name: str, text: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _ID if name == "run_id" else {"type": "string"}}


def _body(schema: Schema, *, required: bool = True) -> Schema:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _answers(text: str, name: str | None) -> Schema:
    schema: Schema = {"$ref": f"#/components/schemas/{name}"} if name else {}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _problems(*statuses: int) -> dict[str, Schema]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {str(status): {"description": _MEANING[status], "content": problem} for status in statuses}


_MEANING = {
    400: "It could not be read. Nothing moved.",
    403: "The caller may not come in. Nothing moved.",
    404: "There is no such task or run.",
    409: "This id is already another run's. Nothing moved.",
    412: "A precondition does not hold. Nothing moved.",
    413: "The body is too large. Nothing moved.",
    422: "The parameters do not fit. Nothing moved.",
    429: "The queue is full. Nothing moved.",
    503: "Starting, stopping, or the journal cannot be used. Nothing moved.",
    507: "The disk is nearly full. Nothing moved.",
}


def _submit_responses() -> dict[str, Schema]:
    taken = _answers("Taken; `Location` is the run.", "Answer")
    taken["headers"] = {"Location": {"schema": {"type": "string"}}}
    ended = _answers("The run has ended, well or not: see `state`.", "Answer")
    return {"200": ended, "202": taken, **_problems(400, 403, 404, 409, 412, 413, 422, 429, 503, 507)}


def _fixed_paths() -> dict[str, Any]:
    """Every route that is there whatever the tasks are."""
    run, task = _path("run_id"), _path("task")
    anything: Schema = {"type": "object"}
    return {
        "/": {"get": _get("device", "Who this is", "What the device is and which tasks it has", None)},
        "/health": {"get": _get("device", "Is it alive", "It answers", None)},
        "/status": {"get": _get("device", "How it is", "The lab's status envelope, version 1.2", "Status")},
        "/tasks": {"get": _get("tasks", "The catalogue", "Every task by name", None)},
        "/tasks/{task}": {"get": _get("tasks", "One task", "The task", None, [task], 404)},
        "/runs": {"get": _get("runs", "History, newest first", "A page of runs", "Page", _listing(), 400, 503)},
        "/runs/{run_id}": {
            "get": _get("runs", "One run", "The run as it is now", "Answer", [run, _wait()], 400, 404, 503)
        },
        "/runs/{run_id}/events": {"get": _stream("What happens to one run, until it ends", [run, _last_event()])},
        "/events": {"get": _stream("What happens to all runs", [_last_event()])},
        "/runs/{run_id}/cancel": {
            "post": _post("runs", "End a run in good order", "Where it is now", "Answer", [run], anything, False)
        },
        "/runs/{run_id}/resolve": {
            "post": _post("runs", "Say what became of a run that was cut off", "The run", "Answer", [run], _RESOLVE)
        },
        "/control/reset": {"post": _post("control", "Unlock, naming the lock", "The status", "Status", [], _RESET)},
        "/control/startup": {"post": _post("control", "Start the worker", "The status", "Status", [], anything, False)},
        "/execute/{task}": {"post": _execute(task, anything)},
    }


_RESOLVE: Schema = {
    "type": "object",
    "required": ["verdict", "by"],
    "properties": {"verdict": {"enum": ["done", "not_done", "partly"]}, "by": _TEXT, "note": {"type": "string"}},
}
_RESET: Schema = {"type": "object", "required": ["lock_id"], "properties": {"lock_id": _TEXT}}


def _get(
    tag: str, summary: str, good: str, schema: str | None, parameters: list[Schema] | None = None, *statuses: int
) -> Schema:
    return {
        "tags": [tag],
        "summary": summary,
        "parameters": parameters or [],
        "responses": {"200": _answers(good, schema), **_problems(403, *statuses)},
    }


def _post(
    tag: str, summary: str, good: str, schema: str, parameters: list[Schema], body: Schema, required: bool = True
) -> Schema:
    made = _get(tag, summary, good, schema, parameters, 400, 404, 412, 413, 503)
    return {**made, "requestBody": _body(body, required=required)}


def _stream(summary: str, parameters: list[Schema]) -> Schema:
    good = {"description": "server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    return {
        "tags": ["runs"],
        "summary": summary,
        "parameters": parameters,
        "responses": {"200": good, **_problems(400, 403, 404, 503)},
    }


def _execute(task: Schema, body: Schema) -> Schema:
    """The original kit's route, with its own shape of errors."""
    detail: Schema = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
    wrong = {"application/json": {"schema": detail}}
    codes = (400, 404, 409, 412, 413, 422, 429, 500, 503, 507)
    return {
        "tags": ["original"],
        "summary": "Run a task and wait for it, as the original kit did",
        "parameters": [task],
        "requestBody": _body(body, required=False),
        "responses": {
            "200": _answers("The task's result", None),
            **{str(code): {"description": _MEANING.get(code, "The task failed."), "content": wrong} for code in codes},
            **_problems(403),
        },
    }


def _listing() -> list[Schema]:
    return [
        _query("state", "only runs in this state", {"enum": [state.value for state in State]}),
        _query("task", "only runs of this task", {"type": "string"}),
        _query("limit", "how many", {"type": "integer", "minimum": 1, "maximum": 500}),
        _query("cursor", "`next` of the page before", {"type": "string"}),
    ]


def _wait() -> Schema:
    return _query("wait", "wait for the end up to so many seconds", {"type": "number", "minimum": 0})


def _last_event() -> Schema:
    return {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}


def _components() -> dict[str, Schema]:
    null_text: Schema = {"type": ["string", "null"]}
    answer: Schema = {
        "type": "object",
        "required": ["run_id", "task", "state", "device_id", "parameters"],
        "properties": {
            "run_id": _ID,
            "task": {"type": "string"},
            "state": {"enum": [state.value for state in State]},
            "status": {"enum": ["success", "error"], "description": "only once the run has ended"},
            "result": {},
            "error": null_text,
            "error_code": {"enum": [*BY_CODE, None]},
            "interrupted": {"type": "boolean"},
            "replayed": {"type": "boolean"},
            "submitted_at": null_text,
            "started_at": null_text,
            "finished_at": null_text,
        },
    }
    problem: Schema = {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "one sentence; says when nothing moved"},
            "code": {"enum": [*BY_CODE, "no_route"]},
            "run_id": {"type": "string"},
            "details": {"type": "object"},
        },
    }
    page: Schema = {
        "type": "object",
        "required": ["runs", "next"],
        "properties": {"runs": {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}}, "next": null_text},
    }
    status: Schema = {"type": "object", "required": ["protocol_version", "equipment_status", "activity"]}
    return {"Answer": answer, "Problem": problem, "Page": page, "Status": status}
