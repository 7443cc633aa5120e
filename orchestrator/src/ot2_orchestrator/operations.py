"""Every operation of a client, written once, as flows. Knows runs and errors; knows no transport and no driver."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ot2_agent.errors import (
    DeviceOffline,
    InvalidParameters,
    LostContact,
    MalformedRequest,
    NothingHappened,
    NotReady,
    OT2Error,
    OutcomeUnknown,
    RunNotFound,
    Starting,
    StillRunning,
    Unauthorized,
)
from ot2_agent.wire import Answer, Request, check_run_id, dumps, new_run_id

from .contact import Contact
from .flows import Flow, Patience, ask, pause
from .transports.base import Message, NoAnswer

GRACE_S = 2.0
"""How long an answer may take beyond the caller's own time-out."""
SOON_S = 0.25
"""A device that does not wait although it was asked to is asked again this much later."""
PAGE = 100
"""Runs per page of a listing."""


@dataclass
class Known:
    """What this client knows of one run.

    Args:
        sent: this client sent it, or tried to: from then on nobody is told that nothing happened unless that is sure.
        answer: the last that was heard of it.
    """

    run_id: str
    sent: bool = False
    answer: Answer | None = None

    @property
    def ended(self) -> bool:
        return self.answer is not None and self.answer.ended


def make_request(
    task: str, parameters: Mapping[str, Any] | None, keywords: Mapping[str, Any], **options: Any
) -> Request:
    """A request of its own id, its parameters ready to travel.

    Raises:
        InvalidParameters: they cannot be sent; nothing was.
        MalformedRequest: an option is not of its form; nothing was sent.
    """
    run_id = check_run_id(options.pop("run_id", None) or new_run_id())
    sendable = _sendable(task, _merged(task, parameters, keywords))
    given = {name: value for name, value in options.items() if value is not None}
    if not given and task:
        return Request(run_id, task, sendable)
    return Request.decode({"run_id": run_id, "task": task, "parameters": sendable, **given})


def _merged(task: str, parameters: Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> dict[str, Any]:
    if parameters is None:
        return dict(keywords)
    if not isinstance(parameters, Mapping):
        raise InvalidParameters(
            f"The parameters of {task} must be a dict by name, not {type(parameters).__name__}. Nothing was sent."
        )
    for name in keywords.keys() & parameters.keys():
        if keywords[name] != parameters[name]:
            raise InvalidParameters(
                f"{name} was given twice to {task}: {parameters[name]!r} and {keywords[name]!r}. Nothing was sent.",
                details={"field": name},
            )
    return {**parameters, **keywords}


def _sendable(task: str, parameters: dict[str, Any]) -> dict[str, Any]:
    try:
        dumps(parameters)
        return parameters
    except (TypeError, ValueError, RecursionError):
        return {str(name): _plain(task, str(name), value) for name, value in parameters.items()}


def _plain(task: str, name: str, value: Any) -> Any:
    """Numbers and arrays as an optimiser hands them out, and Enums, as JSON; anything else is refused."""
    plain = value.tolist() if hasattr(value, "tolist") else value.value if isinstance(value, enum.Enum) else value
    try:
        dumps(plain)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidParameters(
            f"{name} of {task} cannot be sent: {exc}. Nothing was sent.", details={"field": name}
        ) from exc
    return plain


@dataclass(frozen=True)
class Operations:
    """The operations on the device at `where`."""

    where: str
    patience: Patience

    def deadline(self, timeout: float | None) -> float | None:
        """When a caller who waits `timeout` seconds from now gives up."""
        return None if timeout is None else self.patience.clock() + max(0.0, timeout)

    # --- a run ----------------------------------------------------------------------------------------------

    def execute(self, known: Known, request: Request, timeout: float | None) -> Flow[Answer]:
        """Send a request and wait until its run has ended.

        Raises:
            OT2Error: as `submit` and `wait`.
        """
        deadline = self.deadline(timeout)
        yield from self.submit(known, request, self.patience.slice_s, deadline)
        return (yield from self.wait(known, deadline))

    def submit(self, known: Known, request: Request, wait: float = 0.0, deadline: float | None = None) -> Flow[Answer]:
        """Send a request, the same id again and again, until the device has spoken.

        Raises:
            DeviceOffline: it was out of reach all the time; nothing was sent.
            LostContact: it may have received the request.
            NothingHappened: it refused.
        """
        contact = Contact(self.patience, self.where, run_id=known.run_id, deadline=deadline)
        body = request.encode()
        known.sent = True
        while True:
            body["wait"], timeout = self._times(wait, deadline)
            try:
                return self._heard(known, (yield from ask("submit", body, timeout)))
            except (NoAnswer, Starting) as exc:
                yield from pause(contact.missed(exc))
            except Unauthorized as exc:  # said before the id was looked up: proves nothing of an earlier try
                contact.give_up(exc)

    def send(self, known: Known, request: Request, timeout: float | None) -> Flow[Answer]:
        """Send a request and return once it was accepted; `timeout` bounds the trying. Raises as `submit`."""
        return self.submit(known, request, 0.0, self.deadline(timeout))

    def wait(self, known: Known, deadline: float | None) -> Flow[Answer]:
        """Ask for a run until it has ended.

        Raises:
            StillRunning: the caller's time is up; the run goes on.
            LostContact: the device cannot be asked any more.
            OutcomeUnknown: the device has forgotten a run that it had accepted.
            RunNotFound: the device never heard of it.
        """
        while not known.ended:
            asked = self.patience.clock()
            answer = yield from self.look(known, self.patience.slice_s, deadline)
            now = self.patience.clock()
            left = SOON_S if deadline is None else deadline - now
            if not answer.ended and left <= 0:
                raise StillRunning(
                    f"Run {known.run_id} on {self.where} is {answer.state} and goes on; only the waiting ended. "
                    f"Ask for it, or cancel it.",
                    run_id=known.run_id,
                )
            if not answer.ended and now - asked < SOON_S:
                yield from pause(min(SOON_S, left))
        assert known.answer is not None
        return known.answer

    def look(self, known: Known, wait: float = 0.0, deadline: float | None = None) -> Flow[Answer]:
        """Ask for a run once, through any trouble of the connection.

        Raises:
            LostContact, OutcomeUnknown, RunNotFound: as `wait`.
        """
        contact = Contact(self.patience, self.where, run_id=known.run_id, arrived=True, deadline=deadline)
        while True:
            seconds, timeout = self._times(wait, deadline)
            try:
                return self._heard(known, (yield from ask("get", {"run_id": known.run_id, "wait": seconds}, timeout)))
            except (NoAnswer, Starting) as exc:
                yield from pause(contact.missed(exc))
            except NothingHappened as exc:
                raise self.refused_to_say(known, exc) from exc

    def cancel(self, known: Known, reason: str | None) -> Flow[Answer]:
        """Ask the device to end a run; one that has ended stays as it is.

        Raises:
            LostContact: the device may not have received it.
        """
        contact = Contact(self.patience, self.where, run_id=known.run_id, arrived=True)
        body = _given(run_id=known.run_id, reason=reason)
        while True:
            try:
                return self._heard(known, (yield from ask("cancel", body, self.patience.answer_within_s)))
            except (NoAnswer, Starting) as exc:
                yield from pause(contact.missed(exc))
            except NotReady as exc:
                if exc.code != "already_ended":
                    raise
                return (yield from self.look(known))

    def resolve(self, known: Known, verdict: str, by: str, note: str | None) -> Flow[Answer]:
        """Write down what a person found on the deck."""
        body = _given(run_id=known.run_id, verdict=verdict, by=by, note=note)
        message = yield from self.change("resolve", body)
        try:
            return self._heard(known, message)
        except NoAnswer as exc:
            Contact(self.patience, self.where, run_id=known.run_id, arrived=True).give_up(exc)

    def refused_to_say(self, known: Known, refusal: Exception) -> Exception:
        """What a refusal to tell of a run means: never that the run itself did not happen."""
        if isinstance(refusal, RunNotFound):
            if known.answer is None:
                return refusal
            return OutcomeUnknown(
                f"Run {known.run_id} was accepted by {self.where}, which now has no record of it: its journal was lost "
                f"or replaced. Nobody can say how far the run came. Look at the deck before you send anything.",
                run_id=known.run_id,
            )
        if not isinstance(refusal, NothingHappened) or not (known.sent or known.answer):
            return refusal
        return LostContact(
            f"{self.where} does not tell of run {known.run_id}: {refusal} The run may go on: send nothing new.",
            run_id=known.run_id,
        )

    # --- the device -----------------------------------------------------------------------------------------

    def read(self, op: str, body: Message | None = None) -> Flow[dict[str, Any]]:
        """Ask the device something that changes nothing.

        Raises:
            DeviceOffline: it did not answer.
        """
        try:
            return dict((yield from self._twice(op, body or {})))
        except NoAnswer as exc:
            raise DeviceOffline(f"{self.where} did not answer: {exc}. Nothing was changed.") from exc

    def change(self, op: str, body: Message | None = None) -> Flow[dict[str, Any]]:
        """Ask the device for something that is harmless to repeat.

        Raises:
            DeviceOffline: nothing was sent.
            LostContact: it may have received it.
        """
        try:
            return dict((yield from self._twice(op, body or {})))
        except NoAnswer as exc:
            Contact(self.patience, self.where, arrived=exc.maybe_received).give_up(exc)

    def is_healthy(self) -> Flow[bool]:
        """Whether the device answers and says that it is well; never raises."""
        try:
            health = yield from self._twice("health", {})
        except (OT2Error, NoAnswer):
            return False
        return health.get("status") == "healthy"

    def list_runs(self, state: str | None, task: str | None, limit: int) -> Flow[list[Answer]]:
        """The newest runs, page by page until there are `limit`."""
        found: list[Answer] = []
        cursor: str | None = None
        while len(found) < limit:
            body = _given(state=state, task=task, limit=min(limit - len(found), PAGE), cursor=cursor)
            page = yield from self.read("list", body)
            found += self._listed(page)
            cursor = page.get("next")
            if not cursor:
                break
        return found[:limit]

    def _listed(self, page: Message) -> list[Answer]:
        try:
            return [_answer(item) for item in page.get("runs", [])]
        except NoAnswer as exc:
            raise DeviceOffline(f"{self.where} did not answer: {exc}. Nothing was changed.") from exc

    # --- parts ----------------------------------------------------------------------------------------------

    def _times(self, wait: float, deadline: float | None) -> tuple[float, float]:
        """Seconds to ask the device to wait, and seconds to wait for its answer."""
        if deadline is None:
            return wait, wait + self.patience.answer_within_s
        left = max(0.0, deadline - self.patience.clock())
        wait = round(min(wait, left), 3)
        return wait, min(wait + self.patience.answer_within_s, left + GRACE_S)

    def _twice(self, op: str, body: Message) -> Flow[Message]:
        """One more try at once when an open connection turned out to be closed."""
        try:
            return (yield from ask(op, body, self.patience.answer_within_s))
        except NoAnswer as exc:
            if not exc.dropped:
                raise
        return (yield from ask(op, body, self.patience.answer_within_s))

    def _heard(self, known: Known, message: Message) -> Answer:
        answer = _answer(message)
        known.answer = answer
        return answer


def _answer(message: Message) -> Answer:
    try:
        return Answer.decode(message)
    except MalformedRequest as exc:
        raise NoAnswer(str(exc).rstrip("."), maybe_received=True, final=True) from exc


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
