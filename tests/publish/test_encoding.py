"""What goes over to the broker: values as bytes, headers that lead back to the request, limits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tailrace.core.context import Context
from tailrace.publish.encoding import MAX_VALUE, make_message
from tailrace.schema import InvalidResult


@dataclass
class Order:
    item: str
    qty: int


@pytest.mark.parametrize(
    ("value", "body", "content_type"),
    [
        (b"\x00\xff", b"\x00\xff", b"application/octet-stream"),
        (bytearray(b"ab"), b"ab", b"application/octet-stream"),
        ("tée", "tée".encode(), b"text/plain; charset=utf-8"),
        ({"a": 1}, b'{"a":1}', b"application/json"),
        (Order("tea", 2), b'{"item":"tea","qty":2}', b"application/json"),
        (None, b"null", b"application/json"),
    ],
)
def test_values_are_encoded_by_what_they_are(value: object, body: bytes, content_type: bytes) -> None:
    message = make_message(Context.background(), "orders", value)
    assert message.value == body
    assert dict(message.headers)["content-type"] == content_type


def test_headers_lead_back_to_the_request() -> None:
    context = Context()
    context.set_values({"correlation_id": "c-1", "traceparent": "00-aa-bb-01", "tracestate": "v=1"})
    message = make_message(context, "orders", "x", "key", {"tenant": "t1", "raw": b"\xff"})
    assert dict(message.headers) == {
        "traceparent": b"00-aa-bb-01",
        "tracestate": b"v=1",
        "correlation-id": b"c-1",
        "message-id": message.id.encode(),
        "content-type": b"text/plain; charset=utf-8",
        "tenant": b"t1",
        "raw": b"\xff",
    }
    assert message.key == b"key"


def test_every_message_has_an_id_of_its_own() -> None:
    assert len({make_message(Context.background(), "t", "x").id for _ in range(1000)}) == 1000


@pytest.mark.parametrize("topic", ["", "a b", "x" * 250, "über", "a/b", ".", ".."])
def test_a_topic_that_no_broker_takes_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match="no topic can be named"):
        make_message(Context.background(), topic, "x")


def test_what_is_too_large_is_refused() -> None:
    background = Context.background()
    make_message(background, "t", b"x" * MAX_VALUE)
    with pytest.raises(ValueError, match="at most 1048576 can be published"):
        make_message(background, "t", b"x" * (MAX_VALUE + 1))
    with pytest.raises(ValueError, match="the key has 1025 bytes"):
        make_message(background, "t", "x", "k" * 1025)
    with pytest.raises(ValueError, match="the headers have"):
        make_message(background, "t", "x", None, {"h": "v" * 20_000})


@pytest.mark.parametrize("name", ["message-id", "Message-Id", "traceparent", "correlation-id", "content-type"])
def test_headers_of_our_own_cannot_be_given(name: str) -> None:
    with pytest.raises(ValueError, match="is set by Tailrace itself"):
        make_message(Context.background(), "t", "x", None, {name: "mine"})


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(InvalidResult):
        make_message(Context.background(), "t", object())
