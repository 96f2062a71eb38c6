"""The orders example keeps orders in its own file, and places each request once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tailrace import ToolError
from tailrace.schema import InvalidArguments


@pytest.fixture
def orders(example: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ORDERS_DB", str(tmp_path / "orders.sqlite"))
    return example("orders")


def test_an_order_is_placed_listed_and_cancelled(orders: Any) -> None:
    tea = orders.place("tea", 2)
    assert (tea.id, tea.item, tea.qty, tea.status) == (1, "tea", 2, "open")
    assert abs((datetime.now(UTC) - tea.placed).total_seconds()) < 60
    milk = orders.place("milk")
    assert orders.list_orders() == [milk, tea]
    assert orders.list_orders(limit=1) == [milk]
    gone = orders.cancel(tea.id)
    assert gone.status == "cancelled"
    assert orders.cancel(tea.id) == gone
    assert orders.list_orders() == [milk]
    assert orders.list_orders("cancelled") == [gone]
    assert orders.list_orders("all") == [milk, gone]


def test_orders_are_there_after_a_restart(orders: Any, example: Callable[[str], ModuleType]) -> None:
    placed = orders.place("tea")
    again: Any = example("orders")
    assert [order.id for order in again.list_orders()] == [placed.id]


def test_the_same_request_is_placed_once(orders: Any) -> None:
    first = orders.place("tea", 2, "r-1")
    assert orders.place("tea", 2, "r-1") == first
    assert orders.place("tea", 2, "r-2").id != first.id
    assert len(orders.list_orders()) == 2


def test_two_orders_without_a_request_id_are_two(orders: Any) -> None:
    assert orders.place("tea").id != orders.place("tea").id


def test_a_request_id_used_for_another_order_is_refused(orders: Any) -> None:
    orders.place("tea", 2, "r-1")
    with pytest.raises(ToolError, match="used for another order: 2 x tea"):
        orders.place("tea", 3, "r-1")
    assert len(orders.list_orders()) == 1


def test_the_same_request_from_many_threads_is_placed_once(orders: Any) -> None:
    start = threading.Barrier(8)
    ids: list[int] = []

    def ask() -> None:
        start.wait()
        ids.append(orders.place("tea", 1, "r-1").id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert len(orders.list_orders()) == 1


def test_an_order_that_is_not_there_cannot_be_cancelled(orders: Any) -> None:
    with pytest.raises(ToolError, match="there is no order 7"):
        orders.cancel(7)


def test_what_clients_see_is_typed(orders: Any) -> None:
    tools = orders.svc.tools
    assert list(tools) == ["place", "list", "cancel"]
    place = json.loads(tools["place"].definition)
    assert place["inputSchema"]["required"] == ["item"]
    assert place["inputSchema"]["properties"]["qty"]["maximum"] == 1000
    assert place["inputSchema"]["properties"]["request_id"]["description"].startswith("Your own name")
    assert set(place["outputSchema"]["properties"]) == {"id", "item", "qty", "status", "placed"}
    assert json.loads(tools["list"].definition)["annotations"] == {"readOnlyHint": True}
    assert not tools["place"].is_async


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (b'{"item": ""}', "item"),
        (b'{"item": "tea", "qty": 0}', "qty"),
        (b'{"item": "tea", "qty": 1001}', "qty"),
        (b'{"item": "tea", "request_id": ""}', "request_id"),
        (b'{"itm": "tea"}', "itm"),
    ],
)
def test_wrong_arguments_are_named(orders: Any, arguments: bytes, said: str) -> None:
    with pytest.raises(InvalidArguments, match=said):
        orders.svc.tools["place"].bind(arguments)
