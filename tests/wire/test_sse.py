"""Server-sent events: any chunking gives the same events, and nothing grows without limit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.wire.sse import Event, Parser, SseOverflow, comment, event


def read(data: bytes, cuts: Sequence[int] = (), **options: int) -> tuple[list[Event], Parser]:
    """All events of `data`, fed in pieces that end at `cuts`."""
    parser = Parser(**options)
    events: list[Event] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        events += parser.feed(data[start:end])
    return events, parser


def bytewise(data: bytes, **options: int) -> list[Event]:
    return read(data, range(len(data)), **options)[0]


def reference(data: bytes, *, empty: bool) -> tuple[list[Event], str | None, int | None]:
    """The standard's algorithm, word by word, over the whole stream (HTML, 9.2.6)."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    lines = re.split("\r\n|\r|\n", text)[:-1]
    events: list[Event] = []
    kind, buffer = "", ""
    id: str | None = None
    last: str | None = None
    retry: int | None = None
    for line in lines:
        if line == "":
            last = id
            if buffer.removesuffix("\n") or (empty and buffer):
                events.append(Event(kind or "message", buffer.removesuffix("\n"), last))
            kind, buffer = "", ""
            continue
        field, value = line, ""
        if ":" in line:
            field, value = line.split(":", 1)
            value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "data":
            buffer += value + "\n"
        elif field == "id" and "\0" not in value:
            id = value
        elif field == "retry" and re.fullmatch("[0-9]{1,15}", value):
            retry = int(value)
    return events, last, retry


# --- any chunking -------------------------------------------------------------------------------

BREAKS = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r", b"\r\n\n"])
FIELDS = st.sampled_from(
    [b"data", b"id", b"event", b"retry", b"", b"dat", b"DATA", b"foo", b"data ", b"\xef\xbb\xbfdata"]
)
COLONS = st.sampled_from([b":", b": ", b":  ", b"", b"::", b" :"])
VALUES = st.one_of(
    st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace")),
    st.binary(max_size=4),
    st.sampled_from(
        [b"", b"1000", b"-1", b"+1", b"1_0", b"\xd9\xa3", b"a\0b", b"\xf0\x9f\xa6\x80", b"\xf0\x9f", b"9" * 5000]
    ),
)
LINES = st.one_of(
    st.builds(lambda *parts: b"".join(parts), FIELDS, COLONS, VALUES, BREAKS),
    st.builds(lambda *parts: b"".join(parts), st.just(b"data: "), VALUES, BREAKS),
    BREAKS,
)
STREAMS = st.builds(
    lambda mark, lines, rest: mark + b"".join(lines) + rest,
    st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb", b"\xef\xbb\xbf\xef\xbb\xbf"]),
    st.lists(LINES, max_size=12),
    st.sampled_from([b"", b"\n\n", b"\r", b"data: cut"]),
)
CUTS = st.lists(st.integers(0, 2000), max_size=10)


@given(STREAMS | st.binary(max_size=100), CUTS, st.booleans())
@example(b"\xef", [], False)
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2], False)
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10, 11], False)
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 10], False)
def test_every_chunking_reads_what_the_standard_says(data: bytes, cuts: list[int], empty: bool) -> None:
    expected, last_event_id, retry = reference(data, empty=empty)
    for pieces in (cuts, (), range(len(data))):
        events, parser = read(data, pieces, empty=empty)
        assert events == expected
        assert (parser.last_event_id, parser.retry) == (last_event_id, retry)


@given(STREAMS | st.binary(max_size=60), CUTS, st.integers(0, 30))
def test_the_limit_does_not_depend_on_the_chunking(data: bytes, cuts: list[int], limit: int) -> None:
    def outcome(pieces: Sequence[int]) -> tuple[list[Event], bool]:
        parser = Parser(max_event=limit)
        events: list[Event] = []
        edges = [0, *sorted(cut % (len(data) + 1) for cut in pieces), len(data)]
        try:
            for start, end in pairwise(edges):
                events += parser.feed(data[start:end])
            parser.feed(b"")
        except SseOverflow:
            return events, True
        return events, False

    assert outcome(cuts) == outcome(()) == outcome(range(len(data)))


SAFE = st.binary(max_size=20).map(lambda data: re.sub(rb"[\r\n\0]", b"", data))


@given(
    st.lists(
        st.tuples(st.text(), st.none() | SAFE, st.none() | SAFE, st.none() | st.integers(0, 10**15 - 1)), max_size=5
    ),
    CUTS,
)
def test_events_come_back_as_they_were_written(
    frames: list[tuple[str, bytes | None, bytes | None, int | None]], cuts: list[int]
) -> None:
    data = b"".join(event(text.encode(), id=id, event=kind, retry=retry) for text, id, kind, retry in frames)
    expected: list[Event] = []
    last: str | None = None
    for text, id, kind, _ in frames:
        last = last if id is None else id.decode("utf-8", "replace")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        expected.append(Event((kind or b"message").decode("utf-8", "replace"), text, last))
    events, parser = read(data, cuts, empty=True)
    assert events == expected
    assert parser.last_event_id == last
    retries = [retry for *_, retry in frames if retry is not None]
    assert parser.retry == (retries[-1] if retries else None)


@given(st.text(), st.text())
def test_a_comment_is_never_taken_for_an_event(text: str, around: str) -> None:
    data = event(around.encode() + b".") + comment(text) + event(b"next")
    events, parser = read(data)
    assert [found.data for found in events[-1:]] == ["next"]
    assert len(events) == 2
    assert parser.comments == len(re.split("\r\n|\r|\n", text))


# --- the standard's rules, one by one -----------------------------------------------------------


def test_the_standards_own_examples() -> None:
    stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
    assert bytewise(stream) == [
        Event("message", "first event", "1"),
        Event("message", "second event", ""),
        Event("message", " third event", ""),
    ]
    assert bytewise(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [Event("message", "YHOO\n+2\n10", None)]
    assert bytewise(b"data:test\n\ndata: test\n\n") == [Event("message", "test", None)] * 2


def test_data_without_colon_is_an_empty_line_of_data() -> None:
    assert bytewise(b"data\ndata\n\n") == [Event("message", "\n", None)]


@pytest.mark.parametrize("ending", [b"\n", b"\r", b"\r\n"])
def test_every_line_ending_ends_a_line(ending: bytes) -> None:
    stream = ending.join([b"event: e", b"data: a", b"data: b", b"", b"data: c", b"", b""])
    assert bytewise(stream) == read(stream)[0] == [Event("e", "a\nb", None), Event("message", "c", None)]


def test_a_carriage_return_ends_its_line_before_the_next_byte_is_there() -> None:
    parser = Parser()
    assert parser.feed(b"data: a\r\r") == [Event("message", "a", None)]
    assert parser.feed(b"\n") == []
    assert parser.feed(b"\n") == []
    assert parser.feed(b"data: b\n\n") == [Event("message", "b", None)]


def test_only_one_line_feed_belongs_to_a_carriage_return() -> None:
    stream = b"data: a\r\n\ndata: b\n\r\n"
    assert bytewise(stream) == read(stream)[0] == [Event("message", "a", None), Event("message", "b", None)]


def test_the_type_holds_for_one_event_and_the_id_for_all_after_it() -> None:
    assert bytewise(b"event: e\nid: 7\ndata: a\n\ndata: b\n\n") == [Event("e", "a", "7"), Event("message", "b", "7")]
    assert bytewise(b"event: e\n\ndata: a\n\n") == [Event("message", "a", None)]


def test_an_id_counts_when_its_event_ends() -> None:
    parser = Parser()
    parser.feed(b"id: 1\n\nid: 2\ndata: a\n")
    assert parser.last_event_id == "1"
    parser.feed(b"\n")
    assert parser.last_event_id == "2"


def test_an_id_with_nul_is_ignored() -> None:
    assert bytewise(b"id: 1\nid: 2\0\ndata: a\n\n") == [Event("message", "a", "1")]


@pytest.mark.parametrize("value", [b"", b"abc", b"1.5", b"-1", b" 12", b"12 ", b"0x1", b"\xd9\xa3", b"9" * 5000])
def test_a_retry_that_is_no_number_is_ignored(value: bytes) -> None:
    _, parser = read(b"retry: 3000\nretry: " + value + b"\n\n")
    assert parser.retry == 3000


def test_only_the_first_byte_order_mark_is_taken_off() -> None:
    mark = b"\xef\xbb\xbf"
    assert bytewise(mark + b"data: a\n\n" + mark + b"data: b\n\n") == [Event("message", "a", None)]
    assert bytewise(mark + mark + b"data: a\n\n") == read(mark + mark + b"data: a\n\n")[0] == []
    assert bytewise(b"data: " + mark + b"\n\n") == [Event("message", "\ufeff", None)]


def test_broken_utf_8_is_replaced() -> None:
    assert bytewise(b"data: a\xffb\xe2\x82\n\n") == [Event("message", "a\ufffdb\ufffd", None)]


def test_an_unfinished_event_is_never_returned() -> None:
    assert bytewise(b"data: a\n") == []
    assert bytewise(b"data: a\n\ndata: b") == [Event("message", "a", None)]


def test_comments_are_counted_and_ignored() -> None:
    events, parser = read(b": ping\n:\n\ndata: a\n: inside\ndata: b\n\n")
    assert events == [Event("message", "a\nb", None)]
    assert parser.comments == 3


def test_empty_data_is_returned_when_asked_for() -> None:
    priming = b"id: p1\nretry: 10\ndata:\n\nevent: e\n\n"
    events, parser = read(priming, empty=True)
    assert events == [Event("message", "", "p1")]
    events, parser = read(priming)
    assert events == []
    assert (parser.last_event_id, parser.retry) == ("p1", 10)


# --- the limit ----------------------------------------------------------------------------------


def test_an_event_may_be_as_long_as_the_limit() -> None:
    frame = b"data: " + b"x" * 94 + b"\n\n"
    assert len(bytewise(frame * 3, max_event=100)) == 3
    with pytest.raises(SseOverflow, match="longer than 99 bytes"):
        bytewise(frame, max_event=99)


@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 200,
        b"data: x\n" * 60,
        b"data: x\n" * 60 + b"\n",
        b"data: " + b"x" * 90 + b"\ndata: " + b"x" * 10,
        b"data\n" * 200,
        b": " + b"x" * 200,
        b"x" * 200 + b"\n",
    ],
    ids=["line", "lines", "whole-event", "unfinished-line", "empty-lines", "comment", "unknown-field"],
)
def test_neither_a_line_nor_an_event_outgrows_the_limit(stream: bytes) -> None:
    with pytest.raises(SseOverflow):
        bytewise(stream, max_event=100)
    with pytest.raises(SseOverflow):
        read(stream, max_event=100)


def test_many_events_together_may_be_longer_than_the_limit() -> None:
    stream = (b"data: " + b"x" * 50 + b"\n\n") * 20 + b": ping\n" * 100 + b"id: 1\n" * 100
    assert len(read(stream, max_event=60)[0]) == 20


def test_events_before_the_one_that_is_too_long_are_not_lost() -> None:
    parser = Parser(max_event=20)
    assert parser.feed(b"data: a\n\ndata: " + b"x" * 50) == [Event("message", "a", None)]
    for _ in range(2):
        with pytest.raises(SseOverflow):
            parser.feed(b"\n\ndata: b\n\n")


def test_events_before_a_whole_line_that_is_too_long_are_not_lost() -> None:
    parser = Parser(max_event=20)
    assert parser.feed(b"data: a\n\ndata: " + b"x" * 50 + b"\n\ndata: b\n\n") == [Event("message", "a", None)]
    with pytest.raises(SseOverflow):
        parser.feed(b"")


def test_the_usual_limit_lets_a_large_answer_pass() -> None:
    data = b"x" * 5_000_000
    (found,) = Parser().feed(event(data))
    assert len(found.data) == len(data)


# --- writing ------------------------------------------------------------------------------------


def test_an_event_is_written_with_its_type_id_and_retry_first() -> None:
    assert event(b"{}") == b"data: {}\n\n"
    assert event(b"{}", id=b"7", event=b"message") == b"event: message\nid: 7\ndata: {}\n\n"
    assert event(b"", id=b"p", retry=2000) == b"id: p\nretry: 2000\ndata: \n\n"


def test_data_of_several_lines_becomes_several_data_lines() -> None:
    assert event(b"a\nb\r\nc\rd\n") == b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"


@pytest.mark.parametrize("bad", [b"a\nb", b"a\rb", b"a\0b", b"\n"])
def test_a_type_or_id_that_breaks_the_frame_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match="id of an event must not"):
        event(b"x", id=bad)
    with pytest.raises(ValueError, match="type of an event must not"):
        event(b"x", event=bad)


def test_a_negative_retry_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        event(b"x", retry=-1)


def test_each_line_of_a_comment_is_a_comment() -> None:
    assert comment() == b":\n\n"
    assert comment("gap 3") == b": gap 3\n\n"
    assert comment("a\ndata: b\r\rc") == b": a\n: data: b\n:\n: c\n\n"
    assert comment("\udcff") == b": ?\n\n"
