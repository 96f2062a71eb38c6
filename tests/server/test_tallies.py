"""Metrics of several processes on one page: counters only rise, gauges are the newest process's."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import REGISTRY
from prometheus_client.openmetrics import exposition, parser

from tailrace.server.tallies import Tallies, families_of


class Worker:
    """A process's registry, and numbers in it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls.", ["tool"], registry=self.registry)
        self.open = Gauge("open", "Sessions.", registry=self.registry)
        self.seconds = Histogram("seconds", "Time.", buckets=(1.0, 2.0), registry=self.registry)


class Page:
    def __init__(self, metrics: Any) -> None:
        self._metrics = metrics

    def collect(self) -> Any:
        return self._metrics


def read(tallies: Tallies, *answered: int) -> dict[str, float]:
    """The page by its lines, as Prometheus reads them: strictly."""
    page = Page(tallies.families(answered))
    text = exposition.generate_latest(page).decode()  # type: ignore[arg-type]
    list(parser.text_string_to_metric_families(text))
    lines = generate_latest(page).decode().splitlines()  # type: ignore[arg-type]
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_each_worker_has_its_own_series() -> None:
    tallies, one, two = Tallies(), Worker(), Worker()
    one.calls.labels("brew").inc(3)
    two.calls.labels("brew").inc(4)
    tallies.take(1, 0, families_of(one.registry))
    tallies.take(2, 1, families_of(two.registry))
    page = read(tallies, 1, 2)
    assert page['calls_total{tool="brew",worker="0"}'] == 3
    assert page['calls_total{tool="brew",worker="1"}'] == 4


def test_counters_of_a_worker_rise_through_its_replacement() -> None:
    tallies, old, new = Tallies(), Worker(), Worker()
    old.calls.labels("brew").inc(3)
    old.seconds.observe(1.5)
    old.open.set(9)
    tallies.take(1, 0, families_of(old.registry))
    new.calls.labels("brew").inc(2)
    new.seconds.observe(0.5)
    new.open.set(1)
    tallies.take(2, 0, families_of(new.registry))
    both = read(tallies, 1, 2)
    assert both['calls_total{tool="brew",worker="0"}'] == 5
    assert both['open{worker="0"}'] == 1
    old.calls.labels("brew").inc()
    tallies.take(1, 0, families_of(old.registry))  # what it says at its end
    tallies.end(1)
    tallies.end(1)
    after = read(tallies, 2)
    assert after['calls_total{tool="brew",worker="0"}'] == 6
    assert after['seconds_bucket{le="1.0",worker="0"}'] == 1
    assert after['seconds_bucket{le="+Inf",worker="0"}'] == after['seconds_count{worker="0"}'] == 2
    assert after['seconds_sum{worker="0"}'] == 2.0


def test_one_that_does_not_answer_keeps_its_counters_and_shows_no_gauges() -> None:
    tallies, worker = Tallies(), Worker()
    worker.calls.labels("brew").inc(3)
    tallies.take(1, 0, families_of(worker.registry))
    page = read(tallies)
    assert page['calls_total{tool="brew",worker="0"}'] == 3
    assert 'open{worker="0"}' not in page
    tallies.end(1)
    assert read(tallies)['calls_total{tool="brew",worker="0"}'] == 3


def test_a_label_of_the_programs_own_is_not_lost() -> None:
    registry = CollectorRegistry()
    Gauge("mine", "Mine.", ["worker"], registry=registry).labels("bee").set(1)
    tallies = Tallies()
    tallies.take(1, 0, families_of(registry))
    assert read(tallies, 1) == {'mine{exported_worker="bee",worker="0"}': 1}


@pytest.mark.may_block  # /proc
def test_what_a_process_says_of_itself_is_there_once_for_each_worker() -> None:
    tallies = Tallies()
    tallies.take(1, 0, families_of(REGISTRY))
    assert any(name.startswith("python_info{") for name in read(tallies, 1))
