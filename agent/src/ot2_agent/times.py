"""Dates and times as JSON strings (RFC 3339), read alike by every Python from 3.10. Standard library only.

A moment must name its zone: a robot and its caller need not live in the same one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

_TIME = r"(\d{2}:\d{2}:\d{2})(?:\.(\d{1,6})\d*)?"
_DATE_TIME = re.compile(rf"(\d{{4}}-\d{{2}}-\d{{2}})[Tt]{_TIME}([Zz]|[+-]\d{{2}}:\d{{2}})", re.ASCII)
_TIME_ONLY = re.compile(rf"{_TIME}([Zz]|[+-]\d{{2}}:\d{{2}})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _clock(hms: str, fraction: str | None, zone: str | None) -> str:
    """In the one form that Python 3.10 reads: six digits of fraction, a numeric zone."""
    offset = "+00:00" if zone in ("Z", "z") else zone or ""
    return f"{hms}.{(fraction or '').ljust(6, '0')}{offset}"


def read_datetime(text: str) -> datetime:
    """A moment from `2030-01-31T12:00:00Z`. Raises ValueError."""
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time of RFC 3339")
    day, hms, fraction, zone = found.groups()
    return datetime.fromisoformat(f"{day}T{_clock(hms, fraction, zone)}")


def read_date(text: str) -> date:
    """A day from `2030-01-31`. Raises ValueError."""
    if _DATE.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a date of RFC 3339")
    return date.fromisoformat(text)


def read_time(text: str) -> time:
    """A time of day from `12:00:00`, with or without a zone. Raises ValueError."""
    found = _TIME_ONLY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time of day of RFC 3339")
    hms, fraction, zone = found.groups()
    return time.fromisoformat(_clock(hms, fraction, zone))


@dataclass(frozen=True)
class Kind:
    """One `format` of JSON Schema: how it is read, and what a sentence calls it."""

    python: type
    words: str
    read: Callable[[str], Any]

    def fits(self, text: str) -> bool:
        try:
            self.read(text)
        except ValueError:
            return False
        return True


KINDS = {
    "date-time": Kind(datetime, "a time with its zone, like 2030-01-31T12:00:00Z", read_datetime),
    "date": Kind(date, "a date like 2030-01-31", read_date),
    "time": Kind(time, "a time of day like 12:00:00", read_time),
}
