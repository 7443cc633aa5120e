"""Contact with a device, lost and found: how long to keep sending the same message, and what silence means.

The one rule: as long as a message *may* have arrived, nobody is told that nothing happened.
"""

from __future__ import annotations

import logging
from typing import NoReturn

from ot2_agent.errors import DeviceOffline, LostContact, OT2Error, Starting

from .flows import Patience
from .transports.base import NoAnswer

log = logging.getLogger("ot2_orchestrator")


class Contact:
    """One message on its way, through as many tries as it takes.

    Args:
        where: the device's address.
        run_id: the run that the message is about; None for one about the device.
        arrived: an earlier message about this run may have arrived already.
        deadline: when the caller's own time is up (by `patience.clock`); None without a limit.
    """

    def __init__(
        self,
        patience: Patience,
        where: str,
        *,
        run_id: str | None = None,
        arrived: bool = False,
        deadline: float | None = None,
    ) -> None:
        self._patience = patience
        self._where = where
        self._run_id = run_id
        self._deadline = deadline
        self._since: float | None = None
        self._tries = 0
        self._warned = False
        self.arrived = arrived

    def missed(self, reason: NoAnswer | Starting) -> float:
        """Note that a try found no answer, or one of `Starting`.

        Returns:
            The seconds to let pass before the same message is sent again.

        Raises:
            DeviceOffline: nothing can have arrived, and it is time to say so.
            LostContact: something may have.
            Starting: the device was there, and would take nothing yet.
        """
        self._tries += 1
        self.arrived = self.arrived or (isinstance(reason, NoAnswer) and reason.maybe_received)
        wait = self._pause_after(reason)
        if self._is_over(reason, wait):
            self.give_up(reason)
        if wait and not self._warned:
            self._warned = True
            log.warning(
                "No answer from %s yet (%s). Asking again for up to %.0f s.",
                self._where,
                reason,
                self._patience.contact_timeout_s,
            )
        return wait

    def give_up(self, reason: Exception) -> NoReturn:
        """Raise what an end of all tries means; a refusal as it is when it is the whole truth."""
        if isinstance(reason, OT2Error) and not self.arrived:
            raise reason
        raise self._lost(reason) from reason

    def _lost(self, reason: Exception) -> OT2Error:
        if not self.arrived:
            return DeviceOffline(
                f"{self._where} could not be reached: {reason}. Nothing was sent.", run_id=self._run_id
            )
        if self._run_id is None:
            return LostContact(
                f"Lost contact with {self._where}: {reason}. It may have received the request: look at its status."
            )
        return LostContact(
            f"Lost contact with {self._where} about run {self._run_id}: {reason}. It may be going on: ask for this "
            f"run, send nothing new. Once the device is back, cancelling it makes sure that it does not start late.",
            run_id=self._run_id,
        )

    def _pause_after(self, reason: NoAnswer | Starting) -> float:
        if self._tries == 1 and isinstance(reason, NoAnswer) and reason.dropped:
            return 0.0  # a server closes idle connections; the next one is new
        return self._patience.between_tries()

    def _is_over(self, reason: NoAnswer | Starting, wait: float) -> bool:
        if isinstance(reason, NoAnswer) and reason.final:
            return True
        if isinstance(reason, Starting) and reason.code == "journal_unusable":
            return True  # a person has to act first
        now = self._patience.clock()
        self._since = now if self._since is None else self._since
        then = now + wait
        too_late = then > self._since + self._patience.contact_timeout_s
        return too_late or (self._deadline is not None and then > self._deadline)
