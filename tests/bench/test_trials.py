"""The tables of the benchmark agree with each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.servers import HERE, SERVERS, Missing, prepare
from bench.trials import HEADLINES, TRIALS, chosen


def test_names_are_unique() -> None:
    assert len({trial.name for trial in TRIALS}) == len(TRIALS)
    assert len({server.name for server in SERVERS}) == len(SERVERS)


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_trial_names_servers_that_are_there_and_can_speak_it(trial) -> None:
    named = {server.name: server for server in SERVERS}
    assert trial.kind in HEADLINES
    assert any(trial.transport in server.transports for server in SERVERS)
    assert [name for name in trial.servers if trial.transport not in named[name].transports] == []


def test_the_quick_run_is_a_part_of_the_whole() -> None:
    quick, whole = chosen([], quick=True), chosen([], quick=False)
    assert whole == list(TRIALS)
    assert 0 < len(quick) < len(whole)


def test_trials_are_chosen_by_name() -> None:
    assert [trial.name for trial in chosen(["resume"], quick=True)] == ["resume"]
    with pytest.raises(ValueError, match="no trial 'nope'; there are echo"):
        chosen(["nope"], quick=False)


@pytest.mark.parametrize("server", ["mcp_server.py", "fastmcp_server.py", "mcp_go/main.go", "go_sdk/main.go"])
def test_every_peer_has_the_same_tools(server: str) -> None:
    text = (HERE / "peers" / server).read_text()
    wanted = {"echo", "structured", "burst", "slow"} | ({"broadcast"} if "fastmcp" not in server else set())
    assert {name for name in wanted if f"def {name}(" not in text and f'"{name}"' not in text} == set()


def test_what_cannot_be_set_up_says_why() -> None:
    def setup() -> None:
        raise Missing("pip install failed: no network")

    assert prepare(replace(SERVERS[0], setup=setup)) == "pip install failed: no network"
    assert prepare(SERVERS[0]) is None
