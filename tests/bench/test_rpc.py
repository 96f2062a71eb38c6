"""The RPC bench: its table of peers and trials is sound, and its page says what was measured and what was not."""

from __future__ import annotations

import pytest

from bench.report import between_markers
from bench.rpc import BEGIN, END, PEERS, TRIALS, Run, markdown

MACHINE = {"cpu": "a CPU", "cores": 2, "system": "Linux", "python": "3.11", "load": 0.1}


def run_with(load: float = 0.1, **figures: dict[str, float]) -> Run:
    run = Run(1, machine={**MACHINE, "load": load})
    for peer, sample in figures.items():
        run.samples["grpc-unary", peer.replace("_", "-")].append(sample)
    return run


def test_every_trial_has_a_peer_beside_tailrace_and_tailrace_speaks_all() -> None:
    for trial in TRIALS:
        speaking = [peer.name for peer in PEERS if trial.protocol in peer.speaks]
        assert speaking[0] == "tailrace"
        assert len(speaking) > 1
    assert len({trial.name for trial in TRIALS}) == len(TRIALS)


def test_a_table_has_the_ratio_to_each_peer() -> None:
    ours = {"rps": 16000.0, "cpu_us": 40.0, "p50_us": 1700.0, "p99_us": 6000.0, "rss_mb": 45.0}
    text = markdown(run_with(tailrace=ours, grpc_go=ours | {"cpu_us": 20.0}), "python -m bench.rpc")
    assert "| Tailrace | 16,000 | 40 | 1,700 | 6,000 | 45 | - |" in text
    assert "| grpc-go 1.85.0 | 16,000 | 20 | 1,700 | 6,000 | 45 | 2.00 |" in text
    assert "other work" not in text


def test_a_busy_machine_and_what_is_missing_are_confessed() -> None:
    run = run_with(load=3.0)
    run.missing["grpcio 1.85.1"] = "no wheel"
    text = markdown(run, "python -m bench.rpc")
    assert "**Measured beside other work** (load average 3.0" in text
    assert "Not measured: grpcio 1.85.1: no wheel" in text


def test_the_page_has_its_markers() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    assert between_markers(page, "new", BEGIN, END) == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter"
    with pytest.raises(ValueError, match="one pair of markers"):
        between_markers("nothing", "new", BEGIN, END)
