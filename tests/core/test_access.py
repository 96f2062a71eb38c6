"""What a token allows."""

from __future__ import annotations

from tailrace.core.access import Access, InsufficientScope, is_text
from tailrace.core.context import Context


def test_a_token_without_scopes_of_its_own_is_good_for_everything() -> None:
    assert Access("a").covers(["read"])
    assert Access("a", frozenset({"read"})).covers([])
    assert not Access("a", frozenset({"read"})).covers(["write"])


def test_what_is_needed_is_named_once() -> None:
    assert InsufficientScope(["a", "b", "a"]).scopes == ("a", "b")


def test_a_context_knows_what_its_token_allows_and_whose_it_is() -> None:
    context = Context()
    assert (context.access, context.principal) == (None, "")
    access = Access("ann", claims={"x": 1})
    context.set_values({Access: access})
    assert (context.access, context.principal) == (access, "ann")
    assert context.detach().principal == "ann"


def test_text_is_what_can_be_stored_and_sent() -> None:
    assert is_text("ann")
    assert is_text("\U0001f600")
    assert not is_text("\ud83d")
    assert not is_text(None)
