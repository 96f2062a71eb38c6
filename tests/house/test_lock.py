"""uv and pip install the same: requirements/*.txt say what uv.lock says, and uv.lock what pyproject.toml asks for.

When one of these fails, `make lock` and commit what it wrote.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SETS = {"base": ["build"], "test": ["build", "test"], "dev": ["build", "test", "dev", "docs"]}
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def lock() -> dict[str, Any]:
    return tomllib.loads((ROOT / "uv.lock").read_text())


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def parts(requirement: str) -> tuple[str, set[str]]:
    """A requirement's name, and its version limits in any order."""
    match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?([^;]*)", requirement)
    assert match is not None
    return normal(match[1]), {limit.strip() for limit in match[2].split(",") if limit.strip()}


def asked(requirements: list[str]) -> dict[str, set[str]]:
    return dict(parts(requirement) for requirement in requirements)


def locked(entries: list[dict[str, Any]]) -> dict[str, set[str]]:
    return {
        entry["name"]: {limit for limit in entry.get("specifier", "").split(",") if limit}
        for entry in entries
        if "extra ==" not in entry.get("marker", "")
    }


def test_the_lock_answers_what_pyproject_asks(lock: dict[str, Any], project: dict[str, Any]) -> None:
    metadata = next(package for package in lock["package"] if package["name"] == "tailrace")["metadata"]
    assert locked(metadata["requires-dist"]) == asked(project["project"]["dependencies"])
    for group, entries in metadata["requires-dev"].items():
        assert locked(entries) == asked(project["dependency-groups"][group]), group
    assert set(metadata["requires-dev"]) == set(project["dependency-groups"])


@pytest.mark.parametrize("name", SETS)
def test_pip_installs_what_the_lock_says(name: str, lock: dict[str, Any], project: dict[str, Any]) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    pins = {(normal(package), version) for package, version in PIN.findall(text)}
    assert pins <= {(package["name"], package["version"]) for package in lock["package"]}
    wanted = asked(project["project"]["dependencies"]).keys()
    for group in SETS[name]:
        wanted |= asked(project["dependency-groups"][group]).keys()
    assert wanted <= {package for package, _ in pins}


@pytest.mark.parametrize("name", SETS)
def test_every_pin_has_its_hashes(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
    pinned = [block for block in blocks if PIN.match(block)]
    assert pinned
    assert [block for block in pinned if "--hash=sha256:" not in block] == []


def test_uv_builds_with_the_locked_backend(lock: dict[str, Any], project: dict[str, Any]) -> None:
    version = next(package["version"] for package in lock["package"] if package["name"] == "hatchling")
    assert project["tool"]["uv"]["build-constraint-dependencies"] == [f"hatchling=={version}"]


def test_every_dependency_has_its_reason_in_the_design_page(project: dict[str, Any]) -> None:
    page = (ROOT / "docs/design.md").read_text()
    table = page[page.index("## Dependencies") :]
    missing = [name for name in asked(project["project"]["dependencies"]) if f"| `{name}` |" not in table]
    assert missing == []
