"""What is measured: each trial with its sizes, and the one figure of it by which servers are compared."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["HEADLINES", "MORE_RATIOS", "TRIALS", "Headline", "Trial", "chosen"]


@dataclass(frozen=True, slots=True)
class Headline:
    """The figure a kind of trial is about."""

    key: str
    title: str
    more_is_better: bool = False


HEADLINES = {
    "calls": Headline("cpu_us", "CPU µs a call"),
    "burst": Headline("per_second", "notifications/s that arrived", more_is_better=True),
    "idle": Headline("kb_each", "kB a session"),
    "broadcast": Headline("per_second", "deliveries/s", more_is_better=True),
    "slow": Headline("rps", "calls/s of the others", more_is_better=True),
    "resume": Headline("per_second", "replayed events/s", more_is_better=True),
}

# What ratios are printed of beside the headline.
MORE_RATIOS = {"calls": (Headline("rps", "calls/s", more_is_better=True),)}


@dataclass(frozen=True, slots=True)
class Trial:
    """One kind of work at one size.

    Args:
        name: For the command line and the results.
        title: For people.
        kind: A key of `HEADLINES`, and the load generator's `-trial`.
        era: sessions, streams, modern, sse or stdio: the load generator's `-era`.
        servers: The names of the servers that take part; empty: all that speak this era.
        seconds: Measured time; `warmup` comes before it.
        section: Of the report: a key of `bench.report.SECTIONS`.
        rounds: It takes part in so many of a run's rounds at most: bytes hardly vary, and some trials take long.
        quick: Whether `make bench-quick` has it too, and then its other sizes.
        each: A server has a core, and so many clients, for each of its workers; the load generator shares those cores.
        flags: More flags of the load generator.
    """

    name: str
    title: str
    kind: str
    era: str
    servers: tuple[str, ...] = ()
    seconds: float = 2.5
    warmup: float = 0.7
    section: str = "peers"
    rounds: int = 3
    quick: bool = False
    each: bool = False
    flags: dict[str, str] = field(default_factory=dict)
    quick_flags: dict[str, str] = field(default_factory=dict)

    @property
    def transport(self) -> str:
        """What a peer's server is told to serve."""
        return {"sessions": "http", "streams": "http"}.get(self.era, self.era)


# A worker has a session (of the system) of its own, and so its own share of a busy machine: all of these are workers.
_ONE_WORKER = ("tailrace-memory-1", "tailrace-sqlite-1", "tailrace-valkey")
_STORES = (*_ONE_WORKER, "tailrace-valkey-own", "tailrace-valkey-other", "tailrace-valkey-any")
_DURABLE = ("tailrace-sqlite", "tailrace", "mcp-go", "mcp")
_MANY = ("tailrace", "mcp-go", "go-sdk")
_FEW = (*_MANY, "mcp")
# 10,000 connections is the default cap of Tailrace; ten of them are the generator's own.
_TEN_THOUSAND = {"sessions": "9990", "hold": "30s", "limit": "60s"}

TRIALS = (
    Trial("echo", "Echo, Streamable HTTP with sessions, 8 clients", "calls", "sessions", quick=True),
    Trial("echo-modern", "Echo, the stateless 2026-07-28, 8 clients", "calls", "modern", quick=True),
    Trial("echo-sse", "Echo, HTTP+SSE, 8 clients", "calls", "sse", quick=True),
    Trial("echo-stdio", "Echo, stdio, 8 calls in flight", "calls", "stdio", quick=True),
    Trial("structured", "5 kB of typed arguments, Streamable HTTP, 8 clients", "calls", "sessions", _FEW, rounds=1,
          flags={"tool": "structured"}),
    Trial("burst", "Bursts of 2,000 notifications, Streamable HTTP, 4 clients", "burst", "sessions", quick=True,
          flags={"clients": "4", "count": "2000"}),
    Trial("burst-sse", "Bursts of 2,000 notifications, HTTP+SSE, 4 clients", "burst", "sse", _FEW, rounds=1,
          flags={"clients": "4", "count": "2000"}),
    Trial("idle", "1,000 idle sessions, Streamable HTTP", "idle", "sessions", quick=True, rounds=1,
          flags={"sessions": "1000", "hold": "2s"}, quick_flags={"sessions": "300", "hold": "1s"}),
    Trial("idle-streams", "1,000 idle sessions with an open GET each, Streamable HTTP", "idle", "streams", _FEW,
          rounds=1, flags={"sessions": "1000", "hold": "2s"}),
    Trial("idle-sse", "1,000 idle sessions, HTTP+SSE", "idle", "sse", _FEW, rounds=1,
          flags={"sessions": "1000", "hold": "2s"}),
    Trial("idle-10k", "9,990 idle sessions, Streamable HTTP", "idle", "sessions", _MANY, rounds=1,
          flags={**_TEN_THOUSAND, "hold": "5s"}),
    Trial("idle-streams-10k", "9,990 idle sessions with an open GET each, Streamable HTTP", "idle", "streams", _MANY,
          rounds=1, flags=_TEN_THOUSAND),
    Trial("broadcast", "Broadcast of 20 notifications to 1,000 streams, Streamable HTTP", "broadcast", "streams", _FEW,
          flags={"sessions": "1000", "count": "20", "limit": "90s"}),
    Trial("durable-broadcast", "Broadcast of 20 notifications to 1,000 streams, Streamable HTTP; durable on SQLite",
          "broadcast", "streams", ("tailrace-sqlite", "tailrace", "mcp-go"), rounds=1,
          flags={"sessions": "1000", "count": "20", "limit": "90s"}),
    Trial("slow-reader", "8 clients beside one that does not read its stream, Streamable HTTP", "slow", "sessions",
          _FEW, flags={"count": "1000000", "size": "64", "limit": "8s"}),
    Trial("durable-1", "Echo, HTTP+SSE, 1 client; durable on SQLite", "calls", "sse", _DURABLE, rounds=1,
          flags={"clients": "1"}),
    Trial("durable-8", "Echo, HTTP+SSE, 8 clients; durable on SQLite", "calls", "sse", _DURABLE),
    Trial("durable-64", "Echo, HTTP+SSE, 64 clients; durable on SQLite", "calls", "sse", _DURABLE, quick=True,
          flags={"clients": "64"}),
    Trial("resume", "Resume of a stream with 10,000 events, Streamable HTTP", "resume", "sessions", _FEW, rounds=1,
          flags={"count": "10000", "size": "0", "limit": "60s", "resume-wait": "4s"}),
    *(
        Trial(f"growth-{n}", f"Echo, Streamable HTTP, {n:,} sessions on a connection each, 8 calls in flight"
              if n > 8 else f"Echo, Streamable HTTP, {n} session", "calls", "sessions", _MANY, rounds=1,
              flags={"sessions": str(n), "clients": str(min(n, 8))})
        for n in (1, 10, 100, 1000)
    ),
    *(
        Trial(f"workers-{n}", f"Echo, the stateless 2026-07-28, {n} clients", "calls", "modern",
              ("tailrace-1", "tailrace-2"), section="workers", flags={"clients": str(n)})
        for n in (8, 32)
    ),
    # On a machine of two cores one worker has a core to itself, beside a load generator that has the other; two workers
    # share both cores with it. With the same for each worker only the workers differ.
    *(
        Trial(f"workers-each-{n}", f"Echo, the stateless 2026-07-28, a core and {n} clients for each worker", "calls",
              "modern", ("tailrace-1", "tailrace-2"), section="workers", each=True, flags={"clients": str(n)})
        for n in (8, 32)
    ),
    # A worker that has more to do than time serves several calls a turn of its loop, which costs less a call; two that
    # share that load do so less often. At a rate that one serves with ease, two cost what they cost by themselves.
    Trial("workers-paced", "Echo, the stateless 2026-07-28, 32 clients, 8,000 calls a second in all", "calls", "modern",
          ("tailrace-1", "tailrace-2"), section="workers", flags={"clients": "32", "rate": "8000"}),
    *(
        Trial(f"stores-{n}", f"Echo, Streamable HTTP with sessions, {n} client{'s' if n > 1 else ''}", "calls",
              "sessions", _STORES, section="workers", quick=n > 1, flags={"clients": str(n)})
        for n in (1, 32)
    ),
    *(
        Trial(f"commits-{n}", f"Echo, HTTP+SSE, {n} clients: two commits a call", "calls", "sse",
              _ONE_WORKER, section="workers", flags={"clients": str(n)})
        for n in (8, 64)
    ),
)  # fmt: skip


def chosen(names: list[str], *, quick: bool) -> list[Trial]:
    """The trials of these names, or of this length where none are named.

    Raises:
        ValueError: There is no trial of that name.
    """
    if unknown := sorted(set(names) - {trial.name for trial in TRIALS}):
        raise ValueError(f"no trial {unknown[0]!r}; there are {', '.join(trial.name for trial in TRIALS)}")
    return [trial for trial in TRIALS if (trial.name in names if names else trial.quick or not quick)]
