"""`tailrace doctor --store valkey://`: a real Valkey, configured badly on purpose, is told from a good one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tailrace.cli import main
from tailrace.cli.doctor.findings import Level
from tailrace.cli.doctor.valkey import look_for_slot
from tailrace.cli.doctor.valkey_facts import judge
from tailrace.errors import StoreError
from tests.rigs.valkey import Valkey

GOOD = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "min-replicas-to-write": "0",
    "save": "",
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Valkey]:
    with Valkey(appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def valkey(shared: Valkey) -> Iterator[Valkey]:
    """A good one, whose settings a test may spoil."""
    yield shared
    for setting, value in GOOD.items():
        shared.ask("CONFIG", "SET", setting, value)


def doctor(*words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the findings by name."""
    result = CliRunner().invoke(main, ["doctor", "--json", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}


def test_a_good_one_is_well_and_left_as_it_was(valkey: Valkey) -> None:
    valkey.ask("SET", "mine", "1")
    code, found = doctor("--store", valkey.url)
    levels = {name: finding["level"] for name, finding in found.items()}
    levels.pop("commit")  # how quick it is, is the machine's
    assert levels == dict.fromkeys(levels, "ok")
    assert code == 0
    assert set(levels) == {"version", "eviction", "memory", "persistence", "replicas", "access", "clock", "workers"}
    assert re.match(r"(Valkey|Redis) \d", found["version"]["saw"])
    assert "ms in the middle of 20" in found["commit"]["saw"]
    assert found["commit"]["level"] in {"ok", "warn"}
    assert valkey.ask("KEYS", "*") == [b"mine"], "what the probe wrote is gone"


@pytest.mark.parametrize(
    ("settings", "name", "level", "advice"),
    [
        ({"maxmemory": "200mb", "maxmemory-policy": "allkeys-lru"}, "eviction", "risk", "noeviction"),
        ({"maxmemory-policy": "allkeys-lru"}, "eviction", "warn", "noeviction"),
        ({"maxmemory": "200mb", "maxmemory-policy": "volatile-ttl"}, "eviction", "warn", "a lease"),
        ({"appendfsync": "everysec"}, "persistence", "warn", "the last second or two"),
        ({"appendfsync": "no"}, "persistence", "risk", "appendfsync always"),
        ({"appendfsync": "everysec", "no-appendfsync-on-rewrite": "yes"}, "persistence", "risk", "on-rewrite no"),
        ({"appendonly": "no", "save": "3600 1"}, "persistence", "risk", "since the last snapshot"),
        ({"appendonly": "no", "save": ""}, "persistence", "risk", "loses every session"),
    ],
    ids=lambda value: " ".join(f"{key}={each}" for key, each in value.items()) if isinstance(value, dict) else "",
)
def test_what_is_set_badly_is_named_with_what_it_costs(
    valkey: Valkey, settings: dict[str, str], name: str, level: str, advice: str
) -> None:
    for setting, value in settings.items():
        valkey.ask("CONFIG", "SET", setting, value)
    code, found = doctor("--store", valkey.url)
    assert found[name]["level"] == level
    assert advice in found[name]["advice"]
    assert code == (1 if level == "risk" else 0)


def test_strict_takes_warnings_for_risks(valkey: Valkey) -> None:
    valkey.ask("CONFIG", "SET", "appendfsync", "everysec")
    assert doctor("--store", valkey.url, "--strict")[0] == 1


def test_memory_that_runs_out_refuses_the_commits(valkey: Valkey) -> None:
    valkey.ask("CONFIG", "SET", "maxmemory", "100kb")  # less than it takes empty
    code, found = doctor("--store", valkey.url)
    assert code == 1
    assert found["memory"]["level"] == "risk"
    assert found["commit"]["level"] == "risk"
    assert "memory" in found["commit"]["saw"].lower()


def test_rights_that_are_missing_are_named(valkey: Valkey) -> None:
    valkey.ask("ACL", "SETUSER", "tight", "on", ">secret", "~{tailrace:*}:*", "+@all", "-config", "-info", "-script")
    valkey.ask("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-eval", "-evalsha")
    address = valkey.url.removeprefix("valkey://")
    code, found = doctor("--store", f"valkey://tight:secret@{address}")
    assert code == 0, "what it needs is allowed"
    assert found["rights"]["level"] == "warn"
    assert "INFO server" in found["rights"]["saw"]
    assert "CONFIG GET" in found["rights"]["saw"]
    assert "user tight" in found["access"]["saw"]
    code, found = doctor("--store", f"valkey://reader:secret@{address}")
    assert code == 1
    assert "evalsha" in found["commit"]["saw"]
    code, found = doctor("--store", f"valkey://reader:wrong@{address}")
    assert code == 1
    assert list(found) == ["reach"]


def test_the_rights_that_the_page_about_durability_gives_suffice(valkey: Valkey) -> None:
    page = (Path(__file__).parents[3] / "docs/durability.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("ACL SETUSER")]
    assert valkey.ask(*line.replace(">SECRET", ">secret").split()) == b"OK"
    code, found = doctor("--store", f"valkey://tailrace:secret@{valkey.url.removeprefix('valkey://')}")
    assert code == 0, found
    assert "rights" not in found


def test_a_replica_takes_no_writes_and_its_primary_does_not_wait_for_it(valkey: Valkey) -> None:
    with Valkey(replicaof=f"127.0.0.1 {valkey.port}") as replica:
        code, found = doctor("--store", replica.url)
        assert code == 1
        assert "the primary" in found["replicas"]["advice"]
        assert found["commit"]["level"] == "risk"


class Answering:
    """A link to a node of a cluster that answers every question in the same way."""

    name = "valkey://h:1/0"
    key = "{tailrace:orders}:owner"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def ask(self, *command: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "level", "said"),
    [
        (0, Level.OK, "on this node"),
        (StoreError("valkey://h:1/0: MOVED 866 10.0.0.7:6379"), Level.RISK, "10.0.0.7:6379"),
        (StoreError("valkey://h:1/0: CLUSTERDOWN Hash slot not served"), Level.RISK, "CLUSTERDOWN"),
    ],
)
async def test_in_a_cluster_the_node_that_has_the_keys_is_named(answer: object, level: Level, said: str) -> None:
    link: Any = Answering(answer)
    (finding,) = await look_for_slot(link, {"cluster_enabled": "1"})
    assert finding.level is level
    assert said in finding.saw
    assert await look_for_slot(link, {"cluster_enabled": "0"}) == []


def test_one_that_is_not_there_is_a_risk_and_a_url_that_is_none_wrong_use(valkey: Valkey) -> None:
    with Valkey() as gone:
        pass
    code, found = doctor("--store", gone.url)
    assert code == 1
    assert found["reach"]["level"] == "risk"
    assert CliRunner().invoke(main, ["doctor", "--store", "valkey://"]).exit_code == 2
    assert CliRunner().invoke(main, ["doctor", "--store", "postgres://h/1"]).exit_code == 2
    assert CliRunner().invoke(main, ["doctor"], env={"TAILRACE_STORE": None}).exit_code == 2


@pytest.mark.parametrize(
    ("facts", "name", "level"),
    [
        ({"redis_version": "6.0.16"}, "version", Level.RISK),
        ({"redis_version": "6.2.0"}, "version", Level.OK),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, "version", Level.OK),
        ({"aof_enabled": "1", "appendfsync": "always", "aof_last_write_status": "err"}, "persistence", Level.RISK),
        ({"aof_enabled": "1"}, "persistence", Level.WARN),
        ({"rdb_last_bgsave_status": "err"}, "snapshots", Level.RISK),
        ({"role": "master", "connected_slaves": "1"}, "replicas", Level.WARN),
        ({"role": "master", "connected_slaves": "2", "min-replicas-to-write": "1"}, "replicas", Level.OK),
        ({"used_memory": "96", "maxmemory": "100"}, "memory", Level.RISK),
        ({"used_memory": "85", "maxmemory": "100"}, "memory", Level.WARN),
    ],
)
def test_what_no_test_server_does_is_judged_by_what_it_would_say(
    facts: dict[str, str], name: str, level: Level
) -> None:
    (finding,) = judge("valkey://h", facts)
    assert (finding.name, finding.level) == (name, level)
    assert bool(finding.advice) is (level is not Level.OK)


@pytest.mark.parametrize(("version", "level"), [("6.2.7", Level.WARN), ("7.0.0", Level.OK)])
def test_before_redis_7_no_commit_waits_for_replicas(version: str, level: Level) -> None:
    facts = {"role": "master", "connected_slaves": "1", "min-replicas-to-write": "1", "redis_version": version}
    (finding,) = [one for one in judge("valkey://h", facts) if one.name == "replicas"]
    assert finding.level is level
