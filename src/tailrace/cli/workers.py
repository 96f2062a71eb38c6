"""`tailrace run --workers N`: a parent that keeps N server processes on one port, and replaces them one by one.

The parent binds the sockets, one for each worker on the same port (``SO_REUSEPORT``), and keeps them: what waits to be
accepted when a worker ends is accepted by the one that comes after it. It knows nothing of sessions. What outlives a
worker is the store's affair: over Valkey the others take over what a dead worker held; a SQLite file has one worker.

A worker whose loop does not turn for half a minute is killed: the connections that the system gives it would hang. Over
Valkey, where others have its sessions long before that, a second process accepts them in its place, as soon as it has
been silent for two leases; the first one is told to end, which it does if it wakes in time.

With `--admin` the parent has that address, too, and asks the workers what is asked there (`tailrace.server.front`).

SIGHUP is the rolling restart: for each worker a new one is started, and when that is ready the old one is told to end.
Where only one process may hold the store, the old one is told when the new one has loaded its code and waits for the
store. SIGTERM and SIGINT end all; a worker that ends by itself is started again, later and later if that does not help.
When the parent dies, however it does, its workers end (`end_with_parent`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import FrameType
from typing import TYPE_CHECKING, Any

from tailrace.cli.reload import PARENT
from tailrace.server.sealing import VARIABLE as SECRET
from tailrace.server.sockets import listen, listening
from tailrace.server.worker import VARIABLE, Worker

if TYPE_CHECKING:
    from tailrace.server.front import Front

__all__ = ["Slot", "Workers", "slots"]

_TICK = 0.1  # seconds between two looks at processes
_MARGIN = 3.0  # seconds that a worker gets beyond its own limits, before it is killed
_LOAD = 60.0  # seconds for a new worker to get ready; three times what the first ones took, if that is more
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 15.0  # seconds before a worker that failed is started again
_STEADY = 30.0  # seconds after which a worker's end is taken for an accident of its own


class State(Enum):
    """Of a process: `STARTING` -> `LOADED` (its code is there) -> `READY`."""

    STARTING = 0
    LOADED = 1
    READY = 2


@dataclass(eq=False)
class _Process:
    child: subprocess.Popen[bytes]
    pipe: int  # what it tells of itself
    life: int  # as `Worker.life`
    began: float
    ready_by: float
    state: State = State.STARTING
    facts: str = ""  # of its ready line
    told: bool = False  # to end
    kill_at: float | None = None
    killed: bool = False
    buffer: bytes = b""
    heard: float = 0.0  # when it last told something
    asleep: bool = False  # it has told nothing for so long that another is to take its place


@dataclass(eq=False)
class Slot:
    """One worker's place: its socket, and the process that serves on it; two while one replaces the other."""

    index: int
    listening: socket.socket
    processes: list[_Process] = field(default_factory=list[_Process])  # the newest last
    failures: int = 0
    start_at: float | None = None


@contextlib.contextmanager
def slots(count: int, flags: Mapping[str, Any]) -> Generator[list[Slot]]:
    """The places of so many workers, bound as the flags of `tailrace run` say, for the time of a block.

    Raises:
        OSError: An address cannot be had.
    """
    host, port, uds = flags["host"], flags["port"], flags["uds"]
    with contextlib.ExitStack() as kept:
        shared = uds is None and count > 1
        if shared and port:
            listen(host, port, None).close()  # with `shared`, a second server on the port would go unnoticed
        places: list[Slot] = []
        for index in range(count):
            if uds is not None and places:
                bound = places[0].listening  # one Unix socket for all
            elif shared:
                bound = kept.enter_context(listen(host, port, None, shared=True))
                port = bound.getsockname()[1]
            else:
                bound = kept.enter_context(listening(host, port, uds))
            places.append(Slot(index, bound))
        yield places


class Workers:
    """Runs one command in several processes until a signal ends them.

    Args:
        command: A server's command line; each process learns from its environment which worker it is.
        slots: Where they serve.
        limit: Seconds that a worker may take to end after a signal, by its own limits.
        waits: Seconds that a worker may wait for its store.
        exclusive: Only one process at a time can hold the store.
        keeps: The store keeps the secrets with which event ids and request states are sealed; else they are made here.
        say: Tells the user.
        ready: Says the ready line.
        front: The admin address, which is told of processes; None where there is none.
        silence: Seconds without a sign of life after which a worker that was ready is killed.
        absence: Seconds without one after which another process takes its place, while other workers live: what it
            owned, they own by then. None: nobody does.
        load: Seconds that a worker has to get ready, beyond what it may wait for its store. The first ones have all the
            time they need, and three times as much as they took is granted later, if that is more.
    """

    def __init__(
        self,
        command: Sequence[str],
        slots: Sequence[Slot],
        *,
        limit: float,
        waits: float,
        exclusive: bool,
        keeps: bool,
        say: Callable[[str], object],
        ready: Callable[[str], object],
        front: Front | None = None,
        silence: float = 30.0,
        absence: float | None = None,
        load: float = _LOAD,
    ) -> None:
        self._command = list(command)
        self._slots = list(slots)
        self._limit = limit + _MARGIN
        self._waits = waits
        self._exclusive = exclusive
        self._secret = "" if keeps else secrets.token_urlsafe(32)
        self._say = say
        self._ready = ready
        self._front = front
        self._silence = silence
        self._absence = absence
        self._load = load
        self._turned = time.monotonic()
        self._signals: list[int] = []
        self._ends = os.pipe()  # the workers end with this process
        self._selector = selectors.DefaultSelector()
        self._rolling: list[Slot] = []  # to be replaced; the first is under way
        self._successor: _Process | None = None  # of that one
        self._restarting = False  # all of them, since SIGHUP
        self._unborn = list(slots)  # nothing was started there yet
        self._announced = False
        self._ending = False
        self._code = 0

    def run(self) -> int:
        """Until the end; the exit code: 0, or that of a worker which did not end in order."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        try:
            self._start(self._unborn.pop(0))  # alone: what is wrong with the code or the flags is said once
            while any(slot.processes or (slot.start_at is not None and not self._ending) for slot in self._slots):
                self._turn()
            return self._code
        finally:
            for slot in self._slots:
                for process in slot.processes:
                    process.child.kill()
                    process.child.wait()

    # --- one turn -------------------------------------------------------------------------------------

    def _turn(self) -> None:
        for key, _ in self._selector.select(_TICK):
            self._read(key.data)
        now = time.monotonic()
        slept, self._turned = now - self._turned, now
        for slot in self._slots:
            for process in list(slot.processes):
                lapse = max(0.0, slept - 1.0)  # of a machine that slept, or of this process: nobody could be heard
                process.heard += lapse
                process.ready_by += lapse
                if process.child.poll() is not None:
                    self._ended(slot, process)
                elif not process.killed:
                    self._mind(slot, process, now)
            if slot.start_at is not None and now >= slot.start_at and not self._ending:
                self._try(slot)
        while self._signals:
            self._obey(self._signals.pop(0))
        if self._ending:
            return
        if self._unborn and any(process.state is not State.STARTING for process in self._slots[0].processes):
            for slot in self._unborn:
                self._start(slot)
            self._unborn.clear()
        if self._rolling:
            self._roll(self._rolling[0])
        if not self._announced:
            self._announce()

    def _mind(self, slot: Slot, process: _Process, now: float) -> None:
        """Kill what hangs; see to it that somebody accepts the connections of a worker that only sleeps."""
        if process.kill_at is not None and now > process.kill_at:
            self._kill(slot, process, "did not end in time")
        elif process.state is not State.READY:
            if self._announced and not process.told and now > process.ready_by:
                what = "its code" if process.state is State.STARTING else "its store or its lifespan"
                self._kill(slot, process, f"was not ready after {now - process.began:.0f} s, for {what},")
        elif now > process.heard + self._silence:
            self._kill(slot, process, "gives no sign of life")
        elif (
            self._absence is not None
            and now > process.heard + self._absence
            and not (process.told or process.asleep or self._ending or slot in self._rolling)
            and self._is_anybody_awake(now - self._absence / 2)
        ):
            process.asleep = True
            self._say(f"worker {slot.index} gives no sign of life; another takes its place pid={process.child.pid}")
            self._rolling.append(slot)

    def _is_anybody_awake(self, since: float) -> bool:
        """Some worker serves, and has said something since then."""
        processes = (process for slot in self._slots for process in slot.processes)
        return any(one.state is State.READY and not one.told and one.heard > since for one in processes)

    def _kill(self, slot: Slot, process: _Process, why: str) -> None:
        self._say(f"worker {slot.index} {why} and was killed pid={process.child.pid}")
        process.killed = True
        process.child.kill()

    def _obey(self, number: int) -> None:
        if number != signal.SIGHUP:
            self._ending = True
            for slot in self._slots:
                for process in slot.processes:
                    self._tell(process, number)
        elif self._ending or not self._announced:
            self._say("no restart: the workers are still starting, or are told to end")
        elif len(self._rolling) > len(self._slots):
            self._say("no restart: one is under way, and another follows it")
        else:
            self._say(f"restarting, one after the other count={len(self._slots)}")
            self._rolling += self._slots
            self._restarting = True

    def _roll(self, slot: Slot) -> None:
        """Go on with the replacement of one worker."""
        new = self._successor
        old = [process for process in slot.processes if process is not new]
        now = time.monotonic()
        if new is None:
            if not old:  # it failed just now: the one that is started for it is new enough
                self._rolled()
            elif old[-1].state is State.READY:
                self._successor = self._try(slot)
                if self._successor is None:
                    self._give_up("there is no new one")
        elif new not in slot.processes:
            self._give_up("the new one ended before it was ready")
        elif new.state is State.READY and not old:
            self._say(f"worker {slot.index} was replaced pid={new.child.pid} seconds={now - new.began:.1f}")
            self._successor = None
            self._rolled()
        elif new.state is State.READY or (self._exclusive and new.state is State.LOADED):
            for process in old:
                if not process.told:
                    self._tell(process, signal.SIGTERM)

    def _rolled(self) -> None:
        self._rolling.pop(0)
        if self._restarting and not self._rolling:
            self._restarting = False
            self._say("restarted")

    def _give_up(self, why: str) -> None:
        slot, self._successor = self._rolling[0], None
        what = "the restart stops at" if self._restarting else "there is no successor for"
        self._restarting = False
        self._rolling.clear()
        left = "the old one goes on" if any(not process.told for process in slot.processes) else "another is started"
        self._say(f"{what} worker {slot.index}: {why}; {left}")

    def _announce(self) -> None:
        newest = [slot.processes[-1] for slot in self._slots if slot.processes]
        if len(newest) < len(self._slots) or any(process.state is not State.READY for process in newest):
            return
        self._announced = True
        admin = "" if self._front is None else f" admin={self._front.url}"
        self._ready(f"{newest[0].facts} workers={len(newest)}{admin}")

    # --- processes ------------------------------------------------------------------------------------

    def _try(self, slot: Slot) -> _Process | None:
        """Start one; what the system refuses now (a process, memory, a descriptor) it may grant later."""
        try:
            return self._start(slot)
        except OSError as error:
            self._say(f"worker {slot.index} cannot be started: {error}")
            slot.failures += 1
            if not slot.processes:
                slot.start_at = time.monotonic() + _pause(slot.failures)
            return None

    def _start(self, slot: Slot) -> _Process:
        slot.start_at = None
        command, waits = list(self._command), self._waits
        if slot.processes and self._exclusive:  # it waits for the end of the one before it
            waits += self._limit
            command += ["--store-wait", f"{waits:g}"]
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        ours, theirs = (None, None) if self._front is None else socket.socketpair()
        control = None if theirs is None else theirs.fileno()
        life = int(any(process.life == 0 for process in slot.processes))
        worker = Worker(slot.index, len(self._slots), slot.listening.fileno(), control, writing, life)
        passed = [worker.listening, writing, self._ends[0], *([] if control is None else [control])]
        environment = {**os.environ, VARIABLE: worker.encode(), PARENT: str(self._ends[0])}
        if self._secret:
            environment.setdefault(SECRET, self._secret)
        try:
            child = subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=passed)
        except BaseException:
            os.close(reading)
            if ours is not None:
                ours.close()
            raise
        finally:
            os.close(writing)
            if theirs is not None:
                theirs.close()
        if self._front is not None and ours is not None:
            self._front.started(slot.index, child.pid, ours)
        now = time.monotonic()
        process = _Process(child, reading, life, now, now + self._load + waits)
        slot.processes.append(process)
        self._selector.register(reading, selectors.EVENT_READ, process)
        return process

    def _read(self, process: _Process) -> None:
        """What it tells: ``loaded``, or ``ready`` with the facts of its ready line."""
        try:
            data = os.read(process.pipe, 65_536)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(process.pipe)
            return
        *lines, process.buffer = (process.buffer + data).split(b"\n")
        process.heard = now = time.monotonic()
        process.asleep = False
        for line in filter(None, lines):  # an empty one is a sign of life
            word, _, rest = line.decode(errors="replace").partition(" ")
            process.state = State.READY if word == "ready" else State.LOADED
            process.facts = rest.strip()
            if not self._announced:
                self._load = max(self._load, 3 * (now - process.began))
            if self._front is not None and process.state is State.READY:
                self._front.ready(process.child.pid)

    def _ended(self, slot: Slot, process: _Process) -> None:
        slot.processes.remove(process)
        with contextlib.suppress(KeyError):
            self._selector.unregister(process.pipe)
        os.close(process.pipe)
        if self._front is not None:
            self._front.ended(process.child.pid)
        code, now = process.child.returncode, time.monotonic()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        if process.told or self._ending:
            if code and (self._ending or not process.asleep):
                self._code = self._code or (code if code > 0 else 128 - code)
                self._say(f"worker {slot.index} ended with {how} pid={process.child.pid}")
            if not (slot.processes or self._ending):  # the one that was to replace it has failed
                slot.start_at = now
            return
        if not self._announced and process.state is not State.READY:  # nothing has worked yet: say why, and leave it
            self._code = code if code > 0 else 1
            self._obey(signal.SIGTERM)
            return
        steady = process.state is State.READY and now - process.began > _STEADY
        slot.failures = 1 if steady else slot.failures + 1
        if slot.processes:
            self._say(f"worker {slot.index} ended with {how} pid={process.child.pid}")
            return
        pause = _pause(slot.failures)
        slot.start_at = now + pause
        self._say(f"worker {slot.index} ended with {how} pid={process.child.pid}; another follows in {pause:g} s")

    def _tell(self, process: _Process, number: int) -> None:
        """Let it end; what is told for the second time exits at once."""
        if not process.told:
            process.told = True
            process.kill_at = time.monotonic() + self._limit
            if self._front is not None:
                self._front.leaving(process.child.pid)
        with contextlib.suppress(OSError):
            process.child.send_signal(number)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)


def _pause(failures: int) -> float:
    """Seconds until the next attempt, after so many that have failed one after the other."""
    return 0.0 if failures == 1 else min(_FIRST_PAUSE * 2 ** (failures - 2), _LONGEST_PAUSE)
