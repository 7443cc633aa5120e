"""One piece of hardware, one owner: a lock at a fixed place for each, held by the agent and inherited by its worker.

An agent that died cannot be replaced while its worker still moves, because the worker holds the same lock. The folder
also remembers that a journal once existed for the hardware, outside the journal's own folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UART = "/dev/ttyAMA0"
"""The serial line of an OT-2's motion controller."""
EMULATOR = "127.0.0.1:9996"
"""Where the emulated OT-2 is unless somebody says otherwise."""


class HardwareBusy(RuntimeError):
    """Somebody else owns the hardware. `owner` says who, as far as is known (`pid`, `what`, `url`)."""

    def __init__(self, message: str, owner: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.owner = dict(owner)


def key(mode: str, *, state_dir: Path, emulator: str = "") -> str:
    """What is locked: the UART of a real robot, the address of an emulated one, the state directory otherwise."""
    thing = {"real": UART, "emulated": emulator}.get(mode, str(state_dir.resolve()))
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", thing).strip("-")[-40:]
    from hashlib import sha256  # here, because it brings OpenSSL (3.5 MB), which a worker does not need

    return f"{mode}-{readable}-{sha256(thing.encode()).hexdigest()[:8]}"


def lock_folder() -> Path:
    """`OT2_AGENT_HARDWARE_DIR`, else a folder that every user of this computer shares until it reboots."""
    if chosen := os.environ.get("OT2_AGENT_HARDWARE_DIR"):
        return Path(chosen)
    shared = Path("/run/lock")
    return (shared if os.access(shared, os.W_OK) else Path("/tmp")) / "ot2-agent"


def memory_folder() -> Path:
    """`OT2_AGENT_HARDWARE_DIR`, else a folder of this user's that outlives reboots."""
    if chosen := os.environ.get("OT2_AGENT_HARDWARE_DIR"):
        return Path(chosen)
    return state_home() / "hardware"


def state_home() -> Path:
    """Where this user's agents keep what they must not forget."""
    if chosen := os.environ.get("XDG_STATE_HOME"):
        return Path(chosen) / "ot2-agent"
    return Path("/var/lib/ot2-agent") if os.getuid() == 0 else Path.home() / ".local/state/ot2-agent"


def host_slug() -> str:
    """The host's name as a device id: lower case, letters, digits and hyphens."""
    slug = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:32]
    return slug or "ot2"


class HardwareLock:
    """An flock on one file. Never unlinked (a second owner would come in) and never unlocked but by closing."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd

    @classmethod
    def take(cls, name: str, **owner: Any) -> HardwareLock:
        """Take the lock or say who has it.

        Raises:
            HardwareBusy: another process holds it.
        """
        folder = lock_folder()
        _shared_folder(folder)
        path = folder / f"{name}.lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except PermissionError as exc:
            raise HardwareBusy(f"The lock {path} belongs to another user. Nothing was started.", {}) from exc
        if not _locked(fd) and not _end_orphan(fd):
            found = _owner(fd)
            os.close(fd)
            who = f"{found.get('what', 'a program')}, process {found['pid']}" if "pid" in found else "another process"
            at = f" at {found['url']}" if "url" in found else ""
            raise HardwareBusy(f"{name} is already driven by {who}{at}. Nothing was started.", found)
        lock = cls(name, fd)
        lock.describe(pid=os.getpid(), **owner)
        return lock

    @classmethod
    def hold(cls, name: str, **owner: Any) -> HardwareLock:
        """This process's lock on that hardware, taken once: the same one when asked again.

        Raises:
            HardwareBusy: another process holds it.
        """
        if name not in _HELD:
            _HELD[name] = cls.take(name, **owner)
        return _HELD[name]

    @classmethod
    def inherited(cls, name: str, fd: int) -> HardwareLock:
        """The lock that the starter of this process took, through its descriptor."""
        os.set_inheritable(fd, False)
        return cls(name, fd)

    def describe(self, **owner: Any) -> None:
        """Write down who holds it (`pid`, `what`, `url`, `worker`), for the sentence that a second one gets."""
        owner["mark"] = process_mark(owner.get("pid", 0))
        owner["worker_mark"] = process_mark(owner.get("worker", 0))
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, json.dumps(owner).encode(), 0)

    def owner(self) -> dict[str, Any]:
        """What the present or last holder wrote down."""
        return _owner(self.fd)

    def release(self) -> None:
        os.close(self.fd)


_HELD: dict[str, HardwareLock] = {}
"""The locks of this process, by name."""


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def process_mark(pid: int) -> str:
    """What tells a process from a later one with the same number: its start time and the boot it lives in."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{pid} {started} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except (OSError, IndexError):
        return ""


def _end_orphan(fd: int) -> bool:
    """When the agent is dead and only its worker still holds the lock, end that worker; True when the lock is ours."""
    found = _owner(fd)
    if not found.get("mark") or process_mark(found.get("pid", 0)) == found["mark"]:
        return False
    worker = found.get("worker", 0)
    if worker and process_mark(worker) == found.get("worker_mark"):
        os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:  # the kernel takes a moment to end a process, and tells nobody but its parent
        if _locked(fd):
            return True
        time.sleep(0.02)
    return False


def _owner(fd: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _shared_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid == os.getuid() and "OT2_AGENT_HARDWARE_DIR" not in os.environ:
        folder.chmod(0o1777)  # every user locks here, nobody removes another's file
