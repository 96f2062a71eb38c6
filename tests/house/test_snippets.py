"""What the pages show and nobody runs is right at least in its words: options that exist, names that can be imported,
files that are there. (What can be run, runs: `test_documents`, `tests/e2e/test_tutorial.py`.)
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from tailrace.cli import main
from tailrace.cli.program import PROGRAM

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted(path for path in (ROOT / "examples/deploy").iterdir())
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands() -> list[object]:
    """Each `tailrace ...` line of the pages' shell blocks."""
    found: dict[str, object] = {}
    for page in PAGES:
        for kind, block in FENCED.findall(page.read_text()):
            if kind in {"sh", ""}:
                for line in block.splitlines():
                    if line.startswith("tailrace "):
                        words = shlex.split(line, comments=True)
                        found.setdefault(shlex.join(words), pytest.param(words, id=f"{page.name}: {shlex.join(words)}"))
    return list(found.values())


def test_there_are_commands_on_the_pages() -> None:
    assert len(commands()) > 20


@pytest.mark.parametrize("words", commands())
def test_a_command_that_a_page_shows_is_one(words: list[str]) -> None:
    command: click.Command = main
    rest = words[1:]
    context = click.Context(main, info_name="tailrace")
    while isinstance(command, click.Group):
        found = command.get_command(context, rest[0])
        assert found is not None, f"there is no command {rest[0]!r}"
        context, command, rest = click.Context(found, info_name=rest[0], parent=context), found, rest[1:]
    if "--" in rest:
        context.meta[PROGRAM] = rest[rest.index("--") + 1 :]
        rest = rest[: rest.index("--")]
    if context.command.ignore_unknown_options:
        return
    values, _, _ = command.make_parser(context).parse_args(list(rest))  # raises where an option is not known
    for parameter in command.params:
        given = values.get(parameter.name or "")
        if isinstance(parameter, click.Option) and isinstance(parameter.type, click.Choice) and isinstance(given, str):
            assert given in parameter.type.choices


def fragments() -> list[object]:
    """Each ```py block: Python that is only to be looked at."""
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, block in enumerate((code for kind, code in FENCED.findall(page.read_text()) if kind == "py"), 1)
    ]


@pytest.mark.parametrize("block", fragments())
def test_a_fragment_compiles_and_its_names_are_ours(block: str) -> None:
    tree = compile(block, "<shown>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tailrace":
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"(?<![\w./-])(?:tests|examples|bench|src/tailrace)/[\w./-]+\.\w+", page.read_text())
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []


def test_files_that_the_design_names_are_there() -> None:
    """Its listing and its table name a file by as much of its path as tells it from others."""
    named = set(re.findall(r"(?<![\w./-])(?!tests/)[\w/]+\.py\b", (ROOT / "docs/design.md").read_text()))
    there = [f"/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "src").rglob("*.py")]
    assert len(named) > 150
    assert sorted(name for name in named if not any(path.endswith(f"/{name}") for path in there)) == []


NAVIGATED = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def test_every_page_is_in_the_navigation_once() -> None:
    pages = sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))
    assert sorted(NAVIGATED) == pages


SHOWN = re.findall(
    r"^::: ([\w.]+)$",
    "\n".join(
        path.read_text() for path in [ROOT / "docs/reference.md", *sorted((ROOT / "docs/reference").glob("*.md"))]
    ),
    re.MULTILINE,
)


def named(path: str) -> object:
    """What the name of a module, or of something in one, stands for."""
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name, None)  # a name may hide a module of the same name
    return importlib.import_module(path) if found is None else found


def test_the_reference_shows_nothing_twice() -> None:
    assert len({id(named(path)) for path in SHOWN}) == len(SHOWN)


@pytest.mark.parametrize(
    "module",
    ["tailrace", "tailrace.asgi", "tailrace.auth", "tailrace.connect", "tailrace.mcp", "tailrace.publish",
     "tailrace.testing"],
)  # fmt: skip
def test_the_reference_has_every_public_name(module: str) -> None:
    errors = importlib.import_module("tailrace.errors")
    shown = {id(named(path)) for path in SHOWN} | {id(getattr(errors, name)) for name in errors.__all__}
    here = importlib.import_module(module)
    assert [name for name in here.__all__ if name != "__version__" and id(getattr(here, name)) not in shown] == []
