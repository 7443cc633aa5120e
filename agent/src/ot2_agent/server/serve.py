"""The agent as a process: from settings to a serving device and back, in one stated order.

Up: lock the hardware, open the journal, start the worker, listen. Down: take no new work, let the running task end
(its grace, then a cancel, then a kill), stop listening, end the worker, close the journal, let the lock go.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..environment import sdk_link
from ..hardware import HardwareLock, memory_folder
from .device import Device, Rules
from .http import App, Doors, make_app
from .intake import Limits
from .journal import Journal, JournalProblem, Memory
from .reactor import Reactor
from .runner import Listener, Recipe, ScriptWorker, SpawnedWorker, Worker
from .settings import Settings
from .status import Identity

log = logging.getLogger("ot2_agent")
BAD_CONFIG = 78
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


class Trouble(RuntimeError):
    """Nothing can work like this; the sentence says what to change. Exit code 78."""


@dataclass
class Agent:
    """A device, its application and what must be let go of in the end."""

    settings: Settings
    device: Device
    app: App
    lock: HardwareLock
    gone: list[Callable[[], None]] = field(default_factory=list)

    def close(self) -> None:
        self.device.close()
        self.lock.release()


def prepare(
    settings: Settings, lock: HardwareLock, starter: Callable[[Reactor, Listener], Worker], *, script: bool = False
) -> Agent:
    """The device over its journal; nothing is started yet.

    Raises:
        Trouble: the state directory cannot be used.
    """
    device = Device(identity(settings), replace(rules(settings), script=script), open_journal(settings), starter)
    names = frozenset({*LOOPBACK_NAMES, *settings.allowed_hosts})
    app = make_app(device, Doors(settings.max_body_bytes, names))
    return Agent(settings, device, app, lock)


def open_journal(settings: Settings) -> Journal | str:
    """The journal, or the sentence that says why the device takes no run."""
    make_state_dir(settings)
    try:
        return Journal.open(settings.journal, Memory(memory_folder() / f"{settings.hardware_key}.json"))
    except JournalProblem as exc:
        log.error("%s", exc)
        return str(exc)
    except OSError as exc:
        raise Trouble(f"The journal {settings.journal} cannot be opened ({exc}). Nothing was started.") from exc


def make_state_dir(settings: Settings) -> None:
    try:
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = settings.state / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as exc:
        raise Trouble(
            f"The state directory {settings.state} cannot be written ({exc.strerror}). Nothing was started. "
            "Name another: --state-dir DIR"
        ) from exc


def identity(settings: Settings) -> Identity:
    return Identity(settings.device_id, settings.title, settings.description, settings.version, settings.mode)


def rules(settings: Settings) -> Rules:
    limits = Limits(settings.state, settings.min_free_mb << 20)
    return Rules(limits, settings.queue_places, settings.keep_queue_after_failure)


def spawner(settings: Settings, lock: HardwareLock) -> Callable[[Reactor, Listener], Worker]:
    """Makes workers from the settings."""
    recipe = Recipe(
        python=settings.worker_python,
        tasks=settings.tasks,
        link=sdk_link(settings.state),
        environment=settings.for_worker(),
        keep=(lock.fd,),
    )

    def start(reactor: Reactor, listener: Listener) -> Worker:
        worker = SpawnedWorker(reactor, listener, recipe)
        lock.describe(pid=os.getpid(), what="ot2-agent", url=url(settings), worker=worker.pid)
        return worker

    return start


def url(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


# --- serving --------------------------------------------------------------------------------------------------------


def serve(settings: Settings) -> int:
    """Serve until a signal; 0 at a good end, 78 when the tasks do not import.

    Raises:
        Trouble, HardwareBusy: nothing was started.
    """
    set_up_logging(settings)
    check_tasks(settings)
    listener, settings = listen(settings)
    make_state_dir(settings)
    lock = HardwareLock.take(settings.hardware_key, what="ot2-agent", url=url(settings))
    agent = prepare(settings, lock, spawner(settings, lock))
    agent.device.start()
    try:
        return _Serving(agent, listener).run()
    finally:
        agent.close()


def serve_script(settings: Settings, told: Mapping[str, Any]) -> int:
    """Serve the tasks of the script that started this process: the script is the worker."""
    set_up_logging(settings)
    listener, settings = listen(settings)
    lock = HardwareLock.inherited(settings.hardware_key, told["lock"])
    lock.describe(pid=os.getpid(), what="ot2-agent of a script", url=url(settings), worker=told["pid"])

    def starter(reactor: Reactor, hears: Listener) -> Worker:
        if told["pid"] != os.getppid():
            raise OSError("the script has ended; start it again")
        sock = socket.socket(fileno=told["socket"])
        return ScriptWorker(
            reactor, hears, sock=sock, output=told["output"], lifeline=told["lifeline"], pid=told["pid"]
        )

    agent = prepare(settings, lock, starter, script=True)
    serving = _Serving(agent, listener)
    agent.device.on_script_end = serving.script_ended
    agent.device.start()
    try:
        return serving.run()
    finally:
        agent.close()


def check_tasks(settings: Settings) -> None:
    """The task module and its interpreter are there; whether they work is seen when the worker starts.

    Raises:
        Trouble: one is not.
    """
    if settings.tasks.endswith(".py") and not os.path.isfile(settings.tasks):
        raise Trouble(f"There is no file {settings.tasks}. Nothing was started.")
    if shutil.which(settings.worker_python) is None:
        raise Trouble(
            f"The worker's interpreter {settings.worker_python} cannot be run. Nothing was started. "
            "Name another: --python PY"
        )


def listen(settings: Settings) -> tuple[socket.socket, Settings]:
    """The listening socket, and the settings with the port it really has.

    Raises:
        Trouble: the port is taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only if it is named
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
    except OSError as exc:
        sock.close()
        from .checkup import port_owner

        who = port_owner(settings.port)
        raise Trouble(
            f"Port {settings.port} on {settings.host} is taken{f' by {who}' if who else ''} ({exc.strerror}). "
            "Nothing was started. Take another: --port 8001 (0 takes a free one)"
        ) from exc
    return sock, settings.model_copy(update={"port": sock.getsockname()[1]})


def set_up_logging(settings: Settings) -> None:
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level.upper())))
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )


def server_config(app: App, http: type[asyncio.Protocol] = H11Protocol) -> uvicorn.Config:
    """How the agent has uvicorn serve."""
    return uvicorn.Config(
        app,
        http=http,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,  # uvicorn's 5 s make every other call of a slow experiment a new connection
        timeout_graceful_shutdown=3,
        ws="none",
        server_header=False,
    )


def why_nothing_is_served(device: Device, settings: Settings) -> str | None:
    """Once the device is ready: why it has no task to serve, None when it has, or when a person must act first."""
    if failed := device.import_failed:
        where = f"{failed['line']}: {failed['type']}: {failed['message']}"
        return f"{settings.tasks} does not import: {where}\n\n{failed['traceback']}"
    if device.snapshot.worker == "ready" and not device.catalogue:
        return f"{settings.tasks} registers no task. Put @task above a function in it."
    if device.snapshot.worker != "failed":
        return None
    hint = "" if device.on_script_end else f"\nIts interpreter is {settings.worker_python}. Name another: --python PY"
    return f"The worker did not start: {device.snapshot.worker_message}{hint}"


class _Gathered:
    """A transport that sends what is written in one turn of the loop together.

    uvicorn writes the head of a response and its body apart: two packets, and the client is woken twice.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if data and not self._parts:
            self._loop.call_soon(self._flush)
        if data:
            self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(H11Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(cast(asyncio.Transport, _Gathered(transport)))


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: ours ask the device first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Serving:
    """One agent while it serves: signals, the end of the script, the order of stopping."""

    def __init__(self, agent: Agent, sock: socket.socket) -> None:
        self._agent = agent
        self._sock = sock
        self._code = 0
        self._signals = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server = _Server(server_config(agent.app, _Protocol))

    def run(self) -> int:
        asyncio.run(self._main())
        return self._code

    async def _main(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        watch = loop.create_task(self._announce())
        await self._server.serve(sockets=[self._sock])
        watch.cancel()
        self._agent.device.ready.set()  # lets the waiting thread go

    async def _announce(self) -> None:
        """Say what is served once the worker is ready; without tasks there is nothing to serve."""
        device, settings = self._agent.device, self._agent.settings
        await asyncio.to_thread(device.ready.wait)
        gc.collect()
        gc.freeze()  # what is here by now stays: later collections need not look at it
        if why := why_nothing_is_served(device, settings):
            self._fail(why)
        else:
            names = ", ".join(device.catalogue) or "no task known yet"
            state = "" if device.snapshot.worker == "ready" else f"\n{device.snapshot.worker_message}: GET /status"
            print(
                f"{settings.device_id} {settings.mode.upper()} serves {names} on {url(settings)}{state}",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def _fail(self, sentence: str) -> None:
        print(f"ot2-agent: {sentence}", file=sys.stderr, flush=True)
        self._code = BAD_CONFIG
        self._server.should_exit = True

    def _on_signal(self) -> None:
        """First: end in good order. Second: now."""
        self._signals += 1
        running = self._agent.device.snapshot.running
        if self._signals > 1:
            self._server.should_exit = self._server.force_exit = True
            return
        if running is not None:
            print(f"Waiting for run {running.run_id} to end. Ctrl-C again kills it.", file=sys.stderr, flush=True)
        self._agent.device.drain(self._stop_listening)

    def script_ended(self) -> None:
        """In the device thread: the script is gone, and nothing runs."""
        self._in_loop(lambda: self._loop and self._loop.call_later(1.0, self._quit))

    def _stop_listening(self) -> None:
        self._in_loop(self._quit)

    def _in_loop(self, call: Callable[[], object]) -> None:
        """From the device thread. After a second Ctrl-C the loop may be gone, and with it what was to be done there."""
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call)

    def _quit(self) -> None:
        self._server.should_exit = True
