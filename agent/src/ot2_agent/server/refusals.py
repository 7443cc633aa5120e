"""Records refusals under the caller's own id, so that a late duplicate can never run; at a bounded rate."""

from __future__ import annotations

from ..errors import OT2Error
from ..wire import Request
from .intake import refused_state
from .journal import DISK_TROUBLE, Journal
from .outcomes import refused
from .reactor import boot_clock
from .states import Effects
from .status import Identity

_PER_S = 20.0
_BURST = 200.0


class RefusalBook:
    """A flood of bad requests must not wear the disk out: beyond the rate a refusal is told and not recorded."""

    def __init__(self, who: Identity) -> None:
        self._who = who
        self._left = _BURST
        self._at = boot_clock()

    def keep(self, journal: Journal, request: Request, why: OT2Error, sender: str, effects: Effects) -> None:
        """Record it; when that is not done, the refusal's own sentence says so."""
        if not self._allowed():
            why.args = (f"{why.message} (Not recorded: too many refusals at once.)",)
            return
        answer = refused(request, self._who, sender, why, refused_state(why))
        try:
            journal.record(request, answer, effects=effects)
        except DISK_TROUBLE:
            why.args = (f"{why.message} (Not recorded: the disk did not take it.)",)

    def _allowed(self) -> bool:
        now = boot_clock()
        self._left = min(_BURST, self._left + (now - self._at) * _PER_S)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
