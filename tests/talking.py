"""A program for tests, as somebody at a terminal has it: what it says is read as it comes, and it always ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

from tests.running import PATIENCE_S


class Talking:
    """A child process in a session of its own; stdout and stderr together, line by line.

    Args:
        command: the program and its arguments.
        env: further variables.
    """

    def __init__(self, command: Sequence[object], env: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._closed = False
        self.process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Talking:
        return self

    def __exit__(self, *exc: object) -> None:
        """It is asked to end, and killed when it does not."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()

    def says(self, pattern: str, patience_s: float = PATIENCE_S) -> re.Match[str]:
        """Wait for a line in which the pattern is found."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._found(pattern), patience_s)
            found = self._found(pattern)
        assert found, f"never said {pattern!r}, but:\n{self.text}"
        return found

    def _found(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in self.lines if (found := re.search(pattern, line))), None)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for its end; its exit code."""
        code = self.process.wait(patience_s)
        self._reader.join(patience_s)
        return code

    @property
    def text(self) -> str:
        return "\n".join(self.lines)
