"""Reads what a request brings: its body, its options, numbers and names. Refuses with a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request

from ...errors import MalformedRequest
from ...wire import Request as RunRequest
from ...wire import loads_object, new_run_id

MAX_WAIT_S = 300.0


async def read_body(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes of it.

    Raises:
        MalformedRequest: it is larger (`too_large`); the rest is not read.
    """
    for name, value in request.scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise _too_large(limit)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> MalformedRequest:
    return MalformedRequest(f"The body is larger than {limit} bytes. Nothing moved.", code="too_large")


async def read_object(request: Request, limit: int) -> dict[str, Any]:
    """The body as a JSON object; an empty body is an empty object."""
    body = await read_body(request, limit)
    return loads_object(body) if body else {}


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value


def _flag(text: str) -> Any:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)


def _json_labels(text: str) -> Any:
    return loads_object(text.encode(), "labels header")


_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "timeout_s": ("ot2-timeout-s", _number),
    "start_within_s": ("ot2-start-within-s", _number),
    "expires_in_s": ("ot2-expires-in-s", _number),
    "expires_at": ("ot2-expires-at", str),
    "labels": ("ot2-labels", _json_labels),
    "dry_run": ("ot2-dry-run", _flag),
    "on_behalf_of": ("ot2-on-behalf-of", str),
    "claim_token": ("x-claim-token", str),
    "traceparent": ("traceparent", str),
}
"""A request's options: name (as a query parameter) -> header, and how its text is read. The header wins."""
_BY_HEADER = {
    b"idempotency-key": "run_id",
    **{header.encode(): name for name, (header, _) in _OPTIONS.items()},
}


def run_request(request: Request, task: str, parameters: dict[str, Any]) -> RunRequest:
    """A request from its parts: the task in the path, the parameters in the body, options in headers or query.

    Raises:
        MalformedRequest: an option is not of its form.
    """
    given = dict(request.query_params.multi_items())
    for header, value in reversed(request.scope["headers"]):  # of two the first counts
        if header in _BY_HEADER and (value or header != b"idempotency-key"):
            given[_BY_HEADER[header]] = value.decode("latin-1")
    run_id = given.get("run_id") or None
    data: dict[str, Any] = {"run_id": run_id or new_run_id(), "task": task, "parameters": parameters}
    for option, (_, read) in _OPTIONS.items():
        if option in given:
            data[option] = read(given[option])
    made = RunRequest.decode(data)
    if run_id is None:
        object.__setattr__(made, "own_id", False)
    return made


def wait_seconds(request: Request) -> float:
    """`?wait=S`: how long the caller would wait for the end, in seconds, at most `MAX_WAIT_S`.

    Raises:
        MalformedRequest: it is not a number of seconds.
    """
    text = request.query_params.get("wait")
    if text is None:
        return 0.0
    value = _number(text)
    if not value >= 0:
        raise MalformedRequest(f"wait must be a number of seconds, not {text[:40]!r}. Nothing moved.")
    return min(value, MAX_WAIT_S)


def text_of(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise MalformedRequest(f"{name} must be a string of 1 to 256 characters. Nothing changed.")
    return value


def integer(text: str, name: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text[:20]) <= most:
        raise MalformedRequest(f"{name} must be a whole number from {least} to {most}, not {text[:40]!r}.")
    return int(text)
