"""The one admin address of several workers: what is asked there is asked of each of them, and told as one.

It stands in the supervisor's process, which outlives every worker, in a thread with a loop of its own: a fault of it
costs a page, and no worker waits for it. `Front` is the supervisor's side of it: what it is told of processes it hands
over to the loop and never waits. `_Crowd` lives in that loop.

A worker that does not answer within `_PATIENCE` is left out and named; until it has answered, nobody waits for it
again.
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
from tailrace.server.admin import Admin, read_address
from tailrace.server.control import FAREWELL, MAX_ANSWER, Numbers, frame, read_frame
from tailrace.server.health import Health
from tailrace.server.metrics import Metrics
from tailrace.server.sockets import listening, url_of
from tailrace.server.tallies import Family, Tallies

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from tailrace.core.exchange import Exchange

__all__ = ["Front", "front"]

logger = logging.getLogger("tailrace.server")

_PATIENCE = 3.0  # seconds for a worker's answer
_START = 10.0  # seconds for the thread to listen
_END = 1.0  # seconds for it to end, and for what an ended process has still told
_BEHIND = 64 * 1024  # bytes of questions that a worker has not read
_families = msgspec.msgpack.Decoder(tuple[int, list[Family] | None, msgspec.Raw])


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
        self._crowd: _Crowd
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
        self._thread.join(_END + 1.0)

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
        self._crowd = crowd = _Crowd(tasks, self._count)
        door = Admin(crowd, self._listening, self.url, self._token, crowd.pages)
        await door.open()
        self.url = door.front
        self._begun.set()
        try:
            await self._stopped.wait()
        finally:
            await door.close()
            crowd.close()
            await tasks.close(0.2)


class _Process:
    """One process of a worker, and what it was asked."""

    def __init__(self, serial: int, worker: int, pid: int) -> None:
        self.serial = serial
        self.worker = worker
        self.pid = pid
        self.starting = True
        self.leaving = False
        self.late = False  # it owes an answer for too long
        self.writer: asyncio.StreamWriter | None = None
        self.awaited: dict[int, asyncio.Future[bytes]] = {}

    @property
    def is_asked(self) -> bool:
        """It can be expected to answer."""
        return self.writer is not None and not (self.starting or self.late)


class _Crowd:
    """All processes of all workers, asked as one (`admin.Shown`)."""

    def __init__(self, tasks: Tasks, count: int) -> None:
        self.settings = Settings()
        self.tasks = tasks
        self._count = count
        self._processes: dict[int, _Process] = {}  # by pid, the newest last
        self._serial = 0
        self._asked = FAREWELL
        self._tallies = Tallies()
        self._starts = [0] * count

    def pages(self) -> Sequence[Page]:
        """For the door."""
        return [
            *(
                Page(path, handle, Readers.ANYBODY)
                for path, handle in Health(self._hindrance, self._notes).routes.items()
            ),
            Page("/metrics", self._metrics, Readers.LOCAL),
            *Console(self._ask, time.time).pages(),
        ]

    # --- processes ---

    def add(self, worker: int, pid: int, ours: socket.socket) -> None:
        """One more."""
        self._serial += 1
        self._starts[worker] += 1
        self._processes[pid] = process = _Process(self._serial, worker, pid)
        self.tasks.start(self._read(process, ours), name="tailrace-control")

    def change(self, pid: int, *, starting: bool | None = None, leaving: bool | None = None) -> None:
        """What the supervisor says of it."""
        process = self._processes.get(pid)
        if process is not None:
            process.starting = process.starting if starting is None else starting
            process.leaving = process.leaving if leaving is None else leaving

    def end_soon(self, pid: int) -> None:
        """It has ended; what it has told is still read, and no child of its that holds the socket is waited for."""
        process = self._processes.get(pid)
        if process is not None:
            process.leaving = True
            self.tasks.loop.call_later(_END, self._cut, process)

    def close(self) -> None:
        """Let go of all."""
        for process in self._processes.values():
            self._cut(process)

    def _cut(self, process: _Process) -> None:
        if process.writer is not None:
            process.writer.transport.abort()

    async def _read(self, process: _Process, ours: socket.socket) -> None:
        """Its answers, until it ends."""
        try:
            reader, process.writer = await asyncio.open_connection(sock=ours)
            while True:
                body = await read_frame(reader, MAX_ANSWER)
                number = msgspec.msgpack.decode(body, type=tuple[int, msgspec.Raw, msgspec.Raw])[0]
                process.late = False
                if number == FAREWELL:
                    self._take(process, body)
                elif (awaited := process.awaited.pop(number, None)) is not None and not awaited.done():
                    awaited.set_result(body)
        except (EOFError, OSError):
            pass
        except msgspec.MsgspecError as error:
            logger.error("a worker's answer cannot be read worker=%d pid=%d: %s", process.worker, process.pid, error)
        finally:
            self._cut(process)
            process.writer = None
            for awaited in process.awaited.values():
                awaited.cancel()
            process.awaited.clear()
            self._tallies.end(process.serial)
            if self._processes.get(process.pid) is process:
                del self._processes[process.pid]

    # --- asking ---

    async def _ask_each(self, questions: Mapping[_Process, Question | Numbers]) -> dict[_Process, bytes]:
        """What was answered in time, as it came."""
        waiting: dict[_Process, tuple[int, asyncio.Future[bytes]]] = {}
        for process, question in questions.items():
            writer = process.writer
            if writer is None or process.late:
                continue
            if writer.transport.get_write_buffer_size() > _BEHIND:
                process.late = True
                continue
            self._asked += 1
            awaited = process.awaited[self._asked] = self.tasks.loop.create_future()
            waiting[process] = (self._asked, awaited)
            writer.write(frame(self._asked, question))
        if waiting:
            await asyncio.wait([awaited for _, awaited in waiting.values()], timeout=_PATIENCE)
        answers: dict[_Process, bytes] = {}
        for process, (number, awaited) in waiting.items():
            if not awaited.done():
                process.awaited.pop(number, None)
                process.late = True
            elif not awaited.cancelled():
                answers[process] = awaited.result()
        return answers

    async def _ask_all(self, question: Question) -> tuple[list[Part], Refusal | None]:
        """The answers of all, and a refusal if somebody refused."""
        return _parts(await self._ask_each({one: question for one in self._processes.values() if one.is_asked}))

    def _silent(self, parts: Sequence[Part]) -> list[Silent]:
        heard = {part.pid for part in parts}
        missing = [one for one in self._processes.values() if one.pid not in heard]
        return [Silent(one.worker, one.pid, one.leaving, one.starting) for one in missing]

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
        asked = {one: Touched(search) for one in self._processes.values() if one.is_asked}
        told = {one: _answer_of(body) for one, body in (await self._ask_each(asked)).items()}
        times = {one: answer for one, answer in told.items() if not isinstance(answer, Refusal)}
        plan = plan_page(list(times.values()), offset, limit)
        pages = dict(zip(times, plan, strict=True))
        parts, refusal = _parts(await self._ask_each({one: State(search, *page) for one, page in pages.items()}))
        if not parts:
            return self._none(refusal)
        on = {one.pid: page[1] for one, page in pages.items()}
        for part in parts:  # who has none on the page was asked for one
            part.value["sessions"]["rows"] = part.value["sessions"]["rows"][: on[part.pid]]
        return merge_states(parts, self._silent(parts), offset=offset, limit=limit)

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
        if exchange.method not in ("GET", "HEAD"):
            return Metrics(_Ready(())).handle(exchange)  # which says what is allowed
        self.tasks.start(self._scrape(exchange), name="tailrace-metrics")
        return None

    async def _scrape(self, exchange: Exchange) -> None:
        asked: dict[_Process, Question | Numbers] = {one: Numbers() for one in self._processes.values() if one.is_asked}
        answered: dict[int, int] = {}
        for process, body in (await self._ask_each(asked)).items():
            if self._take(process, body):
                answered[process.serial] = process.worker
        Metrics(_Ready([*self._workers(set(answered.values())), *self._tallies.families(answered)])).handle(exchange)

    def _take(self, process: _Process, body: bytes) -> bool:
        try:
            _, families, _ = _families.decode(body)
        except msgspec.MsgspecError as error:
            logger.error("a worker's numbers cannot be read worker=%d: %s", process.worker, error)
            return False
        if families is None or self._processes.get(process.pid) is not process:
            return False
        self._tallies.take(process.serial, process.worker, families)
        return True

    def _workers(self, answered: set[int]) -> list[Metric]:
        up = GaugeMetricFamily("tailrace_worker_up", "1 where the worker answered this scrape.", labels=["worker"])
        starts = CounterMetricFamily("tailrace_worker_starts", "Processes that were started.", labels=["worker"])
        for worker, count in enumerate(self._starts):
            up.add_metric([str(worker)], int(worker in answered))
            starts.add_metric([str(worker)], count)
        return [up, starts]

    def _hindrance(self) -> str | None:
        """One worker that takes requests is enough."""
        return None if self._ready() else "no worker is ready"

    def _notes(self) -> str:
        return f"{len(self._ready())} of {self._count} workers"

    def _ready(self) -> set[int]:
        return {one.worker for one in self._processes.values() if not (one.starting or one.leaving or one.late)}


class _Ready:
    """What is on one page of metrics."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        """As a registry of `prometheus_client` has it."""
        return self._metrics


def _parts(answers: Mapping[_Process, bytes]) -> tuple[list[Part], Refusal | None]:
    parts: list[Part] = []
    refusal: Refusal | None = None
    for process, body in answers.items():
        answer = _answer_of(body)
        if isinstance(answer, Refusal):
            refusal = answer
        else:
            parts.append(Part(process.worker, process.pid, process.leaving, answer))
    return parts, refusal


def _answer_of(body: bytes) -> Any:
    _, answer, refusal = msgspec.msgpack.decode(body)
    return answer if refusal is None else Refusal(*refusal)
