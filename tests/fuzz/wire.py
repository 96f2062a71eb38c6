"""The wire under fuzz: nothing crashes, how bytes are cut makes no difference, other parsers agree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import msgspec

from tailrace.errors import ProtocolError
from tailrace.protocols.mcp.framing import EventId, Seals
from tailrace.wire import mcp, sse
from tailrace.wire.jsonrpc import (
    PARSE_ERROR,
    Batch,
    ErrorResponse,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    encode_notification,
    encode_request,
    encode_result,
    parse,
)
from tailrace.wire.param_headers import check_param_headers, param_headers, write_param_headers
from tests.fuzz.engine import Target
from tests.fuzz.inputs import BODIES, JSON_TOKENS, corpus, pieces_of, read_json

__all__ = ["EventIds", "JsonRpc", "ParamHeaders", "Params", "Sse"]


# --- JSON-RPC -----------------------------------------------------------------------------------


class JsonRpc(Target):
    """`parse` never raises, reads what Python's `json` reads, and reads what it wrote itself."""

    seeds: Sequence[bytes] = [*BODIES, *corpus("jsonrpc")]
    tokens: Sequence[bytes] = JSON_TOKENS

    def run(self, data: bytes) -> Hashable:
        found = parse(data)
        known, value = read_json(data)
        if isinstance(found, Malformed) and found.code == PARSE_ERROR:
            assert not known, f"json reads it: {found.message}"
        elif known:
            self.compare(found, value)
        messages = found.messages if isinstance(found, Batch) else (found,)
        for message in messages:
            self.write_again(message)
        return tuple((type(message).__name__, getattr(message, "message", "")[:60]) for message in messages[:4])

    def compare(self, found: Message | Batch, value: Any) -> None:
        if isinstance(found, Batch):
            assert isinstance(value, list)
            assert len(found.messages) == len(value)
            for one, other in zip(found.messages, value, strict=True):
                self.compare(one, other)
        elif isinstance(found, (Request, Notification)):
            assert value["jsonrpc"] == "2.0"
            assert value["method"] == found.method
            assert value.get("id") == getattr(found, "id", None)
            if "params" in value:
                assert read_json(bytes(found.params)) == (True, value["params"])
        elif isinstance(found, Response):
            assert (value["id"], "method" in value, "error" in value) == (found.id, False, False)
            assert read_json(bytes(found.result)) == (True, value["result"])
        elif isinstance(found, ErrorResponse):
            assert (value.get("id"), value["error"]["code"]) == (found.id, found.code)

    def write_again(self, message: Message) -> None:
        if isinstance(message, Request):
            again = parse(encode_request(message.id, message.method, bytes(message.params)))
            assert isinstance(again, Request)
            assert (again.id, again.method) == (message.id, message.method)
        elif isinstance(message, Notification):
            assert isinstance(parse(encode_notification(message.method, bytes(message.params))), Notification)
        elif isinstance(message, Response):
            line = encode_result(message.id, bytes(message.result))
            assert b"\n" not in line
            assert b"\r" not in line
            assert isinstance(parse(line), Response)


# --- SSE ----------------------------------------------------------------------------------------


class Sse(Target):
    """How a stream is cut makes no difference; what was written is read."""

    seeds: Sequence[bytes] = [
        b"event: message\nid: a-1\ndata: {}\n\n",
        b": comment\r\n\r\nretry: 2000\r\n\r\n",
        b"\xef\xbb\xbfdata: a\rdata: b\r\rid\n\nid: x\x00y\ndata\n\n",
        b"data: \xff\n\nevent\n\n:\n\nretry: 9999999999999999\n\n",
        *corpus("sse"),
    ]
    tokens: Sequence[bytes] = [
        *(
            b"\r",
            b"\n",
            b"\r\n",
            b":",
            b": ",
            b"data",
            b"data:",
            b"id:",
            b"event: ",
            b"retry: 1",
            b"\0",
            b"\xef\xbb\xbf",
        ),
    ]

    def run(self, data: bytes) -> Hashable:
        whole, cut = sse.Parser(empty=True, max_event=300), sse.Parser(empty=True, max_event=300)
        events, overflow = self.feed(whole, [data])
        others, also = self.feed(cut, pieces_of(data))
        assert overflow == also
        assert events == others
        if not overflow:
            assert (whole.last_event_id, whole.retry, whole.comments) == (cut.last_event_id, cut.retry, cut.comments)
        text = data.decode("utf-8", "replace").encode()
        (again,) = sse.Parser(empty=True).feed(sse.event(text, id=b"1", event=b"x"))
        assert again.data.encode() == text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        assert sse.Parser(empty=True).feed(sse.comment(text.decode())) == []
        return len(events), overflow, whole.retry is None, min(whole.comments, 3), whole.last_event_id is None

    def feed(self, parser: sse.Parser, pieces: list[bytes]) -> tuple[list[sse.Event], bool]:
        events: list[sse.Event] = []
        try:
            for piece in pieces:
                events += parser.feed(piece)
            parser.feed(b"")
        except sse.SseOverflow:
            return events, True
        return events, False


# --- MCP ----------------------------------------------------------------------------------------

METHODS = (
    *("tools/call", "tools/list", "initialize", "logging/setLevel", "ping", "server/discover", "prompts/get"),
    *("resources/read", "tasks/get", "tasks/update", "tasks/cancel", "no/such"),
)


class Params(Target):
    """Parameters become values or a `ProtocolError` with -32602, whatever they are."""

    seeds: Sequence[bytes] = [
        *(bytes(message.params) for message in map(parse, BODIES) if isinstance(message, Request)),
        *corpus("params"),
    ]
    tokens: Sequence[bytes] = JSON_TOKENS

    def run(self, data: bytes) -> Hashable:
        outcome: list[str] = []
        for method in METHODS:
            for any_era in (False, True):
                try:
                    params = mcp.decode_params(method, data, any_era=any_era)
                except ProtocolError as error:
                    outcome.append(self.refused(error))
                    continue
                mcp.header_name(method, params)
                outcome.append(type(params).__name__)
                try:
                    mcp.check_modern_version(mcp.check_modern_meta(params.meta))
                except ProtocolError as error:
                    outcome.append(str(error.code))
        mcp.decode_cancelled(data)
        return tuple(outcome)

    def refused(self, error: ProtocolError) -> str:
        assert error.code == -32602
        assert len(error.message) < 600
        return error.message[:70]


class ParamHeaders(Target):
    """A header says what `encode_header_value` put into it; what a client writes, the server finds equal."""

    seeds: Sequence[bytes] = [
        b'{"region":"eu","size":5,"dry":true}',
        b'{"region":" a ","size":-1}',
        b'{"region":"=?base64?YQ==?=","size":9007199254740993}',
        '{"region":"é\\n","size":1.0,"dry":null}'.encode(),
        b"=?base64?YQ==?=",
        *corpus("headers"),
    ]
    tokens: Sequence[bytes] = [*JSON_TOKENS, b"=?base64?", b"?=", b"YQ==", b'"region":', b'"size":', b'"dry":']

    def __init__(self) -> None:
        kinds = {"region": "string", "size": "integer", "dry": "boolean"}
        places = {name: {"type": kind, "x-mcp-header": name} for name, kind in kinds.items()}
        self.headers = param_headers({"type": "object", "properties": places})

    def run(self, data: bytes) -> Hashable:
        text = data.decode("latin-1")
        decoded = self.decode(text)
        if decoded is not None:
            assert mcp.decode_header_value(mcp.encode_header_value(decoded)) == decoded
        utf8 = data.decode("utf-8", "replace")
        value = mcp.encode_header_value(utf8)
        assert value.isascii()
        assert value.isprintable()
        assert mcp.decode_header_value(value) == utf8
        none = check_param_headers(self.headers, data, lambda name: [])
        lied = check_param_headers(self.headers, data, lambda name: [text])
        assert lied is None or lied.code in (-32020, -32602)
        try:
            arguments = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return decoded is None, none is None
        if isinstance(arguments, dict):
            written = {
                name.lower().encode(): [line] for name, line in write_param_headers(self.headers, arguments).items()
            }
            assert check_param_headers(self.headers, data, lambda name: written.get(name, [])) is None, written
        return decoded is None, none is None, type(arguments).__name__, lied is None

    def decode(self, text: str) -> str | None:
        try:
            return mcp.decode_header_value(text)
        except ValueError:
            return None


class EventIds(Target):
    """Nobody makes an event id up: what opens is what was sealed, but for the number that stands in the clear."""

    tokens: Sequence[bytes] = [b"-", b"=", b"_", b"/", b"+", b"0", b"-1", b"\xb2", b"\0", b"A" * 44, b"9" * 20]

    def __init__(self) -> None:
        self.seals = Seals([b"s" * 32, b"t" * 32], 7)
        places = [(b"handle%03d" % number, number * 1000) for number in range(3)]
        self.genuine = {(handle, stream): self.seals.seal(handle, stream, "me") for handle, stream in places}
        self.seeds = [*(token + b"-%d" % 5 for token in self.genuine.values()), *corpus("events")]

    def run(self, data: bytes) -> Hashable:
        text = data.decode("latin-1")
        opened = {principal: self.open(text, principal) for principal in ("me", "you", "")}
        assert opened["you"] is None
        assert opened[""] is None
        place = opened["me"]
        if place is None:
            return len(text) > 44, text[44:45] == "-"
        assert (place.handle, place.stream) in self.genuine
        assert place.epoch == 7
        assert 0 <= place.seq < 10**18
        return min(place.seq, 20)

    def open(self, text: str, principal: str) -> EventId | None:
        try:
            return self.seals.open(text, principal)
        except ValueError:
            return None
