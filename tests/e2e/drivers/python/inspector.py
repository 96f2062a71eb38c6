"""The Inspector's `--cli`: one process a request, so it lists and calls, and there is nothing to cancel or to resume.

OPTIONS are as in `plan.py`; `client` is the path of the Inspector's launcher, run by the `node` on the PATH.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

IS_ERROR = 5  # its exit code for a result with isError
LIMIT = 60.0  # seconds for one request


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    try:
        print(json.dumps(follow(options)))
    except Exception as error:
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}))
        raise SystemExit(1) from None


def follow(options: dict[str, Any]) -> dict[str, Any]:
    plan = options["plan"]
    report: dict[str, Any] = {"tools": tools(options)}
    structured = call(options, plan["structured"])
    content = structured.get("structuredContent")
    report["structured"] = {"isError": bool(structured.get("isError")), "content": content, "text": text(structured)}
    error = call(options, plan["error"])
    report["error"] = {"isError": bool(error.get("isError")), "text": text(error)}
    report["after"] = report["tools"]  # there is no session that could have been lost
    return report


def tools(options: dict[str, Any]) -> list[dict[str, Any]]:
    found = ask(options, "tools/list")["tools"]
    return [{"name": tool["name"], "input": tool["inputSchema"], "output": tool.get("outputSchema")} for tool in found]


def call(options: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    return ask(options, "tools/call", "--tool-name", step["name"], "--tool-args-json", json.dumps(step["arguments"]))


def ask(options: dict[str, Any], method: str, *more: str) -> dict[str, Any]:
    """One request in a process of its own; the result."""
    command = ["node", options["client"], "--cli", "--format", "json", "--protocol-era", options["era"]]
    command += ["--method", method, *more]
    if options["transport"] == "stdio":
        command += [part for name, value in options["env"].items() for part in ("-e", f"{name}={value}")]
        command += ["--", *options["target"]]
    else:
        kind = "sse" if options["transport"] == "sse" else "http"
        command += ["--transport", kind, "--server-url", options["target"]]
    with tempfile.TemporaryDirectory() as home:  # it writes a catalogue into the home folder
        env = {**os.environ, "HOME": home}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, env=env)
    if done.returncode not in (0, IS_ERROR):
        raise RuntimeError(f"exit code {done.returncode} of {method}: {done.stderr[-1000:]}")
    return json.loads(done.stdout)["result"]


def text(result: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in result["content"])


main()
