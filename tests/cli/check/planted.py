"""A small MCP server of the standard library alone, right in every trial, into which one fault at a time is planted.

`python planted.py PORT|stdio [FAULT]`. It knows nothing of Tailrace: what is found in it is found from
outside. Streams are lists of events; a connection is a cursor over one; a producer waits while much is unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

FAULT = sys.argv[2] if len(sys.argv) > 2 else ""
WITNESS = Path(os.environ.get("TAILRACE_WITNESS", os.devnull))
MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
UNREAD = 200_000  # bytes
DRAIN = 3.2  # seconds
REASONS = {200: "OK", 202: "Accepted"}
numbers = itertools.count(1)
sessions: dict[str, Session] = {}
streams: dict[str, Stream] = {}  # by the first part of an event id
running: set[asyncio.Task[None]] = set()
open_writers: set[asyncio.StreamWriter] = set()
ledger: dict[str, asyncio.Task[dict[str, Any]]] = {}
by_id: dict[Any, Stream] = {}
seen: set[str] = set()
newest: list[tuple[Stream, Any]] = []
leaked: list[Any] = []
everybody = asyncio.Lock()  # of the planted slow-reader
TOOLS = [
    {
        "name": name,
        "inputSchema": {"type": "object", "properties": {key: {"type": kind} for key, kind in fields.items()}},
    }
    for name, fields in {
        "echo": {"text": "string"},
        "slow": {"seconds": "number"},
        "burst": {"count": "integer", "size": "integer", "pause": "number"},
        "effect": {"key": "string", "seconds": "number"},
    }.items()
]


class Stream:
    """A log of events, and how far its reader is."""

    def __init__(self, session: Session | None) -> None:
        self.name = f"s{next(numbers)}"
        self.session = session
        self.events: list[bytes] = []
        self.kept = 0  # bytes unread
        self.read = 0
        self.over = False
        self.news = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self.connected = 0  # which connection has it
        self.owners: list[asyncio.Task[None]] = []
        streams[self.name] = self

    def put(self, message: Any, *, event: str = "message", raw: str | None = None) -> None:
        data = raw if raw is not None else json.dumps(message)
        id = f"id: {self.name}-{len(self.events)}\n" if FAULT != "no-ids" else ""
        self.events.append(f"event: {event}\n{id}data: {data}\n\n".encode())
        self.kept += len(self.events[-1])
        if self.kept > UNREAD and FAULT != "unbounded":
            self.room.clear()
        self.news.set()

    async def progress(self, message: Any) -> None:
        if FAULT == "lossy" and len(self.events) - self.read > 100:
            return
        self.put(message)
        if self.connected:
            await self.room.wait()
        if FAULT == "lossy" and len(self.events) % 300 == 0:
            await asyncio.sleep(0)

    def end(self) -> None:
        self.over = True
        self.news.set()


class Session:
    def __init__(self) -> None:
        self.id = os.urandom(16).hex()
        self.calls: dict[Any, tuple[asyncio.Task[None], Stream]] = {}
        self.alone: Stream | None = None
        self.lock = asyncio.Lock()  # of the planted head-of-line
        self.fat = bytearray(os.urandom(1 << 20)) if FAULT == "fat-sessions" else b""
        sessions[self.id] = self


def note(line: str) -> None:
    with WITNESS.open("a") as file:
        file.write(line + "\n")


def error(id: Any, code: int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}}


def result(id: Any, value: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "result": {"resultType": "complete", **value}}


def text_result(id: Any, text: str) -> dict[str, Any]:
    return result(id, {"content": [{"type": "text", "text": text}]})


async def tool(message: dict[str, Any], say: Any) -> dict[str, Any]:
    params, id = message["params"], message["id"]
    given = params.get("arguments")
    if params.get("name") not in {one["name"] for one in TOOLS} or not isinstance(given, dict):
        return error(id, -32602, "unknown tool or bad arguments")
    match params["name"]:
        case "echo":
            if "text" not in given:
                return error(id, -32602, "text is missing")
            return text_result(id, given["text"])
        case "slow":
            await asyncio.sleep(given["seconds"])
            return text_result(id, "done")
        case "burst":
            token = params.get("_meta", {}).get("progressToken")
            for number in range(1, given["count"] + 1):
                said = {"progressToken": token, "progress": number, "message": "x" * given.get("size", 0)}
                await say({"jsonrpc": "2.0", "method": "notifications/progress", "params": said})
                if given.get("pause"):
                    await asyncio.sleep(given["pause"])
            return text_result(id, "sent")
        case _:
            if FAULT == "dedupe" and given["key"] in seen:
                return text_result(id, given["key"])
            seen.add(given["key"])
            note(f"start {given['key']}")
            await asyncio.sleep(given["seconds"])
            note(f"end {given['key']}")
            return text_result(id, given["key"])


async def once(message: dict[str, Any], say: Any) -> dict[str, Any]:
    key = message["params"].get("_meta", {}).get("io.tailrace/idempotencyKey")
    if key is None or FAULT == "forgets-keys":
        return await tool(message, say)
    if key not in ledger:
        ledger[key] = asyncio.ensure_future(tool(message, say))
    return {**await asyncio.shield(ledger[key]), "id": message["id"]}


def inline(message: dict[str, Any]) -> dict[str, Any] | None:
    id = message["id"]
    match message["method"]:
        case "initialize":
            version = message["params"].get("protocolVersion")
            if version is None:
                return error(id, -32602, "no protocolVersion")
            info = {"name": "planted", "version": "1"}
            return result(id, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
        case "tools/list":
            return result(id, {"tools": TOOLS})
        case "server/discover":
            return result(id, {"supportedVersions": [MODERN], "capabilities": {}})
        case "tools/call" | "subscriptions/listen":
            return None
        case _:
            return error(id, -32601, "unknown method")


def start(message: dict[str, Any], stream: Stream, *, closes: bool) -> asyncio.Task[None]:
    """Run a call whose messages go to a stream; `closes`: the stream is its own."""
    session, id = stream.session, message["id"]

    async def say(said: dict[str, Any]) -> None:
        to = stream
        if FAULT == "newest-call":
            to, said["params"]["progressToken"] = newest[0]
        await to.progress(said)

    async def run() -> None:
        try:
            answer = await once(message, say)
        except asyncio.CancelledError:
            if FAULT == "silent-delete" or session is None:
                stream.end()
                return
            answer = error(id, -32000, "cancelled")
        to = stream
        if FAULT == "answers-by-id":
            to = by_id.pop(id, None)
            if to is None:
                return stream.end()
        if session is not None:
            session.calls.pop(id, None)
        if not (FAULT == "forgets-answers" and not stream.connected):
            to.put(answer)
        if closes:
            to.end()

    by_id[id] = stream
    newest[:] = [(stream, message["params"].get("_meta", {}).get("progressToken"))]
    task = asyncio.ensure_future(run())
    running.add(task)
    task.add_done_callback(running.discard)
    stream.owners.append(task)
    if session is not None:
        if FAULT == "second-wins" and id in session.calls:
            session.calls[id][0].cancel()
        session.calls[id] = (task, stream)
    return task


def cancel(session: Session | None, id: Any) -> None:
    for one in sessions.values() if FAULT == "cancels-by-id" else filter(None, (session,)):
        if id in one.calls:
            one.calls[id][0].cancel()
    if FAULT == "cancels-by-id" and session is None:
        for stream in list(streams.values()):
            if stream.session is None:
                for task in stream.owners:
                    task.cancel()


# --- HTTP -------------------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, status: int, code: int | None = None, id: Any = None) -> None:
        self.status, self.code, self.id = status, code, id


async def read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError:
        raise Refused(431) from None
    first, *lines = head[:-4].split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[0].isalpha():
        raise Refused(400)
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() in headers and FAULT != "hangs-on-two-lengths":
            raise Refused(400)
        headers[name.lower()] = value.strip()
    if "host" not in headers:
        raise Refused(400)
    if "transfer-encoding" in headers:
        raise Refused(400)  # no client here sends chunks that are right
    length = headers.get("content-length", "0")
    if not length.isdigit():
        raise Refused(400)
    body = await reader.readexactly(int(length))
    if FAULT == "hangs-on-two-lengths" and length == "3":
        await asyncio.sleep(60)
    return words[0], words[1], headers, body


async def reply(writer: asyncio.StreamWriter, status: int, body: Any = None, **headers: str) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    kind = "Content-Type: application/json\r\n" if data else ""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    reason = REASONS.get(status, "No")
    head = f"HTTP/1.1 {status} {reason}\r\n{kind}{more}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    open_writers.add(writer)
    try:
        method, target, headers, body = await read_request(reader)
        check_origin(headers)
        await route(method, target, headers, body, reader, writer)
    except Refused as refusal:
        with contextlib.suppress(OSError):
            said = error(refusal.id, refusal.code, "no") if refusal.code else None
            await reply(writer, refusal.status, said)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        open_writers.discard(writer)
        if FAULT == "leaks-sockets":
            leaked.append(os.dup(writer.get_extra_info("socket").fileno()))
        writer.close()


def check_origin(headers: dict[str, str]) -> None:
    origin = headers.get("origin")
    if FAULT != "any-origin" and origin is not None and origin.partition("://")[2].partition(":")[0] != "127.0.0.1":
        raise Refused(403)


def parse(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(500 if FAULT == "breaks-on-bad-json" else 400, -32700) from None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise Refused(400, -32600)
    if not isinstance(message.get("method"), str) and "result" not in message:
        raise Refused(400, -32600)
    if not isinstance(message.get("id", 0), int | str) or not isinstance(message.get("params", {}), dict):
        raise Refused(400, -32600)
    return message


async def route(method: str, target: str, headers: dict[str, str], body: bytes, reader: Any, writer: Any) -> None:
    path, _, query = target.partition("?")
    if path == "/sse" and method == "GET":
        return await sse_stream(headers, reader, writer)
    if path == "/messages" and method == "POST":
        session = sessions.get(query.partition("session_id=")[2].partition("&")[0])
        if session is None or session.alone is None:
            raise Refused(404)
        message = parse(body)
        await reply(writer, 202)
        return take_shared(message, session)
    if path != "/mcp":
        raise Refused(404)
    if headers.get("mcp-protocol-version", "") >= MODERN or (body[:1] == b"{" and b"protocolVersion" in body
                                                               and META.encode() in body):  # fmt: skip
        return await modern(method, headers, body, reader, writer)
    return await streamable(method, headers, body, reader, writer)


async def send_stream(
    stream: Stream, at: int, reader: Any, writer: Any, *, cancels: bool, first: str = "", **headers: str
) -> None:
    """Write a stream from an event on until it is over; `cancels`: a broken connection ends its calls."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{more}Connection: close\r\n\r\n{first}"
    writer.write(head.encode())
    stream.connected = mine = next(numbers)
    gone = asyncio.ensure_future(reader.read())
    try:
        while stream.connected == mine and not gone.done():
            stream.news.clear()
            batch = stream.events[at : at + 20]
            if batch:
                at = stream.read = at + len(batch)
                stream.kept -= sum(map(len, batch))
                async with stream_lock(stream):
                    writer.write(b"".join(batch))
                    await writer.drain()
                stream.room.set()
            elif stream.over:
                return
            else:
                news = asyncio.ensure_future(stream.news.wait())
                await asyncio.wait({news, gone}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
    except OSError:
        pass
    finally:
        gone.cancel()
        if stream.connected == mine:
            stream.connected = 0
            stream.room.set()
            if cancels:
                for task in stream.owners:
                    task.cancel()


def stream_lock(stream: Stream) -> Any:
    if FAULT == "one-lock":
        return everybody
    if FAULT == "session-lock" and stream.session is not None:
        return stream.session.lock
    return contextlib.nullcontext()


async def streamable(method: str, headers: dict[str, str], body: bytes, reader: Any, writer: Any) -> None:
    version = headers.get("mcp-protocol-version", "2025-11-25")
    if version not in ("2025-03-26", "2025-06-18", "2025-11-25"):
        raise Refused(400)
    id = headers.get("mcp-session-id")
    if method == "POST":
        message = parse(body)
        if message.get("method") == "initialize":
            answer = inline(message)
            assert answer is not None
            if "error" in answer:
                return await reply(writer, 400, answer)
            return await reply(writer, 200, answer, Mcp_Session_Id=Session().id)
    elif method not in ("GET", "DELETE"):
        raise Refused(405)
    if id is None:
        raise Refused(400)
    session = sessions.get(id) or (next(iter(sessions.values())) if FAULT == "any-session" else None)
    if session is None:
        raise Refused(404)
    if method == "POST":
        return await streamable_post(message, session, reader, writer)
    if method == "DELETE":
        for task, _ in session.calls.values():
            task.cancel()
        if session.alone is not None:
            session.alone.end()
        del sessions[session.id]
        return await reply(writer, 200)
    if "text/event-stream" not in headers.get("accept", ""):
        raise Refused(406)
    last = headers.get("last-event-id")
    if last is None:
        session.alone = session.alone or Stream(session)
        return await send_stream(session.alone, len(session.alone.events), reader, writer, cancels=False)
    stream = streams.get(last.partition("-")[0])
    if stream is None or (stream.session is not session and FAULT != "any-event"):
        raise Refused(404)
    return await send_stream(stream, resume_at(last), reader, writer, cancels=FAULT == "disconnect-cancels")


def resume_at(last: str) -> int:
    return int(last.partition("-")[2]) + {"gap": 2, "replays-one": 0}.get(FAULT, 1)


async def streamable_post(message: dict[str, Any], session: Session, reader: Any, writer: Any) -> None:
    if "method" not in message or "id" not in message:
        if message.get("method") == "notifications/cancelled":
            cancel(session, message.get("params", {}).get("requestId"))
        return await reply(writer, 202)
    if (answer := inline(message)) is not None:
        return await reply(writer, 200, answer)
    async with session.lock if FAULT == "session-lock" else contextlib.nullcontext():
        pass
    async with everybody if FAULT == "one-lock" else contextlib.nullcontext():
        pass
    stream = Stream(session)
    if FAULT != "no-ids":
        stream.put(None, raw="")
    start(message, stream, closes=True)
    return await send_stream(stream, 0, reader, writer, cancels=FAULT == "disconnect-cancels")


async def modern(method: str, headers: dict[str, str], body: bytes, reader: Any, writer: Any) -> None:
    if method != "POST":
        raise Refused(405)
    message = parse(body)
    if "id" not in message:
        if message.get("method") == "notifications/cancelled":
            cancel(None, message.get("params", {}).get("requestId"))
        return await reply(writer, 202)
    if "method" not in message:
        raise Refused(400, -32600)
    id, params = message["id"], message.get("params", {})
    meta = params.get("_meta", {})
    if META + "protocolVersion" not in meta:
        raise Refused(400, -32602, id)
    if (headers.get("mcp-protocol-version") != meta[META + "protocolVersion"]
            or headers.get("mcp-method") != message["method"]
            or (message["method"] == "tools/call" and headers.get("mcp-name") != params.get("name"))):  # fmt: skip
        raise Refused(400, -32020, id)
    if meta[META + "protocolVersion"] != MODERN:
        raise Refused(400, -32022, id)
    answer = error(id, -32601, "removed") if message["method"] == "initialize" else inline(message)
    if answer is not None:
        return await reply(writer, 404 if answer.get("error", {}).get("code") == -32601 else 200, answer)
    async with everybody if FAULT == "one-lock" else contextlib.nullcontext():
        pass
    stream = Stream(None)
    if message["method"] == "subscriptions/listen":
        stream.put({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {}})
        stream.owners.append(asyncio.ensure_future(asyncio.sleep(3600)))
        listening.append((message["id"], stream))
    else:
        start(message, stream, closes=True)
    keyed = "io.tailrace/idempotencyKey" in meta
    await send_stream(stream, 0, reader, writer, cancels=FAULT != "never-cancels" and not keyed)


listening: list[tuple[Any, Stream]] = []


# --- HTTP+SSE and stdio -----------------------------------------------------------------------------


async def sse_stream(headers: dict[str, str], reader: Any, writer: Any) -> None:
    last = headers.get("last-event-id")
    if last is not None:
        stream = streams.get(last.partition("-")[0])
        if stream is None or stream.session is None:
            raise Refused(404)
        at = resume_at(last)
        first = f"event: endpoint\nid: {last}\ndata: /messages?session_id={stream.session.id}\n\n"
    else:
        session = Session()
        stream = session.alone = Stream(session)
        stream.put(None, event="endpoint", raw=f"/messages?session_id={session.id}")
        at, first = 0, ""
    await send_stream(stream, at, reader, writer, cancels=FAULT == "disconnect-cancels", first=first)


def take_shared(message: dict[str, Any], session: Session) -> None:
    assert session.alone is not None
    if "id" not in message or "method" not in message:
        if message.get("method") == "notifications/cancelled":
            cancel(session, message.get("params", {}).get("requestId"))
        return
    if (answer := inline(message)) is not None:
        session.alone.put(answer)
    elif message["id"] in session.calls and FAULT != "second-wins":
        session.alone.put(error(None, -32600, "this id is in use"))
    else:
        start(message, session.alone, closes=False)


async def over_stdio() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    session = Session()
    session.alone = stream = Stream(session)
    stream.connected = 1
    writing = asyncio.ensure_future(write_lines(stream, writer))
    stopping = asyncio.ensure_future(stop.wait())
    while not stopping.done():
        line = asyncio.ensure_future(reader.readline())
        await asyncio.wait({line, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not line.done():
            line.cancel()
            break
        if not line.result():
            if FAULT == "ignores-eof":
                await asyncio.sleep(60)
            break
        try:
            take_shared(parse(line.result()), session)
        except Refused:
            if FAULT == "chatty":
                writer.write(b"what was that?\n")
    if FAULT == "exits-at-once":
        os._exit(0)
    await finish(stream, writing)


async def finish(stream: Stream, writing: asyncio.Task[None]) -> None:
    limit = 60 if FAULT == "waits-for-readers" else DRAIN / 2
    if running:
        await asyncio.wait(running, timeout=limit)
    stream.end()
    await asyncio.wait({writing}, timeout=limit)
    os._exit(0)


async def write_lines(stream: Stream, writer: asyncio.StreamWriter) -> None:
    at = 0
    while True:
        stream.news.clear()
        batch = stream.events[at : at + 20]
        for event in batch:
            stream.kept -= len(event)
            writer.write(event.partition(b"data: ")[2][:-1])
        await writer.drain()
        if batch:
            at = stream.read = at + len(batch)
            stream.room.set()
        elif stream.over:
            return
        else:
            await stream.news.wait()


# --- life -------------------------------------------------------------------------------------------

stop = asyncio.Event()


async def over_http(port: int) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=150_000, backlog=500)
    await stop.wait()
    server.close()
    if FAULT == "exits-at-once":
        os._exit(0)
    limit = 60 if FAULT in ("waits-for-readers", "waits-for-listeners") else DRAIN
    if FAULT == "waits-for-listeners" and (listening or any(one.alone for one in sessions.values())):
        await asyncio.sleep(60)
    calls = set(running)
    if calls:
        await asyncio.wait(calls, timeout=limit)
    for id, stream in listening:
        stream.put(result(id, {}))
    for stream in streams.values():
        stream.end()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while open_writers:
                await asyncio.sleep(0.01)
    os._exit(0)


async def main() -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if FAULT == "ignores-sigterm" else stop.set)
    await (over_stdio() if sys.argv[1] == "stdio" else over_http(int(sys.argv[1])))


if __name__ == "__main__":
    asyncio.run(main())
