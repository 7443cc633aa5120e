"""The clients: everything a device can be asked, for threads and for asyncio. The work is in `operations`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal

from ot2_agent.wire import check_run_id

from .channel import AsyncChannel, Channel
from .flows import Patience
from .operations import Known, make_request
from .run import AsyncRun, Run, outcome
from .tasks import Tasks
from .transports.base import AsyncTransport, Transport
from .transports.http import AsyncHttpTransport, HttpTransport
from .transports.loopback import LoopbackTransport

Verdict = Literal["done", "not_done", "partly"]


class OrchestratorClient:
    """One device, called from threads. A context manager; not usable again once closed.

    Args:
        base_url: the agent's address, e.g. `http://localhost:8000`.
        auth_token: sent as `Authorization: Bearer`.
        timeout: seconds that `execute_task` waits; None waits until the run has ended. It ends the waiting, never
            the run.
        ca_file: the CA that signed the device's certificate, where the system does not know it.
        transport: another way to the device instead of `base_url`, e.g. `LoopbackTransport([mix_color])`.
        patience: how long to try, and how often.
    """

    def __init__(
        self,
        base_url: str = "",
        auth_token: str | None = None,
        timeout: float | None = None,
        *,
        ca_file: str | None = None,
        transport: Transport | None = None,
        patience: Patience | None = None,
    ) -> None:
        if transport is None:
            transport = HttpTransport(base_url, auth_token, ca_file=ca_file)
        self.timeout = timeout
        self._channel = Channel(transport, patience or Patience())
        self._tasks = Tasks(self.execute_task, self._catalogue)

    def execute_task(self, task_name: str, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """Run a task, at most once, and return its value.

        Args:
            parameters: merged with the keywords.

        Raises:
            OT2Error: see the table in the README; `.run` is the run.
        """
        request = make_request(task_name, parameters, kwargs)
        run = Run(self._channel, Known(request.run_id))
        flow = self._channel.operations.execute(run.known, request, self.timeout)
        return outcome(self._channel.drive(flow, run), run)

    def __call__(self, task_name: str, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """The same as `execute_task`."""
        return self.execute_task(task_name, parameters, **kwargs)

    def submit(
        self,
        task: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        timeout_s: float | None = None,
        start_within_s: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Run:
        """Hand a run to the device and return as soon as it was accepted.

        Args:
            run_id: an id of your own; the same id is the same run, however often it is sent.
            timeout_s: longest run in seconds; the task's own limit is the cap.
            start_within_s: longest wait for its turn in seconds.
            labels: strings by name, kept with the run.

        Raises:
            OT2Error: as `execute_task`.
        """
        request = make_request(
            task, parameters, {}, run_id=run_id, timeout_s=timeout_s, start_within_s=start_within_s, labels=labels
        )
        run = self.run(request.run_id)
        self._channel.drive(self._channel.operations.send(run.known, request, self.timeout), run)
        return run

    @property
    def tasks(self) -> Tasks:
        """The device's tasks as functions: `client.tasks.mix_color(R=100, ...)`."""
        return self._tasks

    def get_available_tasks(self) -> dict[str, Any]:
        """The catalogue: task name -> doc, parameters, limits, units."""
        catalogue = self._catalogue()
        self._tasks._know(catalogue)
        return catalogue

    def status(self) -> dict[str, Any]:
        """The device's status now."""
        return self._channel.drive(self._channel.operations.read("status"))

    def health_check(self) -> bool:
        """Whether the device answers and is well; never raises."""
        return self._channel.drive(self._channel.operations.is_healthy())

    def run(self, run_id: str) -> Run:
        """The handle of a run by its id, without asking the device."""
        return Run(self._channel, Known(check_run_id(run_id)))

    def runs(self, *, state: str | None = None, task: str | None = None, limit: int = 50) -> list[Run]:
        """The newest runs of the device, whoever sent them."""
        answers = self._channel.drive(self._channel.operations.list_runs(state, task, limit))
        return [Run(self._channel, Known(answer.run_id, answer=answer)) for answer in answers]

    def cancel(self, run_id: str, reason: str | None = None) -> bool:
        """Ask the device to end a run; see `Run.cancel`. An id it never heard of is recorded and will never run."""
        return self.run(run_id).cancel(reason)

    def resolve(self, run_id: str, verdict: Verdict, *, by: str, note: str | None = None) -> Run:
        """Write down what a person found on the deck after a run whose outcome nobody knew.

        Args:
            by: who looked.
        """
        run = self.run(run_id)
        self._channel.drive(self._channel.operations.resolve(run.known, verdict, by, note), run)
        return run

    def reset(self, lock_id: str) -> dict[str, Any]:
        """Clear the lock of this id (`status()["details"]["lock"]`), once the deck was seen to. Returns the status."""
        return self._channel.drive(self._channel.operations.change("reset", {"lock_id": lock_id}))

    def startup(self) -> dict[str, Any]:
        """Start the device's worker. Returns the status."""
        return self._channel.drive(self._channel.operations.change("startup"))

    def close(self) -> None:
        """Let go of connections. Runs go on."""
        self._channel.transport.close()

    def __enter__(self) -> OrchestratorClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<OrchestratorClient {self._channel.transport.where}>"

    def _catalogue(self) -> dict[str, Any]:
        return self._channel.drive(self._channel.operations.read("tasks"))


class AsyncOrchestratorClient:
    """The same for asyncio: the same methods, awaited. Arguments as `OrchestratorClient`."""

    def __init__(
        self,
        base_url: str = "",
        auth_token: str | None = None,
        timeout: float | None = None,
        *,
        ca_file: str | None = None,
        transport: AsyncTransport | None = None,
        patience: Patience | None = None,
    ) -> None:
        if transport is None:
            transport = AsyncHttpTransport(base_url, auth_token, ca_file=ca_file)
        self.timeout = timeout
        self._channel = AsyncChannel(transport, patience or Patience())
        self._tasks = Tasks(self.execute_task, None)

    async def execute_task(self, task_name: str, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """As `OrchestratorClient.execute_task`. Cancelling the coroutine ends the waiting, never the run."""
        request = make_request(task_name, parameters, kwargs)
        run = AsyncRun(self._channel, Known(request.run_id))
        flow = self._channel.operations.execute(run.known, request, self.timeout)
        return outcome(await self._channel.drive(flow, run), run)

    async def __call__(self, task_name: str, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """The same as `execute_task`."""
        return await self.execute_task(task_name, parameters, **kwargs)

    async def submit(
        self,
        task: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        timeout_s: float | None = None,
        start_within_s: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncRun:
        """As `OrchestratorClient.submit`."""
        request = make_request(
            task, parameters, {}, run_id=run_id, timeout_s=timeout_s, start_within_s=start_within_s, labels=labels
        )
        run = self.run(request.run_id)
        await self._channel.drive(self._channel.operations.send(run.known, request, self.timeout), run)
        return run

    @property
    def tasks(self) -> Tasks:
        """The device's tasks: `await client.tasks.mix_color(R=100)`; signatures after `get_available_tasks`."""
        return self._tasks

    async def get_available_tasks(self) -> dict[str, Any]:
        """As `OrchestratorClient.get_available_tasks`."""
        catalogue = await self._channel.drive(self._channel.operations.read("tasks"))
        self._tasks._know(catalogue)
        return catalogue

    async def status(self) -> dict[str, Any]:
        """As `OrchestratorClient.status`."""
        return await self._channel.drive(self._channel.operations.read("status"))

    async def health_check(self) -> bool:
        """As `OrchestratorClient.health_check`."""
        return await self._channel.drive(self._channel.operations.is_healthy())

    def run(self, run_id: str) -> AsyncRun:
        """As `OrchestratorClient.run`; not awaited."""
        return AsyncRun(self._channel, Known(check_run_id(run_id)))

    async def runs(self, *, state: str | None = None, task: str | None = None, limit: int = 50) -> list[AsyncRun]:
        """As `OrchestratorClient.runs`."""
        answers = await self._channel.drive(self._channel.operations.list_runs(state, task, limit))
        return [AsyncRun(self._channel, Known(answer.run_id, answer=answer)) for answer in answers]

    async def cancel(self, run_id: str, reason: str | None = None) -> bool:
        """As `OrchestratorClient.cancel`."""
        return await self.run(run_id).cancel(reason)

    async def resolve(self, run_id: str, verdict: Verdict, *, by: str, note: str | None = None) -> AsyncRun:
        """As `OrchestratorClient.resolve`."""
        run = self.run(run_id)
        await self._channel.drive(self._channel.operations.resolve(run.known, verdict, by, note), run)
        return run

    async def reset(self, lock_id: str) -> dict[str, Any]:
        """As `OrchestratorClient.reset`."""
        return await self._channel.drive(self._channel.operations.change("reset", {"lock_id": lock_id}))

    async def startup(self) -> dict[str, Any]:
        """As `OrchestratorClient.startup`."""
        return await self._channel.drive(self._channel.operations.change("startup"))

    async def close(self) -> None:
        """As `OrchestratorClient.close`."""
        await self._channel.transport.aclose()

    async def __aenter__(self) -> AsyncOrchestratorClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncOrchestratorClient {self._channel.transport.where}>"


def create_client(base_url: str, **kwargs: Any) -> OrchestratorClient:
    """A client of the device at `base_url`; keywords as `OrchestratorClient`."""
    return OrchestratorClient(base_url, **kwargs)


def loopback(tasks: Iterable[Callable[..., Any]] | None = None, **kwargs: Any) -> OrchestratorClient:
    """A client of a device inside this process that runs `tasks`, for tests; see `LoopbackTransport`."""
    return OrchestratorClient(transport=LoopbackTransport(tasks), **kwargs)
