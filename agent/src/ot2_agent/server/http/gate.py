"""Who may come in, before anything else is looked at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from ...errors import OT2Error, Unauthorized
from ..journal import JournalProblem
from .problems import on_error, problem

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Doors:
    """Who is let in, and how much they may bring."""

    max_body_bytes: int
    allowed_hosts: frozenset[str]


class Gate:
    """Who may come in: a loopback peer, a Host name that is ours, no web page, no body beyond the limit.

    Plain ASGI, because it stands before every request. A submission goes from here straight to its handler: the layers
    and the routing between would cost it more than everything that is done in the handler.
    """

    def __init__(self, app: Any, doors: Doors, submit: Handler) -> None:
        self._app = app
        self._submit = submit
        self._allowed = frozenset(name.lower() for name in doors.allowed_hosts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        why = self._why_not(scope)
        if why is not None:
            await problem(why)(scope, receive, send)
            return
        task = _submitted_task(scope)
        if task is None:
            await self._app(scope, receive, send)
            return
        request = Request({**scope, "path_params": {"task": task}}, receive)
        try:
            response = await self._submit(request)
        except (OT2Error, JournalProblem) as exc:
            response = await on_error(request, exc)
        await response(scope, receive, send)

    def _why_not(self, scope: Any) -> OT2Error | None:
        peer = scope.get("client")
        if peer is not None and peer[0] not in ("127.0.0.1", "::1") and not peer[0].startswith("127."):
            return Unauthorized(f"Only this computer may call; {peer[0]} is not it. Nothing moved.", code="forbidden")
        host, origin = "", None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
        if _bare(host) not in self._allowed:
            return Unauthorized(
                f"The Host {host[:80]!r} is not one of this device's names (allowed_hosts). Nothing moved.",
                code="forbidden",
            )
        if origin is not None and origin.partition("//")[2] != host:  # our own /docs may, other pages may not
            return Unauthorized(
                f"A web page of {origin[:80]!r} may not call this device. Nothing moved.", code="forbidden"
            )
        return None


def _submitted_task(scope: Any) -> str | None:
    """The task of `POST /tasks/{task}/runs`; None for every other request."""
    path: str = scope["path"]
    if scope["method"] != "POST" or scope.get("root_path") or not path.startswith("/tasks/") or path[-5:] != "/runs":
        return None
    task = path[7:-5]
    return task if task and "/" not in task else None


def _bare(host: str) -> str:
    """A host in lower case, without its port and IPv6's brackets."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
