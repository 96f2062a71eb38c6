"""Connect's official conformance runner: built once, run against a server or a client of ours, its verdict read.

The pinned module brings its message definitions along; they are compiled once, into a descriptor set next to the
programs (`Parts`). Which features are claimed is in `features.yaml`, what is known to fail in `known-failing-*.txt`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.e2e.installing import Missing, find_go, once_into, run_step

__all__ = ["CLIENT", "DESCRIPTORS", "LIMIT", "SERVER", "VERSION", "Missing", "Parts", "Score", "parts", "run_suite"]

VERSION = "v1.0.6"  # the next one needs a module in a version that is not to be had
HERE = Path(__file__).parent
SERVER = (sys.executable, "-m", "tests.conformance.rpc.server")
CLIENT = (sys.executable, "-m", "tests.conformance.rpc.client")
DESCRIPTORS = "CONFORMANCE_DESCRIPTORS"  # the variable that tells a program under test where they are
LIMIT = 300.0  # seconds for one side: one hang must not cost the run
_FILES = 16384  # descriptors that the runner wants to have open

_MODULE = "connectrpc.com/conformance"
_TOTAL = re.compile(r"Total cases: (\d+)\n(\d+) passed, (\d+) failed")
_FAILED = re.compile(r"^FAILED: (.+):$", re.MULTILINE)
_AGAIN = 10  # cases that may have failed for want of time


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        runner: The program `connectconformance`.
        descriptors: A serialized ``FileDescriptorSet`` of its messages.
    """

    runner: Path
    descriptors: Path


def parts() -> Parts:
    """Build them, unless that was done.

    Raises:
        Missing: One cannot be had.
    """
    folder = once_into("connectconformance", VERSION, _build)
    return Parts(folder / "connectconformance", folder / "descriptors.binpb")


def _build(folder: Path) -> None:
    go = find_go()
    env = {"GOBIN": str(folder), "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
    run_step("go", [go, "install", "-trimpath", f"{_MODULE}/cmd/connectconformance@{VERSION}"], env=env)
    told = run_step("go", [go, "mod", "download", "-json", f"{_MODULE}@{VERSION}"], cwd=folder, env=env)
    source = Path(json.loads(told)["Dir"]) / "proto"
    protos = sorted(str(file) for file in source.rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source}", "--include_imports"]
    run_step("protoc", [*command, f"--descriptor_set_out={folder / 'descriptors.binpb'}", *protos])


@dataclass(frozen=True)
class Score:
    """What one run found.

    Attributes:
        passed: Cases, those that are known to fail and do among them.
        total: Cases.
        known: Cases of the file of known failures.
        ok: The runner's own verdict: what fails is what is known to fail.
        output: All that it said, for people.
        again: Those that passed only when they ran again, alone.
    """

    passed: int
    total: int
    known: int
    ok: bool
    output: str
    again: int = 0

    def line(self, side: str) -> str:
        """For people: one line."""
        again = f", {self.again} of them when they ran again, alone" if self.again else ""
        return f"rpc {side}: {self.passed}/{self.total} cases passed{again}, {self.known} known to fail"

    @property
    def failed(self) -> list[str]:
        """The cases that it says failed."""
        return list(dict.fromkeys(_FAILED.findall(self.output)))

    @property
    def failures(self) -> str:
        """What it said of failures: the names first, then the end of the rest."""
        names = [line for line in self.output.splitlines() if line.startswith(("FAILED", "INFO"))]
        return "\n".join([*names[:60], self.output[-4000:]])


def run_suite(side: str, command: Sequence[str], *options: str, limit: float = LIMIT) -> Score:
    """Run the suite against a program under test.

    Some cases have deadlines in real time: where the machine was busy for that long, they fail whoever is
    tested. So a few that failed run again, alone, and the score says how many passed only then.

    Args:
        side: ``server`` or ``client``.
        command: Starts the program.
        options: More options of the runner, e.g. ``--run``, ``PATTERN``.
        limit: Seconds for all of it.

    Raises:
        Missing: A part cannot be had.
        subprocess.TimeoutExpired: It hung; everything it started is ended.
    """
    score = _run(side, command, options, limit)
    if score.ok or not 0 < len(score.failed) <= _AGAIN:
        return score
    second = _run(side, command, [word for case in score.failed for word in ("--run", case)], limit)
    if not second.ok or second.total != len(score.failed) or score.passed + second.total != score.total:
        return score
    return replace(score, passed=score.total, again=second.total, ok=True)


def _run(side: str, command: Sequence[str], options: Sequence[str], limit: float) -> Score:
    have = parts()
    known = HERE / f"known-failing-{side}.txt"
    given = [line for line in known.read_text().splitlines() if line.strip() and not line.startswith("#")]
    runner = [str(have.runner), "--conf", str(HERE / "features.yaml"), "--mode", side, *options]
    for pattern in given:
        runner += ["--known-failing", pattern]
    root = HERE.parents[2]
    path = os.pathsep.join([str(root), str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, DESCRIPTORS: str(have.descriptors)}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*runner, "--", *command],
            cwd=root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it started is ended with it
            preexec_fn=_more_files,
        )
        try:
            code = process.wait(limit)
        finally:
            _end(process)
        said.seek(0)
        output = said.read().decode("utf-8", "replace")
    found = _TOTAL.search(output)
    total, passed = (int(found[1]), int(found[2])) if found else (0, 0)
    return Score(passed, total, len(given), code == 0 and total > 0, output)


def _more_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the runner and the servers it started, if some still run."""
    import contextlib
    import signal

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
