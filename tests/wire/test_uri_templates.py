"""URI templates read backwards: what matches, what the variables are, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.wire.uri_templates import MAX_URI, UriTemplate


@pytest.mark.parametrize(
    ("template", "uri", "values"),
    [
        ("orders://{id}", "orders://7", {"id": "7"}),
        ("orders://{id}", "orders://a%20b%2Fc", {"id": "a b/c"}),
        ("orders://{id}", "orders://", None),
        ("orders://{id}", "orders://7/lines", None),
        ("orders://{id}/lines/{n}", "orders://7/lines/2", {"id": "7", "n": "2"}),
        ("data:{name}", "data:x", {"name": "x"}),
        ("a://{name}.{ext}", "a://b.tar.gz", {"name": "b", "ext": "tar.gz"}),
        ("a://{x,y}", "a://1,2", {"x": "1", "y": "2"}),
        ("a://{x,y}", "a://1", None),
        ("files://{+path}", "files://a/b/c.txt", {"path": "a/b/c.txt"}),
        ("files://{+path}/raw", "files://a/b/raw", {"path": "a/b"}),
        ("files://{+path}", "files://a?b", {"path": "a?b"}),
        ("files:/{/path*}", "files://a/b", {"path": ["a", "b"]}),
        ("files:/{/path*}", "files:/", {"path": []}),
        ("files:/{/a,b}", "files://x", {"a": "x"}),
        ("files:/{/a,b}", "files://x/y", {"a": "x", "b": "y"}),
        ("a://file{.ext}", "a://file.txt", {"ext": "txt"}),
        ("a://file{.ext}", "a://file", {}),
        ("a://x{;v,w}", "a://x;v=1", {"v": "1"}),
        ("a://x{;v,w}", "a://x;v=1;w=2", {"v": "1", "w": "2"}),
        ("a://x{#part}", "a://x#y/z", {"part": "y/z"}),
        ("a://x{#part}", "a://x", {}),
        ("a://x{?q,tag*}", "a://x", {}),
        ("a://x{?q,tag*}", "a://x?tag=1&q=a+b&tag=2&other=3", {"q": "a b", "tag": ["1", "2"]}),
        ("a://x{?q}", "a://x?q=%C3%A4#part", {"q": "ä"}),
        ("a://{id}{?q}{&more}", "a://1?more=2", {"id": "1", "more": "2"}),
        ("a://x{?q}", "a://y?q=1", None),
        ("a://x{?q}", "a://x?q=%ff", None),
        ("a://{id}", "a://%ff", None),
        ("a://{id}", "a://%00", None),
        ("files://{+path}", "files://a/../b", None),
        ("files://{+path}", "files://a/..b", {"path": "a/..b"}),
        ("a://{id}", "a://..%2Fb", None),
        ("a://{id}", "a://..%5Cb", None),
        ("files://{+path}", "files:///etc/passwd", None),
        ("files://{+path}", "files://C:/x", None),
        ("files:///{+path}", "files:///etc/passwd", {"path": "etc/passwd"}),
        ("a://{id}", "a://" + "x" * MAX_URI, None),
    ],
)
def test_a_uri_is_read_as_its_template_says(template: str, uri: str, values: dict[str, str | list[str]] | None) -> None:
    assert UriTemplate(template).match(uri) == values


def test_a_template_may_let_any_path_through() -> None:
    assert UriTemplate("files://{+path}", any_path=True).match("files:///etc/../x") == {"path": "/etc/../x"}


def test_variables_are_named_in_order_and_lists_are_told() -> None:
    template = UriTemplate("a://{b}/{c}{?d,e*}")
    assert template.names == ("b", "c", "d", "e")
    assert template.lists == {"e"}


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("a://{id", "not closed"),
        ("a://id}", "not closed"),
        ("a://{{id}}", "not closed"),
        ("a://{}", "is no variable"),
        ("a://{9}", "is no variable"),
        ("a://{id:3}", "cannot be undone"),
        ("a://{id}/{id}", "is there twice"),
        ("a://{id}{name}", "something between"),
        ("a://{id}{+name}", "something between"),
        ("a://{id*}", "can be a list as"),
        ("a://{+a,b}", "only one variable"),
        ("a://{+a}/{+b}", "only one variable"),
        ("a://{+a}{/b*}", "only one variable"),
        ("a://{?q}/x", "a query stands at the end"),
        ("a://{?q}{#x}", "a query stands at the end"),
        ("a://{?q}{?r}", "one query"),
    ],
)
def test_what_cannot_be_read_backwards_is_refused(template: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        UriTemplate(template)


@given(st.text(max_size=200))
def test_no_uri_raises(uri: str) -> None:
    for template in ("a://{id}-{b}/{+path}/x{?q,r*}", "a:{/x*}", "a:{.b}{;c}{#d}"):
        UriTemplate(template).match(uri)
