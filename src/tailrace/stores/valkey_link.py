"""The connection to Valkey or Redis, by redis-py: one at a time, made when it is needed, given up at the first doubt.

The one border where redis-py's exceptions become ours. Whether something is tried again is left to `valkey_writer`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tailrace.errors import DefinitionError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace.stores.valkey_scripts import Script

__all__ = ["Link", "Unreachable", "judged"]

logger = logging.getLogger("tailrace.stores.valkey")

_SCHEMES = {"valkey": False, "redis": False, "valkeys": True, "rediss": True}
_OPTIONS = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
_OLDEST = (6, 2)
_NAME = ("CLIENT", "SETNAME", "tailrace")
_READ_ONLY = " -READONLY "  # how Redis before 7 says within another error that a script's command was refused for it


class Unreachable(StoreError):
    """No answer: nobody knows whether it was done. What is asked again has to be the same if it is done twice."""


class Link:
    """One connection at a time to the server at `url`.

    Args:
        url: ``valkey://[USER:PASSWORD@]HOST[:PORT][/DB]``, with TLS ``valkeys://`` and its files as ``?ca=``,
            ``cert=``, ``key=``; ``redis://`` and ``rediss://`` mean the same.
        service: Whose keys these are.
        partition: Of which partition; empty where the service has none.
        timeout: Seconds for an answer, a new connection included.

    Raises:
        DefinitionError: No such URL, or redis-py is not installed.
    """

    def __init__(self, url: str, service: str, *, timeout: float, partition: str = "") -> None:
        try:  # all of it now: an import reads files, which nothing on the loop may do
            import redis.asyncio.retry  # pyright: ignore[reportUnusedImport]
            import redis.backoff  # pyright: ignore[reportUnusedImport]
            import redis.exceptions  # pyright: ignore[reportUnusedImport]
        except ImportError:
            raise DefinitionError("a Valkey store needs redis-py: pip install 'tailrace[valkey]'") from None
        try:
            parts = urlsplit(url)
            tls = _SCHEMES[parts.scheme]
            options = {
                _OPTIONS[name]: value for name, value in parse_qsl(parts.query, strict_parsing=bool(parts.query))
            }
            host, port, db = parts.hostname, parts.port or 6379, int(parts.path.lstrip("/") or 0)
        except (KeyError, ValueError):
            host, port, db, tls, options, parts = None, 0, 0, False, {}, urlsplit("")
        if not host or db < 0 or parts.fragment or (options and not tls):
            raise DefinitionError("a Valkey store is valkey://[USER:PASSWORD@]HOST[:PORT][/DB], with TLS valkeys://")
        shown = f"[{host}]" if ":" in host else host
        self.name = f"{parts.scheme}://{shown}:{port}/{db}" + (f"#{partition}" if partition else "")  # no password
        self.key = f"{{tailrace:{quote(service, safe='')}}}:{f'p:{partition}:' if partition else ''}owner"
        self._timeout = timeout
        self._library: Any = redis
        self._tls = tls
        self._settings: dict[str, Any] = {
            "host": host,
            "port": port,
            "db": db,
            "username": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else None,
            "protocol": 2,
            "socket_timeout": None,  # `_guarded` has one; the library's costs a task and can swallow a cancellation
            "socket_connect_timeout": timeout,
            "socket_keepalive": True,
            "driver_info": None,  # else its version is read from files, on the loop
            **options,
        }
        self._connection: Any = None
        self._transport: asyncio.WriteTransport | None = None  # of the connection, once it is made

    async def call(self, script: Script, *arguments: Any) -> list[Any]:
        """Run a script; gives what it returns.

        Raises:
            Unreachable: There was no answer in time.
            StoreError: It was refused: memory, the disk, the rights.
        """
        return await self._guarded(self._run(script, arguments))

    async def facts(self) -> dict[str, str]:
        """What the server says of itself (``INFO`` and ``appendfsync``); less where the rights do not suffice."""
        return await self._guarded(self._facts())

    async def ask(self, *command: Any) -> Any:
        """One command as it is, and what is answered to it, bytes as they came; for those who look (`tailrace doctor`).

        Raises:
            Unreachable: There was no answer in time.
            StoreError: It was refused.
        """
        return await self._guarded(self._ask(*command))

    async def ask_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Several commands in one write; what is answered to each, bytes as they came.

        Raises:
            Unreachable: There was no answer in time.
            StoreError: One was refused; what became of those behind it is not known.
        """
        return await self._guarded(self._ask_all(commands))

    async def drop(self) -> None:
        """Give the connection up, at once and with what is not sent yet; the next call makes another."""
        connection, self._connection = self._connection, None
        transport, self._transport = self._transport, None
        if connection is not None:
            await connection.disconnect(nowait=True)
        if transport is not None:
            transport.abort()  # the library closes it: so it would keep, for long, what a peer that hangs does not read

    async def _guarded(self, work: Any) -> Any:
        exceptions = self._library.exceptions
        passing = (exceptions.ReadOnlyError, exceptions.ClusterDownError, exceptions.TryAgainError)
        try:
            async with asyncio.timeout(self._timeout):
                return await work
        except exceptions.AuthenticationError as error:
            await self.drop()
            raise StoreError(f"{self.name}: {error}") from None
        except (exceptions.ConnectionError, exceptions.TimeoutError, TimeoutError, OSError) as error:
            await self.drop()
            raise Unreachable(f"{self.name} cannot be reached: {str(error) or 'no answer in time'}") from None
        except exceptions.RedisError as error:
            if not isinstance(error, passing) and _READ_ONLY not in str(error):
                raise StoreError(f"{self.name}: {error}") from None
            await self.drop()  # by now another may be the primary at this address
            raise Unreachable(f"{self.name}: {error}") from None
        except StoreError:
            raise
        except Exception as error:  # a bug, of the library or the loop: it ends this connection, and nothing else
            await self.drop()
            logger.exception("%s: a connection was given up", self.name)
            raise Unreachable(f"{self.name} cannot be reached: {type(error).__name__}: {error}") from None
        except BaseException:  # cancelled between the question and its answer: the next one would read this one's
            await self.drop()
            raise

    async def _run(self, script: Script, arguments: tuple[Any, ...]) -> Any:
        try:
            return await self._ask("EVALSHA", script.sha, 1, self.key, *arguments)
        except self._library.exceptions.NoScriptError:
            return await self._ask("EVAL", script.text, 1, self.key, *arguments)

    async def _facts(self) -> dict[str, str]:
        facts: dict[str, str] = {}
        try:
            for section in ("server", "memory", "persistence"):
                text = (await self._ask("INFO", section)).decode("utf-8", "replace")
                facts.update(line.split(":", 1) for line in text.splitlines() if ":" in line)
            name, *setting = await self._ask("CONFIG", "GET", "appendfsync") or [b"appendfsync"]
            facts.update({name.decode(): setting[0].decode()} if setting else {})
        except self._library.exceptions.ResponseError:  # a managed service, or an ACL
            pass
        version = tuple(int(part) for part in facts.get("redis_version", "99.0").split(".")[:2])
        if version < _OLDEST:
            raise StoreError(
                f"{self.name}: version {facts['redis_version']} is too old; it takes Redis 6.2 or Valkey 7"
            )
        return facts

    async def _ask(self, *command: Any) -> Any:
        connection = await self._connected()
        await connection.send_packed_command(_packed(command, connection.encoder.encode))
        return await connection.read_response()

    async def _ask_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if len(commands) == 1:  # behind whose answer there is nothing
            return [await self._ask(*commands[0])]
        connection = await self._connected()
        encode = connection.encoder.encode
        await connection.send_packed_command(b"".join([_packed(command, encode) for command in commands]))
        try:
            return [await connection.read_response() for _ in commands]
        except self._library.exceptions.ResponseError:  # the answers behind it are not read
            await self.drop()
            raise

    async def _connected(self) -> Any:
        if self._transport is None:
            library = self._library
            retry = library.asyncio.retry.Retry(library.backoff.NoBackoff(), 0)
            kind = library.asyncio.SSLConnection if self._tls else library.asyncio.Connection
            self._connection = connection = kind(**self._settings, retry=retry)
            await connection.connect()
            self._transport = connection._writer.transport
            with suppress(library.exceptions.ResponseError):  # before Redis 7 `-@dangerous` takes this right, too
                await connection.send_packed_command(_packed(_NAME, connection.encoder.encode))
                await connection.read_response()
        elif self._transport.is_closing():
            # Before 3.14 `writelines` takes it for a live one: it fails otherwise, or leaves the descriptor with the
            # loop, where the next connection that gets it fails (gh-136234).
            raise self._library.exceptions.ConnectionError("the connection was lost")
        return self._connection


def _packed(command: tuple[Any, ...], encode: Callable[[Any], bytes]) -> bytes:
    """As it is sent (RESP, "Sending commands to a server"); for a commit the library takes twice as long."""
    words = [
        word if type(word) is bytes else b"%d" % word if type(word) is int else encode(word)  # bool is refused by it
        for word in command
    ]
    return b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words]))


def judged(name: str, facts: dict[str, str]) -> str:
    """Warn of what this Valkey cannot promise; gives what it says of its disk.

    Args:
        name: Of the server.
        facts: As `Link.facts` gives them.
    """
    persistence, aof = "unknown", facts.get("aof_enabled")
    if aof is not None:
        persistence = f"appendfsync {facts.get('appendfsync', 'unknown')}" if aof == "1" else "none"
    if persistence == "none":
        logger.warning("%s keeps no append-only file: what is accepted does not survive its crash", name)
    elif persistence != "appendfsync always":
        logger.warning("%s: %s: its crash can lose what was accepted last (appendfsync always would keep it)",
                       name, persistence)  # fmt: skip
    if facts.get("maxmemory", "0") != "0" and facts.get("maxmemory_policy", "noeviction") != "noeviction":
        logger.warning("%s evicts keys when its memory is full (%s): set maxmemory-policy noeviction",
                       name, facts["maxmemory_policy"])  # fmt: skip
    return persistence
