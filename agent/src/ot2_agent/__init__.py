"""What a task author needs. Everything here, and everything it imports, is the standard library alone."""

from . import ot2
from .context import CancelRequested, Run, current_run
from .errors import Refuse
from .launch import DeviceServer, create_server
from .param import Param
from .task import RegistrationError, mqtt_task, task

__version__ = "0.1.0"
__all__ = [
    "CancelRequested",
    "DeviceServer",
    "Param",
    "Refuse",
    "RegistrationError",
    "Run",
    "create_server",
    "current_run",
    "mqtt_task",
    "ot2",
    "task",
]
