"""What the console can be asked, and who answers for one server.

A question is data, so that it can be put to a server in this process (`Answers`) or, with several workers, to each of
them over a pipe; their answers are then made one by `merging`. An answer is made of what JSON has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from msgspec import Struct

from tailrace.errors import CallCancelled

if TYPE_CHECKING:
    from tailrace.console.views import Views

__all__ = ["Answers", "Ask", "Cancel", "Close", "Question", "Refusal", "Session", "State", "Touched"]

logger = logging.getLogger("tailrace.console")


class State(Struct, frozen=True, tag="state"):
    """All of the server, and a page of its sessions (`Views.state`)."""

    search: str = ""
    offset: int = 0
    limit: int = 50


class Touched(Struct, frozen=True, tag="touched"):
    """When each session that is found was last used, the newest first: which page a session is on."""

    search: str = ""


class Session(Struct, frozen=True, tag="session"):
    """One session with its timeline, by its public id; None where it is not known."""

    name: str


class Close(Struct, frozen=True, tag="close"):
    """End a session. The answer: what is wrong, or ``""``."""

    name: str


class Cancel(Struct, frozen=True, tag="cancel"):
    """Cancel a call, by the number that it is shown with. The answer: what is wrong, or ``""``."""

    number: int


Question: TypeAlias = State | Touched | Session | Close | Cancel


class Refusal(NamedTuple):
    """An answer that there is none: with a status of HTTP, and for people."""

    status: int
    text: str


Ask: TypeAlias = Callable[[Question, Callable[[Any], None]], None]
"""Puts a question, and gives the answer, or a `Refusal`, to a function: at once, or later on the loop. Never waits."""


class Answers:
    """What one server answers.

    Args:
        views: What it shows.
        grace: Seconds that calls get to end when their session is closed.
    """

    def __init__(self, views: Views, *, grace: float) -> None:
        self._views = views
        self._recorder = views.recorder
        self._grace = grace

    def ask(self, question: Question, then: Callable[[Any], None]) -> None:
        """Answer at once (an `Ask`)."""
        then(self.answer(question))

    def answer(self, question: Question) -> Any:
        """The answer, as the question describes it."""
        match question:
            case State(search, offset, limit):
                return self._views.state(search=search, offset=offset, limit=limit)
            case Touched(search):
                return self._views.touched(search)
            case Session(name):
                return self._views.session(name)
            case Close(name):
                return self._close(name)
            case Cancel(number):
                return self._cancel(number)

    def _cancel(self, number: int) -> str:
        found = next((one for one in self._recorder.calls.items() if one[1].number == number), None)
        if found is None:
            return "no such call: it has ended"
        call, running = found
        logger.info("a call is cancelled from the console call=%s session=%s", running.label, running.session)
        call.cancel(CallCancelled("cancelled by the server's operator"))
        return ""

    def _close(self, name: str) -> str:
        session = self._recorder.living.get(name)
        if session is None:
            return "no such session: it has ended"
        logger.info("a session is closed from the console session=%s", name)
        session.close("closed by the server's operator", grace=self._grace)
        return ""
