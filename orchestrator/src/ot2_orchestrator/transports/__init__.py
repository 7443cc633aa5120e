"""The ways to a device. `base` says what one is; each of the others is one."""

from __future__ import annotations

from .base import AsyncTransport, Message, NoAnswer, Transport
from .http import AsyncHttpTransport, HttpTransport
from .loopback import LoopbackTransport

__all__ = [
    "AsyncHttpTransport",
    "AsyncTransport",
    "HttpTransport",
    "LoopbackTransport",
    "Message",
    "NoAnswer",
    "Transport",
]
