"""The private conversation between agent and worker: one JSON object a line, over a socket of their own.

Frames from the agent: `run`, `cancel`, `bye`. From the worker: `hello`, `import_failed`, `event`, `outcome`.
It is not the wire: both ends always come from the same release, so it may change at will.
"""

from __future__ import annotations

import json
import select
import socket
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

Frame = dict[str, Any]

_CHUNK = 1 << 16  # beyond 128 KiB malloc asks the kernel for every buffer, which costs more than the rest of a read
_ENCODER = json.JSONEncoder(separators=(",", ":"))


class Channel:
    """One end of the conversation. `send` may be called from any thread; receiving belongs to one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._waiter = select.poll()  # select() cannot watch descriptors above 1023
        self._waiter.register(sock, select.POLLIN)
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._partial = bytearray()
        self._ready: deque[Frame] = deque()
        self._kept: deque[Frame] = deque()
        self.closed = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, frame: Mapping[str, Any]) -> None:
        """Send one frame whole.

        Raises:
            OSError: the other end is gone (or did not read for the socket's time-out).
        """
        line = _ENCODER.encode(frame).encode("ascii") + b"\n"
        with self._sending:
            self._sock.sendall(line)

    def receive(self) -> Frame | None:
        """Wait for the next frame; None when the other end has closed."""
        with self._receiving:
            if self._kept:
                return self._kept.popleft()
            while not self._ready and not self.closed:
                self._read()
            return self._ready.popleft() if self._ready else None

    def poll(self, timeout_s: float = 0.0) -> list[Frame]:
        """The frames that are here now, or within `timeout_s`. `closed` tells whether more can come."""
        with self._receiving:
            if not self._ready and not self.closed and self._readable(timeout_s):
                self._read()
            frames = list(self._ready)
            self._ready.clear()
            return frames

    def keep(self, frame: Frame) -> None:
        """Put a polled frame aside for the next `receive`; `poll` does not see it again."""
        with self._receiving:
            self._kept.append(frame)

    def stop(self) -> None:
        """Hear no more: whoever waits in `receive` is told that the conversation is over. From any thread."""
        try:
            self._sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # it is over already

    def close(self) -> None:
        self.closed = True
        self._sock.close()

    def _readable(self, timeout_s: float) -> bool:
        return bool(self._waiter.poll(timeout_s * 1000))

    def _read(self) -> None:
        try:
            chunk = self._sock.recv(_CHUNK)
        except (ConnectionError, TimeoutError):
            chunk = b""
        if not chunk:
            self.closed = True
            return
        self._partial += chunk
        if b"\n" not in chunk:
            return
        *lines, rest = bytes(self._partial).split(b"\n")
        self._partial = bytearray(rest)
        for line in lines:
            frame = _frame(line)
            if frame is None:
                self.closed = True  # a task wrote into our descriptor: what follows cannot be trusted
                return
            self._ready.append(frame)


def _frame(line: bytes) -> Frame | None:
    """A frame from its line; None when that is none."""
    try:
        frame = json.loads(line)
    except ValueError:
        return None
    return frame if isinstance(frame, dict) and "type" in frame else None
