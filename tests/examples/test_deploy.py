"""The examples of deployment hold together: the times, limits and names in them fit each other and the server's own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailrace.cli.run import run_command
from tailrace.core.settings import Settings
from tests.rigs.debian import NGINX, command_or_skip

FOLDER = Path(__file__).parents[2] / "examples/deploy"
DEFAULTS: dict[str, Any] = {parameter.name or "": parameter.default for parameter in run_command.params}
VARIABLES = {str(parameter.envvar) for parameter in run_command.params if parameter.envvar}
END = 2  # seconds that a server may take beside its drain: docs/promises.md
PARENT = 3  # seconds that the parent of `--workers` grants beyond
CONNECTION_IDLE = Settings().idle_time
STREAMS = Settings().server_log
HOST = "agents.example.com"


def text(name: str) -> str:
    return (FOLDER / name).read_text()


def seconds(written: str | int) -> float:
    """``45``, ``3600s``."""
    return float(str(written).removesuffix("s"))


# --- all of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_every_variable_is_one_of_the_server(name: str) -> None:
    assert set(re.findall(r"\bTAILRACE_[A-Z_]+\b", text(name))) <= VARIABLES


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_the_page_about_deployment_shows_the_way_to_it(name: str) -> None:
    assert f"deploy/{name}" in (FOLDER.parents[1] / "docs/deployment.md").read_text()


# --- Kubernetes -----------------------------------------------------------------------------------------


@pytest.fixture
def parts() -> dict[str, Any]:
    """The documents of kubernetes.yaml by their kind."""
    found = {document["kind"]: document for document in yaml.safe_load_all(text("kubernetes.yaml"))}
    assert set(found) == {"Secret", "PersistentVolumeClaim", "Deployment", "Service", "Ingress"}
    return found


@pytest.fixture
def pod(parts: dict[str, Any]) -> dict[str, Any]:
    return parts["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return container


@pytest.fixture
def env(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def test_a_pod_has_time_for_all_of_its_drain(
    pod: dict[str, Any], container: dict[str, Any], env: dict[str, str]
) -> None:
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = before + float(env["TAILRACE_SHUTDOWN_DELAY"]) + float(env["TAILRACE_DRAIN"]) + END
    assert pod["terminationGracePeriodSeconds"] >= needed + 5
    readiness = container["readinessProbe"]
    noticed = readiness["periodSeconds"] * readiness["failureThreshold"]
    assert float(env["TAILRACE_SHUTDOWN_DELAY"]) >= noticed, "it is out of the endpoints before it refuses"


def test_a_pod_may_wait_for_the_store_of_the_one_before_it(container: dict[str, Any], env: dict[str, str]) -> None:
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > float(env["TAILRACE_STORE_WAIT"]) + 10


def test_probes_ask_what_they_mean_under_a_name_that_is_served(container: dict[str, Any], env: dict[str, str]) -> None:
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/healthz",  # not /readyz: a server that drains would be killed for it
    }
    for probe in probes.values():
        assert probe["httpHeaders"] == [{"name": "Host", "value": env["TAILRACE_ALLOW_HOST"]}]


def test_one_pod_uses_a_sqlite_store(parts: dict[str, Any], env: dict[str, str]) -> None:
    spec = parts["Deployment"]["spec"]
    assert env["TAILRACE_STORE"].startswith("sqlite:/data/")
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    assert parts["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_a_pod_has_the_memory_that_streams_may_take_and_few_rights(
    pod: dict[str, Any], container: dict[str, Any]
) -> None:
    limit = container["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    assert int(limit[:-2]) << 30 >= STREAMS + (256 << 20)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_names_and_ports_of_the_documents_meet(parts: dict[str, Any], container: dict[str, Any]) -> None:
    labels = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert parts["Deployment"]["spec"]["selector"]["matchLabels"] == labels == parts["Service"]["spec"]["selector"]
    (port,) = parts["Service"]["spec"]["ports"]
    assert port["targetPort"] == container["ports"][0]["name"]
    assert container["ports"][0]["containerPort"] == DEFAULTS["port"]
    (rule,) = parts["Ingress"]["spec"]["rules"]
    assert rule["host"] == HOST
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == parts["Service"]["metadata"]["name"]
    notes = parts["Ingress"]["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io/"
    assert notes[f"{prefix}proxy-buffering"] == "off"
    assert float(notes[f"{prefix}proxy-read-timeout"]) > 4 * DEFAULTS["keep_alive"]


# --- Docker, systemd --------------------------------------------------------------------------------------


def test_the_image_runs_the_server_itself_as_nobody_and_gives_it_time() -> None:
    lines = text("Dockerfile").splitlines()
    last = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 10001" in last
    assert "STOPSIGNAL SIGTERM" in last
    assert 'ENTRYPOINT ["tailrace", "run", "orders.py"]' in last  # a list: no shell keeps the signal
    stop = re.search(r"--stop-timeout (\d+)", text("Dockerfile"))
    drain = re.search(r"TAILRACE_DRAIN=(\d+)", text("Dockerfile"))
    assert stop is not None
    assert drain is not None
    assert int(stop[1]) >= int(drain[1]) + END + 5


def test_the_image_copies_what_is_there() -> None:
    root = FOLDER.parents[1]
    for line in text("Dockerfile").splitlines():
        if line.startswith("COPY ") and not line.startswith("COPY --from"):
            *sources, _ = line.split()[1:]
            assert [source for source in sources if not (root / source).exists()] == []


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text("tailrace.service").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_has_time_for_the_drain() -> None:
    found = unit()
    environment = dict(value.split("=", 1) for value in found["Environment"])
    needed = float(environment["TAILRACE_SHUTDOWN_DELAY"]) + float(environment["TAILRACE_DRAIN"]) + END
    assert seconds(found["TimeoutStopSec"][0]) >= needed + PARENT + 5
    assert found["ExecStart"][0].endswith(" --workers 1")  # whose parent the reload tells
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert found["KillSignal"] == ["SIGTERM"]
    assert environment["TAILRACE_STORE"] == f"sqlite:/var/lib/{found['StateDirectory'][0]}/store.sqlite"
    assert found["StateDirectoryMode"] == ["0700"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "orders.service"
    path.write_text(text("tailrace.service").replace("/opt/orders/.venv/bin/tailrace", "/bin/sh"))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=60)
    if "D-Bus" in done.stderr or "Failed to" in done.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    assert "orders.service" not in done.stderr, "no setting is unknown"


# --- proxies ----------------------------------------------------------------------------------------------


def directive(name: str, config: str) -> str:
    found = re.findall(rf"^\s*{name} ([^;]+);", config, re.MULTILINE)
    assert found, name
    return found[0]


def test_nginx_waits_longer_than_keep_alives_and_takes_what_the_server_takes() -> None:
    config = text("nginx.conf")
    assert seconds(directive("proxy_read_timeout", config)) > 4 * DEFAULTS["keep_alive"]
    assert seconds(directive("grpc_read_timeout", config)) > 4 * DEFAULTS["keep_alive"]
    assert directive("client_max_body_size", config) == f"{DEFAULTS['max_body'] >> 20}m"
    assert seconds(directive("keepalive_timeout", config)) < CONNECTION_IDLE
    assert directive("proxy_buffering", config) == "off"
    assert directive("proxy_next_upstream", config) == "off"
    assert directive("server_name", config) == HOST


@pytest.mark.timeout(600)  # nginx may have to be fetched
def test_nginx_takes_it(tmp_path: Path) -> None:
    nginx = command_or_skip(NGINX)
    main = tmp_path / "nginx.conf"
    main.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ include {FOLDER}/nginx.conf; }}")
    done = subprocess.run([nginx, "-t", "-p", tmp_path, "-c", main], capture_output=True, text=True, timeout=60)
    assert "syntax is ok" in done.stderr, done.stderr  # it may still not be allowed to listen on port 80


def test_envoy_cuts_no_stream_and_sends_no_call_twice() -> None:
    config = yaml.safe_load(text("envoy.yaml"))["static_resources"]
    manager = config["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert seconds(manager["stream_idle_timeout"]) > 4 * DEFAULTS["keep_alive"]
    (host,) = manager["route_config"]["virtual_hosts"]
    (route,) = host["routes"]
    assert HOST in host["domains"]
    assert seconds(route["route"]["timeout"]) == 0
    assert route["route"]["retry_policy"] == {"num_retries": 0}
    (cluster,) = config["clusters"]
    assert route["route"]["cluster"] == cluster["name"]
    protocol = cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    assert seconds(protocol["common_http_protocol_options"]["idle_timeout"]) < CONNECTION_IDLE
    assert cluster["health_checks"][0]["http_health_check"]["path"] == "/readyz"


def test_caddy_passes_streams_at_once_and_grpc() -> None:
    config = text("Caddyfile")
    assert "flush_interval -1" in config
    assert "reverse_proxy h2c://" in config
    assert not re.search(r"^\s*encode", config, re.MULTILINE)
    assert f"max_size {DEFAULTS['max_body'] >> 20}MiB" in config
