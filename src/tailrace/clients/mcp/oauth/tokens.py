"""Tokens and client registrations, and where they are kept between runs of a program.

A store keeps text under keys, each value replaced whole. A registration's key is its issuer, and a token's value names
the one that gave it, so what one authorization server gave is never shown to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from msgspec import Struct

from tailrace.errors import AuthorizationError

__all__ = ["FileTokens", "MemoryTokens", "Registration", "Token", "TokenStore", "load", "save"]

T = TypeVar("T")


class Token(Struct, frozen=True, omit_defaults=True):
    """What an authorization server gave for one server.

    Attributes:
        issuer: Who gave it.
        access_token: What requests show.
        scopes: What was asked for, and what was granted where the answer said so.
        expires_at: Wall-clock time, in seconds; None: not said.
        resource: The identifier of the server that it is for, as it was sent.
    """

    issuer: str
    access_token: str
    refresh_token: str | None = None
    scopes: tuple[str, ...] = ()
    expires_at: float | None = None
    resource: str | None = None


class Registration(Struct, frozen=True, omit_defaults=True):
    """Who this client is to one authorization server.

    Attributes:
        method: How it authenticates at the token endpoint.
        redirect_uri: Where it was registered to be answered; None: anywhere that the server accepts.
        expires_at: When the secret ends, as wall-clock time in seconds; 0: never.
        dynamic: It was registered by this program, and can be once more.
    """

    client_id: str
    client_secret: str | None = None
    method: str = "none"
    redirect_uri: str | None = None
    expires_at: float = 0
    dynamic: bool = False


class TokenStore(Protocol):
    """Keeps tokens and registrations, e.g. in a keyring. They are secrets. What it raises fails the authorization."""

    async def load(self, key: str) -> str | None:
        """What was saved last under `key`."""
        ...

    async def save(self, key: str, value: str | None) -> None:
        """Replace it; None removes it."""
        ...


class MemoryTokens:
    """Keeps them as long as the object lives, for all clients that share it."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    async def load(self, key: str) -> str | None:
        """What was saved last."""
        return self._values.get(key)

    async def save(self, key: str, value: str | None) -> None:
        """Replace it."""
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value


class FileTokens:
    """Keeps them in a JSON file that only its owner can read (0600), replaced whole.

    Of two processes that save at the same time the later one wins, with what it read before; the other one's user is
    asked again.

    Args:
        path: The file; its folder is made where it is not there (0700).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).expanduser()

    async def load(self, key: str) -> str | None:
        """What was saved last.

        Raises:
            AuthorizationError: The file cannot be read, or is none of ours.
        """
        return (await asyncio.to_thread(self._read)).get(key)

    async def save(self, key: str, value: str | None) -> None:
        """Replace it.

        Raises:
            AuthorizationError: The file cannot be written.
        """
        await asyncio.to_thread(self._write, key, value)

    def _read(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            raise AuthorizationError(f"the tokens in {self._path} cannot be read: {error}") from error

    def _write(self, key: str, value: str | None) -> None:
        values = {**self._read(), key: value}
        kept = {key: value for key, value in values.items() if value is not None}
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name)  # it makes them 0600
            try:
                with open(descriptor, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(kept)))
                os.replace(name, self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
        except OSError as error:
            raise AuthorizationError(f"the tokens cannot be kept in {self._path}: {error}") from error


async def load(store: TokenStore, key: str, kind: type[T]) -> T | None:
    """What a store has under `key`; what cannot be read is as good as nothing."""
    text = await store.load(key)
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(text, type=kind) if text is not None else None
    return None


async def save(store: TokenStore, key: str, value: Struct | None) -> None:
    """Keep it under `key`; None removes it."""
    await store.save(key, msgspec.json.encode(value).decode() if value is not None else None)
