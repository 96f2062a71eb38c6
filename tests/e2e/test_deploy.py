"""What the image and the pod of `examples/deploy` set starts a server that its probes find well, and that drains."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.server import ROOT, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

FOLDER = ROOT / "examples/deploy"
COMMAND = [sys.executable, "-m", "tailrace", "run", str(ROOT / "examples/orders.py")]


def image(data: Path) -> dict[str, str]:
    """The environment of the image, with its volume in `data`."""
    found = re.findall(r"\b((?:TAILRACE|ORDERS)_[A-Z_]+)=(\S+)", (FOLDER / "Dockerfile").read_text())
    set_there = {name: value.replace("/data/", f"{data}/") for name, value in found}
    assert set_there.pop("TAILRACE_AUTH_TOKEN") == "secret"  # of the line that shows how it is run
    return set_there


def pod() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    documents = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    (deployment,) = [document for document in documents if document["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


def ask(port: int, probe: dict[str, Any], host: str | None = None) -> int:
    """What the probe is answered with, as from the node."""
    headers = {header["name"]: header["value"] for header in probe.get("httpHeaders", [])}
    headers |= {} if host is None else {"Host": host}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{probe['path']}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_the_image_refuses_to_listen_for_others_without_a_token(tmp_path: Path) -> None:
    done = subprocess.run(
        COMMAND, env={**os.environ, **image(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "--auth-token" in done.stderr


def test_a_pod_is_ready_then_drains_while_it_lives(tmp_path: Path) -> None:
    container = pod()
    env = image(tmp_path)
    env |= {each["name"]: each["value"] for each in container["env"] if "value" in each}
    env |= {
        "TAILRACE_AUTH_TOKEN": "secret",
        "TAILRACE_STORE": f"sqlite:{tmp_path}/store.sqlite",
        "TAILRACE_HOST": "127.0.0.1",
        "TAILRACE_PORT": "0",
        "TAILRACE_SHUTDOWN_DELAY": "100",  # as long as this test may need
    }
    ready, live = container["readinessProbe"]["httpGet"], container["livenessProbe"]["httpGet"]
    with running(COMMAND, tmp_path / "log", env=env) as server:
        assert ask(server.port, container["startupProbe"]["httpGet"]) == 200
        assert ask(server.port, ready) == 200
        assert ask(server.port, ready, host="10.1.2.3:8000") == 421, "as a probe is asked that sets no Host"
        server.signal(signal.SIGTERM)
        until = time.monotonic() + 60
        while (status := ask(server.port, ready)) == 200 and time.monotonic() < until:
            time.sleep(0.02)
        assert status == 503
        assert ask(server.port, live) == 200, "a server that drains is not killed for it"
        server.kill()
