"""A durable outbox: messages are committed with the work that they tell of, and delivered when the broker can.

`outbox` keeps them in the server's store, `tables` in a database of your own; `relay` delivers from either;
`kafka` and `publishers` are where they go.
"""

from __future__ import annotations

from tailrace.core.outgoing import Message
from tailrace.publish.publishers import Publisher, Rejected
from tailrace.publish.tables import Outbox

__all__ = ["Message", "Outbox", "Publisher", "Rejected"]
