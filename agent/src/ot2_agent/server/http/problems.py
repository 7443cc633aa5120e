"""Errors as `application/problem+json`."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from ...errors import OT2Error, Starting
from ...wire import dumps
from ..journal import JournalProblem


def problem(exc: OT2Error) -> Response:
    """An error as `application/problem+json`."""
    body: dict[str, Any] = {
        "type": f"urn:ot2-agent:{exc.code}",
        "title": exc.code.replace("_", " "),
        "status": exc.http_status,
        "detail": exc.message,
        "code": exc.code,
        "details": exc.details,
    }
    if exc.run_id:
        body["run_id"] = exc.run_id
    headers = {"Retry-After": "1"} if exc.http_status in (412, 429, 503) else {}
    return Response(dumps(body), exc.http_status, headers, "application/problem+json")


async def on_error(_: Request, exc: Exception) -> Response:
    if isinstance(exc, JournalProblem):
        return problem(Starting(str(exc), code="journal_unusable"))
    assert isinstance(exc, OT2Error)
    return problem(exc)


async def on_http_error(request: Request, exc: Exception) -> Response:
    """Routes that do not exist, methods that do not fit: the same shape as every other problem."""
    assert isinstance(exc, HTTPException)
    hint = "GET /docs lists what there is."
    detail = f"{request.method} {request.url.path[:200]} is not something this device answers. {hint}"
    body = {"type": "about:blank", "title": exc.detail, "status": exc.status_code, "detail": detail, "code": "no_route"}
    return Response(dumps(body), exc.status_code, dict(exc.headers or {}), "application/problem+json")
