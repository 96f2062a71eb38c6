"""One process that serves one service: sockets, signals, the log, and an end that comes in time.

The drain begins at the signal, not when the HTTP server gets round to it; a second signal forces.
The exit waits for no thread and no task that does not end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from tailrace.errors import DefinitionError
from tailrace.server import Server, make_server
from tailrace.server.admin import Admin, read_address
from tailrace.server.logs import set_up_logging
from tailrace.server.places import is_shared, store_of_program
from tailrace.server.sockets import listening, url_of
from tailrace.telemetry import set_up_export
from tailrace.transports.authorization import guarded_by
from tailrace.transports.guard import is_loopback

if TYPE_CHECKING:
    from tailrace.core.ports import Store
    from tailrace.publish import Publisher
    from tailrace.server.worker import Worker
    from tailrace.service import Service
    from tailrace.transports.stdio import Pipes

__all__ = ["run_process"]

logger = logging.getLogger("tailrace.server")

_VACATING = 5.0  # seconds for connections that are idle meanwhile, once all is handed over
_SIGN_OF_LIFE = 1.0  # seconds between two that a worker gives
_RETIRING = 1.0  # seconds in which the clients of a worker that ends go over to others


def run_process(
    service: Service,
    *,
    transport: str = "stdio",
    target: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
    uds: str | None = None,
    store: str | Store | None = None,
    server: str = "listener",
    insecure: bool = False,
    auth: object = None,
    auth_token: str | Sequence[str] | None = None,
    auth_issuer: str | None = None,
    auth_audience: str | None = None,
    auth_scope: Sequence[str] = (),
    publish: str | Publisher | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    admin: str | None = None,
    admin_token: str | None = None,
    log_level: str = "info",
    log_format: str = "text",
    pipes: Pipes | None = None,
    worker: Worker | None = None,
    **options: Any,
) -> None:
    """Serve until SIGTERM or SIGINT (or, over stdio, the end of input).

    Args:
        service: What is served.
        transport: ``stdio`` or ``http``.
        target: Where the service came from, for the log.
        host: Address to listen on. Others than loopback need `auth`, `auth_token` or `insecure`.
        port: Port to listen on; 0 picks a free one.
        uds: Path of a Unix socket to listen on instead.
        store: ``memory``, ``sqlite`` (a file in the user's state folder), ``sqlite:PATH``,
            ``valkey://HOST:PORT/DB`` or a store.
        server: ``listener`` (ours) or ``uvicorn``.
        insecure: Allow an address that others can reach, without authentication.
        auth: ``async (token) -> principal or None``: whose a bearer token is; or a `tailrace.auth.ResourceServer`. Over
            stdio nobody is asked.
        auth_token: The bearer tokens that are valid, instead of `auth`.
        auth_issuer: The authorization server whose JWTs are valid, instead of `auth`.
        auth_audience: What they have to be for: this server's address, as clients know it.
        auth_scope: The scopes that every request needs.
        publish: Where `ctx.publish` goes: ``kafka://HOST:PORT``, ``log:``, ``memory:`` or a `Publisher`.
        tls_cert: PEM file of the certificate chain.
        tls_key: PEM file of its key.
        admin: ``HOST:PORT``, ``PORT`` or the path of a Unix socket where metrics and the console are, in this process.
        admin_token: The token that all of that asks for; without it, the console's is made up and stands in the ready
            line, metrics ask for none, and `admin` has to be on loopback or a Unix socket.
        log_level: debug, info, warning or error; of a program that has set up its log already, that stays as it is.
        log_format: ``text`` or ``json``.
        pipes: stdio's descriptors, if they were guarded before.
        worker: This process is one of several that a supervisor started.
        options: Any field of `Settings`.

    Raises:
        DefinitionError: The flags contradict each other.
        StoreError: The store cannot be had.
        OSError: The address cannot be had.
    """
    if auth_issuer or auth_audience:
        if auth is not None or not (auth_issuer and auth_audience):
            raise DefinitionError("auth_issuer and auth_audience belong together, and are instead of auth")
        auth = guarded_by(auth_issuer, auth_audience, auth_scope)
    if (tls_cert is None) != (tls_key is None):
        raise DefinitionError("tls_cert and tls_key belong together: one alone would serve without TLS")
    set_up_logging(log_level, log_format, replace=bool(target))
    if store == "sqlite":
        store = store_of_program(service)
    end_export = set_up_export(service.name)  # before the server asks whether anybody wants spans
    running = make_server(service, options, store=store, auth=auth, auth_token=auth_token, publish=publish)
    if worker is not None and worker.count > 1 and (store is None or (isinstance(store, str) and not is_shared(store))):
        _check_stateless(service, running, worker.count)
    if transport == "stdio":
        from tailrace.transports.stdio import guard

        with _admin_door(running, admin, admin_token) as door:
            _run_loop(_serve_stdio(running, pipes or guard(), door))
        end_export()
    elif transport == "http":
        if not (uds or insecure or running.bearer or is_loopback(host)):
            raise DefinitionError(
                f"{host} can be reached by others and there is no authentication; listen on 127.0.0.1, "
                "give --auth-token or --auth-issuer, or say --insecure if something in front of it authenticates"
            )
        if server not in ("listener", "uvicorn"):
            raise DefinitionError(f"no such server: {server!r}; there are listener and uvicorn")
        if tls_cert and tls_key:
            _tls_context(tls_cert, tls_key)  # refused now, whatever serves it later
        tls = (tls_cert, tls_key) if tls_cert and tls_key else None
        try:
            with (
                listening(host, port, uds) if worker is None else worker.socket() as bound,
                _admin_door(running, admin, admin_token, worker) as door,
            ):
                report = _Report(running, url_of(bound, host, uds, tls is not None), door, worker)
                _run_loop(_serve_http(running, bound, tls, report, server, door))
        finally:
            end_export()
    else:
        raise DefinitionError(f"no such transport: {transport!r}; there are stdio and http")


def _check_stateless(service: Service, running: Server, count: int) -> None:
    """Refuse workers of which each would remember for itself what all of them have to know."""
    named = [name for name, tool in service.tools.items() if tool.once or tool.task]
    if named:
        raise DefinitionError(
            f"{count} workers need --store valkey://HOST:PORT for what they have to remember together: "
            f"once=, or task=, of {', '.join(sorted(named))[:500]}"
        )
    if running.publisher is not None:
        raise DefinitionError(f"{count} workers need --store valkey://HOST:PORT for the outbox of --publish")


# --- the two ways of serving --------------------------------------------------------------------


async def _serve_http(
    running: Server,
    listening: socket.socket,
    tls: tuple[str, str] | None,
    report: _Report,
    server: str,
    door: Admin | None,
) -> None:
    stop = _stop_at_signal()
    report.loaded()
    if not await _started(running, stop):
        return
    serving = _transport(running, listening, tls, server)
    await serving.start()
    async with _opened(door):
        try:
            report.ready()
            await stop.wait()
            await report.retire(serving)
        finally:
            await running.drain()
            await running.end_sessions()
            if report.is_worker and running.cluster is not None:
                # Who has a connection that was idle when the others were let go may use it until then: what comes is
                # relayed. A request that met its end in the network would fail for nothing.
                await serving.vacated(_VACATING)
            await serving.close(0.4)
            await running.stop()


class _Transport(Protocol):
    """What serves HTTP: our listener, or uvicorn."""

    async def start(self) -> None: ...
    def retire(self) -> None: ...
    async def vacated(self, seconds: float) -> None: ...
    async def close(self, seconds: float) -> None: ...


def _transport(running: Server, listening: socket.socket, tls: tuple[str, str] | None, server: str) -> _Transport:
    if server == "uvicorn":
        from tailrace.transports.asgi import AsgiApp
        from tailrace.transports.embedded import Embedded

        return Embedded(AsgiApp(running), listening, tls, running.tasks, running.settings)
    from tailrace.transports.http import Listener

    running.listener = listener = Listener(running, [listening], tls=_tls_context(*tls) if tls else None)
    return listener


def _tls_context(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        raise DefinitionError(f"the certificate {cert} and the key {key} cannot be used: {error}") from None
    return context


def _no_password() -> str:
    """Instead of the question on the terminal, which nobody may be there to answer."""
    raise DefinitionError("the TLS key is encrypted, and a server cannot be asked for its passphrase; decrypt it first")


async def _serve_stdio(running: Server, pipes: Pipes, door: Admin | None) -> None:
    from tailrace.transports.stdio import Stdio

    stop = _stop_at_signal()
    settings = running.settings
    if not await _started(running, stop):
        return
    report = _Report(running, "stdio", door)
    async with _opened(door), Stdio(pipes, max_line=settings.max_body, stall=settings.stall) as stdio:
        conversation = running.converse()
        talking = running.tasks.start(conversation.run(stdio.lines(), stdio.sink), name="tailrace-conversation")
        report.ready()
        signalled = running.tasks.start(stop.wait(), name="tailrace-signal")
        await asyncio.wait([talking, signalled], return_when="FIRST_COMPLETED")
        await running.stop()


class _Report:
    """Says when it is ready: on stderr, or to the supervisor, which says it when all of its workers are."""

    def __init__(self, running: Server, url: str, door: Admin | None, worker: Worker | None = None) -> None:
        self._running = running
        self._url = url
        self._door = door
        self._worker = worker

    @property
    def is_worker(self) -> bool:
        """Others serve on the same port."""
        return self._worker is not None

    def loaded(self) -> None:
        """The service's code is there and the flags make sense; the store comes next."""
        if self._worker is not None:
            self._worker.say("loaded")

    def ready(self) -> None:
        """Requests are served."""
        running, settings = self._running, self._running.settings
        durable = "" if running.store.durable else " (not durable)"
        facts = f"url={self._url} store={running.store.name}{durable} drain={settings.drain:g}"
        admin = "" if self._door is None else f" admin={self._door.front}"
        if self._worker is not None:
            self._worker.say(f"ready {facts}\t{admin}")
            self._live(self._worker)
        else:
            print(f"tailrace ready {facts}{admin}", file=sys.stderr, flush=True)

    def _live(self, worker: Worker) -> None:
        """A sign of life, again and again, as long as the loop turns."""
        worker.say("")
        self._running.tasks.loop.call_later(_SIGN_OF_LIFE, self._live, worker)

    async def retire(self, serving: _Transport) -> None:
        """Leave new connections to the other workers, which have the socket as well, and let the clients on those that
        there are go over to them with their next reply: nobody is refused for the change."""
        if self._worker is not None:
            serving.retire()
            await asyncio.sleep(_RETIRING)


# --- the admin door -----------------------------------------------------------------------------


@contextlib.contextmanager
def _admin_door(
    running: Server, admin: str | None, token: str | None, worker: Worker | None = None
) -> Generator[Admin | None]:
    """The door, its address taken; None where none is wanted."""
    if admin is None:
        if token is not None:
            raise DefinitionError("admin_token is for an admin address: give --admin, too")
        yield None
        return
    address = read_address(admin, token=token)
    running.record()
    running.measure()
    uds = address.uds
    if worker is not None and uds is not None:
        uds += f".{worker.index}"
    with listening(*address) if worker is None else worker.admin_socket() as bound:
        yield Admin(running, bound, url_of(bound, address.host, uds, tls=False), token)


@contextlib.asynccontextmanager
async def _opened(door: Admin | None) -> AsyncGenerator[None]:
    if door is None:
        yield
        return
    await door.open()
    try:
        yield
    finally:
        await door.close()


# --- signals and the loop -----------------------------------------------------------------------


class _Stop(asyncio.Event):
    """Set by the first SIGTERM or SIGINT.

    Attributes:
        starting: The task that starts the server, as long as it does: the signal cancels it.
    """

    starting: asyncio.Task[Any] | None = None


async def _started(running: Server, stop: _Stop) -> bool:
    """Start it; False if a signal came first: a store may be held, and a lifespan may wait, for long."""
    stop.starting = task = asyncio.current_task()
    try:
        await running.start()
    except asyncio.CancelledError:
        if task is None or not stop.is_set():
            raise
        task.uncancel()
        return False
    finally:
        stop.starting = None
    return True


def _stop_at_signal() -> _Stop:
    """An event that the first SIGTERM or SIGINT sets; a second one ends the process there and then."""
    stop = _Stop()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            logger.warning("a second signal: exiting at once")
            os._exit(128 + number)
        logger.info("signal received; draining")
        stop.set()
        if stop.starting is not None:
            stop.starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, on_signal, number)
        except NotImplementedError:  # Windows: the handler runs in the main thread, between bytecodes
            signal.signal(number, lambda received, _: loop.call_soon_threadsafe(on_signal, received))
    return stop


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end on uvloop, where there is one, and leave without waiting for what does not end."""
    before = set(threading.enumerate())
    loop = _loop_factory()()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")  # what `asyncio.to_thread` uses; ours, to be ended
    loop.set_default_executor(executor)
    try:
        loop.run_until_complete(main)
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        for task in left:
            task.cancel()
        if left:
            _, left_over = loop.run_until_complete(asyncio.wait(left, timeout=0.2))
            if left_over:
                logger.error("exiting although tasks do not end count=%d", len(left_over))
                _exit()
        loop.run_until_complete(loop.shutdown_asyncgens())
        executor.shutdown(wait=False, cancel_futures=True)
        if stuck := _stuck_threads(before, 0.2):
            logger.warning("exiting although threads do not end names=%s", ",".join(stuck)[:1000])
            _exit()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        asyncio.set_event_loop(None)
        loop.close()


def _stuck_threads(before: set[threading.Thread], seconds: float) -> list[str]:
    """Threads begun meanwhile for which Python's own exit would wait, after `seconds` in which they may end."""
    deadline = time.monotonic() + seconds
    threads = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in threads if thread.is_alive()]


def _exit() -> NoReturn:
    """Leave without waiting for anybody."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
