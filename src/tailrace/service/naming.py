"""Names as Python and as protobuf write them."""

from __future__ import annotations

import re

from tailrace.schema.protobuf_names import snake_case

__all__ = ["pascal_case", "snake_case"]


def pascal_case(name: str) -> str:
    """``place_order`` or ``place-order`` as ``PlaceOrder``; capitals that are there stay."""
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", name))
