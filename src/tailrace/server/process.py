"""One process that serves one service: its flags, what it listens on, and the order of its end.

The drain begins at the signal, not when the HTTP server gets round to it. How the process ends in time whatever does
not end is `loop`'s, what it tells of itself `report`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tailrace.errors import DefinitionError
from tailrace.server import Server, make_server
from tailrace.server.admin import Admin, read_address
from tailrace.server.control import Control
from tailrace.server.logs import set_up_logging
from tailrace.server.loop import run_loop
from tailrace.server.places import is_shared, store_of_program
from tailrace.server.report import Report
from tailrace.server.signals import started, stop_at_signal
from tailrace.server.sockets import listening, url_of
from tailrace.server.tls import tls_context
from tailrace.telemetry import set_up_export
from tailrace.transports.authorization import guarded_by
from tailrace.transports.guard import is_loopback

if TYPE_CHECKING:
    from tailrace.core.ports import Store
    from tailrace.publish import Publisher
    from tailrace.server.worker import Worker
    from tailrace.service import Service
    from tailrace.transports.pipes import Pipes

__all__ = ["run_process"]

_RETIRING = 1.0  # seconds in which the clients of a worker that ends go over to others
_VACATING = 5.0  # the same, for those whose connections are idle meanwhile
_GLANCE = 0.2  # seconds until it is seen that all others end, too


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
        admin: ``HOST:PORT``, ``PORT`` or the path of a Unix socket where metrics and the console are; of a worker, its
            supervisor's, which asks this process.
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
    if type(port) is not int or not 0 <= port <= 65535:
        raise DefinitionError(f"port= is a number from 0 to 65535, got {port!r}")
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
        from tailrace.transports.pipes import guard

        with _admin_door(running, admin, admin_token) as door:
            run_loop(_serve_stdio(running, pipes or guard(), door))
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
            tls_context(tls_cert, tls_key)  # refused now, whatever serves it later
        tls = (tls_cert, tls_key) if tls_cert and tls_key else None
        try:
            with (
                listening(host, port, uds) if worker is None else worker.socket() as bound,
                _admin_door(running, admin, admin_token, worker) as door,
            ):
                report = Report(running, url_of(bound, host, uds, tls is not None), door, worker)
                run_loop(_serve_http(running, bound, tls, report, server, door))
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
    report: Report,
    server: str,
    door: Admin | Control | None,
) -> None:
    stop = stop_at_signal()
    report.loaded()
    if not await started(running, stop):
        return
    serving = _transport(running, listening, tls, server)
    await serving.start()
    async with _opened(door):
        vacant = float("-inf")  # loop time
        try:
            report.ready()
            await stop.wait()
            vacant = running.tasks.loop.time() + _VACATING
            if report.is_worker:
                # New connections are the other workers', who have the socket as well; those that there are close with
                # their next reply, and their clients go over: nobody is refused for the change.
                serving.retire()
                await asyncio.sleep(_RETIRING)
        finally:
            await running.drain()
            await running.end_sessions()
            if report.is_worker and running.cluster is not None:
                # The drain counts as well: were all of it to begin behind a long one, the supervisor would take the
                # process for one that hangs.
                left = max(_RETIRING, vacant - running.tasks.loop.time())
                await _vacate(serving, running.cluster.members.staying, left)
            await serving.close(0.4)
            await running.stop()


async def _vacate(serving: _Transport, staying: Callable[[], Collection[str]], seconds: float) -> None:
    """Wait for connections that were idle when the others were let go, as long as there is another member: who has one
    may still use it, and what comes is relayed. A request that met its end in the network would fail for nothing."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while staying() and (left := until - loop.time()) > 0:
        if await serving.vacated(min(left, _GLANCE)):
            return


class _Transport(Protocol):
    """What serves HTTP: our listener, or uvicorn."""

    async def start(self) -> None: ...
    def retire(self) -> None: ...
    async def vacated(self, seconds: float) -> bool: ...
    async def close(self, seconds: float) -> None: ...


def _transport(running: Server, listening: socket.socket, tls: tuple[str, str] | None, server: str) -> _Transport:
    if server == "uvicorn":
        from tailrace.transports.asgi import AsgiApp
        from tailrace.transports.embedded import Embedded

        return Embedded(AsgiApp(running), listening, tls, running.tasks, running.settings)
    from tailrace.transports.http import Listener

    running.listener = listener = Listener(running, [listening], tls=tls_context(*tls) if tls else None)
    return listener


async def _serve_stdio(running: Server, pipes: Pipes, door: Admin | Control | None) -> None:
    from tailrace.transports.stdio import Stdio

    stop = stop_at_signal()
    settings = running.settings
    if not await started(running, stop):
        return
    report = Report(running, "stdio", door)
    async with _opened(door), Stdio(pipes, max_line=settings.max_body, stall=settings.stall) as stdio:
        conversation = running.converse()
        talking = running.tasks.start(conversation.run(stdio.lines(), stdio.sink), name="tailrace-conversation")
        report.ready()
        signalled = running.tasks.start(stop.wait(), name="tailrace-signal")
        await asyncio.wait([talking, signalled], return_when="FIRST_COMPLETED")
        await running.stop()


# --- the admin door -----------------------------------------------------------------------------


@contextlib.contextmanager
def _admin_door(
    running: Server, admin: str | None, token: str | None, worker: Worker | None = None
) -> Generator[Admin | Control | None]:
    """The door, its address taken; of a worker, what answers its supervisor's; None where none is wanted."""
    if admin is None:
        if token is not None:
            raise DefinitionError("admin_token is for an admin address: give --admin, too")
        yield None
        return
    address = read_address(admin, token=token)
    running.record(None if worker is None else worker.numbers())
    running.measure()
    if worker is not None:
        yield None if worker.control is None else Control(running, worker.control)
        return
    with listening(*address) as bound:
        yield Admin(running, bound, url_of(bound, address.host, address.uds, tls=False), token)


@contextlib.asynccontextmanager
async def _opened(door: Admin | Control | None) -> AsyncGenerator[None]:
    if door is None:
        yield
        return
    await door.open()
    try:
        yield
    finally:
        await door.close()
