"""The one admin address of several workers: what is asked there is asked of each of them, and told as one.

It stands in the supervisor's process, which outlives every worker, in a thread with a loop of its own: a fault of it
costs a page, and no worker waits for it. `Front` is the supervisor's side of it: what it is told of processes it hands
over to the loop and never waits. How processes are asked is `crowd`'s; here their answers become pages, on which those
that do not answer are named.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from tailrace.console.merging import Part, Silent, merge_sessions, merge_states, plan_page
from tailrace.console.pages import Console
from tailrace.console.questions import Cancel, Close, Question, Refusal, Session, State, Touched
from tailrace.console.views import MAX_ROWS
from tailrace.core.pages import Page, Readers
from tailrace.core.settings import Settings
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.protocols.mcp.http import not_allowed
from tailrace.server.admin import Admin, read_address
from tailrace.server.crowd import Crowd
from tailrace.server.health import READING, Health
from tailrace.server.metrics import Metrics
from tailrace.server.sockets import listening, url_of

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from tailrace.core.exchange import Exchange
    from tailrace.server.crowd import Answer, Process

__all__ = ["Front", "front"]

logger = logging.getLogger("tailrace.server")

_START = 10.0  # seconds for the thread to listen
_END = 2.0  # seconds for it to end


@contextlib.contextmanager
def front(address: str, token: str | None, count: int) -> Generator[Front]:
    """The admin address of so many workers, for the time of a block.

    Args:
        address: As `--admin` has it.
        token: As `--admin-token` has it.
        count: Workers.

    Raises:
        OSError: It cannot be had.
        DefinitionError: It is none, or others can reach it and there is no token.
    """
    where = read_address(address, token=token)
    with listening(*where) as bound:
        standing = Front(bound, url_of(bound, where.host, where.uds, tls=False), token, count)
        standing.start()
        try:
            yield standing
        finally:
            standing.stop()


class Front:
    """The supervisor's side.

    Args:
        listening: A bound socket.
        url: Its address as people write it.
        token: The operator's own; None: one is made up.
        count: Workers.

    Attributes:
        url: The address for the ready line, once it has started.
    """

    def __init__(self, listening: socket.socket, url: str, token: str | None, count: int) -> None:
        self.url = url
        self._listening = listening
        self._token = token
        self._count = count
        self._crowd: Crowd
        self._loop: asyncio.AbstractEventLoop
        self._stopped: asyncio.Event
        self._begun = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tailrace-admin", daemon=True)

    def start(self) -> None:
        """Listen.

        Raises:
            DefinitionError: The token cannot be sent in a header.
        """
        self._thread.start()
        if not self._begun.wait(_START):
            raise RuntimeError("the admin address did not open in time")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Cut what is still read. Idempotent."""
        self._tell(lambda: self._stopped.set())
        self._thread.join(_END)

    def started(self, worker: int, pid: int, ours: socket.socket) -> None:
        """A process was started; `ours` is our end of its control socket, and the front's from now on."""
        self._tell(lambda: self._crowd.add(worker, pid, ours))

    def ready(self, pid: int) -> None:
        """It serves."""
        self._tell(lambda: self._crowd.change(pid, starting=False))

    def leaving(self, pid: int) -> None:
        """It is told to end."""
        self._tell(lambda: self._crowd.change(pid, leaving=True))

    def ended(self, pid: int) -> None:
        """It has ended."""
        self._tell(lambda: self._crowd.end_soon(pid))

    def _tell(self, what: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # of a start; and the supervisor goes on without its admin address
            if self._begun.is_set():
                logger.exception("the admin address has failed")
            self._failure = error
        finally:
            self._begun.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        tasks = Tasks(Threads(size=1, name="tailrace-admin"))
        self._crowd = crowd = Crowd(tasks, self._count)
        pages = _Pages(crowd)
        door = Admin(pages, self._listening, self.url, self._token, pages.all)
        await door.open()
        self.url = door.front
        self._begun.set()
        try:
            await self._stopped.wait()
        finally:
            await door.close()
            crowd.close()
            await tasks.close(0.2)


class _Pages:
    """The pages about all workers (fulfils `admin.Shown`).

    Args:
        crowd: Their processes.
    """

    def __init__(self, crowd: Crowd) -> None:
        self.settings = Settings()
        self.tasks = crowd.tasks
        self._crowd = crowd

    def all(self) -> Sequence[Page]:
        """For the door."""
        health = Health(self._hindrance, self._notes)
        return [
            *(Page(path, handle, Readers.ANYBODY) for path, handle in health.routes.items()),
            Page("/metrics", self._metrics, Readers.LOCAL),
            *Console(self._ask, time.time).pages(),
        ]

    # --- the console ---

    def _ask(self, question: Question, then: Callable[[Any], None]) -> None:
        self.tasks.start(self._tell(question, then), name="tailrace-console")

    async def _tell(self, question: Question, then: Callable[[Any], None]) -> None:
        try:
            answer = await self._answer(question)
        except Exception:
            logger.exception("the console failed question=%s", type(question).__name__)
            answer = Refusal(500, "internal error")
        then(answer)

    async def _answer(self, question: Question) -> Any:
        match question:
            case State() | Touched():
                return await self._state(question)
            case Session(name):
                parts, refusal = await self._ask_all(question)
                found = merge_sessions(name, parts)
                return self._none(refusal) if found is None and (refusal or not parts) else found
            case Close() | Cancel():
                return await self._do(question)

    async def _state(self, question: State | Touched) -> Any:
        if isinstance(question, Touched):
            question = State(question.search)
        search, offset, limit = question.search, question.offset, max(1, min(question.limit, MAX_ROWS))
        if not offset:
            parts, refusal = await self._ask_all(State(search, 0, limit))
            if not parts:
                return self._none(refusal)
            return merge_states(parts, self._silent(parts), offset=0, limit=limit)
        asked = {one: Touched(search) for one in self._crowd.asked}
        told = {one: _read(answer) for one, answer in (await self._crowd.ask(asked)).items()}
        times = {one: answer for one, answer in told.items() if not isinstance(answer, Refusal)}
        plan = plan_page(list(times.values()), offset, limit)
        pages = dict(zip(times, plan, strict=True))
        parts, refusal = _parts(await self._crowd.ask({one: State(search, *page) for one, page in pages.items()}))
        if not parts:
            return self._none(refusal)
        on = {one.pid: page[1] for one, page in pages.items()}
        for part in parts:  # who has none on the page was asked for one
            part.value["sessions"]["rows"] = part.value["sessions"]["rows"][: on[part.pid]]
        return merge_states(parts, self._silent(parts), offset=offset, limit=limit)

    async def _ask_all(self, question: Question) -> tuple[list[Part], Refusal | None]:
        """The answers of all, and a refusal if somebody refused."""
        return _parts(await self._crowd.ask(dict.fromkeys(self._crowd.asked, question)))

    def _silent(self, parts: Sequence[Part]) -> list[Silent]:
        return self._crowd.silent({part.pid for part in parts})

    async def _do(self, question: Close | Cancel) -> Any:
        """Whoever has it does it."""
        parts, refusal = await self._ask_all(question)
        if any(part.value == "" for part in parts):
            return ""
        if silent := self._silent(parts):
            names = ", ".join(str(one.worker) for one in silent)
            return Refusal(503, f"no worker that answers has it; worker {names} does not answer")
        return refusal if not parts else parts[0].value

    def _none(self, refusal: Refusal | None) -> Refusal:
        return refusal or Refusal(503, "no worker answers at the moment")

    # --- numbers ---

    def _metrics(self, exchange: Exchange) -> None:
        if exchange.method not in READING:
            return not_allowed(exchange, b"GET, HEAD")
        self.tasks.start(self._scrape(exchange), name="tailrace-metrics")
        return None

    async def _scrape(self, exchange: Exchange) -> None:
        told = await self._crowd.count()
        numbers = [*self._workers(set(told.values())), *self._crowd.tallies.families(told)]
        Metrics(_Numbers(numbers)).handle(exchange)

    def _workers(self, answered: set[int]) -> list[Metric]:
        up = GaugeMetricFamily("tailrace_worker_up", "1 where the worker answered this scrape.", labels=["worker"])
        starts = CounterMetricFamily("tailrace_worker_starts", "Processes that were started.", labels=["worker"])
        for worker, count in enumerate(self._crowd.starts):
            up.add_metric([str(worker)], int(worker in answered))
            starts.add_metric([str(worker)], count)
        return [up, starts]

    # --- readiness ---

    def _hindrance(self) -> str | None:
        """One worker that takes requests is enough."""
        return None if self._crowd.ready else "no worker is ready"

    def _notes(self) -> str:
        return f"{len(self._crowd.ready)} of {len(self._crowd.starts)} workers"


class _Numbers:
    """What is on one page of metrics."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        """As a registry of `prometheus_client` has it."""
        return self._metrics


def _parts(answers: Mapping[Process, Answer]) -> tuple[list[Part], Refusal | None]:
    parts: list[Part] = []
    refusal: Refusal | None = None
    for process, answer in answers.items():
        value = _read(answer)
        if isinstance(value, Refusal):
            refusal = value
        else:
            parts.append(Part(process.worker, process.pid, process.leaving, value))
    return parts, refusal


def _read(answer: Answer) -> Any:
    refusal = msgspec.msgpack.decode(answer.refusal)
    return msgspec.msgpack.decode(answer.value) if refusal is None else Refusal(*refusal)
