"""The metrics of several workers on one page, each with the label `worker`.

A worker's counters only rise, whichever process it is: what a process counted before its end is kept, and its
successor's numbers are added to that. While one replaces the other both count. Gauges, and what a process says of
itself, are the newest process's that has just answered.

Families travel as plain data, and become `prometheus_client`'s again where the page is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct
from prometheus_client.metrics_core import Metric

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

__all__ = ["Family", "Sample", "Tallies", "families_of"]

Labels: TypeAlias = tuple[tuple[str, str], ...]
_SUMMED = frozenset({"counter", "histogram", "summary"})
_WORKER = "worker"
_MAX_SERIES = 200_000  # kept of a worker's processes that have ended


class Sample(Struct, frozen=True, array_like=True):
    """One number."""

    name: str
    labels: Labels
    value: float


class Family(Struct, frozen=True, array_like=True):
    """A metric with its samples, in the order in which they are written."""

    name: str
    text: str
    kind: str
    unit: str
    samples: list[Sample]


def families_of(registry: Collector) -> list[Family]:
    """What a process has to show, without the times at which its counters began, and without exemplars."""
    return [
        Family(
            family.name,
            family.documentation,
            family.type,
            family.unit,
            [
                Sample(sample.name, tuple(sorted(sample.labels.items())), float(sample.value))
                for sample in family.samples
                if not (family.type in _SUMMED and sample.name == f"{family.name}_created")
            ],
        )
        for family in registry.collect()
    ]


class _Process:
    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.families: list[Family] = []


class Tallies:
    """What all processes have told of themselves, the ended ones included."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}  # by their serial numbers, the newest last
        self._ended: dict[int, dict[tuple[str, Sample], float]] = {}  # by worker
        self._heads: dict[str, Family] = {}

    def take(self, serial: int, worker: int, families: list[Family]) -> None:
        """What a process shows now."""
        known = self._processes.setdefault(serial, _Process(worker))
        known.families = families
        for family in families:
            if family.name not in self._heads:
                self._heads[family.name] = Family(family.name, family.text, family.kind, family.unit, [])

    def end(self, serial: int) -> None:
        """A process has ended: what it has counted stays. Idempotent."""
        process = self._processes.pop(serial, None)
        if process is None:
            return
        ended = self._ended.setdefault(process.worker, {})
        for key, value in _counted(process.families):
            if key in ended or len(ended) < _MAX_SERIES:
                ended[key] = ended.get(key, 0.0) + value

    def families(self, answered: Iterable[int]) -> list[Metric]:
        """All of it.

        Args:
            answered: The processes whose numbers are new; of the others only what they have counted is shown.
        """
        page: dict[str, Metric] = {}
        newest = {self._processes[serial].worker: serial for serial in sorted(answered) if serial in self._processes}
        for worker in sorted({*self._ended, *(process.worker for process in self._processes.values())}):
            totals = dict(self._ended.get(worker, {}))
            for process in self._processes.values():
                if process.worker == worker:
                    for key, value in _counted(process.families):
                        totals[key] = totals.get(key, 0.0) + value
            for (name, sample), value in totals.items():
                self._add(page, name, sample, value, worker)
            if worker in newest:
                for family in self._processes[newest[worker]].families:
                    for sample in family.samples:
                        if not _is_counted(family, sample):
                            self._add(page, family.name, sample, sample.value, worker)
        return [page[name] for name in self._heads if name in page]

    def _add(self, page: dict[str, Metric], name: str, sample: Sample, value: float, worker: int) -> None:
        metric = page.get(name)
        if metric is None:
            head = self._heads[name]
            metric = page[name] = Metric(head.name, head.text, head.kind, head.unit)
        labels = {f"exported_{_WORKER}" if label == _WORKER else label: text for label, text in sample.labels}
        metric.add_sample(sample.name, {**labels, _WORKER: str(worker)}, value)


def _counted(families: Iterable[Family]) -> Iterator[tuple[tuple[str, Sample], float]]:
    for family in families:
        for sample in family.samples:
            if _is_counted(family, sample):
                yield (family.name, Sample(sample.name, sample.labels, 0.0)), sample.value


def _is_counted(family: Family, sample: Sample) -> bool:
    return family.kind in _SUMMED and all(label != "quantile" for label, _ in sample.labels)
