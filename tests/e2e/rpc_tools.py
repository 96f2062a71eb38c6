"""Other people's command line tools for RPC, each at a fixed version: `grpcurl` is built once, `buf` is a package."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.e2e.installing import BIN, Missing, find_go, once_into, run_step

GRPCURL = "v1.9.3"
LIMIT = 60.0  # seconds for one run of a tool


def grpcurl() -> Path:
    """The built `grpcurl`; raises `Missing` where there is no Go, or no network."""

    def build(folder: Path) -> None:
        env = {"GOBIN": str(folder), "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        module = f"github.com/fullstorydev/grpcurl/cmd/grpcurl@{GRPCURL}"
        run_step("go", [find_go(), "install", "-trimpath", module], env=env)

    return once_into("grpcurl", GRPCURL, build) / "grpcurl"


def buf() -> Path:
    """The `buf` of the package buf-bin."""
    if not (BIN / "buf").is_file():
        raise Missing("buf", "the package buf-bin is not installed")
    return BIN / "buf"


async def run(tool: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a tool to its end: exit code, what it printed, what it complained of."""
    process = await asyncio.create_subprocess_exec(
        tool, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, out.decode(), err.decode()


def documents(text: str) -> list[Any]:
    """The JSON objects that stand one after the other in what a tool printed."""
    found: list[Any] = []
    decoder = json.JSONDecoder()
    text = text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].strip()
    return found
