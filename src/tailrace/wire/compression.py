"""How messages are compressed, and decompressed within a limit: a small message may hold a huge one.

gzip is always there; brotli and zstd are where a package for them is installed (``tailrace[compression]``; zstd
comes with Python 3.14). Both directions work on whole messages, as RPC protocols send them.
"""

from __future__ import annotations

import importlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from tailrace.errors import Code, RpcError

__all__ = ["CODECS", "IDENTITY", "Brotli", "Codec", "Gzip", "Zstd", "accepted", "choose", "compress", "decompress"]

IDENTITY: Final = "identity"

_GZIP = 16 + zlib.MAX_WBITS  # zlib's word for its own format in gzip's wrapping
_GZIP_LEVEL = 5
_BROTLI_QUALITY = 4  # about gzip's speed; 11, its default, takes a hundred times as long
_ZSTD_WINDOW = 23  # as a power of two: 8 MiB, the most a decoder must hold for it (RFC 9659)


class Codec(ABC):
    """One compression, as messages and HTTP bodies name it.

    Attributes:
        name: E.g. ``gzip``.
    """

    name: str

    @abstractmethod
    def compress(self, data: bytes) -> bytes:
        """`data`, compressed."""

    @abstractmethod
    def expand(self, data: bytes, most: int) -> tuple[bytes, bool]:
        """What the compressed `data` stands for, of which no more than about `most` bytes are made; and whether that
        was all of both.

        Raises:
            ValueError: It is damaged.
        """


class Gzip(Codec):
    """RFC 1952, one member."""

    name = "gzip"

    def compress(self, data: bytes) -> bytes:
        """`data`, compressed."""
        return zlib.compress(data, _GZIP_LEVEL, _GZIP)

    def expand(self, data: bytes, most: int) -> tuple[bytes, bool]:
        """What `data` stands for."""
        reader = zlib.decompressobj(_GZIP)
        try:
            plain = reader.decompress(data, most)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        return plain, reader.eof and not reader.unused_data


class Brotli(Codec):
    """RFC 7932.

    Args:
        library: The module ``brotli`` (1.2 or later: before that, what it makes has no bound).
    """

    name = "br"

    def __init__(self, library: Any) -> None:
        self._library = library

    def compress(self, data: bytes) -> bytes:
        """`data`, compressed."""
        return self._library.compress(data, quality=_BROTLI_QUALITY)

    def expand(self, data: bytes, most: int) -> tuple[bytes, bool]:
        """What `data` stands for."""
        reader = self._library.Decompressor()
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                part = reader.process(data, output_buffer_limit=most - size)
                parts.append(part)
                size += len(part)
                if not part or size >= most or reader.is_finished():
                    return b"".join(parts), reader.is_finished()
                data = b""
        except self._library.error as error:  # also for bytes behind its end
            raise ValueError(str(error)) from None


class Zstd(Codec):
    """RFC 8878, one frame, with a window of at most 8 MiB.

    Args:
        library: ``compression.zstd`` of Python 3.14, or ``backports.zstd``.
    """

    name = "zstd"

    def __init__(self, library: Any) -> None:
        self._library = library
        self._options = {library.DecompressionParameter.window_log_max: _ZSTD_WINDOW}

    def compress(self, data: bytes) -> bytes:
        """`data`, compressed."""
        return self._library.compress(data)

    def expand(self, data: bytes, most: int) -> tuple[bytes, bool]:
        """What `data` stands for."""
        reader = self._library.ZstdDecompressor(options=self._options)
        try:
            plain = reader.decompress(data, most)
        except self._library.ZstdError as error:
            raise ValueError(str(error)) from None
        return plain, reader.eof and not reader.unused_data


def load(*names: str) -> Any:
    """The first of these modules that is installed, or None."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def find_codecs(brotli: Any, zstd: Any) -> dict[str, Codec]:
    """What can be used, by name: with these libraries, as far as they are there and can be bounded."""
    codecs: list[Codec] = [Gzip()]
    if brotli is not None and hasattr(getattr(brotli, "Decompressor", None), "can_accept_more_data"):
        codecs.append(Brotli(brotli))
    if zstd is not None:
        codecs.append(Zstd(zstd))
    return {codec.name: codec for codec in codecs}


CODECS: Final[Mapping[str, Codec]] = find_codecs(load("brotli"), load("compression.zstd", "backports.zstd"))


def accepted(codecs: Mapping[str, Codec] = CODECS) -> str:
    """What `grpc-accept-encoding`, `connect-accept-encoding` and `accept-encoding` say of them."""
    return ", ".join(codecs)


@lru_cache(maxsize=64)
def choose(accept: str | None) -> str:
    """What to answer with: the first of a peer's list that is there; ``identity`` where there is none.

    A weight of zero refuses (RFC 9110, 12.4.2); other weights are not looked at.
    """
    for entry in (accept or "").lower().split(","):
        name, _, weight = entry.partition(";")
        if name.strip() in CODECS and weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name.strip()
    return IDENTITY


def compress(name: str, data: bytes) -> bytes:
    """`data` in this compression, which must be one of `CODECS`, or ``identity``."""
    return data if name == IDENTITY else CODECS[name].compress(data)


def decompress(name: str, data: bytes, limit: int) -> bytes:
    """What the compressed message `data` stands for.

    Args:
        name: The compression, as the peer says; ``identity`` for none.
        data: The message; nothing stands for nothing, as others have it.
        limit: The most bytes that it may stand for; no more are ever made.

    Raises:
        RpcError: UNIMPLEMENTED: there is no such compression here; RESOURCE_EXHAUSTED: it stands for more than
            `limit` bytes; INVALID_ARGUMENT: it is damaged, or something follows it.
    """
    if name == IDENTITY:
        plain, whole = data, True
    else:
        codec = CODECS.get(name)
        if codec is None:
            known = accepted()
            raise RpcError(Code.UNIMPLEMENTED, f"unknown compression {name[:64]!r}: supported are {known}, {IDENTITY}")
        try:
            plain, whole = codec.expand(data, limit + 1) if data else (b"", True)
        except ValueError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"the {name} message is damaged: {error}") from None
    if len(plain) > limit:
        raise RpcError(Code.RESOURCE_EXHAUSTED, f"the message is over {limit} bytes")
    if not whole:
        raise RpcError(Code.INVALID_ARGUMENT, f"the {name} message is cut off, or something follows it")
    return plain
