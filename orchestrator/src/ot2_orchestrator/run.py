"""A run as its caller holds it, with the manners of `concurrent.futures`; and its asyncio twin."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any

from ot2_agent.errors import OT2Error
from ot2_agent.wire import Answer, Event, State

from .channel import AsyncChannel, Channel, carrying
from .contact import log
from .operations import Known


class _Handle:
    """What both twins know without asking."""

    def __init__(self, known: Known) -> None:
        self.known = known

    @property
    def id(self) -> str:
        """The run's id: unique, and enough to find it again (`client.run(id)`)."""
        return self.known.run_id

    @property
    def answer(self) -> Answer | None:
        """The last that was heard of it, without asking again; None before that."""
        return self.known.answer

    def __repr__(self) -> str:
        heard = self.answer
        return f"<{type(self).__name__} {self.id}{f' {heard.task} {heard.state}' if heard else ''}>"


class Run(_Handle):
    """One run on a device. Holds no resource; may be used from several threads."""

    def __init__(self, channel: Channel, known: Known) -> None:
        super().__init__(known)
        self._channel = channel

    @property
    def state(self) -> State:
        """The run's state now; asks the device unless the run has ended."""
        return self.refresh().state

    @property
    def progress(self) -> Mapping[str, Any]:
        """How far it is now: `fraction` (0 to 1) and `message`, each if the task told one; asks the device."""
        return self.refresh().progress

    def refresh(self) -> Answer:
        """Ask the device for the run, unless it has ended.

        Raises:
            LostContact: the device cannot be asked.
            RunNotFound: the device never heard of it.
            OutcomeUnknown: the device has forgotten a run that it had accepted.
        """
        if not self.known.ended or self.known.answer is None:
            return self._channel.drive(self._channel.operations.look(self.known), self)
        return self.known.answer

    def done(self) -> bool:
        """Whether it has ended, well or not. Raises as `refresh`."""
        return self.refresh().ended

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the task's value.

        Args:
            timeout: seconds to wait; None waits until the run has ended.

        Raises:
            StillRunning: the time is up; the run goes on.
            RunFailed: it ended without success.
            OT2Error: see the table in the README.
        """
        return outcome(self._ended(timeout), self)

    def exception(self, timeout: float | None = None) -> OT2Error | None:
        """Wait as `result` does, and return what it would raise of the run's end; None after a success."""
        return failure(self._ended(timeout), self)

    def cancel(self, reason: str | None = None) -> bool:
        """Ask the device to end it: at its next checkpoint, or by force after the task's grace.

        Returns:
            False when it had already ended otherwise; True when it is cancelled or on its way there.
        """
        return was_cancelled(self._channel.drive(self._channel.operations.cancel(self.known, reason), self))

    def events(self, after: str | None = None) -> Generator[Event, None, None]:
        """What happens to the run, from its beginning until its end, through lost connections.

        Args:
            after: an event's `id`, to go on behind it.
        """
        return self._channel.listen(self, after)

    def _ended(self, timeout: float | None) -> Answer:
        operations = self._channel.operations
        return self._channel.drive(operations.wait(self.known, operations.deadline(timeout)), self)


class AsyncRun(_Handle):
    """The same for asyncio: `await run.result()`, `await run.state`, `async for event in run.events()`."""

    def __init__(self, channel: AsyncChannel, known: Known) -> None:
        super().__init__(known)
        self._channel = channel

    @property
    async def state(self) -> State:
        """As `Run.state`."""
        return (await self.refresh()).state

    @property
    async def progress(self) -> Mapping[str, Any]:
        """As `Run.progress`."""
        return (await self.refresh()).progress

    async def refresh(self) -> Answer:
        """As `Run.refresh`."""
        if not self.known.ended or self.known.answer is None:
            return await self._channel.drive(self._channel.operations.look(self.known), self)
        return self.known.answer

    async def done(self) -> bool:
        """As `Run.done`."""
        return (await self.refresh()).ended

    async def result(self, timeout: float | None = None) -> Any:
        """As `Run.result`."""
        return outcome(await self._ended(timeout), self)

    async def exception(self, timeout: float | None = None) -> OT2Error | None:
        """As `Run.exception`."""
        return failure(await self._ended(timeout), self)

    async def cancel(self, reason: str | None = None) -> bool:
        """As `Run.cancel`."""
        return was_cancelled(await self._channel.drive(self._channel.operations.cancel(self.known, reason), self))

    def events(self, after: str | None = None) -> AsyncGenerator[Event, None]:
        """As `Run.events`."""
        return self._channel.listen(self, after)

    async def _ended(self, timeout: float | None) -> Answer:
        operations = self._channel.operations
        return await self._channel.drive(operations.wait(self.known, operations.deadline(timeout)), self)


def failure(answer: Answer, run: _Handle) -> OT2Error | None:
    """The exception of a run that has ended, carrying it; None after a success."""
    error = answer.exception()
    return None if error is None else carrying(error, run)


def outcome(answer: Answer, run: _Handle) -> Any:
    """The value of a run that has ended.

    Raises:
        OT2Error: it ended without success.
    """
    if (error := failure(answer, run)) is not None:
        raise error
    for warning in answer.warnings:
        log.warning("Run %s of %s: %s", run.id, answer.task, warning)
    return answer.result


def was_cancelled(answer: Answer) -> bool:
    """Whether a run that somebody asked to cancel is cancelled, or will be."""
    return answer.state is State.CANCELLED or not answer.ended
