"""A Valkey or Redis behind `--store valkey://`: asked for its facts (`valkey_facts` judges them), tried with a commit.

Everything is read, but for a handful of commits and pieces under a service name of the doctor's own (`PROBE`), made by
what servers use: they show that its commands and scripts are allowed, and how long one takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from tailrace.cli.doctor.findings import Finding, ok, risk, warn
from tailrace.cli.doctor.valkey_facts import Facts, judge

if TYPE_CHECKING:
    from tailrace.stores.valkey_link import Link

__all__ = ["PROBE", "examine_valkey", "look_for_slot"]

PROBE = "tailrace-doctor"  # with a number behind it: the service whose keys the probe writes, and removes again
_LIMIT = 5.0  # seconds for one answer
_PROBE_LIMIT = 30.0  # seconds for the probe as a whole
_TIMES = 20
_SLOW = 0.010  # seconds of a commit
_SECTIONS = ("server", "memory", "persistence", "replication", "cluster")
_SETTINGS = ("appendfsync", "no-appendfsync-on-rewrite", "save", "min-replicas-to-write")
_FAR_APART = 1.0  # seconds between two clocks


async def examine_valkey(url: str, service: str) -> list[Finding]:
    """Look at the Valkey at `url`.

    Args:
        url: As `--store` takes it.
        service: The service whose keys are to be there; its slot is looked for in a cluster.

    Raises:
        DefinitionError: No such URL, or redis-py is not installed.
    """
    from tailrace.errors import StoreError
    from tailrace.stores.valkey_link import Link

    link = Link(url, service, timeout=_LIMIT)
    name = link.name
    try:
        try:
            await link.ask("PING")
        except StoreError as error:
            saw = _short(error, name)
            return [risk(name, "reach", saw, "No server can start on it: check the address, the password and TLS.")]
        facts, refused = await _facts(link)
        found = judge(name, facts)
        if refused:
            found.append(
                warn(
                    name,
                    "rights",
                    f"{', '.join(refused)}: not allowed here",
                    "What they would tell was not looked at; allow them to this user, or ask who runs it.",
                )
            )
        found += [await _transport(link, url), await _clock(link), *await look_for_slot(link, facts)]
        found += await _probe(link, url)
        return found
    finally:
        await link.drop()


async def _facts(link: Link) -> tuple[Facts, list[str]]:
    from tailrace.errors import StoreError

    facts: Facts = {}
    refused: list[str] = []
    for section in _SECTIONS:
        try:
            text = (await link.ask("INFO", section)).decode("utf-8", "replace")
        except StoreError:
            refused.append(f"INFO {section}")
            continue
        facts.update(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
    for setting in _SETTINGS:
        try:
            answer = await link.ask("CONFIG", "GET", setting)
        except StoreError:
            refused.append("CONFIG GET")
            break
        if len(answer) == 2:
            facts[setting] = answer[1].decode("utf-8", "replace")
    return facts, refused


async def _transport(link: Link, url: str) -> Finding:
    from tailrace.errors import StoreError
    from tailrace.transports.guard import is_loopback

    parts = urlsplit(url)
    encrypted, near = parts.scheme in ("valkeys", "rediss"), is_loopback(parts.hostname or "")
    user = "unknown"
    with contextlib.suppress(StoreError):
        user = (await link.ask("ACL", "WHOAMI")).decode()
    saw = f"{'TLS' if encrypted else 'no TLS'}, user {user}, {'a' if parts.password else 'no'} password"
    if not parts.password and not near and "cert=" not in parts.query:
        return risk(
            link.name,
            "access",
            saw,
            "Whoever reaches the port reads and changes sessions and answers: give it a user with a password "
            "(ACL), and a network of its own.",
        )
    if not encrypted and not near:
        return warn(
            link.name,
            "access",
            saw,
            "Password, arguments and answers cross the network in clear: use valkeys://, unless the network "
            "itself is encrypted.",
        )
    return ok(link.name, "access", saw)


async def _clock(link: Link) -> Finding:
    from tailrace.errors import StoreError

    before = time.time()
    try:
        seconds, micros = await link.ask("TIME")
    except StoreError:
        return warn(link.name, "clock", "TIME is not allowed", "Whether its clock and ours agree was not looked at.")
    theirs, after = int(seconds) + int(micros) / 1e6, time.time()
    apart = max(before - theirs, theirs - after, 0.0)
    if apart > _FAR_APART:
        return warn(
            link.name,
            "clock",
            f"{apart:.1f} s from this machine's",
            "Keys of calls that run once, tasks and messages expire by the servers' clocks: run NTP on all machines.",
        )
    return ok(link.name, "clock", f"within {_FAR_APART:g} s of this machine's")


async def look_for_slot(link: Link, facts: Facts) -> list[Finding]:
    """In a cluster: whether the keys of the service are on this node."""
    from tailrace.errors import StoreError

    if facts.get("cluster_enabled") != "1":
        return []
    try:
        await link.ask("EXISTS", link.key)
    except StoreError as error:
        if "MOVED" not in str(error):
            return [risk(link.name, "cluster", str(error), "The cluster does not serve the slot of this service.")]
        node = str(error).split()[-1]
        return [
            risk(
                link.name,
                "cluster",
                f"the keys of this service are on {node}",
                "Redirections are not followed: give that node's address (and the service's name with --service).",
            )
        ]
    return [ok(link.name, "cluster", "the keys of this service are on this node; all of them share one slot")]


async def _probe(link: Link, url: str) -> list[Finding]:
    """A few commits, and a few pieces from one server to another, by what servers use for them."""
    from tailrace.errors import TailraceError

    service = f"{PROBE}-{secrets.token_hex(4)}"
    allow = "allow its user what is refused, on the keys {tailrace:*}:*."
    name = "commit"
    try:
        async with asyncio.timeout(_PROBE_LIMIT):
            commits = await _commit(url, service)
            name = "workers"
            pieces = await _send(url, service)
    except (TailraceError, TimeoutError) as error:
        saw = _short(error, link.name) or f"none within {_PROBE_LIMIT:g} s"
        return [risk(link.name, name, saw, f"A server could accept no call here: {allow}")]
    finally:
        await _remove(link, service)
    saw = _spread(commits)
    found = [ok(link.name, "commit", saw)]
    if _middle(commits) > _SLOW:
        found = [
            warn(
                link.name,
                "commit",
                saw,
                "Every call over HTTP+SSE, every one of more than 50 ms and every key waits for a commit: bring it "
                "nearer, or look at its disk.",
            )
        ]
    return [*found, ok(link.name, "workers", f"a piece reaches another server in {_spread(pieces)}")]


async def _commit(url: str, service: str) -> list[float]:
    from tailrace.core.ports import DropEntry, PutEntry
    from tailrace.errors import StoreError
    from tailrace.server import make_membership

    membership = make_membership(url, service)
    took: list[float] = []
    await membership.join()
    try:
        store = await membership.take()
        try:
            for _ in range(_TIMES):
                began = time.perf_counter()
                store.write([PutEntry("doctor", "probe", b"x" * 512, time.time() + 60)])
                await store.flush()
                took.append(time.perf_counter() - began)
            store.write([DropEntry("doctor", "probe")])
            await store.flush()
            if store.failure is not None or store.statistics()["failed"]:
                raise store.failure or StoreError("a commit failed")
        finally:
            await membership.retire(store)
    finally:
        await membership.leave()
    return took


async def _send(url: str, service: str) -> list[float]:
    from tailrace.server import make_membership

    one, other = make_membership(url, service), make_membership(url, service)
    took: list[float] = []
    try:
        await one.join()
        await other.join()
        for _ in range(_TIMES):
            began = time.perf_counter()
            one.inbox.send(other.member, b"x" * 512)
            await other.inbox.receive()
            took.append(time.perf_counter() - began)
    finally:
        await other.leave()
        await one.leave()
    return took


async def _remove(link: Link, service: str) -> None:
    """Remove what the probe left: its format, its secret. What cannot be found in time is a few hundred bytes."""
    from tailrace.errors import StoreError

    mine = f"{{tailrace:{quote(service, safe='')}}}:*"
    cursor = b"0"
    with contextlib.suppress(StoreError, TimeoutError):
        async with asyncio.timeout(_LIMIT):
            while True:
                cursor, keys = await link.ask("SCAN", cursor, "MATCH", mine, "COUNT", "10000")
                if keys:
                    await link.ask("UNLINK", *keys)
                if cursor == b"0":
                    return


def _middle(took: list[float]) -> float:
    return sorted(took)[len(took) // 2]


def _spread(took: list[float]) -> str:
    return f"{_middle(took) * 1000:.1f} ms in the middle of {len(took)}, {max(took) * 1000:.1f} ms the slowest"


def _short(error: Exception, name: str) -> str:
    return str(error).removeprefix(f"{name}: ").removeprefix(f"{name} ")
