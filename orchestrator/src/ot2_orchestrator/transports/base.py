"""What a transport is: one small method, a message in, a message out. Names no protocol.

| `op` | `body` | answer |
|---|---|---|
| `submit` | a `wire.Request` as it travels, and `wait` (seconds to wait for the run's end) | a `wire.Answer` |
| `get` | `run_id`, `wait` | a `wire.Answer` |
| `cancel` | `run_id`, `reason`? | a `wire.Answer` |
| `resolve` | `run_id`, `verdict`, `by`, `note`? | a `wire.Answer` |
| `list` | `state`?, `task`?, `limit`?, `cursor`? | `{"runs": [wire.Answer, ...], "next": cursor or null}` |
| `tasks` | | the catalogue: task name -> entry |
| `status`, `health` | | the device's status, `{"status": "healthy"}` |
| `reset`, `startup` | `lock_id` for `reset` | the device's status |

A transport raises what the device answered as the `OT2Error` of its code, and `NoAnswer` for everything else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, Protocol, runtime_checkable

from ot2_agent.wire import Event

Message = Mapping[str, Any]


class NoAnswer(Exception):
    """No answer of the device came back. It never leaves this package: the client core decides what it means.

    Args:
        message: why, as the part of a sentence that stands after a colon.
        maybe_received: the message may have arrived at the device.
        final: trying again would end the same way (a wrong certificate, another server at this address).
        dropped: an open connection was closed, as an idle one is; worth one more try at once.
    """

    def __init__(self, message: str, *, maybe_received: bool, final: bool = False, dropped: bool = False) -> None:
        super().__init__(message)
        self.maybe_received = maybe_received
        self.final = final
        self.dropped = dropped


@runtime_checkable
class Transport(Protocol):
    """The way to one device. Safe to use from several threads."""

    @property
    def where(self) -> str:
        """The device's address, for sentences."""

    def call(self, op: str, body: Message, timeout: float) -> Message:
        """Send one message and wait at most `timeout` seconds for its answer."""

    def events(self, run_id: str, after: str | None) -> Generator[Event, None, None]:
        """The events of a run after the one with the id `after`; ends when the device has no more to say."""

    def close(self) -> None:
        """Let go of connections. Closing twice is harmless."""


@runtime_checkable
class AsyncTransport(Protocol):
    """The same for asyncio. One class may be both, as `LoopbackTransport` is."""

    @property
    def where(self) -> str:
        """The device's address, for sentences."""

    async def async_call(self, op: str, body: Message, timeout: float) -> Message:
        """Send one message and wait at most `timeout` seconds for its answer."""

    def async_events(self, run_id: str, after: str | None) -> AsyncGenerator[Event, None]:
        """The events of a run after the one with the id `after`; ends when the device has no more to say."""

    async def aclose(self) -> None:
        """Let go of connections. Closing twice is harmless."""
