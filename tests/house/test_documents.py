"""The Python that the documents show runs: every ```python block, and the README's tool is called.

A block that is only to be looked at (a signature, a fragment) is fenced as ```py.
"""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

from tailrace.mcp import Client

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text()), 1)
]


def run(source: str) -> types.ModuleType:
    module = types.ModuleType("shown")
    exec(compile(source, "<shown>", "exec", dont_inherit=True), module.__dict__)
    return module


@pytest.mark.parametrize("block", SHOWN)
def test_what_a_page_shows_runs(block: str) -> None:
    run(block)


@pytest.fixture
def readme() -> types.ModuleType:
    return run(BLOCK.findall((ROOT / "README.md").read_text())[0])


def test_the_readme_shows_twelve_lines() -> None:
    assert len(BLOCK.findall((ROOT / "README.md").read_text())[0].splitlines()) == 12


async def test_the_tool_of_the_readme_works(readme: types.ModuleType) -> None:
    async with Client(readme.svc) as client:
        assert [tool.name for tool in await client.list_tools()] == ["brew"]
        result = await client.call_tool("brew", {"tea": "sencha", "cups": 1})
        assert not result.is_error
        assert result.data == {"sencha": 1}


def test_the_commands_of_the_readme_are_targets() -> None:
    commands = set(re.findall(r"^make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands >= {"demo", "test"}
    assert commands <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


FEATURES = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", (ROOT / "docs/features.md").read_text())


@pytest.mark.parametrize(("path", "name"), FEATURES)
def test_what_shows_a_feature_exists(path: str, name: str) -> None:
    assert (ROOT / path).exists()
    assert not name or re.search(rf"def {name}\(", (ROOT / path).read_text())


def test_features_name_their_tests() -> None:
    assert len(FEATURES) > 50
