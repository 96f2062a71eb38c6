"""Event ids cannot be made up, used by somebody else, or confused; frames are whole (G1, G3)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.protocols.mcp.framing import EventId, LineFraming, Seals, SseFraming
from tailrace.wire import sse

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32
HANDLE = b"handle-09"


def event_id(seals: Seals, seq: int = 5, *, stream: int = 7, principal: str = "alice") -> str:
    return SseFraming(seals.seal(HANDLE, stream, principal)).event_id(seq).decode()


# --- seals


@given(
    handle=st.binary(min_size=9, max_size=9),
    stream=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
    seq=st.integers(0, 10**18 - 1),
    principal=st.text(st.characters(codec="utf-8")),
)
def test_an_event_id_is_read_back_as_it_was_made(
    handle: bytes, stream: int, epoch: int, seq: int, principal: str
) -> None:
    seals = Seals([NEW], epoch)
    text = SseFraming(seals.seal(handle, stream, principal)).event_id(seq).decode()
    assert seals.open(text, principal) == EventId(handle, stream, epoch, seq)


def test_an_event_id_is_short_and_safe_in_a_header_and_a_url() -> None:
    text = event_id(Seals([NEW], 1), 10**18 - 1)
    assert len(text) <= 64
    assert text.isascii()
    assert all(character.isalnum() or character in "-_" for character in text)


def test_an_event_id_does_not_show_what_it_is_bound_to() -> None:
    text = event_id(Seals([NEW], 1), principal="alice@example.org")
    assert b"alice" not in base64.urlsafe_b64decode(text[:44])


def test_nobody_else_can_use_an_event_id() -> None:
    seals = Seals([NEW], 1)
    text = event_id(seals, principal="alice")
    for principal in ("bob", "", "alice2", "alic", "Alice"):
        with pytest.raises(ValueError, match="somebody else"):
            seals.open(text, principal)
    nobodys = event_id(seals, principal="")
    with pytest.raises(ValueError, match="somebody else"):
        seals.open(nobodys, "alice")


def test_an_id_of_the_secret_before_is_still_taken_and_of_the_one_before_that_no_more() -> None:
    text = event_id(Seals([OLD], 1))
    rotated = Seals([NEW, OLD], 2)
    assert rotated.open(text, "alice") == EventId(HANDLE, 7, 1, 5), "with the epoch that it was made in"
    with pytest.raises(ValueError, match="event id"):
        Seals([OTHER, NEW], 3).open(text, "alice")


def test_new_ids_are_sealed_with_the_newest_secret() -> None:
    text = event_id(Seals([NEW, OLD], 2))
    assert Seals([NEW], 2).open(text, "alice").seq == 5
    with pytest.raises(ValueError, match="event id"):
        Seals([OLD], 2).open(text, "alice")


def test_ids_of_two_process_lives_differ() -> None:
    assert event_id(Seals([NEW], 1)) != event_id(Seals([NEW], 2))


def test_every_single_changed_character_of_the_sealed_part_is_found() -> None:
    seals = Seals([NEW], 1)
    text = event_id(seals)
    for position in range(44):
        other = "A" if text[position] != "A" else "B"
        with pytest.raises(ValueError, match="event id"):
            seals.open(text[:position] + other + text[position + 1 :], "alice")


def test_a_seal_of_one_stream_does_not_open_another() -> None:
    seals = Seals([NEW], 1)
    one, two = (base64.urlsafe_b64decode(seals.seal(HANDLE, stream, "alice")) for stream in (1, 2))
    mixed = base64.urlsafe_b64encode(two[:21] + one[21:]).decode()
    with pytest.raises(ValueError, match="event id"):
        seals.open(f"{mixed}-1", "alice")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "5",
        "A" * 44,
        "A" * 44 + "-",
        "A" * 44 + "-5",
        "A" * 43 + "-5",
        "A" * 45 + "-5",
        "é" * 44 + "-5",
        "=" * 44 + "-5",
        "A" * 43 + "=-5",
        " " * 44 + "-5",
        "A" * 44 + "_5",
        "\ud800" * 44 + "-5",
        "x" * 100_000,
    ],
)
def test_what_is_no_event_id_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(ValueError, match="event id"):
        Seals([NEW, OLD], 1).open(text, "alice")


@pytest.mark.parametrize(
    "number", ["", "-5", "+5", " 5", "5 ", "5.0", "0x5", "\u0665", "\u00b2", "1_0", "9" * 19, "9" * 5000]
)
def test_a_number_that_is_no_sequence_number_is_refused(number: str) -> None:
    seals = Seals([NEW], 1)
    token = event_id(seals)[:44]
    with pytest.raises(ValueError, match="not an event id"):
        seals.open(f"{token}-{number}", "alice")


@given(st.text())
def test_no_text_makes_anything_but_a_refusal(text: str) -> None:
    with pytest.raises(ValueError, match="event id"):
        Seals([NEW, OLD], 1).open(text, "")


# --- frames


def test_events_of_a_resumable_stream_carry_their_ids_and_parse_as_what_they_were() -> None:
    seals = Seals([NEW], 1)
    framing = SseFraming(seals.seal(HANDLE, 0, ""))
    payloads = [(3, b'{"a":1}'), (4, '{"b":"ü\\n"}'.encode())]
    parser = sse.Parser()
    events = parser.feed(framing.frames(payloads))
    assert [(event.event, event.data) for event in events] == [
        ("message", '{"a":1}'),
        ("message", '{"b":"ü\\n"}'),
    ]
    assert [seals.open(event.id, "").seq for event in events] == [3, 4]


def test_events_of_a_stream_that_cannot_be_resumed_carry_no_id() -> None:
    assert SseFraming().frames([(1, b"{}"), (2, b"[]")]) == b"event: message\ndata: {}\n\nevent: message\ndata: []\n\n"


def test_no_events_are_no_bytes() -> None:
    assert SseFraming(b"token").frames([]) == SseFraming().frames([]) == LineFraming().frames([]) == b""


def test_a_gap_is_named_in_a_comment_that_no_client_takes_for_an_event() -> None:
    gap = SseFraming(b"token").gap(12)
    assert gap == b": gap 12\n\n"
    assert [event for event in sse.Parser().feed(gap + SseFraming().frames([(1, b"{}")])) if event.data != "{}"] == []


def test_on_a_pipe_each_message_is_one_line_and_a_gap_cannot_be_said() -> None:
    assert LineFraming().frames([(1, b"{}"), (2, b"[]")]) == b"{}\n[]\n"
    assert LineFraming().gap(3) == b""
