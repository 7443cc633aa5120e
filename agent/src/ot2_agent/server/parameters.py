"""Do the parameters of a request fit the task? Asked in the agent, before anything is journalled as accepted.

The check is `check.py`, which the worker uses again when it binds them: both sides say the same sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..check import check_parameters


class ParameterCheck:
    """The check of one task, from its catalogue entry."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self._task: str = entry["name"]
        self._schema: Mapping[str, Any] = entry["schema"]

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Raise InvalidParameters, naming the first parameter that does not fit, if one does not."""
        check_parameters(self._task, self._schema, parameters)
