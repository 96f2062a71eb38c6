"""Headers and trailers: several values, bytes under -bin names, and nothing that a header cannot carry."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.wire.metadata import Metadata, decode_binary, encode_binary


@given(st.binary(max_size=50))
def test_bytes_go_as_base64_without_padding_and_come_with_or_without(value: bytes) -> None:
    text = encode_binary(value)
    assert "=" not in text
    assert decode_binary(text) == decode_binary(b64encode(value).decode()) == decode_binary(f" {text} ") == value


@pytest.mark.parametrize("text", ["a", "!!!!", "ab c", "ü"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode_binary(text)


TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=10)
VALUES = st.dictionaries(
    st.from_regex(r"x-[a-z]{1,8}", fullmatch=True), st.lists(TEXTS, min_size=1, max_size=3), max_size=4
)
BYTES = st.dictionaries(
    st.from_regex(r"x-[a-z]{1,8}-bin", fullmatch=True),
    st.lists(st.binary(max_size=9), min_size=1, max_size=3),
    max_size=4,
)


@given(VALUES, BYTES)
def test_what_is_sent_is_what_is_read(texts: dict[str, Any], binaries: dict[str, Any]) -> None:
    metadata = Metadata({**texts, **binaries})
    fields = [(name, value.decode("latin-1")) for name, value in metadata.encode()]
    assert {name: Metadata.read(fields).all(name) for name in metadata} == {**texts, **binaries}


def test_as_a_mapping_it_has_the_first_value_of_each_name_in_any_case() -> None:
    metadata = Metadata({"X-One": "1", "x-two": ["a", "b"], "x-raw-bin": b"\0"})
    assert dict(metadata) == {"x-one": "1", "x-two": "a", "x-raw-bin": b"\0"}
    assert len(metadata) == 3
    assert metadata.all("X-TWO") == ["a", "b"]
    assert metadata.all("x-three") == []
    assert "X-ONE" in metadata
    assert (metadata.get("X-One"), metadata.get("x-three"), metadata.get("x-three", "d")) == ("1", None, "d")
    assert 1 not in metadata
    metadata["X-Two"] = "c"
    assert metadata.all("x-two") == ["c"]
    del metadata["X-Two"]
    with pytest.raises(KeyError):
        metadata["x-two"]
    metadata.update_all(Metadata({"x-one": "2", "x-new": "n"}))
    assert metadata.all("x-one") == ["1", "2"]
    assert metadata["x-new"] == "n"


def test_its_repr_shows_no_value() -> None:
    assert "secret" not in repr(Metadata({"x-token": "secret"}))


def test_a_field_of_several_binary_values_is_cut_apart_and_damaged_ones_are_passed_over() -> None:
    metadata = Metadata.read([(b"x-bin", "AAE,AQI=, !"), (b"x-bin", "AA"), (b"y-bin", "!"), (b"x", "a,b")])
    assert metadata.all("x-bin") == [b"\0\1", b"\1\2", b"\0"]
    assert metadata.all("x") == ["a,b"]
    assert "y-bin" not in metadata
    assert list(metadata) == ["x-bin", "x"]


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\n", "ü", ":path"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        Metadata({name: "x"})


@pytest.mark.parametrize("name", ["Content-Type", "grpc-status", "connect-timeout-ms", "te", "trailer-x", "connection"])
def test_what_is_the_protocols_own_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the protocol's own"):
        Metadata()[name] = "x"


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\0", "\u20ac"])
def test_a_value_that_a_header_cannot_carry_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="cannot carry"):
        Metadata({"x": value})


def test_text_and_bytes_go_where_they_belong() -> None:
    with pytest.raises(TypeError, match="takes bytes"):
        Metadata({"x-bin": "text"})
    with pytest.raises(TypeError, match="takes text"):
        Metadata({"x": b"bytes"})


def test_trailers_of_a_unary_answer_have_a_prefix() -> None:
    assert Metadata({"x": "1"}).encode(b"trailer-") == [(b"trailer-x", b"1")]
