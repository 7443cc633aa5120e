"""A flow is an operation without its I/O: a generator that yields what to ask and how long to pause.

Written once, driven twice: `drive` from a thread, `adrive` from asyncio. Knows no transport and no clock of its own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .transports.base import Message

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """Send this message; its answer is sent into the flow, its failure thrown into it."""

    op: str
    body: Message
    timeout: float


@dataclass(frozen=True)
class Pause:
    """Let some time pass (seconds)."""

    seconds: float


Flow = Generator[Ask | Pause, Any, T]


def ask(op: str, body: Message, timeout: float) -> Flow[Message]:
    """Yield one message and return its answer."""
    answer: Message = yield Ask(op, body, timeout)
    return answer


def pause(seconds: float) -> Flow[None]:
    yield Pause(seconds)


@dataclass(frozen=True)
class Patience:
    """How long a client tries. All in seconds.

    Args:
        contact_timeout_s: how long a device may be out of reach before the caller is told.
        resend_every_s: the pause before the same message, with the same run id, is sent again (15 % jitter).
        slice_s: how long one request waits for the end of a run before the client asks again.
        answer_within_s: how long a device may take to answer, beside the waiting that it was asked for.
    """

    contact_timeout_s: float = 30.0
    resend_every_s: float = 2.0
    slice_s: float = 20.0
    answer_within_s: float = 10.0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False, compare=False)

    def between_tries(self) -> float:
        """The next pause: many clients of one device that restarts should not come back in step."""
        return self.resend_every_s * random.uniform(0.85, 1.15)


def drive(flow: Flow[T], call: Callable[[str, Message, float], Message]) -> T:
    """Carry out a flow in this thread."""
    try:
        step = next(flow)
        while True:
            try:
                answer: Message = {}
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                else:
                    answer = call(step.op, step.body, step.timeout)
            except Exception as exc:
                step = flow.throw(exc)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def adrive(flow: Flow[T], call: Callable[[str, Message, float], Awaitable[Message]]) -> T:
    """Carry out a flow in the running event loop."""
    try:
        step = next(flow)
        while True:
            try:
                answer: Message = {}
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    answer = await call(step.op, step.body, step.timeout)
            except Exception as exc:
                step = flow.throw(exc)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
