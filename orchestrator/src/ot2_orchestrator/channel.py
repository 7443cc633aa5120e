"""Carries flows out over a transport, for threads and for asyncio, and says so when a waiting caller is interrupted."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from typing import Protocol, TypeVar

from ot2_agent.errors import OT2Error, Starting
from ot2_agent.wire import Answer, Event

from .contact import Contact, log
from .flows import Flow, Patience, adrive, drive
from .operations import Known, Operations
from .transports.base import AsyncTransport, NoAnswer, Transport

T = TypeVar("T")


class Handle(Protocol):
    """A run as its caller holds it; errors about the run carry it."""

    known: Known


class Channel:
    """One transport and the operations over it."""

    def __init__(self, transport: Transport, patience: Patience) -> None:
        self.transport = transport
        self.operations = Operations(transport.where, patience)

    def drive(self, flow: Flow[T], run: Handle | None = None) -> T:
        """Carry out a flow; an error of the kit carries `run`."""
        try:
            return drive(flow, self.transport.call)
        except OT2Error as exc:
            carrying(exc, run)
            raise
        except KeyboardInterrupt:
            if run is not None:
                print(goes_on(run.known, self.transport.where), file=sys.stderr, flush=True)
            raise

    def listen(self, run: Handle, after: str | None) -> Generator[Event, None, None]:
        """The events of a run, through lost connections, until it has ended."""
        ear = Ear(self.operations, run, after)
        try:
            while not ear.done:
                trouble: Exception | None = None
                try:
                    with closing(self.transport.events(run.known.run_id, ear.after)) as events:
                        for event in events:
                            ear.heard(event)
                            yield event
                except (NoAnswer, OT2Error) as exc:
                    trouble = exc
                if not ear.done:
                    time.sleep(self.drive(ear.silent(trouble), run))
        except KeyboardInterrupt:
            print(goes_on(run.known, self.transport.where), file=sys.stderr, flush=True)
            raise


class AsyncChannel:
    """The same for asyncio."""

    def __init__(self, transport: AsyncTransport, patience: Patience) -> None:
        self.transport = transport
        self.operations = Operations(transport.where, patience)

    async def drive(self, flow: Flow[T], run: Handle | None = None) -> T:
        """Carry out a flow; an error of the kit carries `run`."""
        try:
            return await adrive(flow, self.transport.async_call)
        except OT2Error as exc:
            carrying(exc, run)
            raise
        except asyncio.CancelledError:
            if run is not None:
                log.warning(goes_on(run.known, self.transport.where))
            raise

    async def listen(self, run: Handle, after: str | None) -> AsyncGenerator[Event, None]:
        """The events of a run, through lost connections, until it has ended."""
        ear = Ear(self.operations, run, after)
        while not ear.done:
            trouble: Exception | None = None
            try:
                async with aclosing(self.transport.async_events(run.known.run_id, ear.after)) as events:
                    async for event in events:
                        ear.heard(event)
                        yield event
            except (NoAnswer, OT2Error) as exc:
                trouble = exc
            if not ear.done:
                await asyncio.sleep(await self.drive(ear.silent(trouble), run))


class Ear:
    """Listens to one run: where to go on after an interruption, and when there is no more to hear."""

    def __init__(self, operations: Operations, run: Handle, after: str | None) -> None:
        self._operations = operations
        self._run = run
        self._contact: Contact | None = None
        self.after = after
        self.done = False

    def heard(self, event: Event) -> None:
        """Note an event; the run's end is the last one."""
        self.after = event.id
        self._contact = None
        if event.kind == "state":
            self._run.known.answer = Answer.decode(event.data)
            self.done = self._run.known.ended

    def silent(self, trouble: Exception | None) -> Flow[float]:
        """Note that the stream ended before the run did.

        Returns:
            The seconds to let pass before listening again.

        Raises:
            LostContact, OutcomeUnknown, RunNotFound: as `Operations.wait`.
        """
        operations, known = self._operations, self._run.known
        if isinstance(trouble, (NoAnswer, Starting)):
            self._contact = self._contact or Contact(
                operations.patience, operations.where, run_id=known.run_id, arrived=True
            )
            return self._contact.missed(trouble)
        if trouble is not None:
            raise operations.refused_to_say(known, trouble) from trouble
        self.done = (yield from operations.look(known)).ended
        return 0.0 if self.done else operations.patience.between_tries()


def carrying(error: OT2Error, run: Handle | None) -> OT2Error:
    """The error, with the run it is about in its hand."""
    if run is not None:
        error.run = run
        error.run_id = error.run_id or run.known.run_id
    return error


def goes_on(known: Known, where: str) -> str:
    """What somebody who stops waiting has to know."""
    if known.ended:
        return f"Run {known.run_id} on {where} had already ended: {known.answer and known.answer.state}."
    if known.answer is None:
        return (
            f"Stopped waiting. Run {known.run_id} may have reached {where} and may go on; "
            f"to end it: client.cancel({known.run_id!r})"
        )
    return f"Stopped waiting. Run {known.run_id} on {where} goes on; to end it: client.cancel({known.run_id!r})"
