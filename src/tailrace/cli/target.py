"""From a TARGET on the command line to a `Service`: `file.py`, `file.py:svc` or `pkg.mod:svc`.

Whatever is wrong with it is said in terms of the user's own files: what was looked for, what was found
instead, and for an exception in the user's code that code's own traceback, without our frames above it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from types import ModuleType, TracebackType

    from tailrace.service import Service

__all__ = ["BrokenTarget", "Target", "default_store", "load", "load_object", "looks_like_target"]


@dataclass(frozen=True, slots=True)
class Target:
    """A service that was found.

    Attributes:
        service: The service itself.
        file: The file it was found in, resolved.
        name: Its name in there.
    """

    service: Service
    file: Path
    name: str

    @property
    def resolved(self) -> str:
        """The same string however the target was spelt; it names the store's file."""
        return f"{self.file}:{self.name}"


class BrokenTarget(click.ClickException):
    """The user's own code failed when it was imported (exit code 1)."""

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message)
        self.details = details

    def format_message(self) -> str:
        return f"{self.message}\n\n{self.details.rstrip()}" if self.details else self.message


def load(target: str) -> Target:
    """Import what `target` names, and find the service in it.

    Args:
        target: ``file.py``, ``file.py:svc``, ``pkg.mod`` or ``pkg.mod:svc``.

    Raises:
        click.UsageError: There is no such file, module or service, or there are several services.
        BrokenTarget: The user's code does not compile, or raised while it was imported.
    """
    where, name = _split(target)
    module = _import(where)
    service, name = _service(module, name, target)
    return Target(service, Path(module.__file__ or where).resolve(), name)


def load_object(target: str) -> object:
    """Import what `target` names, and give the object of that name, whatever it is.

    Args:
        target: ``file.py:name`` or ``pkg.mod:name``.

    Raises:
        click.UsageError: There is no such file, module or name.
        BrokenTarget: The user's code does not compile, or raised while it was imported.
    """
    where, name = _split(target)
    if name is None:
        raise click.UsageError(f"say which object of {where} it is: {where}:name.")
    value: object = _import(where)
    for part in name.split("."):
        if not hasattr(value, part):
            raise click.UsageError(f"there is no {name!r} in {where}.")
        value = getattr(value, part)
    return value


def _import(where: str) -> ModuleType:
    if where.endswith(".py") or Path(where).exists():
        return _import_file(_existing_file(where))
    return _import_module(where)


def default_store(target: Target) -> Path:
    """The SQLite file of this target in the user's state folder: one for each service."""
    from tailrace.server import places

    return places.default_store(target.file, target.name)


def looks_like_target(word: str) -> bool:
    """Tell a TARGET from the name of a program."""
    where, name = _split(word)
    return where.endswith(".py") or name is not None


def _split(target: str) -> tuple[str, str | None]:
    """Split off ``:svc``; the colon of a Windows drive is none of ours."""
    where, colon, name = target.rpartition(":")
    if colon and where and all(part.isidentifier() for part in name.split(".")):
        return where, name
    return target, None


# --- importing ------------------------------------------------------------------------------------


def _existing_file(where: str) -> Path:
    path = Path(where)
    if path.is_file():
        return path.resolve()
    if path.is_dir():
        raise click.UsageError(f"{where} is a folder, not a file.{_offer(_with_services(path))}")
    folder = path.parent
    if not folder.is_dir():
        raise click.UsageError(f"there is no file {where}: there is no folder {folder}.")
    near = difflib.get_close_matches(path.name, [file.name for file in folder.glob("*.py")], n=3)
    offer = _offer([str(folder / name) for name in near] or _with_services(folder))
    raise click.UsageError(f"there is no file {where}.{offer}")


def _import_file(path: Path) -> ModuleType:
    """Import a file as `python path` would find it: its folder, or its package's, comes first on the path."""
    top, names = path.parent, [path.stem]
    while (top / "__init__.py").is_file() and top.name.isidentifier():
        names.insert(0, top.name)
        top = top.parent
    _path_first(top)
    if len(names) > 1:
        return _guarded(".".join(names), str(path))
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"tailrace_target_{name}"  # a file may be called `json.py`, and must not become everybody's json
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and type hints look there
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        _explain(error, str(path))
    return module


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise click.UsageError(f"{name!r} is neither a file nor a module: give file.py, file.py:svc or pkg.mod:svc.")
    _path_first(Path.cwd())
    file = Path(*name.split(".")).with_suffix(".py")
    try:
        found = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            _explain(error, name)
        found = False
    except BaseException as error:  # a parent package is imported to look for its module
        _explain(error, name)
    if not found:
        others = [str(file)] if file.is_file() else _with_services(Path())
        raise click.UsageError(f"there is no module {name!r} here or on Python's path.{_offer(others)}")
    return _guarded(name, name)


def _guarded(name: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except BaseException as error:
        _explain(error, shown)


def _path_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def _explain(error: BaseException, shown: str) -> NoReturn:
    """Say what is wrong with the user's code: where it is, in its own lines only."""
    from tailrace.errors import DefinitionError

    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, DefinitionError):  # its text names file, line and function
        raise BrokenTarget(f"{shown}: {error}", "") from None
    if isinstance(error, SystemExit):
        raise BrokenTarget(f"{shown} ended the program (sys.exit) while it was imported", "") from None
    what = "does not compile" if isinstance(error, SyntaxError) else "failed while it was imported"
    error.__traceback__ = _users_part(error.__traceback__)
    raise BrokenTarget(f"{shown} {what}", "".join(traceback.format_exception(error))) from None


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without our frames and the import system's."""
    first = last = None
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_NOT_THE_USERS):
            if last is None:
                first = trace
            else:
                last.tb_next = trace
            last = trace
        trace = trace.tb_next
    if last is not None:
        last.tb_next = None
    return first


_NOT_THE_USERS = (__file__, "<frozen importlib", str(Path(importlib.__file__).parent))


# --- finding --------------------------------------------------------------------------------------


def _service(module: ModuleType, name: str | None, target: str) -> tuple[Service, str]:
    from tailrace.service import Service

    found: dict[str, Service] = {}
    for key, value in vars(module).items():
        if isinstance(value, Service) and all(value is not other for other in found.values()):
            found[key] = value
    found = {key: value for key, value in found.items() if not key.startswith("_")} or found
    where, _ = _split(target)
    if name is not None:
        return _named(module, name, where, list(found)), name
    if len(found) == 1:
        key, service = next(iter(found.items()))
        return service, key
    if found:
        names = "".join(f"\n  {where}:{key}   {service.name}" for key, service in found.items())
        raise click.UsageError(f"there are {len(found)} services in {where}; say which:{names}")
    raise click.UsageError(f"there is no Service in {where}.{_instead(module)}")


def _named(module: ModuleType, name: str, where: str, services: list[str]) -> Service:
    from tailrace.service import Service

    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise click.UsageError(f"there is no {name!r} in {where}.{_offer([f'{where}:{key}' for key in services])}")
        value = getattr(value, part)
    if isinstance(value, Service):
        return value
    offer = _offer([f"{where}:{key}" for key in services])
    raise click.UsageError(f"{where}:{name} is {_kind(value)}, not a Service.{offer}")


def _instead(module: ModuleType) -> str:
    """What a module without a service has, and where else a service may be."""
    own = [
        f"{key} ({_kind(value)})"
        for key, value in vars(module).items()
        if not key.startswith("_") and value.__class__.__module__ not in {"builtins", "typing"}
    ][:5]
    has = f" It has: {', '.join(own)}." if own else ""
    start = '\nStart one with: from tailrace import Service; svc = Service("name")'
    others = _with_services(Path(module.__file__).parent, but=Path(module.__file__)) if module.__file__ else []
    return has + (_offer(others) if others else start)


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if callable(value) and hasattr(value, "__name__"):
        return "a function"
    return f"of type {type(value).__name__}"


def _offer(found: list[str]) -> str:
    return "\nFound instead:" + "".join(f"\n  {word}" for word in found[:8]) if found else ""


def _with_services(folder: Path, *, but: Path | None = None) -> list[str]:
    """The Python files of a folder that seem to define a service; nothing is imported for it."""
    found: list[str] = []
    for file in sorted(folder.glob("*.py"))[:500]:
        with suppress(OSError):
            if file != but and b"Service(" in file.read_bytes():
                found.append(str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file))
    return found
