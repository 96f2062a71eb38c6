"""Files that are somebody's: written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

__all__ = ["replace_file"]


def replace_file(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write all of a file or nothing.

    Args:
        path: Which; its folder is there.
        text: All of it.
        mode: Who may read a new one; one that is there keeps its own.

    Raises:
        click.ClickException: Its folder cannot be written to.
        OSError: It cannot be written; it is as it was.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(temporary).chmod(path.stat().st_mode & 0o777 if path.exists() else mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
