"""The table of malformed requests, and what surrounds it: other splits into packets, other clients."""

from __future__ import annotations

import httptools
import pytest

from tests.transports.http.malformed import ROWS, Row
from tests.transports.http.rig import converse, request, serving


def each(table: list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", table, ids=[f"{row.kind}-{number}" for number, row in enumerate(table)])


rows = each(ROWS)
behind = each([row for row in ROWS if not row.data.startswith(b"\r\n\r\nGET")])  # nothing else can be meant there


def test_the_table_is_as_long_as_promised_and_says_nothing_twice() -> None:
    assert len(ROWS) >= 150
    assert len({row.data for row in ROWS}) == len(ROWS)
    assert all(400 <= row.status < 600 for row in ROWS)


@rows
async def test_a_malformed_request_is_answered_and_the_next_good_one_served(row: Row) -> None:
    async with serving() as served:
        async with served.peer() as peer:
            await peer.send(row.data)
            reply = await peer.reply()
            assert (reply.status, reply["connection"]) == (row.status, "close"), reply.body
            assert reply.body
            peer.writer.write_eof()
            assert await peer.closed()
        assert served.rig.exchanges == []
        assert (await served.ask(request(body=b"good"))).body == b"good"
        assert served.listener.statistics()["refused"] == 1


@behind
async def test_it_is_refused_behind_a_good_one_as_well_which_is_answered_first(row: Row) -> None:
    async with serving() as served, served.peer() as peer:
        await peer.send(request(body=b"good") + row.data)
        assert (await peer.reply()).body == b"good"
        assert (await peer.reply()).status == row.status
        assert len(served.rig.exchanges) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 1000])
async def test_it_does_not_matter_how_the_bytes_are_cut(size: int) -> None:
    for row in ROWS:
        step = size if len(row.data) < 5000 else size * 100
        rig, sent = await converse(row.data[at : at + step] for at in range(0, len(row.data), step))
        assert sent.startswith(b"HTTP/1.1 %d " % row.status), row
        assert sent.count(b"\r\ndate: ") == 1
        assert rig.exchanges == []


async def test_what_frames_a_request_is_checked_by_ourselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an httptools that lets everything pass, it is names and values of no meaning that pass with it."""
    strict = httptools.HttpRequestParser

    def lenient(protocol: object) -> httptools.HttpRequestParser:
        parser = strict(protocol)
        parser.set_dangerous_leniencies(*[True] * 10)
        return parser

    monkeypatch.setattr(httptools, "HttpRequestParser", lenient)
    passed = [row for row in ROWS if (await converse([row.data]))[0].exchanges]
    assert passed
    assert {row.kind for row in passed} <= {"field name", "field value", "folding"}
    assert [row.data for row in passed if row.kind == "folding"] == [
        b"GET /echo HTTP/1.1\r\n Host: localhost\r\n\r\n"  # as a field of its own, not as a continuation
    ]
