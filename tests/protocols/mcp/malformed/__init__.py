"""The table of malformed MCP requests, by class; `row.Row` says how a row reads."""

from tests.protocols.mcp.malformed import envelope, guarded, modern, params, sessions, syntax
from tests.protocols.mcp.malformed.row import Row

__all__ = ["ROWS"]

ROWS: list[Row] = [
    *syntax.ROWS,
    *envelope.ROWS,
    *params.ROWS,
    *modern.ROWS,
    *sessions.ROWS,
    *guarded.ROWS,
]
