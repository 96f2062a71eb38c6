"""An issuer's signing keys: found, kept, and asked for again when a token names one that is not known (rotation).

A flood of tokens with invented key ids makes one request in `_AGAIN` seconds, and never more; keys that cannot be
fetched anew go on being used, for an authorization server that is away has not withdrawn them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from tailrace.errors import TransportError
from tailrace.wire.wellknown import issuer_addresses

if TYPE_CHECKING:
    from jwt import PyJWK

    from tailrace.fetch import Fetch

__all__ = ["Keys"]

logger = logging.getLogger("tailrace.auth")

_FRESH = 3600.0  # seconds until they are fetched anew
_AGAIN = 30.0  # seconds between two attempts, whatever tokens say
_MAX_KEYS = 100


class _Metadata(Struct):
    issuer: str
    jwks_uri: str


class _Set(Struct):
    keys: list[dict[str, Any]]


class Keys:
    """The keys of one issuer; used on one loop.

    Args:
        fetch: How they are had.
        issuer: Whose.
        address: Where they are; None: where the issuer's metadata says.
        clock: Seconds that never go back.
    """

    def __init__(
        self, fetch: Fetch, issuer: str, address: str | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._issuer = issuer
        self._address = address
        self._clock = clock
        self._keys: dict[str | None, PyJWK] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._loading: asyncio.Future[None] | None = None

    async def find(self, id: str | None) -> PyJWK | None:
        """The key with this id; the only one, where a token names none.

        Raises:
            TransportError: No keys were had yet, and none can be had now.
        """
        if self._fetched is None or self._clock() - self._fetched > _FRESH or self._look_up(id) is None:
            await self._load()
        return self._look_up(id)

    def _look_up(self, id: str | None) -> PyJWK | None:
        if id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(id)

    async def _load(self) -> None:
        """Fetch them, unless that was tried a moment ago; those who come meanwhile wait for the same."""
        if self._loading is not None:
            await asyncio.wait([self._loading])
            if self._fetched is None:
                raise TransportError(f"the keys of {self._issuer} cannot be had at present")
            return
        now = self._clock()
        if self._tried is not None and now - self._tried < _AGAIN:
            if self._fetched is None:
                raise TransportError(f"the keys of {self._issuer} cannot be had at present")
            return
        self._tried = now
        loading = self._loading = asyncio.get_running_loop().create_future()
        try:
            self._keys = await self._load_keys()
            self._fetched = self._clock()
        except Exception as error:
            if self._fetched is None:
                raise
            logger.warning("the keys of %s cannot be fetched anew; those that are known stay: %s", self._issuer, error)
        finally:
            self._loading = None
            loading.set_result(None)

    async def _load_keys(self) -> dict[str | None, PyJWK]:
        import jwt

        if self._address is None:
            self._address = await self._find_address()
        found = await self._fetch.get(self._address)
        if found.status != 200:
            raise TransportError(f"{self._address} answered HTTP {found.status}")
        keys: dict[str | None, PyJWK] = {}
        for raw in found.decode(_Set).keys[:_MAX_KEYS]:
            if raw.get("use", "sig") != "sig" or raw.get("kty") == "oct":
                continue  # for encryption; or a secret, which has no place among public keys
            try:
                key = jwt.PyJWK(raw)
            except jwt.PyJWTError:
                continue  # of a kind that is not known here
            keys[raw.get("kid")] = key
        if not keys:
            raise TransportError(f"{self._address} has no key that can be used")
        return keys

    async def _find_address(self) -> str:
        for place in issuer_addresses(self._issuer):
            found = await self._fetch.get(place)
            if found.status == 200:
                metadata = found.decode(_Metadata)
                if metadata.issuer != self._issuer:
                    raise TransportError(f"{place} is about {metadata.issuer[:200]!r}, not {self._issuer!r}")
                return metadata.jwks_uri
        raise TransportError(f"{self._issuer} has no metadata; give jwks_uri=")
