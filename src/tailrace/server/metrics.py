"""`/metrics`: what a server counts, in the text form of Prometheus, or as OpenMetrics where that is asked for.

Nothing here counts: numbers are read where they are kept, when somebody asks, and `prometheus_client` writes them. What
the program itself counts with that library (and what it knows of the process) is part of the same page.
Labels have few values: tools, methods and topics of the service, never anything that a client made up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    REGISTRY,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from tailrace.protocols.mcp.http import not_allowed
from tailrace.server.health import READING
from tailrace.server.statistics import counts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from tailrace.core.exchange import Exchange
    from tailrace.server import Server
    from tailrace.telemetry import Times

__all__ = ["Metrics", "ServerCollector", "registry_of"]

_CALL = ("protocol", "method", "target")


class Metrics:
    """The page.

    Args:
        registry: What is on it.
    """

    def __init__(self, registry: Collector) -> None:
        self._registry = registry

    def handle(self, exchange: Exchange) -> None:
        """Reply to a scrape."""
        if exchange.method not in READING:
            return not_allowed(exchange, b"GET, HEAD")
        encode, content_type = choose_encoder(exchange.header(b"accept") or "")
        headers = ((b"content-type", content_type.encode()), (b"cache-control", b"no-store"))
        return exchange.respond(200, headers, encode(self._registry))


def registry_of(running: Server, times: Times) -> CollectorRegistry:
    """What one process has to show.

    Args:
        running: Whose numbers these are; it has started.
        times: What its meter has kept.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(running, times))
    registry.register(_Program())
    return registry


class _Program(Collector):
    """What is registered in the process by whoever uses `prometheus_client` there."""

    def collect(self) -> Iterable[Metric]:
        return REGISTRY.collect()


class ServerCollector(Collector):
    """Reads one server's numbers.

    Args:
        running: The server.
        times: What its meter has kept.
    """

    def __init__(self, running: Server, times: Times) -> None:
        self._running = running
        self._times = times

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        numbers = self._running.statistics()
        yield self._info(numbers)
        yield from self._calls(numbers["calls"])
        yield from self._sessions(numbers)
        yield from self._once()
        yield from self._detached(numbers["detached"])
        yield from self._outbox(numbers["outbox"])
        yield from self._store(numbers["store"])
        yield from self._threads()
        yield from self._connections()
        if "cluster" in numbers:
            yield from self._cluster(numbers["cluster"])

    def _info(self, numbers: Mapping[str, Any]) -> Metric:
        service = self._running.service
        about = {"service": service.name, "version": str(service.version), "store": str(numbers["store"]["name"])}
        return InfoMetricFamily("tailrace_server", "What this server serves.", value=about)

    def _calls(self, numbers: Mapping[str, Any]) -> Iterator[Metric]:
        yield _gauge("tailrace_calls_running", "Calls that are accepted and not answered.", numbers["running"])
        yield _counter("tailrace_calls_accepted", "Calls that were accepted.", numbers["accepted"])
        ended = CounterMetricFamily("tailrace_calls", "Requests that were answered.", labels=[*_CALL, "outcome"])
        for (operation, outcome), count in self._times.endings.items():
            ended.add_metric([*operation, outcome], count)
        yield ended
        seconds = HistogramMetricFamily(
            "tailrace_call_duration_seconds", "From a request's acceptance to its answer.", labels=_CALL
        )
        for operation, histogram in self._times.calls.items():
            seconds.add_metric(operation, list(histogram.buckets()), histogram.sum)
        yield seconds
        refused = CounterMetricFamily("tailrace_refused", "What was refused because of a limit.", labels=["limit"])
        for limit, count in self._running.tasks.refused.items():
            refused.add_metric([limit], count)
        yield refused
        yield _gauge("tailrace_tasks", "Tasks (MCP) that are kept, working or not.", numbers["tasks"])

    def _sessions(self, numbers: Mapping[str, Any]) -> Iterator[Metric]:
        sessions = numbers["sessions"]
        yield _gauge("tailrace_sessions_open", "Sessions that are open.", sessions["open"])
        yield _counter("tailrace_sessions_opened", "Sessions that were opened, or restored.", sessions["opened"])
        yield _counter("tailrace_sessions_restored", "Sessions that came back from the store.", sessions["restored"])
        yield _counter("tailrace_sessions_closed", "Sessions that were closed.", sessions["closed"])
        histogram = self._times.sessions
        yield HistogramMetricFamily(
            "tailrace_session_duration_seconds",
            "How long sessions were open in this process.",
            buckets=list(histogram.buckets()),
            sum_value=histogram.sum,
        )
        yield _gauge("tailrace_streams_open", "Streams that somebody reads.", numbers["streams"]["open"])
        resumes = CounterMetricFamily(
            "tailrace_resumes", "Streams that were read on with Last-Event-ID.", labels=["result"]
        )
        resumes.add_metric(["complete"], sessions["resumed"])
        resumes.add_metric(["gap"], sessions["gaps"])
        yield resumes
        yield _gauge("tailrace_log_bytes", "Bytes that streams keep for their readers.", numbers["log_bytes"]["held"])

    def _once(self) -> Iterator[Metric]:
        ledgers, counts = [part.endpoint.once.ledger for part in self._running.partitions], counts_of(self._running)
        yield _gauge("tailrace_once_keys", "Idempotency keys that are remembered.", sum(map(len, ledgers)))
        requests = CounterMetricFamily(
            "tailrace_once_requests", "Requests with an idempotency key, by what became of them.", labels=["result"]
        )
        for result in ("runs", "attached", "replayed", "refused"):
            requests.add_metric([result.removesuffix("s")], counts["keys"][result])
        yield requests

    def _detached(self, numbers: Mapping[str, Any]) -> Iterator[Metric]:
        yield _gauge("tailrace_detached_running", "Detached work that goes on.", numbers["running"])
        yield _counter("tailrace_detached_started", "Detached work that was begun.", numbers["started"])
        yield _counter("tailrace_detached_failed", "Detached work that raised an exception.", numbers["failed"])
        yield _counter("tailrace_detached_dropped", "Detached work that a shutdown cut off.", numbers["dropped"])

    def _outbox(self, numbers: Mapping[str, Any]) -> Iterator[Metric]:
        yield _gauge("tailrace_outbox_waiting", "Messages that wait for the broker.", numbers["waiting"])
        if "published" not in numbers:  # nothing is published here
            return
        yield _counter("tailrace_outbox_published", "Messages that the broker took.", numbers["published"])
        yield _counter("tailrace_outbox_failures", "Attempts that failed.", numbers["failures"])
        yield _gauge("tailrace_outbox_dead", "Messages in the store that were given up.", numbers["dead"])
        sending = HistogramMetricFamily(
            "tailrace_outbox_delivery_seconds",
            "How long the broker took for a message.",
            labels=["publisher", "topic", "outcome"],
        )
        for labels, histogram in self._times.deliveries.items():
            sending.add_metric(labels, list(histogram.buckets()), histogram.sum)
        yield sending

    def _store(self, numbers: Mapping[str, Any]) -> Iterator[Metric]:
        yield _gauge("tailrace_store_up", "1 while the store commits, 0 while it fails.", int(numbers["up"]))
        yield SummaryMetricFamily(
            "tailrace_store_commit_seconds",
            "Commits, and how long the oldest write of each has waited for it.",
            count_value=numbers["commits"],
            sum_value=numbers["commit_seconds"],
        )
        yield _gauge("tailrace_store_lag_seconds", "For how long writes wait and none is committed.", numbers["lag"])
        yield _gauge("tailrace_store_queued_bytes", "Bytes that wait to be committed.", numbers["queued_bytes"])
        yield _counter("tailrace_store_records", "Records that were committed.", numbers["records"])
        yield _counter("tailrace_store_failed", "Writes that could not be committed.", numbers["failed"])
        if "lost" in numbers:
            yield _counter("tailrace_store_lost", "Commits that Valkey confirmed, and forgot.", numbers["lost"])

    def _cluster(self, numbers: Mapping[str, Any]) -> Iterator[Metric]:
        """Of a member of several: what it owns, and what travels between it and the others."""
        yield _gauge("tailrace_cluster_members", "Members that own something.", numbers.get("members", 0))
        yield _gauge("tailrace_cluster_partitions", "Partitions that this member owns.", numbers["partitions"])
        stuck = "Partitions that no member could bring to life."
        yield _gauge("tailrace_cluster_partitions_stuck", stuck, numbers["stuck"])
        age = "Seconds since the oldest lease of this member was confirmed."
        yield _gauge("tailrace_cluster_lease_age_seconds", age, numbers["lease_age"])
        changes = CounterMetricFamily(
            "tailrace_cluster_partition_changes", "Partitions that came to this member, or went.", labels=["change"]
        )
        for change in ("adopted", "handed_over", "fenced", "retired", "failed_recoveries"):
            changes.add_metric([change.removesuffix("_recoveries")], numbers[change])
        yield changes
        running = GaugeMetricFamily(
            "tailrace_relay_running", "Requests at other members (out), and of others here (in).", labels=["direction"]
        )
        total = CounterMetricFamily("tailrace_relay_requests", "Requests that were relayed.", labels=["direction"])
        size = CounterMetricFamily("tailrace_relay_bytes", "Bytes of what was relayed.", labels=["direction"])
        for direction, now, ever in (("out", "asked", "forwarded"), ("in", "served", "taken")):
            running.add_metric([direction], numbers[now])
            total.add_metric([direction], numbers[ever])
            size.add_metric([direction], numbers[f"bytes_{direction}"])
        yield from (running, total, size)
        yield _counter("tailrace_relay_refused", "Requests that were one too many to be relayed.", numbers["refused"])
        yield _counter("tailrace_relay_lost", "Relayed requests and pieces that were lost.", numbers["lost"])
        waiting = "Requests for a partition that has no owner at the moment."
        yield _gauge("tailrace_relay_waiting", waiting, numbers["waiting"])
        awaited = "Requests that waited for another member's run of their key."
        yield _counter("tailrace_once_awaited", awaited, numbers["claims_awaited"])

    def _threads(self) -> Iterator[Metric]:
        threads = self._running.tasks.threads.statistics()
        yield _gauge("tailrace_threads_busy", "Threads in which a plain function runs.", threads["busy"])
        yield _gauge("tailrace_threads_waiting", "Plain functions that wait for a thread.", threads["waiting"])

    def _connections(self) -> Iterator[Metric]:
        listener = self._running.listener
        if listener is None:  # stdio, or another server moves the bytes
            return
        numbers = listener.statistics()
        yield _gauge("tailrace_http_connections", "Connections that are open.", numbers["connections"])
        for name, text in _LISTENER.items():
            yield _counter(f"tailrace_http_{name}", text, numbers[name])


_LISTENER = {
    "accepted": "Connections that were accepted.",
    "turned_away": "Connections that were one too many.",
    "requests": "Requests that were read.",
    "refused": "Requests that were no good HTTP, or over a limit.",
    "expired": "Connections that were closed because a limit of time was over.",
    "floods": "HTTP/2 connections that were closed because of a flood.",
}


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
