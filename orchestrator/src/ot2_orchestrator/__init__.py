"""Call the tasks of OT-2 agents from notebooks, flows and scripts: at most once each, with no surprises."""

from __future__ import annotations

from ot2_agent.errors import (
    Cancelled,
    Claimed,
    DeviceOffline,
    DiskLow,
    Expired,
    InvalidParameters,
    LostContact,
    MalformedRequest,
    NothingHappened,
    NotReady,
    NotStarted,
    NotSupported,
    OT2Error,
    OutcomeUnknown,
    QueueFull,
    Rejected,
    RunConflict,
    RunFailed,
    RunNotFound,
    Starting,
    StillRunning,
    TaskFailed,
    TaskNotFound,
    TimedOut,
    Unauthorized,
)
from ot2_agent.wire import Answer, Event, State

from .client import AsyncOrchestratorClient, OrchestratorClient, create_client, loopback
from .flows import Patience
from .run import AsyncRun, Run
from .transports.base import AsyncTransport, Transport
from .transports.loopback import LoopbackTransport

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AsyncOrchestratorClient",
    "AsyncRun",
    "AsyncTransport",
    "Cancelled",
    "Claimed",
    "DeviceOffline",
    "DiskLow",
    "Event",
    "Expired",
    "InvalidParameters",
    "LoopbackTransport",
    "LostContact",
    "MalformedRequest",
    "NotReady",
    "NotStarted",
    "NotSupported",
    "NothingHappened",
    "OT2Error",
    "OrchestratorClient",
    "OutcomeUnknown",
    "Patience",
    "QueueFull",
    "Rejected",
    "Run",
    "RunConflict",
    "RunFailed",
    "RunNotFound",
    "Starting",
    "State",
    "StillRunning",
    "TaskFailed",
    "TaskNotFound",
    "TimedOut",
    "Transport",
    "Unauthorized",
    "create_client",
    "loopback",
]
