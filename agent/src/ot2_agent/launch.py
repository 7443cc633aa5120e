"""`DeviceServer().run()` at the end of a script: the script is the worker, and the agent is started beside it.

The agent gets a session of its own, so that Ctrl-C in the script does not take the journal's owner with it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from . import environment, hardware
from .environment import NoAgentPython, agent_command
from .lifeline import hold_on, let_go
from .ot2 import HardwareError, mode
from .pipe import Channel
from .task import REGISTRY


class DeviceServer:
    """Serves every `@task` of this process over HTTP.

    Args:
        title, description, version: shown in `/docs` and `/status`.
        host: listen address; loopback only in this release.
        port: listen port; 0 takes a free one.
        require_auth: ask for tokens (refused in this release).
        device_id: the device's name on the wire; the host's name when absent.
        state_dir: where the journal is; a folder named after the device when absent.
    """

    def __init__(
        self,
        title: str = "OT-2 Device Server",
        description: str = "Tasks on an Opentrons OT-2",
        version: str = "1.0.0",
        host: str | None = None,
        port: int | None = None,
        require_auth: bool = False,
        *,
        device_id: str | None = None,
        state_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        given = {
            "title": title,
            "description": description,
            "version": version,
            "host": host,
            "port": port,
            "require_auth": require_auth or None,
            "device_id": device_id,
            "state_dir": None if state_dir is None else str(state_dir),
        }
        self._settings = {name: value for name, value in given.items() if value is not None}
        self._file = _file_of_caller()
        self._thread: threading.Thread | None = None

    def run(self, **kwargs: Any) -> None:
        """Serve until Ctrl-C or a signal. `host`, `port` and `log_level` may be given here, as to uvicorn.

        Raises:
            SystemExit: 78 when nothing can work like this; the sentence on stderr says what to change.
        """
        if environment.INSIDE_WORKER:
            return
        try:
            code = _Script(self._settings_with(kwargs)).serve()
        except (NoAgentPython, hardware.HardwareBusy, HardwareError, ValueError) as exc:
            print(f"ot2-agent: {exc}", file=sys.stderr)
            code = 78
        if code:
            raise SystemExit(code)

    def start(self, **kwargs: Any) -> None:
        """Serve from a thread and return at once: for notebooks. Tasks then run in that thread, beside the cells.

        A run that must be killed takes the notebook's kernel with it; `ot2-agent serve` does not have that fault.
        """
        if environment.INSIDE_WORKER or self._thread is not None:
            return
        script = _Script(self._settings_with(kwargs), threaded=True)
        self._thread = threading.Thread(target=script.serve, name="ot2-worker", daemon=True)
        self._thread.start()

    def get_app(self) -> Any:
        """The ASGI application, for a server of your own: this process is the agent, a worker imports this file.

        Needs the `[server]` extra here. One process only: a second one refuses to start.
        """
        if environment.INSIDE_WORKER:
            return None  # the worker imports the same file, maybe without the agent's dependencies
        from .server.embed import embedded_app

        if self._file is None:
            raise ValueError("get_app() needs a script in a file; in a notebook use start().")
        return embedded_app({**self._settings, "tasks": self._file})

    @property
    def app(self) -> Any:
        """The same as `get_app()`."""
        return self.get_app()

    def _settings_with(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        unknown = set(kwargs) - {"host", "port", "log_level"}
        if unknown:
            raise TypeError(f"run() takes host, port and log_level, not {', '.join(sorted(unknown))}.")
        return {**self._settings, **kwargs, "tasks": self._file or "the script"}


def _file_of_caller() -> str | None:
    """The file outside this module that is making a server; None in a notebook."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return frame and frame.f_globals.get("__file__")


def create_server(**kwargs: Any) -> DeviceServer:
    """`DeviceServer(**kwargs)`, as the original kit had it."""
    return DeviceServer(**kwargs)


class _Script:
    """This process as a worker, with an agent of its own."""

    def __init__(self, settings: dict[str, Any], *, threaded: bool = False) -> None:
        self._settings = {**settings, "mode": mode()}
        self._threaded = threaded
        self._interrupts = 0
        self._busy = False
        self._tied = False
        self._stop: Callable[[], None] | None = None
        self._lifeline = -1
        self._terminal = os.dup(2)

    def serve(self) -> int:
        """Start the agent, do its tasks until it or the user ends it; the exit code."""
        from .worker import Output, hello, serve

        agent, channel, output_in = self._start_agent()
        with _Redirected(output_in) as redirected:
            redirected.pause()
            self._on_interrupt(channel)
            with suppress(OSError):  # the agent has ended already; its exit code comes below
                channel.send(hello(REGISTRY))
            serve(channel, REGISTRY, Output(output_in), around=redirected, on_task=self._task_is)
        self._say_goodbye(channel)
        try:
            code = agent.wait(30.0)
        except subprocess.TimeoutExpired:
            code = 0
        return 0 if self._interrupts else code

    def _start_agent(self) -> tuple[subprocess.Popen[bytes], Channel, int]:
        ours, theirs = socket.socketpair()
        lifeline_out, lifeline_in = os.pipe2(os.O_CLOEXEC)
        output_out, output_in = os.pipe2(os.O_CLOEXEC)
        lock = self._take_lock()
        told = {
            "settings": self._settings,
            "socket": theirs.fileno(),
            "lifeline": lifeline_in,
            "output": output_out,
            "lock": lock.fd,
            "pid": os.getpid(),
        }
        command = agent_command(["script", json.dumps(told)])
        passed = (theirs.fileno(), lifeline_in, output_out, lock.fd)
        agent = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=passed, start_new_session=True)
        theirs.close()
        for fd in (lifeline_in, output_out):
            os.close(fd)
        self._lifeline = lifeline_out
        os.register_at_fork(after_in_child=ours.close)
        return agent, Channel(ours), output_in

    def _take_lock(self) -> hardware.HardwareLock:
        emulator = os.environ.get("OT2_AGENT_EMULATOR", hardware.EMULATOR)
        state = self._settings.get("state_dir") or os.environ.get("OT2_AGENT_STATE_DIR")
        device = self._settings.get("device_id") or os.environ.get("OT2_AGENT_DEVICE_ID") or hardware.host_slug()
        folder = Path(state) if state else hardware.state_home() / device
        name = hardware.key(self._settings["mode"], state_dir=folder.absolute(), emulator=emulator)
        return hardware.HardwareLock.hold(name, what="a script")

    def _task_is(self, running: bool) -> None:
        if running and not self._tied:
            self._tied = True  # not before: an agent that cannot serve says why, and this script ends with its code
            hold_on(self._lifeline)
        self._busy = running
        if self._interrupts and not running and self._stop is not None:
            self._stop()

    def _say_goodbye(self, channel: Channel) -> None:
        """The end of this script is meant: the agent need not fear for a run."""
        let_go(self._lifeline)
        try:
            channel.send({"type": "goodbye"})
        except OSError:
            pass  # the agent went first
        channel.close()

    def _on_interrupt(self, channel: Channel) -> None:
        """First Ctrl-C: end after the run that goes on. Second: now, also inside a long call of C code."""
        if self._threaded:
            return
        wake_out, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(wake_out, True)
        self._stop = channel.stop
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # a handler must be there for the descriptor below to be written
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
        threading.Thread(target=self._count, args=(wake_out, channel), name="interrupts", daemon=True).start()

    def _count(self, wake_out: int, channel: Channel) -> None:
        """Python runs signal handlers between bytecodes only; this thread hears of signals at once."""
        while os.read(wake_out, 1):
            self._interrupts += 1
            if self._interrupts > 1:
                os.write(
                    self._terminal,
                    b"Killed in the middle of a run: look at the deck.\n" if self._busy else b"Killed.\n",
                )
                os._exit(130)
            if self._busy:
                os.write(self._terminal, b"A run is going on; this ends after it. Ctrl-C again kills it.\n")
            else:
                channel.stop()


class _Redirected:
    """Descriptors 1 and 2 are the agent's pipe while a task runs, and the terminal's otherwise."""

    def __init__(self, output_in: int) -> None:
        self._pipe = output_in
        self._terminal = [os.dup(1), os.dup(2)]

    def __enter__(self) -> _Redirected:
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()
        os.close(self._pipe)
        for fd in self._terminal:
            os.close(fd)

    def resume(self) -> None:
        for file in (sys.stdout, sys.stderr):
            file.flush()
        for fd in (1, 2):
            os.dup2(self._pipe, fd)

    def pause(self) -> None:
        for fd, terminal in zip((1, 2), self._terminal, strict=True):
            os.dup2(terminal, fd)
