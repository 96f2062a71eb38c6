"""Names as Python and as protobuf write them."""

from __future__ import annotations

import re

__all__ = ["pascal_case", "snake_case"]


def pascal_case(name: str) -> str:
    """``place_order`` or ``place-order`` as ``PlaceOrder``; capitals that are there stay."""
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", name))


def snake_case(name: str) -> str:
    """``PlaceOrder`` as ``place_order``, ``GetURL`` as ``get_url``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
