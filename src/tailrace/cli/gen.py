"""`tailrace gen proto`: a service's `.proto` file, written from its definitions, with the numbers it had before."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tailrace.cli.failures import explained
from tailrace.cli.target import load

if TYPE_CHECKING:
    from tailrace.cli.target import Target

__all__ = ["gen_group"]


@click.group("gen")
def gen_group() -> None:
    """Write files from a Service's definitions."""


@gen_group.command("proto")
@click.argument("target")
@click.option("-o", "--output", metavar="FILE", help="Where to; - is standard output. Default: the file that the "
              "Service names (proto=), else standard output.")  # fmt: skip
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if the file is not as it would be written.")
def proto_command(target: str, output: str | None, check: bool) -> None:
    """Write the .proto file of the Service in TARGET: file.py, file.py:svc or pkg.mod:svc.

    A file that is there keeps its field numbers: new fields get new ones, those of removed fields are reserved. A
    change that would break clients which know the file is refused (exit code 1), and the file stays as it is.
    """
    with explained():
        found = load(target)
        path = _path(found, output)
        if check and path is None:
            raise click.UsageError("--check needs a file: give -o, or proto= in the Service.")
        existing = path.read_text(encoding="utf-8") if path is not None and path.is_file() else None
        text = _text(found, existing, path or Path("standard output"))
        if path is None:
            click.echo(text, nl=False)
        elif text == existing:
            click.echo(f"{path} is as it should be", err=True)
        elif check:
            what = "is not as `tailrace gen proto` writes it" if existing is not None else "is not there"
            raise click.ClickException(f"{path} {what}")
        else:
            _replace(path, text)
            click.echo(f"{path} written", err=True)


def _path(found: Target, output: str | None) -> Path | None:
    if output is not None:
        return None if output == "-" else Path(output)
    lock = found.service.methods.lock
    return None if lock is None else lock.path


def _text(found: Target, existing: str | None, path: Path) -> str:
    from tailrace.errors import DefinitionError
    from tailrace.service.exporting import export_proto

    try:
        export = export_proto(found.service.methods, existing, path)
    except DefinitionError as error:
        raise click.ClickException(str(error)) from None
    for reason in export.left_out:
        click.echo(f"left out: {reason}", err=True)
    if export.broken:
        sentences = "".join(f"\n  {sentence}" for sentence in export.broken)
        raise click.ClickException(f"{path} stays as it is, for clients that know it would break:{sentences}")
    return export.text


def _replace(path: Path, text: str) -> None:
    """Write all of a file or nothing."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(temporary).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
