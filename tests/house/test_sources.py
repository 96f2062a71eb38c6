"""Rules for all sources that no linter knows: who starts tasks, what coverage may leave out, how a file opens."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src/tailrace"
FILES = sorted(SRC.rglob("*.py"))
STARTS_A_TASK = {"create_task", "ensure_future", "run_coroutine_threadsafe", "create_task_group", "TaskGroup", "Task"}
NO_COVER = "pragma: no cover"


def named(path: Path) -> str:
    return str(path.relative_to(SRC))


def lines_that_start_tasks(source: str, *, groups: bool = False) -> list[int]:
    """The lines that call something of `asyncio` that makes a task; with `groups`, an owning TaskGroup may."""
    tree = ast.parse(source)
    owners = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if groups and isinstance(node, ast.AsyncWith)
        for item in node.items
        if ast.unparse(item.context_expr) == "asyncio.TaskGroup()" and isinstance(item.optional_vars, ast.Name)
    }
    allowed = {f"{owner}.create_task" for owner in owners} | ({"asyncio.TaskGroup"} if groups else set())
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in STARTS_A_TASK
        and ast.unparse(node.func) not in allowed
    ]


@pytest.mark.parametrize("path", [path for path in FILES if named(path) != "core/tasks.py"], ids=named)
def test_only_the_tracked_tasks_start_tasks(path: Path) -> None:
    """The command line is a program, not a part of a server: there a task group may own tasks."""
    assert lines_that_start_tasks(path.read_text(), groups=named(path).startswith("cli/")) == []


@pytest.mark.parametrize(
    "line",
    [
        "asyncio.create_task(f())",
        "loop.create_task(f())",
        "ensure_future(f())",
        "asyncio.Task(f())",
        "asyncio.get_running_loop().create_task(f())",
        "anyio.create_task_group()",
    ],
)
@pytest.mark.parametrize("groups", [False, True])
def test_a_task_started_elsewhere_is_found(line: str, groups: bool) -> None:
    assert lines_that_start_tasks(f"async def handler():\n    {line}", groups=groups) == [2]


def test_a_task_group_is_found_where_none_may_be() -> None:
    source = "async def f():\n    async with asyncio.TaskGroup() as group:\n        group.create_task(g())"
    assert sorted(lines_that_start_tasks(source)) == [2, 3]
    assert lines_that_start_tasks(source, groups=True) == []


@pytest.mark.parametrize("path", FILES, ids=named)
def test_nothing_of_core_and_wire_is_left_out_of_coverage(path: Path) -> None:
    lines = [line.strip() for line in path.read_text().splitlines() if NO_COVER in line]
    if path.is_relative_to(SRC / "core") or path.is_relative_to(SRC / "wire"):
        assert lines == []
    for line in lines:
        _, _, reason = line.partition(NO_COVER)
        assert len(reason.strip(" :-–(")) >= 10, f"say why: {line}"  # noqa: RUF001


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_opens_by_saying_why_it_exists(path: Path) -> None:
    source = path.read_text()
    if path.name == "__init__.py" and not source.strip():
        return  # a folder that only groups
    assert ast.get_docstring(ast.parse(source)), "no module docstring"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_what_a_file_lists_as_public_is_there(path: Path) -> None:
    tree = ast.parse(path.read_text())
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
    ]
    defined = {name for node in tree.body for name in names_bound_by(node)}
    assert [name for names in listed for name in names if name not in defined] == []


def names_bound_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return {name for child in ast.iter_child_nodes(node) for name in names_bound_by(child)}
