"""Tools over a real folder: search it, read it, sum it up, list it, follow a growing file.

    WORKSPACE_ROOT=~/project tailrace run examples/workspace.py

The tools are all there is to a service. Big trees are worked through in slices, in threads: the event loop
stays free, progress is reported between slices, and a cancelled call stops at the next one.
`safe_folder.py` beside this file keeps every path inside the folder.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Annotated

from msgspec import Meta
from safe_folder import Entry, SafeFolder

from tailrace import Context, Service, ToolError

FOLDER = SafeFolder(os.environ.get("WORKSPACE_ROOT", "."))
SKIP = frozenset({".git", ".hg", ".venv", "__pycache__", "node_modules"})  # nobody looks for text in there
SLICE = 0.05  # seconds a thread works before the call looks up
MAX_TEXT = 256 * 1024  # characters that one read answers

svc = Service("workspace", version="1.0.0", instructions="Read-only tools over one folder; paths are relative to it.")


@dataclass
class Match:
    path: str
    line: int
    text: str


@dataclass
class Found:
    """What a search found; `complete` is False when it stopped at its limit."""

    matches: list[Match] = field(default_factory=list[Match])
    files: int = 0
    skipped: int = 0  # of these: binary, too large, or not readable
    complete: bool = True


@dataclass
class Summary:
    files: int = 0
    folders: int = 0
    bytes: int = 0
    lines: dict[str, int] = field(default_factory=dict[str, int])  # of text files, by extension
    largest: list[Entry] = field(default_factory=list[Entry])


@svc.tool(read_only=True)
async def search(
    ctx: Context, pattern: str, glob: str = "**/*", limit: Annotated[int, Meta(ge=1, le=1000)] = 100
) -> Found:
    """Find lines in the text files of the folder.

    Args:
        pattern: Text to look for; `*` stands for anything within the line. Capitals matter if there are any.
        glob: Which files, such as `src/**/*.py`; without a slash it is a name in any folder, such as `*.md`.
        limit: Stop after so many lines.
    """
    if not pattern.strip("*"):
        raise ToolError("the pattern is empty: give some text to look for")
    found, total = Found(), 0
    async for number in in_slices(count_files(glob)):
        total = number
    await ctx.progress(0, total, f"{total} files to look through")
    async for done in in_slices(search_files(found, pattern, glob, limit)):
        await ctx.progress(done, max(done, total), f"{len(found.matches)} lines found")
    return found


@svc.tool(read_only=True)
def read(path: str, start: Annotated[int, Meta(ge=1)] = 1, end: Annotated[int, Meta(ge=1)] | None = None) -> str:
    """Read lines of a text file.

    Args:
        path: Relative to the folder.
        start: The first line, counted from 1.
        end: The last line; without it, 200 lines are read.
    """
    lines = FOLDER.lines(path)  # a plain function runs in a thread, so it may wait for the disk
    if start > max(1, len(lines)):
        raise ToolError(f"{path!r} has {len(lines)} lines, so there is no line {start}")
    if end is not None and end < start:
        raise ToolError(f"end ({end}) comes before start ({start})")
    last = min(len(lines), end or start + 199)
    text = "\n".join(lines[start - 1 : last])
    if len(text) > MAX_TEXT:
        raise ToolError(f"these lines have {len(text):,} characters, more than {MAX_TEXT:,}: ask for fewer lines")
    if end is None and last < len(lines):
        text += f"\n… {len(lines) - last} more lines, from line {last + 1} on"
    return text


@svc.tool(read_only=True)
async def summary(ctx: Context, path: str = ".") -> Summary:
    """Sum up a folder: files, bytes, lines by extension, and the ten largest files.

    Args:
        path: Relative to the folder that is served; all of it by default.
    """
    result = Summary()
    async for done in in_slices(sum_up(result, path)):
        await ctx.progress(done, message=f"{result.files} files, {result.bytes:,} bytes")
    return result


@svc.tool(read_only=True)
def listing(path: str = ".", limit: Annotated[int, Meta(ge=1, le=5000)] = 1000) -> list[Entry]:
    """List a folder: names, kinds and sizes, folders first.

    Args:
        path: Relative to the folder that is served.
        limit: At most so many entries.
    """
    found = sorted(FOLDER.entries(path), key=lambda entry: (entry.kind != "folder", entry.path))
    return [shown(entry) for entry in found[:limit]]


@svc.tool(read_only=True)
async def follow(ctx: Context, path: str, seconds: Annotated[float, Meta(gt=0, le=600)] = 10.0) -> int:
    """Report the lines that are appended to a file, as log notifications; the answer is how many there were.

    Args:
        path: Relative to the folder.
        seconds: How long to watch. Cancel the call to end it sooner.
    """
    clock = asyncio.get_running_loop().time
    until, count = clock() + seconds, 0
    position, _ = await asyncio.to_thread(FOLDER.lines_after, path, None)
    await ctx.progress(0, message=f"watching {path}")
    over = False
    while not over:
        await asyncio.sleep(min(0.2, seconds))
        over = clock() >= until  # the last look comes after the end
        position, lines = await asyncio.to_thread(FOLDER.lines_after, path, position)
        for line in lines:
            await ctx.log("info", line, logger=path)
        count += len(lines)
    return count


# --- working in slices ----------------------------------------------------------------------------


async def in_slices(steps: Iterator[int]) -> AsyncIterator[int]:
    """Run a generator in threads, a slice at a time; give the number it has reached whenever that has grown."""
    at, more = 0, True
    while more:
        number, more = await asyncio.to_thread(one_slice, steps, at)
        if number > at:
            at = number
            yield at


def one_slice(steps: Iterator[int], at: int) -> tuple[int, bool]:
    ends = time.monotonic() + SLICE
    for number in steps:
        at = number
        if time.monotonic() > ends:
            return at, True
    return at, False


def count_files(glob: str) -> Iterator[int]:
    number = 0
    for entry in FOLDER.walk(skip=SKIP):
        number += entry.kind == "file" and matches(entry.path, glob)
        yield number


def search_files(found: Found, pattern: str, glob: str, limit: int) -> Iterator[int]:
    for entry in FOLDER.walk(skip=SKIP):
        if entry.kind == "file" and matches(entry.path, glob):
            found.files += 1
            search_file(found, entry, pattern, limit)
        yield found.files
        if not found.complete:
            return


def search_file(found: Found, entry: Entry, pattern: str, limit: int) -> None:
    try:
        lines = FOLDER.lines(entry.path)
    except ToolError:
        found.skipped += 1
        return
    for number, line in enumerate(lines, 1):
        if contains(line, pattern):
            if len(found.matches) == limit:
                found.complete = False
                return
            found.matches.append(Match(shown(entry).path, number, line.strip()[:400]))


def sum_up(result: Summary, path: str) -> Iterator[int]:
    lines: Counter[str] = Counter()
    for number, entry in enumerate(FOLDER.walk(path, skip=SKIP), 1):
        result.folders += entry.kind == "folder"
        if entry.kind == "file":
            result.files += 1
            result.bytes += entry.bytes
            result.largest = heapq.nlargest(10, [*result.largest, shown(entry)], key=lambda file: file.bytes)
            with suppress(ToolError):  # binary, too large, not ours to read: it has no lines
                lines[PurePath(shown(entry).path).suffix or "(none)"] += len(FOLDER.lines(entry.path))
        yield number
    result.lines = dict(lines.most_common())


def contains(line: str, pattern: str) -> bool:
    """Tell whether the parts of a pattern follow each other in a line.

    This is no regular expression: one from a stranger can keep a process busy for hours.
    """
    if pattern == pattern.lower():
        line = line.lower()
    at = 0
    for part in pattern.split("*"):
        at = line.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


def matches(path: str, glob: str) -> bool:
    """Match a path with a glob, component by component, in time that grows with their lengths only."""
    wanted = PurePath(glob).parts if "/" in glob else ("**", glob)
    places = stars_skipped({0}, wanted)  # how much of `wanted` the components so far may have used up
    for part in PurePath(path).parts:
        stay = {at for at in places if at < len(wanted) and wanted[at] == "**"}
        step = {at + 1 for at in places - stay if at < len(wanted) and fnmatchcase(part, wanted[at])}
        places = stars_skipped(stay | step, wanted)
    return len(wanted) in places


def stars_skipped(places: set[int], wanted: tuple[str, ...]) -> set[int]:
    for at, component in enumerate(wanted):  # `**` stands for no component as well
        if at in places and component == "**":
            places.add(at + 1)
    return places


def shown(entry: Entry) -> Entry:
    """The entry as clients see it: slashes, and a question mark for what is no UTF-8 in a name."""
    return Entry(PurePath(entry.path).as_posix().encode("utf-8", "replace").decode(), entry.kind, entry.bytes)


if __name__ == "__main__":
    svc.run()
