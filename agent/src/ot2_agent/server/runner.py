"""Starts the worker, talks to it, sees it die, kills it. Decides nothing about runs.

Everything here runs in the reactor's thread, but for one small thread that waits for the process to end: only
`waitpid` tells that for sure (a child that a task forked keeps the socket and the pipes open).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..environment import BOOT
from ..pipe import Channel, Frame
from .reactor import Reactor, Timer

log = logging.getLogger(__name__)

_PIPE_BYTES = 1 << 16
_NOT_FOR_WORKERS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
TOKEN = "OT2_AGENT_WORKER"
"""Environment variable that marks a worker and all it started, wherever they went."""


class Listener(Protocol):
    """Who is told what the worker does. All calls come in the reactor's thread."""

    def on_hello(self, frame: Frame) -> None: ...
    def on_frame(self, frame: Frame) -> None: ...
    def on_output(self, text: str) -> None: ...
    def on_death(self, how: str, import_failed: Frame | None) -> None: ...


@dataclass(frozen=True)
class Recipe:
    """How to start a worker: the user's interpreter, the task module, and what it is to inherit."""

    python: str
    tasks: str
    link: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    keep: Sequence[int] = ()
    """Descriptors the worker inherits and never touches: the hardware lock."""


class Worker(ABC):
    """One worker process, or one that a script brought along; from its start to its death."""

    def __init__(self, reactor: Reactor, listener: Listener, channel: Channel, output: int, pid: int) -> None:
        self._reactor = reactor
        self._listener = listener
        self._channel = channel
        self._output = output
        self._partial = b""
        self._import_failed: Frame | None = None
        self._dead = False
        self.pid = pid
        self.ready = False
        self._leaving = False
        os.set_blocking(output, False)
        reactor.watch(channel.fileno(), self._on_socket)
        reactor.watch(output, self._on_output)

    @property
    def alive(self) -> bool:
        return not self._dead

    def send(self, frame: Frame) -> None:
        """Say something; a worker that cannot hear it any more is killed."""
        try:
            self._channel.send(frame)
        except OSError:
            log.warning("the worker does not listen any more; killing it")
            self.kill()

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL to the worker and its group; `on_death` follows once it is seen dead."""

    def _on_socket(self) -> None:
        frames = self._channel.poll()
        self._on_output()  # what the task printed before it spoke is in the pipe, and comes first
        for frame in frames:
            self._hear(frame)
        if self._channel.closed and not self._dead:
            self._reactor.unwatch(self._channel.fileno())
            self._silent()

    def _silent(self) -> None:
        """It closed the conversation and lives: a worker that cannot speak cannot be trusted to stop."""
        self.kill()

    def _hear(self, frame: Frame) -> None:
        try:
            self._take(frame)
        except (KeyError, TypeError, ValueError):
            log.exception("the worker said what makes no sense (%.200r); killing it", frame)
            self.kill()

    def _take(self, frame: Frame) -> None:
        if frame["type"] == "hello":
            self.ready = True
            self._listener.on_hello(frame)
        elif frame["type"] == "goodbye":
            self._leaving = True
        elif frame["type"] == "import_failed":
            self._import_failed = frame["error"]
        else:
            self._listener.on_frame(frame)

    def _on_output(self) -> None:
        """Read at most what the pipe holds, so that a flood delays nobody but the task that makes it."""
        try:
            chunk = os.read(self._output, _PIPE_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self._reactor.unwatch(self._output)
            return
        whole, _, rest = (self._partial + chunk).rpartition(b"\n")
        self._partial = rest
        if len(rest) > _PIPE_BYTES:
            whole, self._partial = rest, b""
        if whole:
            self._listener.on_output(whole.decode("utf-8", "backslashreplace"))

    def _ended(self, how: str) -> None:
        """The process is gone: hear its last words, then tell."""
        if self._dead:
            return
        self._dead = True
        kill_marked(self._token)
        while not self._channel.closed and (frames := self._channel.poll()):
            for frame in frames:
                self._hear(frame)
        self._on_output()
        if self._partial:
            self._listener.on_output(self._partial.decode("utf-8", "backslashreplace"))
        self._reactor.unwatch(self._channel.fileno())
        self._reactor.unwatch(self._output)
        self._channel.close()
        os.close(self._output)
        self._close()
        self._listener.on_death(how, self._import_failed)

    _token = ""

    @abstractmethod
    def _close(self) -> None:
        """Let go of what else was held for it."""


class SpawnedWorker(Worker):
    """A worker that this agent started from a recipe."""

    def __init__(self, reactor: Reactor, listener: Listener, recipe: Recipe) -> None:
        ours, theirs = socket.socketpair()
        lifeline_out, self._lifeline = os.pipe2(os.O_CLOEXEC)
        output_out, output_in = os.pipe2(os.O_CLOEXEC)
        self._token = uuid.uuid4().hex
        inherited = (theirs.fileno(), lifeline_out, *recipe.keep)
        options = {
            "tasks": recipe.tasks,
            "socket": theirs.fileno(),
            "lifeline": lifeline_out,
            "keep": list(recipe.keep),
        }
        boot = BOOT.format(link=str(recipe.link), module="worker")
        try:
            self._process = subprocess.Popen(
                [recipe.python, "-c", boot, json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=output_in,
                stderr=output_in,
                pass_fds=inherited,
                env=_environment(recipe, self._token),
                start_new_session=True,
            )
        except OSError:
            for fd in (self._lifeline, output_out):
                os.close(fd)
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(lifeline_out)
            os.close(output_in)
        ours.settimeout(5.0)
        super().__init__(reactor, listener, Channel(ours), output_out, self._process.pid)
        threading.Thread(target=self._await_end, name="worker-end", daemon=True).start()

    def kill(self) -> None:
        if self._process.returncode is None:  # not reaped yet, so the pid is still its own
            _kill_group(self.pid)

    def _await_end(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self._reactor.post(self._reap)

    def _reap(self) -> None:
        _kill_group(self.pid)
        self._ended(_how(self._process.wait()))

    def _close(self) -> None:
        os.close(self._lifeline)


class ScriptWorker(Worker):
    """The script that started this agent; it is the worker, and its death is noticed by EOF or by a new parent."""

    def __init__(
        self, reactor: Reactor, listener: Listener, *, sock: socket.socket, output: int, lifeline: int, pid: int
    ) -> None:
        super().__init__(reactor, listener, Channel(sock), output, pid)
        sock.settimeout(5.0)
        self._lifeline = lifeline
        self._look: Timer = reactor.after(0.0, self._look_at_parent)

    def kill(self) -> None:
        if os.getppid() == self.pid:
            os.kill(self.pid, signal.SIGKILL)
        self._look.cancel()
        self._look_at_parent()

    def _silent(self) -> None:
        if self._leaving:
            self._look.cancel()
            self._ended("the script has ended")
        else:
            self.kill()

    def _look_at_parent(self) -> None:
        if os.getppid() != self.pid:
            self._ended("the script has ended")
        else:
            self._look = self._reactor.after(0.1, self._look_at_parent)

    def _close(self) -> None:
        os.close(self._lifeline)


def _environment(recipe: Recipe, token: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
    return {**kept, **recipe.environment, TOKEN: token}


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def kill_marked(token: str) -> None:
    """End what a task started and let wander off into a session of its own, found by the mark in its environment."""
    if not token or sys.platform != "linux":
        return
    mark = f"{TOKEN}={token}".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            marked = mark in Path(entry.path, "environ").read_bytes()
            if marked:
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue  # ended meanwhile, or somebody else's


def _how(code: int) -> str:
    if code < 0:
        try:
            return f"it was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"it was killed by signal {-code}"
    return f"it ended with exit code {code}"


Starter = Callable[[Reactor, Listener], Worker]
"""Makes the next worker; a device is given one and knows nothing else of processes."""


_ASK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
def find(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
print(json.dumps({"version": list(sys.version_info[:3]), "packages": {n: find(n) for n in ("opentrons", "pydantic")}}))
"""


def describe_python(python: str) -> dict[str, Any]:
    """`version` and `packages` (opentrons, pydantic) of an interpreter, by asking it.

    Raises:
        OSError, ValueError: it cannot be run, or is not a Python of 3.10 or newer.
    """
    done = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise ValueError(f"{python} does not run Python code: {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    if tuple(found["version"]) < (3, 10):
        version = ".".join(str(part) for part in found["version"])
        raise ValueError(f"{python} is Python {version}; a worker needs 3.10 or newer")
    return found
