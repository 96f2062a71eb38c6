"""A docstring's text is the description, and what it says of parameters goes to the parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.schema import parse_docstring

NAMES = ("item", "qty")
EXPECTED = {"item": "What to buy, as in the catalogue.", "qty": "How many."}

GOOGLE = """Place an order.

    More about it.

    Args:
        item: What to buy,
            as in the catalogue.
        qty (int, optional): How many.

    Returns:
        The order.
    """
NUMPY = """Place an order.

    More about it.

    Parameters
    ----------
    item : str
        What to buy,
        as in the catalogue.
    qty : int, optional
        How many.

    Returns
    -------
    Order
    """
REST = """Place an order.

    More about it.

    :param item: What to buy,
        as in the catalogue.
    :type item: str
    :param int qty: How many.
    :returns: The order.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, REST], ids=["google", "numpy", "rest"])
def test_each_style_gives_the_same(text: str) -> None:
    docstring = parse_docstring(text, NAMES)
    assert docstring.parameters == EXPECTED
    assert docstring.description.startswith("Place an order.\n\nMore about it.\n\n")
    assert "eturns" in docstring.description
    assert "item" not in docstring.description
    assert "How many" not in docstring.description


def test_a_docstring_without_sections_is_the_description_as_it_is() -> None:
    assert (
        parse_docstring("Place it.\n\n    a: b\n      Indented.", NAMES).description == "Place it.\n\na: b\n  Indented."
    )
    assert parse_docstring(None).description == ""
    assert parse_docstring("").parameters == {}


def test_a_section_that_names_no_parameter_stays_in_the_description() -> None:
    text = "Run.\n\nArgs:\n    speed: Elsewhere."
    assert parse_docstring(text, NAMES).description == text


def test_names_that_are_no_parameters_are_left_out() -> None:
    text = "Run.\n\nArgs:\n    ctx: The context.\n    item: A thing.\n        Note: not a name.\n\nEnd."
    docstring = parse_docstring(text, NAMES)
    assert docstring.parameters == {"item": "A thing. Note: not a name."}
    assert docstring.description == "Run.\n\nEnd."


def test_numpy_names_may_share_a_text() -> None:
    text = "Run.\n\nParameters\n----------\nitem, qty : int\n    Both."
    assert parse_docstring(text, NAMES).parameters == {"item": "Both.", "qty": "Both."}


@given(st.text(alphabet="Args:Parameters\n -param item:qty", max_size=200))
def test_any_text_is_taken_apart(text: str) -> None:
    docstring = parse_docstring(text, NAMES)
    assert set(docstring.parameters) <= set(NAMES)
    assert len(docstring.description) <= len(text)
