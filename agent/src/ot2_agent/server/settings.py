"""The agent's settings: environment (`OT2_AGENT_*`), an env file, flags. One table of them, made from here."""

from __future__ import annotations

import ipaddress
import re
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .. import hardware


class Settings(BaseSettings):
    """Every setting of `ot2-agent serve`: a flag (`--queue-places 4`) or a variable (`OT2_AGENT_QUEUE_PLACES`)."""

    model_config = SettingsConfigDict(env_prefix="OT2_AGENT_", extra="ignore", env_ignore_empty=True, frozen=True)

    tasks: str = Field("", description="the task module: a Python file, or a dotted module name")
    worker_python: str = Field(sys.executable, description="the worker's interpreter, with your opentrons")
    mode: Literal["simulated", "emulated", "real"] = Field(
        "simulated", description="what moves: nothing, an emulated OT-2, the robot; never a fallback for another"
    )
    emulator: str = Field(hardware.EMULATOR, description="where the emulated OT-2 is (`ot2-agent emulate`), host:port")
    host: str = Field("127.0.0.1", description="listen address; loopback only until tokens and TLS are there")
    port: int = Field(8000, ge=0, le=65535, description="listen port; 0 takes a free one")
    device_id: str = Field(default_factory=hardware.host_slug, description="the device's name on the wire")
    title: str = Field("OT-2 Device Server", description="the device's name for people")
    description: str = Field("Tasks on an Opentrons OT-2", description="what it is for, shown in /docs")
    version: str = Field("1.0.0", description="your version of the tasks, shown in /docs and /status")
    state_dir: Path | None = Field(None, description="where the journal is; by default a folder named after the device")
    require_auth: bool = Field(False, description="ask every caller for a token (not in this release: refused)")
    queue_places: int = Field(16, ge=0, le=1000, description="how many runs may wait behind the running one")
    keep_queue_after_failure: bool = Field(
        False, description="start what waits even after a run that failed (never after one that was cut off)"
    )
    max_body_bytes: int = Field(1 << 20, ge=1024, description="largest request body, bytes")
    min_free_mb: int = Field(16, ge=0, description="free disk below which no run is taken, MiB")
    allowed_hosts: list[str] = Field(
        [], description="further names that a Host header may give, beside loopback's (JSON list)"
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="how much is logged"
    )

    @field_validator("device_id")
    @classmethod
    def _slug(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", value):
            raise ValueError("must be 1 to 32 of lower-case letters, digits and hyphens")
        return value

    @field_validator("emulator")
    @classmethod
    def _address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not (port.isdecimal() and 0 < int(port) < 1 << 16):
            raise ValueError("must be host:port, e.g. 127.0.0.1:9996")
        return value

    @model_validator(mode="after")
    def _loopback_only(self) -> Settings:
        if not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is not loopback, and this release has neither tokens nor TLS to protect it. "
                "Use 127.0.0.1 and reach it through an SSH tunnel: ssh -L 8000:127.0.0.1:8000 HOST"
            )
        if self.require_auth:
            raise ValueError(
                "require_auth asks for tokens, which this release does not have yet. Leave it off: the agent listens "
                "on loopback only"
            )
        return self

    @property
    def state(self) -> Path:
        """The state directory."""
        return (self.state_dir or hardware.state_home() / self.device_id).absolute()

    @property
    def journal(self) -> Path:
        return self.state / "journal.db"

    @property
    def hardware_key(self) -> str:
        return hardware.key(self.mode, state_dir=self.state, emulator=self.emulator)

    def for_worker(self) -> dict[str, str]:
        """The variables that a worker reads."""
        return {
            "OT2_AGENT_MODE": self.mode,
            "OT2_AGENT_EMULATOR": self.emulator,
            "OT2_AGENT_STATE_DIR": str(self.state),
        }


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--python" if name == "worker_python" else f"--{name.replace('_', '-')}"


def table() -> str:
    """All settings as a Markdown table, for the README; a test keeps the two equal."""
    lines = ["| variable | flag | default | what it is |", "|---|---|---|---|"]
    for name, item in Settings.model_fields.items():
        flag = "(argument)" if name == "tasks" else f"`{flag_of(name)}`"
        lines.append(f"| `OT2_AGENT_{name.upper()}` | {flag} | {_default(name, item.default)} | {item.description} |")
    return "\n".join(lines)


def _default(name: str, value: Any) -> str:
    named = {
        "worker_python": "who ran the command",
        "device_id": "the host's name",
        "state_dir": "see below",
        "tasks": "",
    }
    return named.get(name, f"`{value}`")
