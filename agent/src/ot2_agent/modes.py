"""Which OT-2 a process drives, and whether it is there: simulated, emulated or real, never one for another.

Standard library only; opentrons is imported by name once it is wanted. The mode is the agent's
(`OT2_AGENT_MODE`); what it asks for and is not there is a `HardwareError`, never another mode.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from .hardware import EMULATOR, UART

Mode = Literal["simulated", "emulated", "real"]

"""Where the motion controller of a physical OT-2 is."""


class HardwareError(RuntimeError):
    """The OT-2 that this process was told to drive is not there, or not so. The message says what to do."""


def mode() -> Mode:
    """`simulated` (no robot at all), `emulated` (real G-code over TCP) or `real`, from `OT2_AGENT_MODE`.

    Raises:
        HardwareError: the variable says something else.
    """
    said = os.environ.get("OT2_AGENT_MODE", "simulated")
    if said not in _PREPARE:
        raise HardwareError(f"OT2_AGENT_MODE is {said!r}; it must be simulated, emulated or real.")
    return cast(Mode, said)


def versions() -> dict[str, str | None]:
    """Versions of `opentrons` and `pydantic` in this interpreter, None where absent. Imports neither."""
    from importlib import metadata  # slow to import, and not every process asks

    found: dict[str, str | None] = {}
    for name in ("opentrons", "pydantic"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def where(wanted: Mode) -> str:
    """The place of the OT-2, for sentences; empty for a simulated one."""
    if wanted == "simulated":
        return ""
    return UART if wanted == "real" else os.environ.get("OT2_AGENT_EMULATOR", EMULATOR)


def prepare(wanted: Mode) -> None:
    """Make sure that opentrons and the OT-2 are there, and tell opentrons which one. Imports nothing yet.

    Raises:
        HardwareError: one of them is not there.
    """
    if importlib.util.find_spec("opentrons") is None:
        raise HardwareError(
            f"The Python that runs the tasks, {sys.executable}, has no opentrons. Install it there "
            "(8.2.0 and 9.0.0 are tested), or name another with `ot2-agent serve --python`."
        )
    _PREPARE[wanted]()


def load(name: str) -> Any:
    """Import a module of opentrons.

    Raises:
        HardwareError: it does not import.
    """
    try:
        return importlib.import_module(name)
    except Exception as exc:  # a broken opentrons raises anything: ImportError, pydantic's errors, TypeError
        found = versions()
        raise HardwareError(
            f"opentrons {found['opentrons']} does not import in {sys.executable} "
            f"({type(exc).__name__}: {exc}). pydantic is {found['pydantic']} there; opentrons before 8.3.0 "
            "needs 1, later ones 2."
        ) from exc


# Emulated


def _prepare_emulated() -> None:
    host, port = _emulator()
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as exc:  # opentrons would try for long before it said less
        raise HardwareError(
            f"No emulated OT-2 answers at {host}:{port} ({exc.strerror or exc}). "
            "Start one with `ot2-agent emulate`, or set OT2_AGENT_EMULATOR to its HOST:PORT."
        ) from exc
    os.environ["OT_SMOOTHIE_EMULATOR_URI"] = f"socket://{f'[{host}]' if ':' in host else host}:{port}"
    if "opentrons" not in sys.modules:  # on a robot: its lights and its halt line are not to be touched
        os.environ.pop("RUNNING_ON_PI", None)
    _private_settings()


def _emulator() -> tuple[str, int]:
    said = os.environ.get("OT2_AGENT_EMULATOR", EMULATOR)
    host, _, port = said.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise HardwareError(f"OT2_AGENT_EMULATOR is {said!r}; it must be HOST:PORT, like {EMULATOR}.")
    return host.strip("[]"), int(port)


def _private_settings() -> None:
    """A folder of our own for what opentrons writes when imported; the user's settings stay untouched."""
    if "OT_API_CONFIG_DIR" in os.environ or "opentrons" in sys.modules:
        return
    state = os.environ.get("OT2_AGENT_STATE_DIR")
    try:
        folder = os.path.join(state, "opentrons") if state else tempfile.mkdtemp(prefix="ot2-settings-")
        os.makedirs(folder, exist_ok=True)
    except OSError as exc:
        raise HardwareError(f"There is no place for the settings of opentrons: {exc}.") from exc
    if not state:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["OT_API_CONFIG_DIR"] = folder


def give_a_deck() -> None:
    """Levels from 2.14 on ask how the deck is made up, which off a robot nobody tells: as it is delivered."""
    util = load("opentrons.util.entrypoint_util")
    slots = [(f"cutout{n}", "singleStandardSlot", None) for n in range(1, 12)]
    util.get_deck_configuration = lambda: [*slots, ("cutout12", "fixedTrashSlot", None)]


# Real


def _prepare_real() -> None:
    config = sys.modules.get("opentrons.config")
    if config is not None and not config.IS_ROBOT:
        raise HardwareError(
            "opentrons was imported before the protocol context was opened, and took this for no robot. "
            "Open the context before anything imports opentrons, or start with RUNNING_ON_PI=1."
        )
    if not os.access(UART, os.R_OK | os.W_OK):
        why = "cannot be opened by this user" if os.path.exists(UART) else "is not there"
        raise HardwareError(
            f"The mode is real, but {UART}, the motion controller of an OT-2, {why}. "
            "Run on the robot, as root, or choose the mode emulated or simulated."
        )
    if users := users_of(UART):
        raise HardwareError(
            f"{UART} is in use by {', '.join(users)}; the bytes of two would mix. "
            "If it is the robot server: systemctl stop opentrons-robot-server."
        )
    os.environ.pop("OT_SMOOTHIE_EMULATOR_URI", None)
    os.environ.update(RUNNING_ON_PI="1", OT_SMOOTHIE_ID="AMA")


def users_of(device: str) -> list[str]:
    """Other processes that have a file open, e.g. `python3 (pid 310)`, as far as /proc shows."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            files = {os.readlink(fd) for fd in (process / "fd").iterdir()}
            if device in files and process.name != str(os.getpid()):
                found.append(f"{(process / 'comm').read_text().strip()} (pid {process.name})")
    return found


def check_is_real() -> None:
    """opentrons takes a simulated GPIO when it cannot have the real one, and then no halt would work.

    Raises:
        HardwareError: it did so.
    """
    backend = getattr(load("opentrons.execute")._THREAD_MANAGED_HW, "_backend", None)
    driver = getattr(backend, "_smoothie_driver", None)
    if driver is None or driver.simulating or type(driver.gpio_chardev).__name__.startswith("Simulating"):
        raise HardwareError(
            "opentrons opened no real OT-2: another process holds its GPIO lines, or this is none. "
            "systemctl stop opentrons-robot-server, and start again."
        )


_PREPARE: Mapping[str, Callable[[], None]] = {
    "simulated": _private_settings,
    "emulated": _prepare_emulated,
    "real": _prepare_real,
}
