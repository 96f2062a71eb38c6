"""The blocks of a tool's answer, as they go out."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.wire.content import (
    BLOCKS,
    Annotations,
    Audio,
    EmbeddedResource,
    Image,
    ResourceContents,
    ResourceLink,
    Text,
)
from tailrace.wire.mcp import encode

DATA = bytes(range(256))
BASE64 = base64.b64encode(DATA).decode()
FILE = ResourceContents("file:///a", "words")


@pytest.mark.parametrize(
    ("block", "written"),
    [
        (Text("words"), {"type": "text", "text": "words"}),
        (Image(DATA, "image/png"), {"type": "image", "data": BASE64, "mimeType": "image/png"}),
        (Audio(DATA, "audio/wav"), {"type": "audio", "data": BASE64, "mimeType": "audio/wav"}),
        (EmbeddedResource(FILE), {"type": "resource", "resource": {"uri": "file:///a", "text": "words"}}),
        (
            EmbeddedResource(ResourceContents("file:///b", blob=DATA, mime_type="x/y", meta={"v": 1})),
            {
                "type": "resource",
                "resource": {"uri": "file:///b", "blob": BASE64, "mimeType": "x/y", "_meta": {"v": 1}},
            },
        ),
        (
            ResourceLink("file:///a", "a", title="A", description="the first", mime_type="text/plain", size=5),
            {
                "type": "resource_link",
                "uri": "file:///a",
                "name": "a",
                "title": "A",
                "description": "the first",
                "mimeType": "text/plain",
                "size": 5,
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_block_has_what_was_said_and_nothing_else(block: Any, written: dict[str, Any]) -> None:
    assert json.loads(encode(block)) == written


@pytest.mark.parametrize(
    "make",
    [
        lambda **more: Text("words", **more),
        lambda **more: Image(DATA, "image/png", **more),
        lambda **more: Audio(DATA, "audio/wav", **more),
        lambda **more: EmbeddedResource(FILE, **more),
        lambda **more: ResourceLink("file:///a", "a", **more),
    ],
)
def test_every_block_takes_annotations_and_meta(make: Callable[..., Any]) -> None:
    annotations = Annotations(audience=["user"], priority=0.5, last_modified="2026-01-12T15:00:58Z")
    written = json.loads(encode(make(annotations=annotations, meta={"a.example/b": 1})))
    assert written["annotations"] == {"audience": ["user"], "priority": 0.5, "lastModified": "2026-01-12T15:00:58Z"}
    assert written["_meta"] == {"a.example/b": 1}


@pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc")])
def test_any_kind_of_bytes_will_do(data: Any) -> None:
    assert json.loads(encode(Image(data, "image/png")))["data"] == "YWJj"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Image("YWJj", "image/png"), "data is the bytes themselves"),  # type: ignore[arg-type]
        (lambda: Audio(None, "audio/wav"), "got NoneType"),  # type: ignore[arg-type]
        (lambda: ResourceContents("a:b"), "either text or blob"),
        (lambda: ResourceContents("a:b", "text", b"blob"), "either text or blob"),
        (lambda: ResourceContents("a:b", blob="YWJj"), "blob is the bytes themselves"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_written_is_refused_where_it_is_made(make: Callable[[], Any], problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        make()


@pytest.mark.parametrize("priority", [-0.1, 1.1, float("nan")])
def test_a_priority_is_from_0_to_1(priority: float) -> None:
    with pytest.raises(ValueError, match="priority"):
        Annotations(priority=priority)
    assert Annotations(priority=0).priority == 0
    assert Annotations(priority=1).priority == 1


def test_every_block_is_marked_as_one_that_has_no_schema() -> None:
    assert all(block.__tailrace_content__ is True for block in BLOCKS)
