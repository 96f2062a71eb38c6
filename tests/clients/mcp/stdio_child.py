"""A server on stdio that misbehaves as its first argument says; the second one is a folder to leave notes in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HOW = sys.argv[1]
FOLDER = Path(sys.argv[2])
RESULT = {"content": [], "structuredContent": {"result": 1}}


def say(message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def note(name: str, text: str = "") -> None:
    (FOLDER / f"{name}.new").write_text(text)
    (FOLDER / f"{name}.new").rename(FOLDER / name)


def answer(message: Any) -> None:
    id, method = message.get("id"), message.get("method")
    if method == "server/discover":
        if HOW != "deaf":
            say({"id": id, "error": {"code": -32601, "message": "what?"}})
    elif method == "initialize":
        info = {"name": HOW, "version": os.environ.get("WHO", "1")}
        say({"id": id, "result": {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": info}})
    elif method == "notifications/cancelled":
        note("cancelled", str(message["params"]["requestId"]))
    elif method == "tools/call":
        call(id)


def call(id: Any) -> None:
    match HOW:
        case "exits":
            sys.stderr.write("I am leaving\n")
            sys.exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs":
            note("called")
        case "noisy":
            sys.stdout.write("hello from a stray print\n\n[1, 2\n")
            say({"id": id, "result": RESULT})
        case "large":
            say({"id": id, "result": {"content": [], "structuredContent": {"result": "x" * 1_000_000}}})
        case "floods":
            line = json.dumps({"jsonrpc": "2.0", "method": "notifications/x", "params": {"pad": "x" * 1000}}) + "\n"
            for number in range(3000):
                sys.stdout.write(line)
                sys.stderr.write(f"line {number}\n")
            say({"id": id, "result": RESULT})
            while True:
                sys.stdout.write(line)
        case _:
            say({"id": id, "result": RESULT})


if HOW == "stubborn":  # hears neither the end of its stdin nor SIGTERM, and has a child that is the same
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
    )
    note("pids", f"{os.getpid()} {child.pid}")
if HOW == "parent":  # ends as it should, and leaves a child behind
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note("pids", f"{os.getpid()} {child.pid}")
if HOW == "daemon":  # leaves a child behind that left the group, and holds the pipes open
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    note("pids", f"{os.getpid()} {child.pid}")
for line in sys.stdin:
    answer(json.loads(line))
note("eof")
if HOW == "stubborn":
    time.sleep(600)
