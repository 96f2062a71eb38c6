"""FastMCP's client of tasks, 4.x (package `fastmcp-tasks`): makes tasks, waits for them, cancels them.

Reads one JSON object from its first argument: `url`, and `do`, a list of steps. Prints one JSON line for each step:
`["begin", TOOL, ARGUMENTS]` gives the task's id and leaves the client; `["wait", N]` looks until the task of step N has
ended; `["call", TOOL, ARGUMENTS]` is an ordinary call, followed out of sight; `["cancel", N]` cancels it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp_tasks.client import ToolTask, call_tool_task


async def main(url: str, steps: list[list[Any]]) -> None:
    tasks: dict[int, ToolTask] = {}
    async with Client(StreamableHttpTransport(url), mode="auto") as client:
        for number, (what, *given) in enumerate(steps):
            if what == "begin":
                tasks[number] = task = await call_tool_task(client, given[0], given[1], raise_on_error=False)
                said: Any = {"id": task.task_id, "status": task.create_result.status}
            elif what == "call":
                result = await client.call_tool(given[0], given[1], raise_on_error=False)
                said = {"isError": bool(result.is_error), "content": result.structured_content}
            elif what == "cancel":
                await tasks[given[0]].cancel()
                state = await tasks[given[0]].wait(timeout=60.0)
                said = {"status": state.status}
            else:
                result = await tasks[given[0]].result()
                said = {"isError": bool(result.is_error), "content": result.structured_content}
            print(json.dumps(said), flush=True)


asked = json.loads(sys.argv[1])
asyncio.run(main(asked["url"], asked["do"]))
