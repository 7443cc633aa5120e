"""The worker: the user's task module in the user's interpreter, one task at a time, in the main thread.

Started by the agent with any interpreter; it needs nothing but the standard library and what the tasks import.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import inspect
import json
import os
import platform
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from . import environment, ot2
from .context import CancelRequested, LiveRun, _current
from .encode import encode_result
from .errors import InvalidParameters, Refuse
from .lifeline import hold_on
from .pipe import Channel, Frame
from .task import REGISTRY, Registry, TaskSpec
from .wire import State

if TYPE_CHECKING:
    import asyncio


def main() -> int:
    """Run as the agent told in the last argument (a JSON object); 0 at a good end, 78 when the tasks do not import."""
    options = json.loads(sys.argv[-1])
    sys.argv = [options["tasks"]]
    hold_on(options["lifeline"])
    channel = Channel(socket.socket(fileno=options["socket"]))
    private = [options["lifeline"], *options["keep"]]
    os.register_at_fork(after_in_child=lambda: _let_go(channel, private))
    output = Output(1)
    try:
        load(options["tasks"])
    except BaseException as exc:
        channel.send({"type": "import_failed", "error": describe(exc, options["tasks"])})
        return 78
    channel.send(hello(REGISTRY))
    gc.freeze()
    serve(channel, REGISTRY, output)
    ot2.close()
    return 0


def load(target: str) -> None:
    """Import the task module: a path to a Python file, or a dotted module name.

    It is imported under its own name, so that `if __name__ == "__main__":` does not fire.
    """
    environment.INSIDE_WORKER = True
    path = Path(target)
    if path.suffix != ".py":
        importlib.import_module(target)
        return
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{target} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # pickling and `multiprocessing` look the tasks up by module name
    spec.loader.exec_module(module)


def hello(registry: Registry) -> Frame:
    """What the agent needs to know of this worker."""
    return {
        "type": "hello",
        "pid": os.getpid(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "versions": ot2.versions(),
        "mode": ot2.mode(),
        "tasks": registry.catalogue(),
    }


def serve(
    channel: Channel,
    registry: Registry,
    output: Output,
    *,
    around: Around | None = None,
    on_task: Callable[[bool], None] = lambda running: None,
) -> None:
    """Run one task after the other until the agent closes the conversation or says bye.

    `around` is resumed before and paused after each task; `on_task` hears whether one runs.
    """
    home = os.getpid()
    loop = Loop(channel)
    while (frame := channel.receive()) is not None and frame["type"] != "bye":
        if frame["type"] != "run":
            continue  # a cancel for a run that has just ended
        on_task(True)
        if around:
            around.resume()
        outcome = perform(channel, registry.get(frame["task"]), frame, loop)
        if os.getpid() != home:
            os._exit(0)  # a child that the task forked has come back here: it must not speak for the worker
        outcome["warnings"] += output.mend()
        if around:
            around.pause()
        channel.send(outcome)
        on_task(False)
    loop.close()


def perform(channel: Channel, spec: TaskSpec | None, frame: Frame, loop: Loop) -> Frame:
    """Call the task's function and say how it ended; never raises."""
    run = LiveRun(channel, frame, encode_result)
    commands_before = ot2.commands_sent()
    made: Frame = {"type": "outcome", "run_id": run.id, "state": State.SUCCEEDED, "result": None, "warnings": []}
    token = _current.set(run)
    try:
        if spec is None:
            raise InvalidParameters(f"This worker has no task {frame['task']}. Nothing moved.")
        arguments = spec.bind(frame["parameters"])
        made["result"], made["warnings"] = encode_result(loop.call(run, spec.function, arguments))
    except InvalidParameters as exc:
        made.update(_refused(exc, touched=run.touched), error_details=exc.details)
    except Refuse as exc:
        made.update(_refused(exc, touched=run.touched or ot2.commands_sent() != commands_before))
    except CancelRequested as exc:
        state = State.TIMED_OUT if exc.reason == "timed_out" else State.CANCELLED
        made.update(state=state, error="The task ended itself at a checkpoint.")
    except BaseException as exc:
        made.update(state=State.FAILED, error=_sentence(exc), error_details=describe(exc, _file_of(spec)))
    finally:
        _current.reset(token)
    return made


def _refused(exc: Exception, *, touched: bool) -> Frame:
    """A refusal counts as one only while nothing can have moved."""
    if touched:
        return {
            "state": State.FAILED,
            "error": f"{_text(exc)} (refused after it had begun, so this counts as a failure)",
            "error_details": {"type": type(exc).__name__},
        }
    code = "invalid_parameters" if isinstance(exc, InvalidParameters) else "rejected"
    return {"state": State.REJECTED, "error": _text(exc), "error_code": code}


def _sentence(exc: BaseException) -> str:
    text = _text(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _text(exc: BaseException) -> str:
    """What it says; an exception of the user's may fail at that, too."""
    try:
        return str(exc)
    except Exception:
        return ""


def describe(exc: BaseException, user_file: str | None = None) -> dict[str, Any]:
    """Type, text, the user's own line and the traceback of an exception, our frames left out."""
    own = str(Path(__file__).parent)
    frames = [step for step in traceback.extract_tb(exc.__traceback__) if not _ours(step.filename, own)]
    theirs = [step for step in frames if user_file and Path(step.filename).name == Path(user_file).name]
    at = (theirs or frames)[-1] if frames else None
    if isinstance(exc, SyntaxError) and exc.filename:
        line: str | None = f"{Path(exc.filename).name}:{exc.lineno}"
    else:
        line = at and f"{Path(at.filename).name}:{at.lineno}"
    start = None if isinstance(exc, SyntaxError) and not frames else _first_foreign(exc.__traceback__, own)
    text = "".join(traceback.format_exception(type(exc), exc, start))
    return {"type": type(exc).__name__, "message": _text(exc), "line": line, "traceback": text[-20_000:]}


def _file_of(spec: TaskSpec | None) -> str | None:
    code = getattr(inspect.unwrap(spec.function), "__code__", None) if spec else None
    return code.co_filename if code else None


def _ours(filename: str, own: str) -> bool:
    return filename.startswith((own, "<frozen importlib"))


def _first_foreign(step: TracebackType | None, own: str) -> TracebackType | None:
    first = step
    while step is not None and _ours(step.tb_frame.f_code.co_filename, own):
        step = step.tb_next
    return step or first


class Around(Protocol):
    """Something that is to be so while a task runs, and not otherwise."""

    def resume(self) -> None: ...
    def pause(self) -> None: ...


class Loop:
    """Calls tasks, async ones on one event loop that lives as long as the worker."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, run: LiveRun, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        value = function(**arguments)
        return self._finish(run, value) if inspect.iscoroutine(value) else value

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()

    def _finish(self, run: LiveRun, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await it; a cancel from the agent reaches it at its next `await`."""
        import asyncio  # 7 MB that only async tasks need

        self._loop = loop = self._loop or asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        job = loop.create_task(coroutine)
        loop.add_reader(self._channel.fileno(), lambda: run.cancelled and job.cancel())
        try:
            return loop.run_until_complete(job)
        except asyncio.CancelledError:
            if run.cancelled:
                raise CancelRequested(run.reason) from None
            raise
        finally:
            if not self._channel.closed:
                loop.remove_reader(self._channel.fileno())


class Output:
    """Descriptors 1 and 2, which the agent reads as the task's log. Tasks close and replace them; `mend` undoes it."""

    def __init__(self, pipe: int) -> None:
        self._spare = os.dup(pipe)
        self._is = os.fstat(pipe)
        self._files = (sys.stdout, sys.stderr)
        for file in self._files:
            if hasattr(file, "reconfigure"):
                file.reconfigure(line_buffering=True, errors="backslashreplace")

    def mend(self) -> list[str]:
        """Flush, and put right what the task left wrong; the warnings say what that was."""
        warnings = []
        for fd, name in ((1, "stdout"), (2, "stderr")):
            if not self._intact(fd):
                os.dup2(self._spare, fd)
                warnings.append(f"The task closed or replaced {name}; it was put back.")
            file = getattr(sys, name)
            if file is None or file.closed:
                setattr(sys, name, open(fd, "w", buffering=1, errors="backslashreplace", closefd=False))
        for file in (sys.stdout, sys.stderr):
            try:
                file.flush()
            except (OSError, ValueError):
                warnings.append("Some output of the task was lost.")
        return warnings

    def _intact(self, fd: int) -> bool:
        try:
            now = os.fstat(fd)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (self._is.st_dev, self._is.st_ino)


def _let_go(channel: Channel, private: list[int]) -> None:
    """In a child that a task forked: it must not speak to the agent, nor hold the lock."""
    channel.close()
    for fd in private:
        try:
            os.close(fd)
        except OSError:
            pass
