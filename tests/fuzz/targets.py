"""All that can be fuzzed, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fuzz.rpc import Rpc
from tests.fuzz.served import Arguments, Endpoint, Http, Lines
from tests.fuzz.wire import EventIds, JsonRpc, ParamHeaders, Params, Sse

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.engine import Target

__all__ = ["TARGETS"]

TARGETS: dict[str, Callable[[], Target]] = {
    "jsonrpc": JsonRpc,
    "sse": Sse,
    "params": Params,
    "headers": ParamHeaders,
    "events": EventIds,
    "http": Http,
    "lines": Lines,
    "arguments": Arguments,
    "endpoint": Endpoint,
    "rpc": Rpc,
}
