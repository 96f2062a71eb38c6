"""What stands before a running server: whether streams, headers, bodies and gRPC get through it as they are.

A handful of requests like those of a client, in a session of their own, which is ended again; no tool is called. It
speaks in bytes, by the connections of `tailrace check`, so that nothing repairs what the proxy spoils.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from tailrace.cli.check.http import EventStream, Head, RawConnection, leave_all
from tailrace.cli.check.model import Cut, Failed, Stalled
from tailrace.cli.check.streamable import Streamable, exchange
from tailrace.cli.check.talk import JSON_BODY, read_message, request
from tailrace.cli.doctor.findings import Finding, ok, risk, warn

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["examine_proxy"]

_OTHERS = 60.0  # seconds for all that is not the wait for keep-alives
_LARGE = 3 * 1024 * 1024  # bytes of a body; servers take 4 MiB unless they are told otherwise
_HELD = "Clients see nothing of a call before it ends, and take long ones for dead: "
_UNBUFFER = "turn response buffering off for it (nginx: proxy_buffering off; see docs/deployment.md)."


class _Client(Streamable):
    """A client of the server, as far as the doctor needs one."""

    def __init__(self, url: str, token: str | None, at_once: float) -> None:
        super().__init__(url)
        self.at_once = at_once
        self.token = [] if token is None else [("Authorization", f"Bearer {token}")]

    def headers(self, message: Any = None) -> list[tuple[str, str]]:
        return [*super().headers(message), *self.token]

    async def send(self, message: Mapping[str, Any]) -> tuple[Head, bytes]:
        """POST a message; the head and the body of the reply."""
        plain = dict(message)
        connection, head = await exchange(self.url, "POST", self.headers(plain), json.dumps(plain).encode())
        try:
            if head.get("content-type").startswith("text/event-stream"):
                event = await EventStream(connection).next()
                return head, b"" if event is None else event.data.encode()
            return head, await connection.read_all()
        finally:
            connection.close()


@dataclass(slots=True)
class _Stream:
    """The stream of a session, and what was seen of it."""

    connection: RawConnection
    last: str = ""


async def examine_proxy(
    url: str, *, token: str | None = None, seconds: float = 35.0, at_once: float = 5.0
) -> list[Finding]:
    """Look at what is between here and the server.

    Args:
        url: The server's address as clients know it; without a path ``/mcp`` is meant.
        token: A bearer token, where the server wants one.
        seconds: How long to watch an idle stream; two keep-alives of the server's should fit in.
        at_once: Seconds in which the first event of a stream has to be here.
    """
    url = url if urlsplit(url).path.strip("/") else urljoin(url, "/mcp")
    found: list[Finding] = []
    client = _Client(url, token, at_once)
    try:
        async with asyncio.timeout(seconds + _OTHERS):
            if await _session(client, found):
                await _streams(client, seconds, found)
                found.append(await _body(client))
                if token is not None:
                    found.append(await _authorization(client))
                found += [*await _http_sse(client), await _grpc(client, token), *await _http2(url, at_once)]
    except TimeoutError:
        found.append(risk(url, "reach", "the probe took too long", "Something between holds requests up: look there."))
    finally:
        with contextlib.suppress(TimeoutError):  # a session that is not ended ends by itself
            async with asyncio.timeout(at_once):
                await client.close()
        leave_all()
        await asyncio.sleep(0)  # the loop closes sockets one turn later
    return found


# --- a session ------------------------------------------------------------------------------------------


async def _session(client: _Client, found: list[Finding]) -> bool:
    """Open one; False if nothing more can be tried."""
    hello = {"protocolVersion": client.version, "capabilities": {}, "clientInfo": {"name": "doctor", "version": "1"}}
    try:
        head, body = await client.send(request(0, "initialize", hello))
    except Failed as error:
        found.append(risk(client.url, "reach", str(error), "Nobody is served here: is the address right?"))
        return False
    if head.status != 200:
        found.append(risk(client.url, "reach", f"HTTP {head.status}", _REFUSALS.get(head.status, _REFUSED)))
        return False
    with contextlib.suppress(Failed):
        answer = read_message(body).get("result", {})
        client.version = answer.get("protocolVersion", client.version)
    found.append(ok(client.url, "reach", f"an MCP server, version {client.version}"))
    client.session = head.get("mcp-session-id")
    if not client.session:
        found.append(
            risk(
                client.url,
                "session",
                "no Mcp-Session-Id came back",
                "Without it there are no sessions, and nothing resumes: let the proxy pass the header, unless the "
                "server is --stateless.",
            )
        )
        return False
    await client.notify("notifications/initialized")
    head, _ = await client.send(request(1, "ping"))
    if head.status != 200:
        found.append(
            risk(
                client.url,
                "session",
                f"a request of the session is answered with HTTP {head.status}",
                "Either the proxy keeps Mcp-Session-Id for itself, or requests reach servers that do not share a "
                "store: pass the header, use one server, or one store.",
            )
        )
        return False
    found.append(ok(client.url, "session", "Mcp-Session-Id passes in both directions"))
    return True


_REFUSED = "The server, or what is before it, refuses clients: look at the logs of both."
_REFUSALS = {
    401: "It wants a token: give one with --token. If you did, the proxy may keep Authorization for itself.",
    403: "What is before the server refuses, or an Origin is not allowed: see its log.",
    404: "There is no server at this path: give the whole address, with the prefix that the proxy puts before it.",
    405: "This path takes no POST: give the address of the server's /mcp.",
    421: "The server does not know the name under which it is asked: start it with --allow-host NAME.",
    502: "The proxy does not reach the server.",
    503: "The server is draining or full, or the proxy has nobody to ask.",
    504: "The proxy does not reach the server in time.",
}


# --- its stream -----------------------------------------------------------------------------------------


async def _streams(client: _Client, seconds: float, found: list[Finding]) -> None:
    """The first event, then silence and keep-alives, then a resume."""
    stream = await _first_event(client, found)
    if stream is None:
        return
    found.append(await _keep_alives(client, stream, seconds))
    stream.connection.close()
    found.append(await _resume(client, stream.last))


async def _first_event(client: _Client, found: list[Finding]) -> _Stream | None:
    began = time.monotonic()
    try:
        running = await client.get(limit=client.at_once)
    except Stalled:
        found.append(
            risk(
                client.url,
                "buffering",
                f"the head of a stream did not come within {client.at_once:g} s",
                _HELD + _UNBUFFER,
            )
        )
        return None
    except Failed as error:
        found.append(risk(client.url, "buffering", str(error), "No stream gets through: see the log of the proxy."))
        return None
    assert running.head is not None
    assert running.connection is not None
    if running.head.status != 200:
        found.append(
            risk(
                client.url,
                "buffering",
                f"the GET of a stream is answered with HTTP {running.head.status}",
                "Nothing can be resumed: let GET /mcp through.",
            )
        )
        running.connection.close()
        return None
    events = EventStream(running.connection)
    try:
        await events.next(client.at_once)
    except Failed:
        found.append(
            risk(
                client.url,
                "buffering",
                f"the first event of a stream did not come within {client.at_once:g} s",
                _HELD + _UNBUFFER,
            )
        )
        running.connection.close()
        return None
    found.append(ok(client.url, "buffering", f"the first event of a stream was here after {_ms(began)}"))
    return _Stream(running.connection, events.last_event_id)


async def _keep_alives(client: _Client, stream: _Stream, seconds: float) -> Finding:
    """Watch the idle stream."""
    began, came = time.monotonic(), 0
    while (left := began + seconds - time.monotonic()) > 0:
        try:
            if not await stream.connection.read_some(left):
                raise Cut("it ended")
            came += 1
        except Stalled:
            break
        except Failed:
            lasted = time.monotonic() - began
            advice = "Each cut costs a client a resume, and those that cannot resume their answer: "
            if came == 0:
                return risk(
                    client.url,
                    "idle",
                    f"an idle stream was cut after {lasted:.1f} s, before a keep-alive came",
                    f"{advice}raise the idle limit, or give the server a --keep-alive of half of that.",
                )
            return warn(
                client.url,
                "idle",
                f"a stream was cut after {lasted:.1f} s, in spite of {came} keep-alives",
                f"{advice}the proxy limits how long a response may take as a whole; raise that.",
            )
    if came == 0:
        return warn(
            client.url,
            "idle",
            f"nothing came through in {seconds:g} s",
            "Keep-alives are held back, or sent more rarely than that: watch for longer (--seconds), or turn "
            "buffering off.",
        )
    return ok(client.url, "idle", f"a stream lived for {seconds:g} s with {came} keep-alives; longer was not tried")


async def _resume(client: _Client, last: str) -> Finding:
    if not last:
        return warn(
            client.url, "resume", "the first event had no id", "Nothing to resume from; a newer server gives one."
        )
    headers = [("Accept", "text/event-stream"), ("Accept-Encoding", "gzip, br"), *client.headers()[2:]]
    headers.append(("Last-Event-ID", last))
    try:
        connection, head = await exchange(client.url, "GET", headers, limit=client.at_once)
    except Failed as error:
        return risk(client.url, "resume", str(error), "What a client missed cannot be had again: see the proxy's log.")
    connection.close()
    if head.status != 200 or not head.get("tailrace-resume"):
        return risk(
            client.url,
            "resume",
            f"HTTP {head.status}, and no Tailrace-Resume",
            "The proxy keeps Last-Event-ID for itself, or the answer's header: a client that was cut off gets "
            "nothing of what it missed. Pass both.",
        )
    if head.get("content-encoding") not in ("", "identity"):
        return warn(
            client.url,
            "resume",
            f"streams are compressed ({head.get('content-encoding')})",
            "A compressor holds small events back until it has enough: leave text/event-stream out of it.",
        )
    return ok(client.url, "resume", f"Last-Event-ID passes (Tailrace-Resume: {head.get('tailrace-resume')})")


# --- other requests -------------------------------------------------------------------------------------


async def _body(client: _Client) -> Finding:
    large = request("large", "ping", {"_meta": {"io.tailrace/doctor": "x" * _LARGE}})
    saw = f"of {_LARGE >> 20} MiB"
    try:
        head, _ = await client.send(large)
    except Failed as error:
        return warn(client.url, "body", f"{saw}: {error}", "Calls with large arguments fail here: raise the limit.")
    if head.status != 200:
        return warn(
            client.url,
            "body",
            f"{saw}: HTTP {head.status}",
            "Calls with large arguments fail: raise the proxy's limit (nginx: client_max_body_size) to the "
            "server's --max-body.",
        )
    return ok(client.url, "body", f"{saw} passes")


async def _authorization(client: _Client) -> Finding:
    hello = {"protocolVersion": client.version, "capabilities": {}, "clientInfo": {"name": "doctor", "version": "1"}}
    try:
        head, _ = await _Client(client.url, None, client.at_once).send(request(0, "initialize", hello))
    except Failed as error:
        return warn(client.url, "authorization", str(error), "What is answered without a token was not seen.")
    if head.status == 401:
        return ok(client.url, "authorization", "passes, and is asked for (401 without it)")
    return risk(
        client.url,
        "authorization",
        f"HTTP {head.status} without a token",
        "Anybody is served: the server asks for none, or the proxy gives one of its own to everybody.",
    )


async def _http_sse(client: _Client) -> list[Finding]:
    """The older transport beside /mcp, where it is served."""
    url = _beside(client.url, "sse")
    if url is None:
        return []
    headers = [("Accept", "text/event-stream"), *client.token]
    try:
        connection, head = await exchange(url, "GET", headers, limit=client.at_once)
    except Failed as error:
        return [risk(client.url, "http+sse", f"GET /sse: {error}", _HELD + _UNBUFFER)]
    try:
        if head.status != 200:
            return [
                warn(client.url, "http+sse", f"GET /sse: HTTP {head.status}", "Clients of 2024-11-05 are not served.")
            ]
        event = await EventStream(connection).next(client.at_once)
        where = urljoin(url, "" if event is None else event.data)
        ping = json.dumps(request(0, "ping")).encode()
        posted, answer = await exchange(where, "POST", [JSON_BODY, *client.token], ping)
        posted.close()
        if answer.status == 202:
            return [ok(client.url, "http+sse", "events come at once, and the address they name is reached")]
        return [
            risk(
                client.url,
                "http+sse",
                f"the address that the stream names is answered with HTTP {answer.status}",
                "Clients of 2024-11-05 can call nothing: let /messages/ through, with the prefix kept.",
            )
        ]
    except Failed as error:
        return [risk(client.url, "http+sse", f"no first event: {error}", _HELD + _UNBUFFER)]
    finally:
        connection.close()


@dataclass
class _Check:
    service: str = ""


@dataclass
class _Health:
    status: int = 0


async def _grpc(client: _Client, token: str | None) -> Finding:
    """One gRPC call: HTTP/2 from end to end, and trailers."""
    from tailrace.connect import Client, RpcError

    base = _beside(client.url, "")
    if base is None:
        return ok(client.url, "grpc", "not looked at: the path does not end with /mcp")
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        async with Client(base.rstrip("/"), protocol="grpc", headers=headers, connect_timeout=client.at_once) as rpc:
            await rpc.unary("grpc.health.v1.Health/Check", _Check(), response=_Health, timeout=client.at_once)
    except RpcError as error:
        return warn(
            client.url,
            "grpc",
            f"does not pass: {error}",
            "gRPC needs HTTP/2 up to the server, and trailers; Connect and gRPC-Web need neither. Where you "
            "serve gRPC, let the proxy speak it (nginx: grpc_pass).",
        )
    return ok(client.url, "grpc", "passes: HTTP/2 up to the server, and trailers")


async def _http2(url: str, at_once: float) -> list[Finding]:
    """Over TLS: whether clients may speak HTTP/2 with what is before the server."""
    import ssl

    parts = urlsplit(url)
    if parts.scheme != "https":
        return []
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        async with asyncio.timeout(at_once):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=context)
    except (OSError, TimeoutError):
        return []
    spoken = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    if spoken == "h2":
        return [ok(url, "http2", "offered to clients")]
    return [
        warn(
            url,
            "http2",
            "not offered to clients",
            "A browser opens six streams to a host at once and holds further ones back: switch HTTP/2 on.",
        )
    ]


def _beside(url: str, name: str) -> str | None:
    """The address of what is served beside ``/mcp``."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if not path.endswith("/mcp"):
        return None
    return urlunsplit((parts.scheme, parts.netloc, path.removesuffix("mcp") + name, "", ""))


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"
