"""What follows from the facts that a Valkey or Redis tells of itself (`INFO`, `CONFIG GET`); nothing is asked here."""

from __future__ import annotations

from typing import TypeAlias

from tailrace.cli.doctor.findings import Finding, ok, risk, warn

__all__ = ["Facts", "judge"]

Facts: TypeAlias = dict[str, str]


def judge(name: str, facts: Facts) -> list[Finding]:
    """What follows from `INFO` and `CONFIG GET`, as far as they were answered."""
    looks = (_version, _eviction, _memory, _append_only, _snapshots, _replicas)
    return [finding for look in looks if (finding := look(name, facts)) is not None]


def _version(name: str, facts: Facts) -> Finding | None:
    product = "Valkey" if facts.get("server_name") == "valkey" or "valkey_version" in facts else "Redis"
    version = facts.get("valkey_version") or facts.get("redis_version")
    if version is None:
        return None
    if _numbers(version) < ((7, 0) if product == "Valkey" else (6, 2)):
        return risk(
            name,
            "version",
            f"{product} {version}",
            "Its scripts and streams lack what the store uses: take Valkey 7 or Redis 6.2, or newer.",
        )
    return ok(name, "version", f"{product} {version}")


def _eviction(name: str, facts: Facts) -> Finding | None:
    policy = facts.get("maxmemory_policy")
    if policy is None:
        return None
    saw = f"maxmemory-policy {policy}"
    limited = facts.get("maxmemory", "0") != "0"
    if policy == "noeviction":
        return ok(name, "eviction", f"{saw}: what is full refuses, and forgets nothing")
    if policy.startswith("volatile-"):
        return warn(
            name,
            "eviction",
            saw,
            "Only keys with a time to live are evicted: of ours a lease, whose owner then loses its sessions to "
            "another. Set maxmemory-policy noeviction.",
        )
    if limited:
        return risk(
            name,
            "eviction",
            saw,
            "When its memory is full it deletes sessions, answers and keys of calls that run once without a "
            "word: calls are lost, and run twice. Set maxmemory-policy noeviction.",
        )
    return warn(
        name,
        "eviction",
        f"{saw}, with no maxmemory",
        "Nothing is evicted as it is; as soon as somebody sets maxmemory, sessions and answers will be. Set "
        "maxmemory-policy noeviction.",
    )


def _memory(name: str, facts: Facts) -> Finding | None:
    if "used_memory" not in facts:
        return None
    used, limit = int(facts["used_memory"]), int(facts.get("maxmemory", "0"))
    if limit == 0:
        return ok(name, "memory", f"{_size(used)} used, no maxmemory: the machine's memory is the limit")
    saw = f"{_size(used)} of {_size(limit)} used"
    if used >= 0.95 * limit:
        return risk(name, "memory", saw, "A full Valkey refuses every commit, and so every new call: raise maxmemory.")
    if used >= 0.8 * limit:
        return warn(name, "memory", saw, "A full Valkey refuses every commit: raise maxmemory before it is.")
    return ok(name, "memory", saw)


def _append_only(name: str, facts: Facts) -> Finding | None:
    enabled = facts.get("aof_enabled")
    if enabled is None:
        return None
    if enabled != "1":
        saw = "no append-only file"
        if facts.get("save", ""):
            return risk(
                name,
                "persistence",
                f"{saw}, snapshots (save {facts['save']})",
                "Its crash loses all that was accepted since the last snapshot, minutes of it: set appendonly yes, "
                "appendfsync always.",
            )
        return risk(
            name,
            "persistence",
            f"{saw}, and no snapshots",
            "Its end, also an orderly one, loses every session, answer and key: set appendonly yes, appendfsync "
            "always.",
        )
    if facts.get("aof_last_write_status", "ok") != "ok":
        return risk(
            name,
            "persistence",
            "the last write to its append-only file failed",
            "Nothing new reaches its disk: look at its log and the disk.",
        )
    fsync = facts.get("appendfsync")
    saw = f"append-only file, appendfsync {fsync}"
    if fsync is None:
        return warn(
            name,
            "persistence",
            "append-only file; how often it is synced cannot be seen",
            "Unless appendfsync is always, its crash loses what was accepted last.",
        )
    if fsync == "always":
        return ok(name, "persistence", f"{saw}: what was confirmed is on its disk")
    if fsync == "no" or facts.get("no-appendfsync-on-rewrite") == "yes":
        more = " (not at all during a rewrite)" if fsync != "no" else ""
        return risk(
            name,
            "persistence",
            saw + more,
            "A crash of its machine loses half a minute of what was accepted, or more: set appendfsync always, "
            "no-appendfsync-on-rewrite no.",
        )
    return warn(
        name,
        "persistence",
        saw,
        "A crash of its machine (not of its process) loses what was accepted in the last second or two: set "
        "appendfsync always, or accept that.",
    )


def _snapshots(name: str, facts: Facts) -> Finding | None:
    if facts.get("rdb_last_bgsave_status", "ok") != "ok":
        return risk(
            name,
            "snapshots",
            "the last snapshot failed",
            "It refuses writes after that (stop-writes-on-bgsave-error), and so every new call: look at its log, "
            "its disk and its memory.",
        )
    return None


def _replicas(name: str, facts: Facts) -> Finding | None:
    role = facts.get("role")
    if role is None:
        return None
    if role == "slave":
        return risk(
            name,
            "replicas",
            f"a replica of {facts.get('master_host', 'another')}",
            "It takes no writes: give the address of the primary.",
        )
    replicas = int(facts.get("connected_slaves", "0"))
    if replicas == 0:
        return ok(name, "replicas", "none: its disk is the only copy")
    if facts.get("min-replicas-to-write", "0") == "0":
        return warn(
            name,
            "replicas",
            f"{replicas}, which are not waited for",
            "A failover loses what had not reached the replica that takes over, confirmed or not: "
            "min-replicas-to-write 1 bounds how much.",
        )
    if _numbers(facts.get("redis_version", "7.0")) < (7, 0):
        return warn(
            name,
            "replicas",
            f"{replicas}; min-replicas-to-write is not asked of scripts before Redis 7",
            "A failover loses what had not reached the replica that takes over, confirmed or not: take Redis 7, or "
            "Valkey, which refuse a commit while too few replicas are in step.",
        )
    return ok(name, "replicas", f"{replicas}, at least {facts['min-replicas-to-write']} in step")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number < 2**30 else f"{number / 2**30:.1f} GiB"
