"""Orders in a database: place, list, cancel.

    ORDERS_DB=orders.sqlite tailrace run examples/orders.py

The tools are plain functions. Each runs in a thread of its own, so waiting for the disk holds up nobody else.
An order placed with a `request_id` is placed once: who gets no answer may safely ask again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from msgspec import Meta

from tailrace import Service, ToolError

TABLE = """create table if not exists orders (
    id integer primary key, item text not null, qty integer not null, status text not null default 'open',
    placed text not null, request_id text unique)"""

svc = Service("orders", version="1.0.0", instructions="Place, list and cancel orders.")


@dataclass
class Order:
    id: int
    item: str
    qty: int
    status: Literal["open", "cancelled"]
    placed: datetime


@svc.tool
def place(
    item: Annotated[str, Meta(min_length=1, max_length=200)],
    qty: Annotated[int, Meta(ge=1, le=1000)] = 1,
    request_id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None,
) -> Order:
    """Place an order.

    Args:
        item: What is ordered.
        qty: How many.
        request_id: Your own name for this order. Asked again with the same one, the same order is the answer.
    """
    with database() as db:
        found = db.execute("select * from orders where request_id = ?", (request_id,)).fetchone()
        if found is None:
            found = db.execute(
                "insert into orders (item, qty, placed, request_id) values (?, ?, ?, ?) returning *",
                (item, qty, datetime.now(UTC).isoformat(), request_id),
            ).fetchone()
        if (found["item"], found["qty"]) != (item, qty):
            raise ToolError(f"request_id {request_id!r} was used for another order: {found['qty']} x {found['item']}")
    return order(found)


@svc.tool(name="list", read_only=True)
def list_orders(
    status: Literal["open", "cancelled", "all"] = "open", limit: Annotated[int, Meta(ge=1, le=500)] = 50
) -> list[Order]:
    """List orders, the newest first.

    Args:
        status: Which of them.
        limit: At most so many.
    """
    with database() as db:
        rows = db.execute(
            "select * from orders where ? in ('all', status) order by id desc limit ?", (status, limit)
        ).fetchall()
    return [order(row) for row in rows]


@svc.tool(idempotent=True, destructive=True)
def cancel(id: Annotated[int, Meta(ge=1, le=2**63 - 1)]) -> Order:
    """Cancel an order; one that is cancelled stays so.

    Args:
        id: The order's number.
    """
    with database() as db:
        row = db.execute("update orders set status = 'cancelled' where id = ? returning *", (id,)).fetchone()
    if row is None:
        raise ToolError(f"there is no order {id}")
    return order(row)


@contextmanager
def database() -> Generator[sqlite3.Connection]:
    """One transaction, of one thread: written if the block ends well, undone if it raises."""
    path = os.environ.get("ORDERS_DB", "orders.sqlite")
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        db.execute("begin immediate")  # one writer at a time, so that nothing comes between the look and the insert
        with db:
            db.execute(TABLE)
            yield db


def order(row: sqlite3.Row) -> Order:
    return Order(row["id"], row["item"], row["qty"], row["status"], datetime.fromisoformat(row["placed"]))


if __name__ == "__main__":
    svc.run()
