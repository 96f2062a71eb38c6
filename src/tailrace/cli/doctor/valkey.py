"""A Valkey or Redis behind `--store valkey://`: asked for its facts (`valkey_facts` judges them), tried with a commit.

Everything is read, but for a handful of commits under a service name of the doctor's own (`PROBE`), made by the store
itself: they show that its commands and scripts are allowed, and how long one takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from tailrace.cli.doctor.findings import Finding, ok, risk, warn
from tailrace.cli.doctor.valkey_facts import Facts, judge

if TYPE_CHECKING:
    from tailrace.stores.valkey_link import Link

__all__ = ["PROBE", "examine_valkey", "look_for_slot"]

PROBE = "tailrace-doctor"  # the service whose keys the probe writes, and removes again
_LIMIT = 5.0  # seconds for one answer
_PROBE_LIMIT = 30.0  # seconds for the probe as a whole: another doctor's lease, and the commits
_COMMITS = 20
_SLOW = 0.010  # seconds of a commit
_SECTIONS = ("server", "memory", "persistence", "replication", "cluster")
_SETTINGS = ("appendfsync", "no-appendfsync-on-rewrite", "save", "min-replicas-to-write")
_MOST_KEYS = 100_000  # looked at to remove what the probe wrote
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
        found.append(await _probe(link, url))
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


async def _probe(link: Link, url: str) -> Finding:
    """A few commits by the store itself."""
    from tailrace.errors import StoreBusy, TailraceError

    try:
        async with asyncio.timeout(_PROBE_LIMIT):
            took = await _commit(url)
            await _remove(link)
    except StoreBusy:
        return warn(link.name, "commit", "another doctor is at work here", "Try again in a few seconds.")
    except (TailraceError, TimeoutError) as error:
        saw = _short(error, link.name) or f"none within {_PROBE_LIMIT:g} s"
        return risk(
            link.name,
            "commit",
            saw,
            "A server could accept no call here: allow its user what is refused, on the keys {tailrace:*}:*.",
        )
    median, worst = sorted(took)[len(took) // 2], max(took)
    saw = f"{median * 1000:.1f} ms in the middle of {len(took)}, {worst * 1000:.1f} ms the slowest"
    if median > _SLOW:
        return warn(
            link.name,
            "commit",
            saw,
            "Every call over HTTP+SSE, every one of more than 50 ms and every key waits for a commit: bring it "
            "nearer, or look at its disk.",
        )
    return ok(link.name, "commit", saw)


async def _commit(url: str) -> list[float]:
    from tailrace.core.ports import DropEntry, PutEntry
    from tailrace.errors import StoreError
    from tailrace.server import make_store

    store = make_store(url, PROBE)
    await store.open(wait=6.0)
    took: list[float] = []
    try:
        for _ in range(_COMMITS):
            began = time.perf_counter()
            store.write([PutEntry("doctor", "probe", b"x" * 512, time.time() + 60)])
            await store.flush()
            took.append(time.perf_counter() - began)
        store.write([DropEntry("doctor", "probe")])
        await store.flush()
        if store.failure is not None or store.statistics()["failed"]:
            raise store.failure or StoreError("a commit failed")
    finally:
        await store.close()
    return took


async def _remove(link: Link) -> None:
    """Remove what the probe left: its format, its token, its secret. What cannot be found is a few hundred bytes."""
    from tailrace.errors import StoreError

    mine = f"{{tailrace:{quote(PROBE, safe='')}}}:*"
    cursor, seen = b"0", 0
    with contextlib.suppress(StoreError):
        while seen < _MOST_KEYS:
            cursor, keys = await link.ask("SCAN", cursor, "MATCH", mine, "COUNT", "1000")
            if keys:
                await link.ask("UNLINK", *keys)
            seen += 1000
            if cursor == b"0":
                return


def _short(error: Exception, name: str) -> str:
    return str(error).removeprefix(f"{name}: ").removeprefix(f"{name} ")
