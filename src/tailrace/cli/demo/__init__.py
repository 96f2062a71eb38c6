"""`tailrace demo`: a server and a client, two processes; the wires are cut, the server is killed; then the count."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Run the demo, or count its files again; returns the exit code.

    Args:
        arguments: ``--keep DIR`` leaves the files there; ``--recount DIR`` only counts them.
    """
    parser = argparse.ArgumentParser(prog="tailrace demo", description="Watch calls survive, and count them.")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave the two processes' files in this folder")
    parser.add_argument("--recount", metavar="DIR", type=Path, help="only count the files of an earlier run")
    options = parser.parse_args(arguments)
    from tailrace.cli.demo.count import count
    from tailrace.cli.demo.story import Story, show_count

    console = Console(highlight=False)
    if options.recount is not None:
        if not (options.recount / "client.log").exists():
            print(f"tailrace demo: there are no files of an earlier run in {options.recount}", file=sys.stderr)
            return 2
        return show_count(console, count(options.recount))
    with tempfile.TemporaryDirectory(prefix="tailrace-demo-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "client.log").exists():
            print(f"tailrace demo: {folder} holds an earlier run; give an empty folder", file=sys.stderr)
            return 2
        try:
            asyncio.run(Story(console, folder).tell())
        except (OSError, TimeoutError, RuntimeError) as error:
            console.print(f"[bold red]The demo could not be run:[/] {error}")
            return 1
        return show_count(console, count(folder))
