"""The workspace example finds what is in its folder, stays inside it, and never holds up the loop."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tailrace import ToolError

posix = pytest.mark.skipif(os.name == "nt", reason="links, pipes and devices as POSIX has them")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "src" / "deep").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "README.md").write_text("# Title\n\nTea for two\nand two for tea\n")
    (root / "src" / "a.py").write_text("def brew(leaf):\n    return 'tea'\n")
    (root / "src" / "deep" / "b.py").write_text("TEA = 1\r\n")
    (root / "src" / "deep" / "data.bin").write_bytes(b"tea\0tea\n")
    (root / ".git" / "config").write_text("tea\n")
    (tmp_path / "secret.txt").write_text("tea, secretly\n")
    return root


@pytest.fixture
def workspace(root: Path, example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WORKSPACE_ROOT", str(root))
    return example("workspace")


def found_lines(found: Any) -> list[tuple[str, int]]:
    return [(match.path, match.line) for match in found.matches]


# --- search ---------------------------------------------------------------------------------------


async def test_search_finds_lines_in_text_files_whatever_their_case(workspace: Any, ctx: Any) -> None:
    found = await workspace.search(ctx, "tea")
    assert found_lines(found) == [("README.md", 3), ("README.md", 4), ("src/a.py", 2), ("src/deep/b.py", 1)]
    assert found.matches[2].text == "return 'tea'"
    assert (found.files, found.skipped, found.complete) == (4, 1, True)


async def test_search_minds_capitals_when_there_are_any(workspace: Any, ctx: Any) -> None:
    assert found_lines(await workspace.search(ctx, "TEA")) == [("src/deep/b.py", 1)]


async def test_search_takes_a_star_for_anything_within_a_line(workspace: Any, ctx: Any) -> None:
    assert found_lines(await workspace.search(ctx, "def *(leaf")) == [("src/a.py", 1)]
    assert found_lines(await workspace.search(ctx, "two*two")) == []


@pytest.mark.parametrize(
    ("glob", "files"),
    [
        ("**/*", 4),
        ("**", 4),
        ("*.py", 2),
        ("src/*.py", 1),
        ("./src/*.py", 1),
        ("src/**", 3),
        ("src/**/*.py", 2),
        ("**/**/deep/**/*.py", 1),
        ("src/deep", 0),
        ("[", 0),
    ],
)
async def test_search_looks_only_where_the_glob_says(workspace: Any, ctx: Any, glob: str, files: int) -> None:
    assert (await workspace.search(ctx, "nothing", glob)).files == files


async def test_a_glob_made_to_take_for_ever_does_not(workspace: Any, root: Path) -> None:
    path = "/".join(["a"] * 60)
    assert not workspace.matches(path, "/".join(["**", "a"] * 30 + ["b"]))


async def test_search_stops_at_its_limit_and_says_so(workspace: Any, ctx: Any) -> None:
    found = await workspace.search(ctx, "tea", limit=3)
    assert len(found.matches) == 3
    assert not found.complete
    exactly = await workspace.search(ctx, "tea", limit=4)
    assert exactly.complete


async def test_search_reports_progress_that_grows_to_its_total(workspace: Any, ctx: Any) -> None:
    await workspace.search(ctx, "tea")
    done = [step[0] for step in ctx.steps]
    assert done == sorted(set(done))
    assert ctx.steps[0][:2] == (0, 4)
    assert ctx.steps[-1][:2] == (4, 4)


async def test_search_for_nothing_is_refused(workspace: Any, ctx: Any) -> None:
    for pattern in ("", "*", "**"):
        with pytest.raises(ToolError, match="empty"):
            await workspace.search(ctx, pattern)


async def test_a_big_tree_is_searched_in_slices_off_the_loop(
    workspace: Any, ctx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "SLICE", 0.0)  # every step is a slice: as if the tree were big
    threads: set[int] = set()
    lines = workspace.FOLDER.lines

    def watched(path: str) -> list[str]:
        threads.add(threading.get_ident())
        return lines(path)

    monkeypatch.setattr(workspace.FOLDER, "lines", watched)
    await workspace.search(ctx, "tea")
    assert threads
    assert threading.get_ident() not in threads
    assert [step[0] for step in ctx.steps] == [0, 1, 2, 3, 4]


async def test_a_cancelled_search_stops_at_the_next_slice(
    workspace: Any, ctx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "SLICE", 0.0)
    reading, go_on = threading.Event(), threading.Event()
    seen: list[str] = []

    def stuck(path: str) -> list[str]:
        seen.append(path)
        reading.set()
        go_on.wait(30)
        return []

    monkeypatch.setattr(workspace.FOLDER, "lines", stuck)
    running = asyncio.ensure_future(workspace.search(ctx, "tea"))
    await asyncio.to_thread(reading.wait, 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running  # while a thread is still in the middle of a slice
    go_on.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert seen == ["README.md"]


# --- read, summary, listing, follow ---------------------------------------------------------------


def test_read_gives_the_lines_asked_for(workspace: Any) -> None:
    assert workspace.read("README.md") == "# Title\n\nTea for two\nand two for tea"
    assert workspace.read("README.md", 3, 3) == "Tea for two"
    assert workspace.read("README.md", 3, 99) == "Tea for two\nand two for tea"
    assert workspace.read("src/deep/b.py") == "TEA = 1"


def test_read_says_that_there_is_more(workspace: Any, root: Path) -> None:
    (root / "long.txt").write_text("".join(f"{number}\n" for number in range(1, 302)))
    text = workspace.read("long.txt")
    assert text.splitlines()[199] == "200"
    assert text.splitlines()[200] == "… 101 more lines, from line 201 on"


def test_read_of_an_empty_file_is_empty(workspace: Any, root: Path) -> None:
    (root / "empty.txt").touch()
    assert workspace.read("empty.txt") == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("README.md", 9), "has 4 lines, so there is no line 9"),
        (("README.md", 3, 2), "comes before"),
        (("nowhere.txt",), "No such file"),
        (("src",), "is a folder, not a file"),
        ((".",), "is a folder, not a file"),
        (("",), "is a folder, not a file"),
        (("README.md/x",), "is not a folder"),
        (("src/deep/data.bin",), "is not a text file"),
        (("a\0b",), "cannot open"),
        (("x" * 300,), "cannot open"),
    ],
)
def test_read_says_what_is_wrong(workspace: Any, arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ToolError, match=said):
        workspace.read(*arguments)


def test_a_huge_file_is_not_read(workspace: Any, root: Path, ctx: Any) -> None:
    with (root / "huge.txt").open("wb") as file:
        file.truncate(10 * 1024**3)  # sparse: it has the size, not the bytes
    with pytest.raises(ToolError, match=r"10,737,418,240 bytes"):
        workspace.read("huge.txt")
    found = asyncio.run(workspace.search(ctx, "tea"))
    assert found.skipped == 2
    summary = asyncio.run(workspace.summary(ctx))
    assert summary.largest[0].path == "huge.txt"
    assert ".txt" not in summary.lines


def test_too_much_text_at_once_is_refused(workspace: Any, root: Path) -> None:
    (root / "wide.txt").write_text("x" * 300_000)
    with pytest.raises(ToolError, match="300,000 characters"):
        workspace.read("wide.txt")


async def test_summary_counts_files_bytes_and_lines(workspace: Any, ctx: Any, root: Path) -> None:
    summary = await workspace.summary(ctx)
    assert (summary.files, summary.folders) == (4, 3)
    assert summary.bytes == sum((root / path).stat().st_size for path in ("README.md", "src/a.py")) + 9 + 8
    assert summary.lines == {".md": 4, ".py": 3}
    assert [entry.path for entry in summary.largest][:2] == ["README.md", "src/a.py"]
    assert ctx.steps[-1][2] == f"4 files, {summary.bytes:,} bytes"


async def test_summary_of_a_part(workspace: Any, ctx: Any) -> None:
    assert (await workspace.summary(ctx, "src/deep")).files == 2
    with pytest.raises(ToolError, match="No such file"):
        await workspace.summary(ctx, "nowhere")


def test_listing_shows_folders_first(workspace: Any) -> None:
    assert [(entry.path, entry.kind) for entry in workspace.listing()] == [
        (".git", "folder"),
        ("src", "folder"),
        ("README.md", "file"),
    ]
    assert len(workspace.listing(limit=1)) == 1
    with pytest.raises(ToolError, match="is not a folder"):
        workspace.listing("README.md")


@posix
def test_names_that_are_no_utf8_are_shown_with_question_marks(workspace: Any, root: Path, ctx: Any) -> None:
    try:
        (root / os.fsdecode(b"caf\xe9.md")).write_text("tea\n")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    assert "caf?.md" in [entry.path for entry in workspace.listing()]
    assert ("caf?.md", 1) in found_lines(asyncio.run(workspace.search(ctx, "tea")))


async def test_follow_reports_whole_lines_as_they_are_appended(workspace: Any, root: Path, ctx: Any) -> None:
    path = root / "log.txt"
    path.write_text("before\n")

    async def progress(*_: Any, **__: Any) -> None:  # it watches now
        with path.open("a") as file:
            file.write("one\ntwo\nthr")

    ctx.progress = progress
    assert await workspace.follow(ctx, "log.txt", seconds=0.05) == 2
    assert ctx.records == [("info", "one", "log.txt"), ("info", "two", "log.txt")]


# --- staying inside -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["../secret.txt", "src/../../secret.txt", "src/..", "/etc/passwd", "//etc/passwd", "/", ".."]
)
def test_a_path_that_leads_outside_is_refused(workspace: Any, path: str) -> None:
    for tool in (workspace.read, workspace.listing):
        with pytest.raises(ToolError, match="outside the folder"):
            tool(path)


@posix
@pytest.mark.parametrize("target", ["../secret.txt", "README.md", "nowhere", "/etc/passwd"])
def test_a_link_to_a_file_is_not_followed(workspace: Any, root: Path, ctx: Any, target: str) -> None:
    (root / "link.md").symlink_to(target)
    with pytest.raises(ToolError, match="link"):
        workspace.read("link.md")
    assert next(entry.kind for entry in workspace.listing() if entry.path == "link.md") == "link"
    assert "link.md" not in {match.path for match in asyncio.run(workspace.search(ctx, "tea")).matches}


@posix
def test_a_link_to_a_folder_is_not_followed(workspace: Any, root: Path, ctx: Any) -> None:
    (root / "up").symlink_to("..")
    for path in ("up/secret.txt", "up/root/README.md"):
        with pytest.raises(ToolError, match="link"):
            workspace.read(path)
    with pytest.raises(ToolError, match="link"):
        workspace.listing("up")
    assert asyncio.run(workspace.summary(ctx)).files == 4


@posix
@pytest.mark.parametrize("swapped", ["src", "src/a.py"])
def test_a_link_put_there_between_look_and_open_leads_nowhere(
    workspace: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    (tmp_path / "a.py").write_text("secret\n")
    real = os.stat

    def look_then_swap(path: Any, *rest: Any, **named: Any) -> os.stat_result:
        result = real(path, *rest, **named)
        if path == Path(swapped).name and not (root / swapped).is_symlink():
            (root / swapped).rename(tmp_path / "moved away")
            (root / swapped).symlink_to(tmp_path if swapped == "src" else tmp_path / "a.py")
        return result

    monkeypatch.setattr(os, "stat", look_then_swap)
    with pytest.raises(ToolError, match="cannot open"):
        workspace.read("src/a.py")
    assert (root / swapped).is_symlink()


@posix
def test_a_file_exchanged_between_look_and_open_is_refused(
    workspace: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def look_then_swap(path: Any, *rest: Any, **named: Any) -> os.stat_result:
        result = real(path, *rest, **named)
        if path == "README.md" and not (tmp_path / "kept.md").exists():
            (root / "README.md").rename(tmp_path / "kept.md")
            os.mkfifo(root / "README.md")
        return result

    monkeypatch.setattr(os, "stat", look_then_swap)
    with pytest.raises(ToolError, match="was exchanged"):
        workspace.read("README.md")


@posix
def test_pipes_sockets_and_devices_are_not_opened(workspace: Any, root: Path, ctx: Any) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(root)  # the address of a socket is short
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
        for name in ("pipe", "socket"):
            with pytest.raises(ToolError, match="is not a regular file"):
                workspace.read(name)
        assert {entry.path for entry in workspace.listing() if entry.kind == "other"} == {"pipe", "socket"}
        assert asyncio.run(workspace.search(ctx, "tea")).files == 4


@posix
def test_no_descriptor_is_left_open(workspace: Any, root: Path, ctx: Any) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("there is no /proc here")
    (root / "link.md").symlink_to("..")

    def ours() -> list[str]:  # others of this process may come and go
        found: list[str] = []
        for number in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # closed meanwhile
                found.append(os.readlink(f"/proc/self/fd/{number}"))
        return sorted(name for name in found if name.startswith(str(root.parent)))

    before = ours()
    for path in ("README.md", "src/a.py", "src", "nowhere/x", "link.md", "src/deep/data.bin", ".", "../x"):
        for tool in (workspace.read, workspace.listing):
            with suppress(ToolError):
                tool(path)
    assert ours() == before


def test_where_folders_have_no_descriptors_a_path_is_resolved_and_checked(
    workspace: Any, root: Path, ctx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safe_folder

    monkeypatch.setattr(safe_folder, "BY_DESCRIPTOR", False)
    assert workspace.read("src/a.py", 1, 1) == "def brew(leaf):"
    assert asyncio.run(workspace.search(ctx, "tea")).files == 4
    if os.name != "nt":
        (root / "up").symlink_to("..")
        with pytest.raises(ToolError, match="link out of the folder"):
            workspace.read("up/secret.txt")


def test_a_root_that_is_no_folder_is_said_at_once(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKSPACE_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match="nowhere"):
        example("workspace")


def test_this_repositorys_own_tree_is_searched(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, ctx: Any
) -> None:
    monkeypatch.setenv("WORKSPACE_ROOT", str(Path(__file__).parents[2]))
    workspace: Any = example("workspace")
    found = asyncio.run(workspace.search(ctx, "class Context(Questions):", "src/**/*.py"))
    assert found_lines(found)[0][0] == "src/tailrace/core/context.py"
    assert asyncio.run(workspace.summary(ctx, "src")).lines[".py"] > 500
