"""The process of `tailrace guard module:object`: serve an object that knows how to, over stdio.

It is for objects of other libraries: whatever has a method ``run`` that serves stdio by itself, as FastMCP has.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from tailrace.cli.target import load_object

__all__ = ["main"]


def main(target: str) -> None:
    """Import the object, and let it serve.

    Raises:
        click.ClickException: There is none, or it cannot serve.
    """
    found: Any = load_object(target)
    run = getattr(found, "run", None)
    if not callable(run):
        raise click.UsageError(f"{target} has no run(), so it cannot serve: it is of type {type(found).__name__}.")
    run()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
