"""Bar charts as SVG, written by hand: the documents need one kind of chart, and no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Bar", "bar_chart", "figure"]

_WIDTH = 720
_LABELS = 210  # pixels for the names at the left
_VALUES = 110  # and for the figures at the right
_ROW = 26
_TOP = 48

# An image in a page does not see the page's theme: it asks for the reader's own.
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 } .title { font-weight: 600; font-size: 14px }
.note { fill: #666; font-size: 12px } .bar { fill: #9aa5b1 } .ours { fill: #009485 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .note { fill: #aaa } .bar { fill: #66717c } }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: its name, its value (None: not measured, with the reason as `note`)."""

    name: str
    value: float | None
    ours: bool = False
    note: str = ""


def bar_chart(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars on one linear scale from zero.

    Args:
        title: Above the chart.
        unit: What the values are, below the title.
        bars: From top to bottom.

    Returns:
        An SVG document.
    """
    highest = max((bar.value for bar in bars if bar.value is not None), default=0.0) or 1.0
    height = _TOP + _ROW * len(bars) + 12
    rows = "".join(_row(bar, _TOP + _ROW * number, highest) for number, bar in enumerate(bars))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">\n<style>{_STYLE}</style>\n'
        f'<text class="title" x="8" y="20">{escape(title)}</text>\n'
        f'<text class="note" x="8" y="38">{escape(unit)}</text>\n{rows}</svg>\n'
    )


def _row(bar: Bar, y: int, highest: float) -> str:
    name = f'<text x="{_LABELS - 8}" y="{y + 16}" text-anchor="end">{escape(bar.name)}</text>'
    if bar.value is None:
        return f'{name}<text class="note" x="{_LABELS}" y="{y + 16}">{escape(bar.note or "not measured")}</text>\n'
    length = max(1.0, (_WIDTH - _LABELS - _VALUES) * bar.value / highest)
    shown = figure(bar.value) + (f" ({bar.note})" if bar.note else "")
    return (
        f'{name}<rect class="{"ours" if bar.ours else "bar"}" x="{_LABELS}" y="{y + 3}" width="{length:.1f}" '
        f'height="{_ROW - 8}" rx="2"/><text x="{_LABELS + length + 6:.1f}" y="{y + 16}">{escape(shown)}</text>\n'
    )


def figure(value: float) -> str:
    """Three significant digits, thousands parted by commas."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
