"""The official TypeScript clients, run as a process of their own; see `node/drive.mjs` for what they do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).parent / "node" / "drive.mjs"


def drive_node(
    node: Path,
    client: str,
    transport: str,
    target: str | Sequence[str],
    era: str,
    plan: Mapping[str, Any],
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Put one client through a plan; its report, or `{"failed": text}`.

    Args:
        node: The interpreter.
        client: `sdk` (1.x) or `client` (2.x).
        transport: `streamable`, `sse` or `stdio`.
        target: The URL; over stdio the command.
        era: `legacy` or `auto` (2.x only).
        plan: Four calls, see `plans`.
        env: Variables for a stdio server.
    """
    options = {"client": client, "transport": transport, "era": era, "plan": plan, "env": dict(env or {})}
    command = [str(node), str(DRIVER), json.dumps({**options, "target": target})]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    try:
        return json.loads(result.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {"failed": f"exit code {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"}
