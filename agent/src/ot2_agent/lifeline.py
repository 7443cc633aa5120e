"""A worker cannot outlive its agent: a pipe that never carries data, watched by the kernel.

The agent's side keeps the write end and nobody else has it. When the agent is gone, however it went, the kernel sends
SIGKILL to whoever called `hold_on`: no thread, no signal handler and no interpreter lock is needed for it, so a task
that hangs in C code dies like any other.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading

_F_SETSIG = 10  # Linux; `fcntl.F_SETSIG` is not there in every build


def hold_on(read_end: int) -> None:
    """Tie this process to the holder of the pipe's write end."""
    if sys.platform != "linux":
        threading.Thread(target=_follow, args=(read_end,), name="lifeline", daemon=True).start()
        return
    fcntl.fcntl(read_end, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(read_end, _F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(read_end, fcntl.F_GETFL)
    fcntl.fcntl(read_end, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    try:
        gone = os.read(read_end, 1) == b""  # it may have gone before the kernel was asked to watch
    except BlockingIOError:
        gone = False
    if gone:
        os.kill(os.getpid(), signal.SIGKILL)


def let_go(read_end: int) -> None:
    """Untie this process: the other end may now go without taking it along."""
    if sys.platform == "linux":
        fcntl.fcntl(read_end, fcntl.F_SETFL, fcntl.fcntl(read_end, fcntl.F_GETFL) & ~os.O_ASYNC)


def _follow(read_end: int) -> None:
    """Elsewhere than on Linux a thread has to do; it needs the interpreter lock, so it may be late."""
    os.read(read_end, 1)
    os._exit(1)
