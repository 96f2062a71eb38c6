"""A chart is well-formed, true to scale, and says what is missing."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.svg import Bar, bar_chart, figure

_SVG = "{http://www.w3.org/2000/svg}"


def drawn(*bars: Bar) -> ElementTree.Element:
    return ElementTree.fromstring(bar_chart("Echo & <more>", "CPU", bars))


def texts(chart: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in chart.iter(f"{_SVG}text")]


def test_bars_are_as_long_as_their_values() -> None:
    chart = drawn(Bar("a", 10.0), Bar("b", 40.0))
    short, long = (float(bar.attrib["width"]) for bar in chart.iter(f"{_SVG}rect"))
    assert long == pytest.approx(4 * short)


def test_texts_cannot_break_the_chart() -> None:
    chart = drawn(Bar('<script> & "', 1.0))
    assert "Echo & <more>" in texts(chart)
    assert '<script> & "' in texts(chart)


def test_what_is_missing_has_no_bar_but_a_reason() -> None:
    chart = drawn(Bar("a", 10.0), Bar("b", None, note="missing: no network"))
    assert len(list(chart.iter(f"{_SVG}rect"))) == 1
    assert "missing: no network" in texts(chart)


def test_ours_stands_out() -> None:
    chart = drawn(Bar("ours", 1.0, ours=True), Bar("theirs", 1.0))
    assert [bar.attrib["class"] for bar in chart.iter(f"{_SVG}rect")] == ["ours", "bar"]


def test_nothing_at_all_can_be_drawn() -> None:
    assert texts(drawn()) == ["Echo & <more>", "CPU"]
    assert texts(drawn(Bar("a", 0.0)))[-1] == "0"


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (0.123, "0.12"), (12.34, "12.3"), (1234.5, "1,234")])
def test_figures_have_no_more_digits_than_they_deserve(value: float, shown: str) -> None:
    assert figure(value) == shown
