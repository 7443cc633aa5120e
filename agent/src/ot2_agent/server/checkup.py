"""What is wrong here, found without starting anything: for `ot2-agent check` and for sentences about ports."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..hardware import HardwareBusy, HardwareLock, memory_folder
from .journal import Journal, JournalProblem, Memory
from .runner import describe_python
from .settings import Settings


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    good: bool
    found: str
    do: str = ""


def checkup(settings: Settings) -> list[Finding]:
    """Look at everything that `serve` will need."""
    return [_agent(), _worker(settings), _tasks(settings), _port(settings), *_memory(settings), _disk(settings)]


def _agent() -> Finding:
    from pydantic import VERSION

    return Finding("agent", True, f"Python {sys.version.split()[0]}, pydantic {VERSION}")


def _worker(settings: Settings) -> Finding:
    try:
        found = describe_python(settings.worker_python)
    except (OSError, ValueError) as exc:
        return Finding("worker", False, str(exc), "Name an interpreter that works: --python PY")
    versions = found["packages"]
    said = ", ".join(f"{name} {version or 'not there'}" for name, version in versions.items())
    good = settings.mode == "simulated" or versions["opentrons"] is not None
    version = ".".join(str(part) for part in found["version"])
    return Finding("worker", good, f"Python {version}, {said}", "Install opentrons there, or name another: --python PY")


def _tasks(settings: Settings) -> Finding:
    there = not settings.tasks.endswith(".py") or Path(settings.tasks).is_file()
    return Finding("tasks", there, settings.tasks or "none named", "Name the file: ot2-agent check tasks.py")


def _port(settings: Settings) -> Finding:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.host, settings.port))
        except OSError as exc:
            who = port_owner(settings.port) or exc.strerror
            return Finding("port", False, f"{settings.port} is taken: {who}", "Take another: --port 8001")
    return Finding("port", True, f"{settings.port} is free")


def _memory(settings: Settings) -> Iterator[Finding]:
    try:
        lock = HardwareLock.take(settings.hardware_key, what="ot2-agent check")
    except HardwareBusy as exc:
        yield Finding("hardware", False, str(exc), "Stop that one first.")
        return
    yield Finding("hardware", True, f"{settings.hardware_key} is free")
    memory = Memory(memory_folder() / f"{settings.hardware_key}.json")
    try:
        if settings.journal.exists() or memory.journal_id() is not None:
            Journal.open(settings.journal, memory).close()
            yield Finding("journal", True, str(settings.journal))
        else:
            yield Finding("journal", True, f"none yet; it will be {settings.journal}")
    except JournalProblem as exc:
        yield Finding("journal", False, str(exc), "Look at the deck, then: ot2-agent init")
    finally:
        lock.release()


def _disk(settings: Settings) -> Finding:
    there = next(folder for folder in [settings.state, *settings.state.parents] if folder.exists())
    free = shutil.disk_usage(there).free >> 20
    return Finding("disk", free >= settings.min_free_mb, f"{free} MiB free", f"Make room in {there}.")


def port_owner(port: int) -> str | None:
    """Which process listens on a TCP port of this computer, if /proc tells us."""
    inode = _listening_inode(port)
    if inode is None:
        return None
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) == f"socket:[{inode}]":
                pid = link.parts[2]
                return f"{Path('/proc', pid, 'comm').read_text().strip()} (process {pid})"
        except OSError:
            continue
    return None


def _listening_inode(port: int) -> str | None:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                return fields[9]
    return None
