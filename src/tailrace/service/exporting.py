"""A service's ``.proto`` file: written from its definitions, and read for the numbers it keeps."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailrace.errors import DefinitionError

if TYPE_CHECKING:
    from types import FrameType

    from tailrace.schema.proto_lock import Comparison
    from tailrace.service.methods import Methods

__all__ = ["Export", "Lock", "export_proto", "export_stubs", "lock_of", "read_lock"]

logger = logging.getLogger("tailrace.service")

_HEAD = """\
Written by `tailrace gen proto` from the Service {name}. Field numbers and reserved names in here are kept
when it is written again: keep it under version control beside the code."""


class Lock:
    """The file to whose numbers a service keeps (``Service(proto=...)``).

    It is read once, when the service is defined: a server that starts waits for no disk.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = path.read_text(encoding="utf-8") if path.is_file() else None

    def read(self) -> Any:
        """Its ``FileDescriptorProto``.

        Raises:
            DefinitionError: It is not there, or cannot be read.
        """
        if self._text is None:
            raise DefinitionError(f"there is no {self.path}: write it with `tailrace gen proto`")
        return read_lock(self._text, self.path)

    def check(self, comparison: Comparison) -> None:
        """Whether a service may be served as it is.

        Raises:
            DefinitionError: It would break clients that know the file.
        """
        if comparison.broken:
            raise DefinitionError(f"{self.path} does not allow this: {'; '.join(comparison.broken)}")
        if comparison.behind:
            changes = ", ".join([*comparison.added, *comparison.removed])
            logger.warning("%s is behind, write it anew with `tailrace gen proto`: %s", self.path, changes)


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """What was written.

    Attributes:
        text: Of the file; not to be used where `broken` has something.
        broken: Why it may not be written, a sentence each.
        left_out: Why tools are not in it, a sentence each.
    """

    text: str
    broken: list[str]
    left_out: list[str]


def lock_of(path: str | os.PathLike[str], frame: FrameType | None) -> Lock:
    """The lock at a path; a relative one is seen from the file of whoever called the function of `frame`."""
    caller = None if frame is None else frame.f_back
    file = None if caller is None else caller.f_globals.get("__file__")
    return Lock(Path(path) if file is None else Path(file).resolve().parent / path)


def read_lock(text: str, path: Path) -> Any:
    """Read a file for its numbers.

    Raises:
        DefinitionError: It cannot be read.
    """
    from tailrace.schema.proto_parser import ProtoSyntaxError, parse_proto

    try:
        return parse_proto(text, path.name)
    except ProtoSyntaxError as error:
        raise DefinitionError(f"{path} cannot be read: {error}") from None


def export_proto(methods: Methods, existing: str | None, path: Path) -> Export:
    """Write a service's ``.proto`` file.

    Args:
        methods: What is defined.
        existing: The file as it is, whose numbers are kept; None where there is none.
        path: Its place, for errors.

    Raises:
        DefinitionError: The existing file cannot be read, or nothing is defined in Python.
    """
    from tailrace.schema.docstrings import parse_docstring
    from tailrace.schema.proto_text import render_proto
    from tailrace.service.building import plan

    planned = plan(methods, None if existing is None else read_lock(existing, path))
    left_out = [reason for _, reason in planned.left_out]
    if planned.proto is None:
        reason = "; ".join(left_out) or "it has no tool and no @rpc function"
        raise DefinitionError(f"nothing of {methods.full_name} is defined in Python: {reason}")
    comments: dict[str, str] = {}
    for one in planned.shaped:
        definition = one.definition
        described = parse_docstring(definition.fn.__doc__, ()).description if definition.tool is None else None
        comments[definition.name] = definition.tool.description if definition.tool is not None else described or ""
    text = render_proto(planned.proto, _HEAD.format(name=methods.full_name), comments)
    return Export(text, [] if planned.comparison is None else planned.comparison.broken, left_out)


def export_stubs(methods: Methods) -> str:
    """The source of a module with typed clients of a service.

    Raises:
        DefinitionError: It has no RPC methods.
    """
    from tailrace.schema.protobuf import google
    from tailrace.schema.stub_text import render_stubs

    built = methods.built
    if not len(methods):
        raise DefinitionError(f"{methods.full_name} has no RPC methods")
    class_of = google("message_factory").GetMessageClass
    known = list(built.descriptor_set().file)
    modules: dict[str, str] = {}
    for method in methods.values():
        for side in (method.input.descriptor, method.output.descriptor):
            modules[side.file.name] = class_of(side).__module__
    wanted = methods.services
    services: list[Any] = []
    for file in known:
        for at in reversed(range(len(file.service))):
            if ".".join(filter(None, (file.package, file.service[at].name))) not in wanted:
                del file.service[at]
        if file.service:
            services.append(file)
    own = next((file for file in known if built.own is not None and file.name == built.own.name), None)
    return render_stubs(services, own, modules, known)
