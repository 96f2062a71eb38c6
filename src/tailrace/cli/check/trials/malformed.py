"""Requests that are wrong: each gets the right refusal, and the next good one its answer.

A row of `bad_requests` that the specification asks for with MUST fails the trial; one that it only recommends is
counted. On every row: no status of 500 and more, and something within the limit.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from tailrace.cli.check.http import EventStream, RawConnection
from tailrace.cli.check.model import Cut, Failed, Json, Stalled, Way, trial
from tailrace.cli.check.talk import Conversation, shorten
from tailrace.cli.check.trials.bad_requests import BAD_CALLS, Seen, address, good, lines, rows

if TYPE_CHECKING:
    from tailrace.cli.check.lab import Lab

__all__ = ["TRIALS"]

_LIMIT = 5.0  # seconds until a bad request must be met with something


@trial(
    "malformed", "Wrong requests are refused with the right status, and the next good one is answered.",
    "RFC 9110 and 9112; JSON-RPC 2.0, 5.1; transports and basic of the version spoken. Only a MUST fails a row,"
    " or a status of 500 and more, or no reply",
    Way.STREAMABLE, Way.SSE, Way.MODERN,
)  # fmt: skip
async def malformed(lab: Lab) -> str:
    client = await lab.client()
    table = list(rows(client))
    wrong: list[str] = []
    advice: list[str] = []
    for row in table:
        try:
            seen = await _sent(client, row.data)
        except Stalled:
            wrong.append(f"{row.name}: no reply within {_LIMIT:g} s")
            continue
        if seen.status >= 500 and seen.status not in (501, 505):
            wrong.append(f"{row.name}: {seen}")
        elif not row.check(seen):
            (wrong if row.must else advice).append(f"{row.name}: {seen}, not {row.wants}")
        try:
            await lab.greet(client)
        except Failed as error:
            raise Failed(f"after {row.name} ({seen}) the next good call failed: {error}") from None
    await lab.answers("after all of them")
    return _said(len(table), wrong, advice)


@trial(
    "malformed-lines", "Wrong lines on standard input are refused, and the next good one is answered.",
    "JSON-RPC 2.0, 5.1; stdio: the server MUST write nothing to its output that is no valid MCP message",
    Way.STDIO,
)  # fmt: skip
async def malformed_lines(lab: Lab) -> str:
    client = await lab.stdio()
    wrong: list[str] = []
    advice: list[str] = []
    table = lines()
    for name, line in table:
        await client.send_raw(line + b"\n")
        try:
            await lab.greet(client)
        except Failed as error:
            raise Failed(f"after {name} the next good call failed: {error}") from None
    for name, method, params, code in BAD_CALLS:
        answer = await client.ask(method, params)
        if "error" not in answer and not answer["result"].get("isError"):
            wrong.append(f"{name}: {shorten(answer)}")
        elif code and answer.get("error", {}).get("code") != code:
            advice.append(f"{name}: {answer.get('error', {}).get('code')}, not {code}")
    return _said(len(table) + len(BAD_CALLS), wrong, advice)


@trial(
    "origin", "A web page of another site cannot use the server.",
    "2025-11-25 transports, Security Warning: the server MUST validate Origin, and MUST answer an invalid one "
    "with 403 (older versions: MUST validate)",
    Way.STREAMABLE, Way.SSE, Way.MODERN,
)  # fmt: skip
async def origin(lab: Lab) -> str:
    client = await lab.client()
    accepted: list[str] = []
    statuses: dict[str, int] = {}
    for origin in ("http://evil.example", "http://localhost.evil.example", "null"):
        seen = await _sent(client, good(client, Origin=origin))
        statuses[origin] = seen.status
        if seen.status < 400 and seen.status:
            accepted.append(origin)
    rebound = await _sent(client, good(client, Host="evil.example", Origin="http://evil.example"))
    if 0 < rebound.status < 400:
        accepted.append("http://evil.example with the Host evil.example (DNS rebinding)")
    if accepted:
        raise Failed(f"served for the Origin {', '.join(accepted)}")
    return f"refused: {', '.join(f'{name} {status}' for name, status in statuses.items())}, rebinding {rebound.status}"


TRIALS = (malformed, malformed_lines, origin)


def _said(rows: int, wrong: list[str], advice: list[str]) -> str:
    kept = f"{rows - len(wrong) - len(advice)} of {rows} bad requests met as they should"
    if wrong:
        raise Failed(f"{kept}; {len(wrong)} not: {'; '.join(wrong[:6])}")
    return kept + (f"; against a SHOULD: {'; '.join(advice[:4])}" if advice else "")


# --- sending ------------------------------------------------------------------------------------


async def _sent(client: Conversation, data: bytes) -> Seen:
    """Send it on a connection of its own, and see what comes.

    Raises:
        Stalled: Nothing, within the limit.
    """
    async with RawConnection(address(client)) as connection:
        with suppress(Cut):  # it was refused before it was read whole; the reply may still be there
            await connection.send_raw(data)
        try:
            head = await connection.read_head(_LIMIT)
        except Cut:
            return Seen(0)
        kind = head.get("content-type")
        body = b""
        if kind.startswith("application/json"):
            try:
                body = await connection.read_all(_LIMIT)
            except Failed:
                body = b""
        elif kind.startswith("text/event-stream") and head.status == 200 and data[:3] != b"GET":
            body = await _first_data(connection)
        return _seen(head.status, body)


async def _first_data(connection: RawConnection) -> bytes:
    """The first message of a stream that answers a request."""
    stream = EventStream(connection)
    try:
        while (event := await stream.next(_LIMIT)) is not None:
            if event.data:
                return event.data.encode()
    except Cut:
        pass
    return b""


def _seen(status: int, body: bytes) -> Seen:
    try:
        found: Any = json.loads(body)
    except ValueError:
        return Seen(status)
    if not isinstance(found, dict):
        return Seen(status)
    said = cast("Json", found)
    error, result = said.get("error"), said.get("result")
    code: Any = cast("Json", error).get("code") if isinstance(error, dict) else None
    failed = isinstance(result, dict) and bool(cast("Json", result).get("isError"))
    return Seen(status, code if isinstance(code, int) else None, failed)
