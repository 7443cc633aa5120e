"""What stands behind each route: decodes, asks the device, encodes.

The routes take the raw request and give bytes: FastAPI's own parsing and serialising costs more than a whole run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response

from ...errors import InvalidParameters, MalformedRequest, NothingHappened, OT2Error, Starting, TaskNotFound
from ...wire import Answer, State, check_run_id, dumps, json_type
from ...wire import Request as RunRequest
from ..device import Device
from ..status import envelope
from . import streams
from .gate import Doors, Handler
from .openapi import describe
from .reading import integer, read_object, run_request, text_of, wait_seconds

_SENDER = "local"
"""Who calls, as long as only loopback can."""


async def ask(call: Callable[[Callable[[Any], None]], None], timeout_s: float | None = None) -> Any:
    """Await a call whose reply comes from the device thread; TimeoutError after `timeout_s`.

    Raises:
        OT2Error: the device said so.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(told: Any) -> None:
        if not future.done():
            future.set_result(told)

    def reply(told: Any) -> None:
        try:
            loop.call_soon_threadsafe(settle, told)
        except RuntimeError:
            pass  # the server has stopped; nobody waits any more

    def expire() -> None:
        if not future.done():
            future.set_exception(asyncio.TimeoutError())

    timer = None if timeout_s is None else loop.call_later(timeout_s, expire)
    try:
        call(reply)
        told = await future
    finally:
        if timer is not None:
            timer.cancel()
    if isinstance(told, OT2Error):
        raise told
    return told


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dumps(body), status, dict(headers or {}), "application/json")


def _told(answer: Answer) -> Response:
    """A run as the answer of a submission: 200 when it has ended, 202 with its place when it has not."""
    if answer.ended:
        return _json(answer.encode())
    return _json(answer.encode(), 202, {"Location": f"/runs/{quote(answer.run_id)}"})


class Routes:
    """What stands behind each route."""

    def __init__(self, device: Device, doors: Doors) -> None:
        self._device = device
        self._limit = doors.max_body_bytes

    def attach(self, app: FastAPI) -> None:
        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/tasks/{task}/runs", self.submit),  # first, because routes are tried in turn
            ("GET", "/", self.root),
            ("GET", "/health", self.health),
            ("GET", "/status", self.status),
            ("GET", "/openapi.json", self.openapi),
            ("GET", "/tasks", self.tasks),
            ("GET", "/tasks/{task}", self.task),
            ("GET", "/runs", self.runs),
            ("GET", "/runs/{run_id}", self.run),
            ("GET", "/runs/{run_id}/events", self.run_events),
            ("GET", "/events", self.all_events),
            ("POST", "/runs/{run_id}/cancel", self.cancel),
            ("POST", "/runs/{run_id}/resolve", self.resolve),
            ("POST", "/control/reset", self.reset),
            ("POST", "/control/startup", self.startup),
            ("POST", "/execute/{task}", self.execute),
        ]
        for method, path, handler in routes:
            app.router.add_route(path, handler, methods=[method])

    # --- what there is

    async def root(self, request: Request) -> Response:
        who = self._device.who
        return _json(
            {
                "message": f"{who.title} is running",
                "available_tasks": list(self._device.catalogue),
                "docs": "/docs",
                "equipment_id": who.device_id,
                "equipment_name": who.title,
                "protocol_version": "1.2",
                "mode": who.mode,
            }
        )

    async def health(self, request: Request) -> Response:
        return _json({"status": "healthy"})

    async def status(self, request: Request) -> Response:
        return _json(envelope(self._device.who, self._device.snapshot, time_now=time.time()))

    async def openapi(self, request: Request) -> Response:
        return _json(describe(self._device.who, self._device.catalogue))

    async def tasks(self, request: Request) -> Response:
        if not self._device.catalogue and self._device.snapshot.worker == "starting":
            raise Starting("The worker is still starting; its tasks are not known yet.")
        return _json(self._device.catalogue)

    async def task(self, request: Request) -> Response:
        name = request.path_params["task"]
        entry = self._device.catalogue.get(name)
        if entry is None:
            raise TaskNotFound(f"This device has no task {name[:80]}. GET /tasks lists them.")
        return _json(entry)

    # --- runs

    async def submit(self, request: Request) -> Response:
        parameters = await read_object(request, self._limit)
        return await self._run(run_request(request, request.path_params["task"], parameters), wait_seconds(request))

    async def _run(self, wanted: RunRequest, wait_s: float | None) -> Response:
        """Submit, and wait for the end up to `wait_s` (None: as long as it takes)."""
        until_end = wait_s is None or wait_s > 0
        heard: list[Answer | OT2Error] = []

        def call(reply: Callable[[Any], None]) -> None:
            def both(told: Answer | OT2Error) -> None:
                heard.append(told)
                reply(told)

            self._device.submit(wanted, both, sender=_SENDER, until_end=until_end)

        try:
            answer = await ask(call, wait_s if until_end else None)
        except asyncio.TimeoutError:  # the wait may have been too short even for the request to be looked at
            await ask(lambda reply: self._device.reactor.post(lambda: reply(None)))
            answer = heard[0] if heard else self._device.find(wanted.run_id)
            if isinstance(answer, OT2Error):
                raise answer from None
        return _told(answer)

    async def runs(self, request: Request) -> Response:
        query = request.query_params
        limit = integer(query.get("limit", "50"), "limit", 1, 500)
        before = query.get("cursor")
        state = query.get("state")
        if state is not None and state not in {item.value for item in State}:
            raise MalformedRequest(f"state must be one of {', '.join(State)}, not {state[:40]!r}.")
        found = self._device.history(
            before=None if before is None else integer(before, "cursor", 1, 1 << 62),
            state=state,
            task=query.get("task"),
            limit=limit,
        )
        more = str(found[-1].seq) if len(found) == limit else None
        return _json({"runs": [answer.encode() for answer in found], "next": more})

    async def run(self, request: Request) -> Response:
        run_id = check_run_id(request.path_params["run_id"])
        wait_s = wait_seconds(request)
        answer = self._device.find(run_id)
        if wait_s and not answer.ended:
            try:
                answer = await ask(lambda reply: self._device.wait(run_id, reply), wait_s)
            except asyncio.TimeoutError:
                answer = self._device.find(run_id)
        return _json(answer.encode())

    async def cancel(self, request: Request) -> Response:
        run_id = check_run_id(request.path_params["run_id"])
        await read_object(request, self._limit)
        answer = await ask(lambda reply: self._device.cancel(run_id, reply, sender=_SENDER))
        return _json(answer.encode())

    async def resolve(self, request: Request) -> Response:
        run_id = check_run_id(request.path_params["run_id"])
        body = await read_object(request, self._limit)
        verdict, by, note = text_of(body, "verdict"), text_of(body, "by"), body.get("note")
        if note is not None and not isinstance(note, str):
            raise MalformedRequest(f"note must be a string, not {json_type(note)}. Nothing changed.")
        answer = await ask(lambda reply: self._device.resolve(run_id, verdict, reply, by=by, note=note))
        return _json(answer.encode())

    async def execute(self, request: Request) -> Response:
        """The original kit's route: blocks until the task has ended, and answers with its status codes."""
        try:
            parameters = await read_object(request, self._limit)
            wanted = run_request(request, request.path_params["task"], parameters)
            answer = await ask(lambda reply: self._device.submit(wanted, reply, sender=_SENDER, until_end=True))
        except (InvalidParameters, MalformedRequest) as exc:
            return _json({"detail": exc.message}, 413 if exc.code == "too_large" else 400)
        except OT2Error as exc:
            return _json({"detail": exc.message}, exc.http_status)
        return _original(answer)

    # --- control

    async def reset(self, request: Request) -> Response:
        lock_id = text_of(await read_object(request, self._limit), "lock_id")
        await ask(lambda reply: self._device.reset(lock_id, reply))
        return await self.status(request)

    async def startup(self, request: Request) -> Response:
        await read_object(request, self._limit)
        await ask(self._device.startup)
        return await self.status(request)

    # --- events

    async def run_events(self, request: Request) -> Response:
        run_id = check_run_id(request.path_params["run_id"])
        after = self._after(request)
        answer = self._device.find(run_id)
        if answer.ended:
            return streams.answer(streams.past(self._device.past_events(run_id), after, self._device.events.epoch))
        return streams.answer(streams.live(self._device.events, run_id, after))

    async def all_events(self, request: Request) -> Response:
        return streams.answer(streams.live(self._device.events, None, self._after(request)))

    def _after(self, request: Request) -> int:
        """Where the caller left off; ids of an earlier life of the agent mean: from the start."""
        epoch, _, seq = request.headers.get("last-event-id", "").partition("-")
        same = epoch == str(self._device.events.epoch) and seq.isdecimal()
        return int(seq) if same else 0


def _original(answer: Answer) -> Response:
    """The original kit's answer to `/execute`."""
    if answer.state is State.SUCCEEDED:
        return _json(
            {
                "task_name": answer.task,
                "parameters": dict(answer.parameters),
                "result": answer.result,
                "status": "success",
            }
        )
    exc = answer.exception()
    status = 400 if isinstance(exc, NothingHappened) and answer.state is State.REJECTED else 500
    return _json({"detail": answer.error or str(answer.state)}, status)
