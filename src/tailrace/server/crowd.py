"""All processes of all workers, as their supervisor knows them: what they are asked, and what they have counted.

Each has a control socket, and answers there (`control`). One that does not answer within `_PATIENCE` is left out; until
it has answered, nobody waits for it again. What is made of the answers is `front`'s.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Raw

from tailrace.console.merging import Silent
from tailrace.server.control import FAREWELL, MAX_ANSWER, Asked, Numbers, frame, read_frame
from tailrace.server.tallies import Family, Tallies

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Mapping

    from tailrace.core.tasks import Tasks

__all__ = ["Answer", "Crowd", "Process"]

logger = logging.getLogger("tailrace.server")

_PATIENCE = 3.0  # seconds for a worker's answer
_END = 1.0  # seconds for what an ended process has still told
_BEHIND = 64 * 1024  # bytes of questions that a worker has not read
_envelopes = msgspec.msgpack.Decoder(tuple[int, Raw, Raw])
_families = msgspec.msgpack.Decoder(list[Family] | None)


class Answer(NamedTuple):
    """As it came; one of the two is null."""

    value: Raw
    refusal: Raw


class Process:
    """One process of a worker, and what it was asked.

    Attributes:
        serial: Names it among all of them; the newest has the greatest.
        worker: Its worker's number from 0 on.
        starting: It is not ready yet.
        leaving: It is told to end.
        late: It owes an answer for too long.
    """

    def __init__(self, serial: int, worker: int, pid: int) -> None:
        self.serial = serial
        self.worker = worker
        self.pid = pid
        self.starting = True
        self.leaving = False
        self.late = False
        self.writer: asyncio.StreamWriter | None = None
        self.awaited: dict[int, asyncio.Future[Answer]] = {}

    def cut(self) -> None:
        """Hear nothing more of it. Idempotent."""
        if self.writer is not None:
            self.writer.transport.abort()


class Crowd:
    """The processes; all of it belongs to the loop of `tasks`.

    Args:
        tasks: Where their answers are read.
        count: Workers.

    Attributes:
        starts: How many processes each worker has had.
        tallies: What they have counted.
    """

    def __init__(self, tasks: Tasks, count: int) -> None:
        self.tasks = tasks
        self.starts = [0] * count
        self.tallies = Tallies()
        self._processes: dict[int, Process] = {}  # by pid, the newest last
        self._serial = 0
        self._asked = FAREWELL

    # --- who there is ---

    def add(self, worker: int, pid: int, ours: socket.socket) -> None:
        """One more; `ours` is our end of its control socket."""
        self._serial += 1
        self.starts[worker] += 1
        self._processes[pid] = process = Process(self._serial, worker, pid)
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
            self.tasks.loop.call_later(_END, process.cut)

    def close(self) -> None:
        """Let go of all."""
        for process in self._processes.values():
            process.cut()

    @property
    def asked(self) -> list[Process]:
        """Those that can be expected to answer."""
        return [one for one in self._processes.values() if one.writer is not None and not (one.starting or one.late)]

    @property
    def ready(self) -> set[int]:
        """The workers that take requests."""
        return {one.worker for one in self._processes.values() if not (one.starting or one.leaving or one.late)}

    def silent(self, heard: Collection[int]) -> list[Silent]:
        """All but those with these pids."""
        missing = [one for one in self._processes.values() if one.pid not in heard]
        return [Silent(one.worker, one.pid, one.leaving, one.starting) for one in missing]

    # --- what they say ---

    async def ask(self, questions: Mapping[Process, Asked]) -> dict[Process, Answer]:
        """What was answered in time."""
        waiting: dict[Process, tuple[int, asyncio.Future[Answer]]] = {}
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
        answers: dict[Process, Answer] = {}
        for process, (number, awaited) in waiting.items():
            if not awaited.done():
                process.awaited.pop(number, None)
                process.late = True
            elif not awaited.cancelled():
                answers[process] = awaited.result()
        return answers

    async def count(self) -> dict[int, int]:
        """Have the numbers of all in `tallies`; gives who has just told theirs: workers, by serial numbers."""
        told = await self.ask({process: Numbers() for process in self.asked})
        return {process.serial: process.worker for process, answer in told.items() if self._take(process, answer)}

    def _take(self, process: Process, answer: Answer) -> bool:
        try:
            families = _families.decode(answer.value)
        except msgspec.MsgspecError as error:
            logger.error("a worker's numbers cannot be read worker=%d: %s", process.worker, error)
            return False
        if families is None or self._processes.get(process.pid) is not process:
            return False
        self.tallies.take(process.serial, process.worker, families)
        return True

    async def _read(self, process: Process, ours: socket.socket) -> None:
        """Its answers, until it ends."""
        try:
            reader, process.writer = await asyncio.open_connection(sock=ours)
            while True:
                number, value, refusal = _envelopes.decode(await read_frame(reader, MAX_ANSWER))
                process.late = False
                if number == FAREWELL:
                    self._take(process, Answer(value, refusal))
                elif (awaited := process.awaited.pop(number, None)) is not None and not awaited.done():
                    awaited.set_result(Answer(value, refusal))
        except (EOFError, OSError):
            pass
        except msgspec.MsgspecError as error:
            logger.error("a worker's answer cannot be read worker=%d pid=%d: %s", process.worker, process.pid, error)
        finally:
            process.cut()
            process.writer = None
            for awaited in process.awaited.values():
                awaited.cancel()
            process.awaited.clear()
            self.tallies.end(process.serial)
            if self._processes.get(process.pid) is process:
                del self._processes[process.pid]
