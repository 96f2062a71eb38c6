"""Rounds become medians, and nothing that was lost disappears in them."""

from __future__ import annotations

from bench.summary import medians, ratio, spread


def samples(*values: float, **more: object) -> list[dict[str, object]]:
    return [{"trial": "echo", "server": "a", "round": n, "rps": value, **more} for n, value in enumerate(values, 1)]


def test_the_median_of_the_rounds_counts() -> None:
    assert medians(samples(10.0, 1000.0, 12.0))["echo", "a"] == {"rounds": 3, "rps": 12.0}


def test_what_is_lost_in_one_round_is_not_averaged_away() -> None:
    rounds = samples(1.0, lost=0) + samples(1.0, lost=0) + samples(1.0, lost=3)
    assert medians(rounds)["echo", "a"]["lost"] == 3


def test_a_failed_round_leaves_the_others_and_its_reason() -> None:
    rounds = [*samples(5.0, 7.0), {"trial": "echo", "server": "a", "round": 3, "error": "it fell over"}]
    assert medians(rounds)["echo", "a"] == {"rounds": 2, "rps": 6.0, "error": "it fell over"}


def test_servers_and_trials_stay_apart() -> None:
    other = [{"trial": "echo", "server": "b", "round": 1, "rps": 1.0}]
    assert set(medians(samples(5.0) + other)) == {("echo", "a"), ("echo", "b")}


def test_words_are_kept_as_they_are() -> None:
    assert medians(samples(1.0, 2.0, said="complete"))["echo", "a"]["said"] == "complete"


def test_a_ratio_needs_both_sides() -> None:
    assert ratio({"cpu_us": 20.0}, {"cpu_us": 40.0}, "cpu_us") == 0.5
    assert ratio({"cpu_us": 20.0}, None, "cpu_us") is None
    assert ratio({"cpu_us": 20.0}, {"cpu_us": 0.0}, "cpu_us") is None
    assert ratio({}, {"cpu_us": 1.0}, "cpu_us") is None


def test_the_spread_is_told_by_the_median() -> None:
    assert spread(samples(90.0, 100.0, 120.0), "echo", "a", "rps") == 0.3
    assert spread(samples(90.0), "echo", "a", "rps") is None
