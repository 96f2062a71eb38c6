"""The tasks extension's shapes (SEP-2663)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET, Raw

from tailrace.wire import mcp, tasks


@pytest.mark.parametrize(
    ("capabilities", "declared"),
    [
        ({"extensions": {tasks.EXTENSION: {}}}, True),
        ({"extensions": {tasks.EXTENSION: {}, "other": {}}, "elicitation": {}}, True),
        ({"extensions": {"other": {}}}, False),
        ({"extensions": [tasks.EXTENSION]}, False),
        ({"tasks": {}}, False),
        ({}, False),
        (UNSET, False),
    ],
)
def test_a_client_declares_the_extension_on_each_request(capabilities: Any, declared: bool) -> None:
    assert tasks.declares_tasks(mcp.Meta(client_capabilities=capabilities)) is declared


def test_what_is_missing_is_named_as_the_client_would_declare_it() -> None:
    error = tasks.tasks_missing()
    assert (error.code, mcp.http_status(error)) == (-32021, 400)
    assert error.data == {"requiredCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}


def test_a_state_without_a_time_to_live_says_null_and_leaves_out_what_there_is_not() -> None:
    state = tasks.TaskState("t", "working", "a", "b", None)
    assert msgspec.json.decode(mcp.encode(state)) == {
        "taskId": "t",
        "status": "working",
        "createdAt": "a",
        "lastUpdatedAt": "b",
        "ttlMs": None,
    }


def test_a_state_is_read_back_as_it_was_written() -> None:
    state = tasks.TaskState(
        "t", "completed", "a", "b", 5, 6, "said", Raw(b'{"content":[]}'), result_type="complete", meta={"k": 1}
    )
    assert msgspec.json.decode(mcp.encode(state), type=tasks.TaskState) == state
