"""The RPC endpoint under fuzz: any body, in each protocol, to each kind of method."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Sequence

from tailrace import Code
from tailrace.core.settings import Settings
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.wire.compression import CODECS, compress
from tailrace.wire.envelopes import COMPRESSED, END_STREAM, envelope
from tailrace.wire.grpc import encode_base64
from tests.fuzz.engine import Target
from tests.fuzz.inputs import JSON_TOKENS, corpus
from tests.protocols.connect.support import Request, Shop

__all__ = ["Rpc"]

_TEA = b'{"item":"tea","qty":2}'
_KINDS = [("Place", False), ("Total", True), ("Watch", True), ("Talk", True)]
_CODECS = ["identity", *CODECS]
_CODES = {None, Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED, Code.UNIMPLEMENTED}


class Rpc(Target):
    """Every body is answered, and the answer ends in order with a code that blames the client; nothing is logged."""

    seeds: Sequence[bytes] = [
        *(bytes([way]) + _TEA for way in range(0, 96, 7)),
        *(bytes([way]) + envelope(0, _TEA) + envelope(END_STREAM, b"{}") for way in range(0, 96, 5)),
        *(bytes([24 * (1 + at)]) + compress(name, _TEA) for at, name in enumerate(CODECS)),
        *(bytes([24 * (1 + at) + 4]) + envelope(COMPRESSED, compress(name, _TEA)) for at, name in enumerate(CODECS)),
        bytes([8]) + encode_base64(envelope(0, _TEA)),
        bytes([1]) + envelope(0, b"\x0a\x03tea\x10\x02"),
        *corpus("rpc"),
    ]
    tokens: Sequence[bytes] = [
        *JSON_TOKENS,
        b'"item"',
        b'"qty"',
        b"\0\0\0\0",
        b"\1\0\0\0",
        b"\x80",
        b"\xff\xff\xff\xff",
    ]

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.server = Server(Shop().service, Settings(drain=0.0, max_message=10_000), MemoryStore())
        self.loop.run_until_complete(self.server.start())
        self.errors: list[str] = []
        self.handler = logging.Handler(logging.ERROR)
        self.handler.emit = lambda record: self.errors.append(record.getMessage())
        logging.getLogger("tailrace").addHandler(self.handler)

    def close(self) -> None:
        logging.getLogger("tailrace").removeHandler(self.handler)
        self.loop.run_until_complete(self.server.stop())
        self.loop.close()

    def run(self, data: bytes) -> Hashable:
        return self.loop.run_until_complete(self.post(data[0] if data else 0, data[1:]))

    async def post(self, way: int, body: bytes) -> Hashable:
        """The first byte says how the rest is posted."""
        binary, kind, protocol, coding = way % 2, way // 2 % 4, way // 8 % 3, way // 24 % 4
        name, stream = _KINDS[kind]
        family = ["connect", "grpc", "grpc-web"][protocol]
        field = "grpc-encoding" if protocol else "connect-content-encoding" if stream else "content-encoding"
        headers = [(field, _CODECS[coding])]
        if binary:
            suffix = "proto" if protocol or not stream else "connect+proto"
            headers.append(("content-type", f"application/{family}+proto" if protocol else f"application/{suffix}"))
        request = Request(f"/shop.v1.Shop/{name}", protocol=family, stream=stream, raw=body, headers=headers)
        self.server.handle(request)
        async with asyncio.timeout(60):
            await request.status_code()
            if request.streaming is not None:
                await asyncio.wait([request.streaming])
        assert self.errors == []
        assert not self.server.tasks.calls
        if binary:
            return way, request.status, len(request.reply_body) % 7
        answer = request.answer
        assert answer.ended
        assert answer.code in _CODES or "does not say how" in str(answer.error), answer.error
        return way, request.status, answer.code, str(answer.error)[:40]
