"""Bytes cut into lines, as they come. Pure: no descriptor, no thread."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Overlong", "Splitter"]


@dataclass(frozen=True, slots=True)
class Overlong:
    """A line over the limit; its bytes were dropped as they came, and the next line is intact.

    Attributes:
        size: All its bytes before the newline.
    """

    size: int


class Splitter:
    """Cuts chunks into lines; pure. Holds one unfinished line of at most `max_line` bytes and a carriage return."""

    __slots__ = ("_kept", "_max_line", "_size")

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._kept = bytearray()  # the unfinished line; dropped once it is too long
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes | Overlong]:
        """The lines that `chunk` completes."""
        first, *others = chunk.split(b"\n")
        self._keep(first)
        if not others:
            return []
        lines = self.end()
        last = others.pop()
        for raw in others:
            self._finish(raw, len(raw), lines)
        self._keep(last)
        return lines

    def end(self) -> list[bytes | Overlong]:
        """The unfinished line, now taken for finished."""
        lines: list[bytes | Overlong] = []
        self._finish(bytes(self._kept), self._size, lines)
        self._kept.clear()
        self._size = 0
        return lines

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._max_line + 1:  # the one may turn out to be a carriage return
            self._kept += part
        else:
            self._kept.clear()

    def _finish(self, raw: bytes, size: int, lines: list[bytes | Overlong]) -> None:
        line = raw.removesuffix(b"\r")
        if size > len(raw) or len(line) > self._max_line:
            lines.append(Overlong(size))
        elif line and not line.isspace():
            lines.append(line)
