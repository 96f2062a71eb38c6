"""The official MCP conformance suite: run against a server or a client, read, and compared with what is expected.

The pinned release stands in `node/package.json`. A requirement set names the scenarios that a revision
of the specification asks for; some run without being scored, and are judged here all the same.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.rigs.npm import NODE

__all__ = [
    "CLIENT",
    "EXPECTED",
    "FIXTURE",
    "FOLDER",
    "SETS",
    "Check",
    "Results",
    "compare",
    "read_expected",
    "run_client_suite",
    "run_suite",
]

SETS = ("2025-11-25", "2026-07-28")
FOLDER = Path(__file__).parent / "node"
FIXTURE = Path(__file__).parent / "fixture.py"
CLIENT = Path(__file__).parent / "client.py"
EXPECTED = Path(__file__).parent / "expected-failures.yml"
PACKAGE = FOLDER / "node_modules/@modelcontextprotocol/conformance"

_ENTRY = re.compile(r"  - (?P<name>[\w./-]+(:[\w.$-]+)?)  # (?P<reason>\S.*)")
_RESULT = re.compile(r"(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass(frozen=True)
class Check:
    """One thing that a scenario looks at; `status` is SUCCESS, FAILURE, WARNING, SKIPPED or INFO."""

    id: str
    status: str
    text: str

    @property
    def failed(self) -> bool:
        """As the suite counts it: a warning is a failure, what could not be looked at is none."""
        return self.status in ("FAILURE", "WARNING")


@dataclass(frozen=True)
class Results:
    """What one run found.

    Attributes:
        scenarios: Their checks, by name; only those that ran.
        scored: The scenarios that the requirement set demands.
    """

    scenarios: Mapping[str, Sequence[Check]]
    scored: Sequence[str]

    def passed(self, scenario: str) -> bool:
        """Whether it ran, looked at something, and found nothing wrong."""
        checks = self.scenarios.get(scenario, ())
        return bool(checks) and not any(check.failed for check in checks)

    def table(self) -> str:
        """For people: a line for each scenario, then the sums."""
        lines = [self._line(name, checks) for name, checks in self.scenarios.items()]
        good = sum(self.passed(name) for name in self.scored)
        extra = [name for name in self.scenarios if name not in self.scored]
        lines.append(f"scored: {good} of {len(self.scored)} scenarios passed")
        lines.append(f"not scored: {sum(self.passed(name) for name in extra)} of {len(extra)} passed")
        return "\n".join(lines)

    def _line(self, name: str, checks: Sequence[Check]) -> str:
        counted = [check for check in checks if check.status != "INFO"]
        good = sum(check.status == "SUCCESS" for check in counted)
        skipped = sum(check.status == "SKIPPED" for check in counted)
        mark = "ok  " if self.passed(name) else "FAIL"
        return f"{mark} {name}: {good} of {len(counted)} checks" + (f", {skipped} skipped" if skipped else "")


def run_suite(url: str, requirements: str, output: Path, limit: float = 300.0) -> Results:
    """Run one requirement set.

    Args:
        url: The server's address, without a path.
        requirements: One of `SETS`.
        output: An empty folder.
        limit: Seconds for all of it.
    """
    return _run("server", ["--url", url + "/mcp"], requirements, output, limit)


def run_client_suite(requirements: str, output: Path, limit: float = 400.0) -> Results:
    """Run one requirement set against `client.py`, which is one process for each scenario.

    Args:
        requirements: One of `SETS`.
        output: An empty folder.
        limit: Seconds for all of it.
    """
    options = ["--command", f"{sys.executable} {CLIENT}", "--timeout", "60000"]
    return _run("client", options, requirements, output, limit)


def _run(subject: str, options: list[str], requirements: str, output: Path, limit: float) -> Results:
    command = [str(NODE), str(PACKAGE / "dist/index.js"), subject, *options]
    command += ["--requirements", requirements, "--output-dir", str(output)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    results = Results(_read_results(output, subject), _read_scored(requirements, subject))
    absent = [name for name in results.scored if name not in results.scenarios]
    assert not absent, f"scenarios without a result: {absent}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
    return results


def read_expected(text: str, subject: str = "server") -> dict[str, str]:
    """The reasons in `expected-failures.yml` by scenario, or by ``scenario:check``.

    Args:
        text: The file.
        subject: Whose: ``server`` or ``client``.

    Raises:
        ValueError: A line is no entry with a reason, or an entry is there twice.
    """
    found: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        if line in ("server:", "client:"):
            section = line[:-1]
        if not line.strip() or line.startswith("#") or line in ("server:", "client:") or section != subject:
            continue
        entry = _ENTRY.fullmatch(line)
        if entry is None or entry["name"] in found:
            raise ValueError(f"not an entry with a reason, or one that is there already: {line!r}")
        found[entry["name"]] = entry["reason"]
    return found


def compare(results: Results, expected: Iterable[str]) -> tuple[list[str], list[str]]:
    """What fails although nobody expects it, and what passes although it is expected to fail."""
    entries = set(expected)
    unexpected: list[str] = []
    failing: set[str] = set()
    for scenario, checks in results.scenarios.items():
        for check in checks:
            key = f"{scenario}:{check.id}"
            if check.failed:
                failing |= {scenario, key}
                if not {scenario, key} & entries:
                    unexpected.append(f"{key}: {check.status}: {check.text}")
    ran = set(results.scenarios) | {f"{name}:{check.id}" for name, all in results.scenarios.items() for check in all}
    return unexpected, sorted((entries & ran) - failing)


def _read_results(output: Path, subject: str) -> dict[str, list[Check]]:
    """The checks of each scenario; the suite has a folder for each, and one more level for those named ``auth/…``."""
    found: dict[str, list[Check]] = {}
    prefix = "server-" if subject == "server" else ""
    for file in sorted(output.glob("**/checks.json"), key=lambda file: file.stat().st_mtime_ns):
        name = _RESULT.fullmatch(file.parent.relative_to(output).as_posix().removeprefix(prefix))
        assert name is not None, f"a folder of another form: {file.parent.name}"
        checks = json.loads(file.read_text())
        found[name["scenario"]] = [Check(c["id"], c["status"], c.get("errorMessage") or "") for c in checks]
    return found


def _read_scored(requirements: str, subject: str) -> list[str]:
    """The list `server:` or `client:` of the set, which the package carries as YAML of the plainest kind."""
    text = (PACKAGE / "requirements" / f"{requirements}.yaml").read_text()
    section = re.search(rf"^{subject}:\n((?:  - \S+\n)+)", text, re.MULTILINE)
    assert section is not None, f"the requirement set has no list of {subject} scenarios"
    return [line.removeprefix("  - ") for line in section[1].splitlines()]
