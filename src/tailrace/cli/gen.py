"""`tailrace gen`: a service's `.proto` file, with the numbers it had before, and typed clients of any service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tailrace.cli.failures import explained
from tailrace.cli.files import replace_file
from tailrace.cli.target import load, looks_like_target

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
            replace_file(path, text)
            click.echo(f"{path} written", err=True)


@gen_group.command("stubs")
@click.argument("source")
@click.option("-o", "--output", metavar="FILE", help="Where to; default: standard output.")
def stubs_command(source: str, output: str | None) -> None:
    """Write a Python module with a typed client for each service of SOURCE.

    SOURCE is a TARGET (file.py, file.py:svc, pkg.mod:svc), a .proto file, or a file with a descriptor set, as
    `protoc --include_imports --descriptor_set_out=FILE` and `buf build -o FILE` write it.

    Messages of a TARGET's Python types are written as dataclasses; those of .proto files are taken from the modules
    that protoc generates of them.
    """
    with explained():
        text = _stubs_of_target(source) if looks_like_target(source) else _stubs_of_file(Path(source))
        if output is None or output == "-":
            click.echo(text, nl=False)
        else:
            replace_file(Path(output), text)
            click.echo(f"{output} written", err=True)


def _stubs_of_target(source: str) -> str:
    from tailrace.errors import DefinitionError
    from tailrace.service.exporting import export_stubs

    found = load(source)
    try:
        return export_stubs(found.service.methods)
    except DefinitionError as error:
        raise click.ClickException(str(error)) from None


def _stubs_of_file(path: Path) -> str:
    from tailrace.schema.stub_text import render_stubs

    if not path.is_file():
        raise click.UsageError(f"there is no file {path}.")
    files = _read_proto(path) if path.suffix == ".proto" else _read_set(path)
    services = [file for file in files if file.service]
    if not services:
        raise click.ClickException(f"there is no service in {path}")
    try:
        return render_stubs(services, None, {}, files)
    except LookupError as error:
        hint = "give a descriptor set with all imports instead"
        raise click.ClickException(f"{path}: {error.args[0]} is in another file: {hint}") from None


def _read_proto(path: Path) -> list[Any]:
    from tailrace.schema.proto_parser import ProtoSyntaxError, parse_proto
    from tailrace.schema.protobuf import google

    try:
        file = parse_proto(path.read_text(encoding="utf-8"), path.name)
    except (ProtoSyntaxError, UnicodeDecodeError) as error:
        raise click.ClickException(str(error)) from None
    files = [file]
    for name in file.dependency:
        if name.startswith("google/protobuf/"):
            known = google("descriptor_pb2").FileDescriptorProto()
            google(name.removeprefix("google/protobuf/").removesuffix(".proto") + "_pb2").DESCRIPTOR.CopyToProto(known)
            files.append(known)
    return files


def _read_set(path: Path) -> list[Any]:
    from tailrace.schema.protobuf import google

    try:
        return list(google("descriptor_pb2").FileDescriptorSet.FromString(path.read_bytes()).file)
    except google("message").DecodeError:
        raise click.ClickException(f"{path} is no .proto file and no descriptor set") from None


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
