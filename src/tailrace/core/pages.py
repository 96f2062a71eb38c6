"""Pages for the people who run a server: what is served at its admin address, and nowhere else.

Who makes pages (`telemetry`'s metrics, the console) knows neither the door that serves them nor each other: it
gives `Page`s to the composition root (`server/pages.py`). The door (`server/admin.py`) finds the page of a request,
and asks for the token.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrace.core.exchange import Handler

__all__ = ["Page", "Readers"]


class Readers(Enum):
    """Who may read a page. On all of them Host and Origin are checked: no other site's page gets here."""

    ANYBODY = "anybody"  # it says nothing about the server: a script, a style sheet
    LOCAL = "local"  # whoever reaches the address; where a token was given, who shows it
    OPERATOR = "operator"  # who shows the token, which is made up where none was given


@dataclass(frozen=True, slots=True)
class Page:
    """What is at one path, or below it.

    Attributes:
        path: All of it, e.g. ``/metrics``; with a slash at its end, everything that begins so as well.
        handle: Replies. It is called on the loop, must not wait, and checks the request's method itself.
        readers: Who may have it.
    """

    path: str
    handle: Handler
    readers: Readers = Readers.OPERATOR
