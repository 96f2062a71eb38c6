"""Messages of generated classes: values to bytes and back, as protobuf and as its JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailrace.errors import DefinitionError
from tailrace.schema.messages import InvalidMessage, message_type
from tests.rigs.protoc import ELIZA, generated

eliza: Any = generated("tailrace_tests_eliza", ELIZA)
SAY = message_type(eliza.SayRequest)
ANSWER = message_type(eliza.SayResponse)


def test_a_generated_class_is_used_as_it_is() -> None:
    value = SAY.from_proto(eliza.SayRequest(sentence="hi", big_number=2**60).SerializeToString())
    assert isinstance(value, eliza.SayRequest)
    assert (value.sentence, value.big_number) == ("hi", 2**60)
    assert eliza.SayRequest.FromString(SAY.to_proto(value)) == value
    assert SAY.full_name == "tailrace.tests.eliza.v1.SayRequest"
    assert SAY.descriptor is eliza.SayRequest.DESCRIPTOR


def test_a_message_type_is_made_once() -> None:
    assert message_type(eliza.SayRequest) is SAY


def test_json_is_protobufs_own() -> None:
    value = eliza.SayRequest(sentence="ä", big_number=2**60, loud=False)
    data = SAY.to_json(value)
    assert json.loads(data) == {"sentence": "ä", "bigNumber": str(2**60), "loud": False}
    assert SAY.from_json(data) == value
    assert SAY.from_json(b'{"big_number": 7}').big_number == 7, "the names of the .proto are taken as well"


def test_unknown_json_members_are_passed_over() -> None:
    assert SAY.from_json(b'{"sentence": "hi", "later": [1, {"a": null}]}').sentence == "hi"


def test_any_travels_in_json() -> None:
    answer = eliza.SayResponse()
    answer.detail.Pack(eliza.SayRequest(sentence="packed"))
    data = ANSWER.to_json(answer)
    assert json.loads(data)["detail"] == {
        "@type": "type.googleapis.com/tailrace.tests.eliza.v1.SayRequest",
        "sentence": "packed",
    }
    assert ANSWER.from_json(data) == answer


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'"x"', b"null", b'{"sentence": 3}', b'{"bigNumber": "x"}', b'{"bigNumber": 1e30}',
             b'{"sentence": "\xff"}', b'{"detail": {"@type": "type.googleapis.com/no.Such"}}', b"[" * 100_000]
)  # fmt: skip
def test_json_that_does_not_fit_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        ANSWER.from_json(data) if b"detail" in data else SAY.from_json(data)
    assert 10 < len(str(refusal.value)) < 500


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(InvalidMessage, match=r"no tailrace\.tests\.eliza\.v1\.SayRequest in binary form"):
        SAY.from_proto(b"\xff")


@pytest.mark.parametrize("write", [SAY.to_proto, SAY.to_json])
def test_a_value_of_another_type_is_refused(write: Any) -> None:
    for value in (None, {"sentence": "hi"}, eliza.SayResponse()):
        with pytest.raises(InvalidMessage, match=r"expected tailrace\.tests\.eliza\.v1\.SayRequest, got "):
            write(value)


def test_an_any_of_an_unknown_type_has_no_json() -> None:
    answer = eliza.SayResponse()
    answer.detail.type_url = "type.googleapis.com/no.Such"
    with pytest.raises(InvalidMessage, match="no JSON form"):
        ANSWER.to_json(answer)


def test_what_is_no_message_is_refused_at_definition() -> None:
    with pytest.raises(DefinitionError, match="no protobuf form"):
        message_type(object())
