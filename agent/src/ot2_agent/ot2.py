"""The OT-2 for task authors: one opentrons protocol context per process, and whether anything moved.

opentrons is imported when the context is opened, not before: importing this file needs the standard library
alone. Which OT-2 it is, and whether it is there, is `modes.py`'s.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from . import environment, hardware
from .gcode import moves
from .modes import HardwareError, Mode, check_is_real, give_a_deck, load, mode, prepare, versions, where
from .param import Param

__all__ = [
    "HardwareError",
    "Mode",
    "Well96",
    "close",
    "commands_sent",
    "mode",
    "protocol_context",
    "versions",
]

Well96 = Annotated[str, Param(pattern="^[A-H]([1-9]|1[0-2])$", doc="a well of a 96-well plate, A1 to H12")]
"""A parameter that names a well of a 96-well plate."""


@dataclass(frozen=True)
class _Opened:
    api_level: str
    labware: Path | None
    context: Any


class _Count:
    """How often this process made the hardware act. opentrons' threads count too, hence the lock."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def one_more(self) -> None:
        with self._lock:
            self.value += 1


_opening = threading.RLock()
_opened: _Opened | None = None
_sent = _Count()


def protocol_context(api_level: str = "2.13", *, labware: str | os.PathLike[str] | None = None) -> Any:
    """The `opentrons.protocol_api.ProtocolContext` of this process, in the mode that the agent says.

    There is one per process (each new one would leak a thread): asked again, the same one is returned. Use it
    from one thread at a time. Opening it moves nothing.

    Args:
        api_level: level of the Python Protocol API. From "2.14" on another engine of opentrons runs it.
        labware: a folder of labware definitions of your own (`*.json`), which `load_labware` then finds.

    Raises:
        HardwareError: no opentrons here, no OT-2 of that mode, a definition that is none, or a second context
            that would differ from the first.
    """
    global _opened
    folder = None if labware is None else Path(os.path.abspath(labware))
    with _opening:
        if _opened is None:
            wanted = mode()
            if wanted != "simulated" and not environment.INSIDE_WORKER:
                _own(wanted)  # inside a worker the agent has locked it already
            prepare(wanted)
            _opened = _Opened(api_level, folder, _open(wanted, api_level, folder))
            atexit.register(close)  # before opentrons' own, which is noisy
        _check_same(_opened, api_level, folder)
        return _opened.context


def commands_sent() -> int:
    """A count that grows with every command of this process that makes the hardware act; 0 without a context.

    Only differences mean something (equal: nothing moved since). Commands of the protocol context count, and
    below it each motion (emulated and real: each line of G-code that sets an axis in motion), whoever asked.
    Queries, comments, pauses, loading labware or pipettes do not.
    """
    return _sent.value


def close() -> None:
    """End opentrons' threads, tidily. Nothing moves. The process can open no other context afterwards."""
    with _opening:
        if _opened is None:
            return
        logging.getLogger("opentrons").setLevel(logging.CRITICAL)  # it complains of its own tasks
        for step in (_opened.context.cleanup, *_clearing()):
            with contextlib.suppress(Exception):  # each is opentrons' own; the process ends anyway
                step()


def _own(wanted: Mode) -> None:
    """A script of its own owns the hardware from here on; the agent that it starts later inherits that.

    Raises:
        HardwareError: somebody else has it.
    """
    emulator = os.environ.get("OT2_AGENT_EMULATOR", hardware.EMULATOR)
    try:
        hardware.HardwareLock.hold(hardware.key(wanted, state_dir=Path(), emulator=emulator), what="a script")
    except hardware.HardwareBusy as exc:
        raise HardwareError(str(exc)) from exc


def _check_same(opened: _Opened, api_level: str, folder: Path | None) -> None:
    if api_level != opened.api_level:
        raise HardwareError(
            f"This process has a protocol context of API level {opened.api_level} and can have no second one "
            f"of {api_level}. Open one and share it."
        )
    if folder not in (None, opened.labware):
        raise HardwareError(
            f"This process has its protocol context, with labware from {opened.labware or 'nowhere'}. "
            f"{folder} comes too late; name the folder in the first call."
        )


def _open(wanted: Mode, api_level: str, folder: Path | None) -> Any:
    """Open the context, and count what goes through it from then on."""
    with _quiet(wanted):
        entry = load("opentrons.simulate" if wanted == "simulated" else "opentrons.execute")
        extra = None if folder is None else _definitions(folder)
        if wanted == "emulated":
            give_a_deck()
        try:
            context = entry.get_protocol_api(api_level, extra_labware=extra)
        except Exception as exc:
            place = f"{wanted} {where(wanted)}".strip()
            raise HardwareError(
                f"opentrons {versions()['opentrons']} opened no protocol context of API level {api_level} "
                f"({place}): {type(exc).__name__}: {exc}"
            ) from exc
    if wanted == "real":
        check_is_real()
    context.broker.subscribe("command", _count_command)
    if wanted == "simulated":
        _count_simulated_motion(context)
    else:
        _count_motion()
    return context


@contextlib.contextmanager
def _quiet(wanted: Mode) -> Iterator[None]:
    """Off a robot opentrons warns at each start of lights, settings and calibrations that are not there."""
    log = logging.getLogger("opentrons")
    before = log.level
    if wanted != "real":
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _clearing() -> list[Callable[[], None]]:
    """What opentrons would do at exit, in its order; the names are its own and may change."""
    modules = [sys.modules.get(name) for name in ("opentrons.execute", "opentrons.simulate")]
    names = ("_clear_live_protocol_engine_contexts", "_clear_cached_hardware_controller")
    return [getattr(module, name) for module in modules for name in names if hasattr(module, name)]


# Counting

_TALK = frozenset(f"command.{name}" for name in ("COMMENT", "PAUSE", "RESUME", "DELAY", "CAPTURE_IMAGE"))
"""Commands of a protocol that make nothing act."""


def _count_command(message: Mapping[str, Any]) -> None:
    if message.get("$") == "before" and message.get("name") not in _TALK:
        _sent.one_more()


def _count_motion() -> None:
    """Count at the driver: all that moves an axis goes through it, asked for by the context or not."""
    driver = load("opentrons.drivers.smoothie_drivers.driver_3_0").SmoothieDriver
    send = driver._send_command

    async def counting(self: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
        if moves(command.build()):
            _sent.one_more()
        return await send(self, command, *args, **kwargs)

    driver._send_command = counting


def _count_simulated_motion(context: Any) -> None:
    """A simulated OT-2 has no driver, and from API level 2.14 on no motion below its commands."""
    simulator = load("opentrons.hardware_control.backends.simulator").Simulator
    for name in ("move", "home", "fast_home", "probe"):
        setattr(simulator, name, _counting(getattr(simulator, name)))
    context.home = _counting(context.home)  # the one motion of a context that it does not announce


def _counting(action: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(action)
    def counting(*args: Any, **kwargs: Any) -> Any:
        _sent.one_more()
        return action(*args, **kwargs)

    return counting


# Labware of your own


def _definitions(folder: Path) -> dict[str, Any]:
    """Definitions in a folder, by `namespace/name/version`; on a robot those of its Jupyter folder too."""
    util = load("opentrons.util.entrypoint_util")
    found = {uri: each.definition for uri, each in (util.find_jupyter_labware() or {}).items()}
    files = sorted(folder.glob("*.json"))
    if not files:
        raise HardwareError(f"The labware folder {folder} has no definitions (*.json).")
    for file in files:
        definition = _definition(file)
        name = definition["parameters"]["loadName"]
        found[f"{definition['namespace']}/{name}/{definition['version']}"] = definition
    return found


def _definition(file: Path) -> Any:
    verify = load("opentrons.protocol_api.labware").verify_definition
    try:
        return verify(json.loads(file.read_bytes()))
    except Exception as exc:  # JSON's, jsonschema's or pydantic's, by version of opentrons
        why = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise HardwareError(f"{file} is not a labware definition: {why}") from exc
