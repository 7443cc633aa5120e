"""The agent inside somebody else's ASGI server (`uvicorn module:server.app`): up and down with its lifespan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..hardware import HardwareBusy, HardwareLock
from .cli import read_settings
from .device import Device
from .http import App, Doors, make_app
from .reactor import Reactor
from .runner import Listener, Worker
from .serve import (
    LOOPBACK_NAMES,
    Trouble,
    check_tasks,
    identity,
    open_journal,
    rules,
    spawner,
    why_nothing_is_served,
)
from .settings import Settings


def embedded_app(given: Mapping[str, Any]) -> App:
    """The application; the hardware is locked and the worker started when it begins to serve, not before."""
    settings = read_settings([], None, **given)
    starter: list[Any] = []

    def start(reactor: Reactor, listener: Listener) -> Worker:
        made: Worker = starter[0](reactor, listener)
        return made

    device = Device(identity(settings), rules(settings), "The agent has not started yet.", start)

    @contextmanager
    def span() -> Iterator[None]:
        check_tasks(settings)
        lock = _take(settings)
        starter[:] = [spawner(settings, lock)]
        device.use(open_journal(settings))
        device.start()
        device.ready.wait()
        try:
            if why := why_nothing_is_served(device, settings):
                raise Trouble(why)
            yield
        finally:
            device.close()
            lock.release()

    return make_app(device, Doors(settings.max_body_bytes, frozenset({*LOOPBACK_NAMES, *settings.allowed_hosts})), span)


def _take(settings: Settings) -> HardwareLock:
    """The hardware's lock; `--workers 4` would be four hands on one robot.

    Raises:
        HardwareBusy: another process has it; the sentence names the command that works.
    """
    try:
        return HardwareLock.take(settings.hardware_key, what="an embedded ot2-agent")
    except HardwareBusy as exc:
        command = f"ot2-agent serve {settings.tasks}"
        raise HardwareBusy(f"{exc} One robot is served by one process: {command}", exc.owner) from None
