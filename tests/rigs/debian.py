"""Programs that pip cannot bring: the installed one, else the Debian package, unpacked into the cache of the tests.

Nothing is installed and nobody needs to be root: apt keeps its lists and archives in a folder of ours, takes the
package and what it needs that the system lacks, and each is unpacked (`dpkg-deb -x`) beside the others. Where there
is no apt, or it finds nothing, the tests skip and say so; these are the only skips that pass where `CI` is set.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.installing import Missing, once_into, run_step

__all__ = ["CHROMIUM", "NGINX", "PROMETHEUS", "Program", "command_or_skip", "find_command"]

LIMIT = 180.0  # seconds for a step; Chromium is about 100 MB
_TRIES = 2  # for what is fetched: lists and archives may change in between


@dataclass(frozen=True)
class Program:
    """One of them.

    Attributes:
        name: In reasons and in the cache.
        variable: Of the environment: where another one is.
        commands: What it may be called where it is installed.
        packages: Debian's; those it depends on come by themselves.
        path: The program in the package.
    """

    name: str
    variable: str
    commands: tuple[str, ...]
    packages: tuple[str, ...]
    path: str


NGINX = Program("nginx", "TAILRACE_NGINX", ("nginx",), ("nginx", "nginx-common"), "usr/sbin/nginx")
PROMETHEUS = Program("prometheus", "TAILRACE_PROMETHEUS", ("prometheus",), ("prometheus",), "usr/bin/prometheus")
CHROMIUM = Program(
    "chromium",
    "TAILRACE_CHROMIUM",
    ("chromium", "chromium-browser", "google-chrome"),
    ("chromium", "chromium-common"),
    "usr/lib/chromium/chromium",
)

_missing: dict[Program, Missing] = {}  # asked for once a process: the next test would wait as long for the same


def find_command(program: Program) -> str:
    """What to start it with.

    Raises:
        Missing: It is not installed and cannot be fetched; args are its name and the reason.
    """
    if given := os.environ.get(program.variable):
        return given
    for name in program.commands:
        if found := shutil.which(name) or shutil.which(name, path="/usr/sbin"):
            return found
    if program in _missing:
        raise Missing(*_missing[program].args)
    try:
        return _unpacked(program)
    except Missing as missing:
        _missing[program] = missing
        raise


def command_or_skip(program: Program) -> str:
    """The same for a test: it skips where the program cannot be had."""
    try:
        return find_command(program)
    except Missing as missing:
        reason = "{} is not installed, and pip cannot bring it; {}".format(*missing.args)
        pytest.skip(reason)


def _unpacked(program: Program) -> str:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing(program.name, "there is no apt to fetch Debian's package with")
    folder = once_into(f"debian-{program.name}", f"1 {program}", lambda folder: _fetch(program, folder))
    return str(folder / program.name)


def _fetch(program: Program, folder: Path) -> None:
    for left in reversed(range(_TRIES)):
        try:
            archives = _download(program, folder / "apt")
            break
        except Missing:
            if not left:
                raise
    root = folder / "root"
    for archive in archives:
        run_step(program.name, ["dpkg-deb", "-x", str(archive), str(root)], limit=LIMIT)
    shutil.rmtree(folder / "apt")
    binary = root / program.path
    if not binary.exists():
        raise Missing(program.name, f"Debian's package has no {program.path}")
    libraries = sorted({str(path.parent) for path in root.glob("**/*.so*")})
    command = folder / program.name
    command.write_text(
        "#!/bin/sh\n"
        f"LD_LIBRARY_PATH={shlex.quote(':'.join(libraries))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"
        f'export LD_LIBRARY_PATH\nexec {shlex.quote(str(binary))} "$@"\n'
    )
    command.chmod(0o755)
    run_step(program.name, [str(command), "-v" if program is NGINX else "--version"], limit=LIMIT)


def _download(program: Program, folder: Path) -> list[Path]:
    """The package's archive, and those of what it needs."""
    for name in ("state/lists/partial", "cache/archives/partial", "empty"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings = folder / "apt.conf"
    settings.write_text(_settings(program.name, folder))
    apt = ["apt-get", "-q", "-y"]
    env = {"APT_CONFIG": str(settings), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    try:
        run_step(program.name, [*apt, "update"], env=env, limit=LIMIT)
    except Missing:
        if not any((folder / "state/lists").glob("*Packages*")):  # one of the sources may be out of reach
            raise
    options = ["install", "--download-only", "--reinstall", "--no-install-recommends"]
    run_step(program.name, [*apt, *options, *program.packages], env=env, limit=LIMIT)
    return sorted((folder / "cache/archives").glob("*.deb"))


def _settings(part: str, folder: Path) -> str:
    """The system's, so that its sources and proxies are asked; without what it runs after an update as root."""
    lines = run_step(part, ["apt-config", "dump"], limit=LIMIT).splitlines()
    hooks = re.compile(r"(?:APT::Update|DPkg)::(?:Pre|Post)-|Dir::Cache|Dir::Etc::(?:parts|main)\b")
    ours = {
        "Dir::State": f"{folder}/state",
        "Dir::Cache": f"{folder}/cache",
        "Dir::Cache::archives": "archives/",
        "Dir::Etc::parts": f"{folder}/empty",
        "Dir::Etc::main": f"{folder}/empty.conf",
        "Dir::State::lists": "lists/",
        "APT::Sandbox::User": "root",
        "APT::Keep-Downloaded-Packages": "true",
        "Debug::NoLocking": "true",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
        "Acquire::Languages": "none",
    }
    kept = [line for line in lines if not hooks.match(line)]
    return "\n".join([*kept, *(f'{name} "{value}";' for name, value in ours.items()), ""])
