"""Events as server-sent events: what was missed, then what happens, until the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi.responses import StreamingResponse

from ...wire import Event, State
from ..events import EventLog

_STREAM_BACKLOG = 1000
_KEEP_ALIVE_S = 10.0


async def live(log: EventLog, run_id: str | None, after: int) -> AsyncIterator[bytes]:
    """Events as they happen, those missed first; ends with the run's end, or when the reader is too slow."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def hear(event: Event) -> None:
        with suppress(RuntimeError):  # the server has stopped; nobody listens any more
            loop.call_soon_threadsafe(queue.put_nowait, event)

    missed, key = log.watch(hear, run_id=run_id, after=after)
    try:
        for event in missed:
            yield _frame(event)
            if run_id and _is_end(event):
                return
        while queue.qsize() < _STREAM_BACKLOG:
            try:
                event_now = await asyncio.wait_for(queue.get(), _KEEP_ALIVE_S)
            except asyncio.TimeoutError:
                yield b": keep-alive\n\n"
                continue
            assert event_now is not None
            yield _frame(event_now)
            if run_id and _is_end(event_now):
                return
    finally:
        log.leave(key)


def _is_end(event: Event) -> bool:
    return event.kind == "state" and State(event.data["state"]).ended


def _frame(event: Event) -> bytes:
    body = json.dumps(event.encode(), separators=(",", ":"))
    return f"id: {event.id}\nevent: {event.kind}\ndata: {body}\n\n".encode("ascii")


async def past(events: list[Event], after: int, epoch: int) -> AsyncIterator[bytes]:
    for event in events:
        if event.epoch != epoch or event.seq > after or event is events[-1]:
            yield _frame(event)


def answer(frames: AsyncIterator[bytes]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(frames, media_type="text/event-stream", headers=headers)
