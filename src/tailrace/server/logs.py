"""The process's own log: one line a record on stderr, plain and quick, as text or as JSON.

What is logged within a call or within detached work, by whichever logger and in whichever thread, says where it
belongs: ``correlation_id``, and ``trace_id`` and ``span_id`` where there is a trace.
"""

from __future__ import annotations

import logging
import sys
import time

import msgspec

from tailrace.core.context import current

__all__ = ["set_up_logging"]


def set_up_logging(level: str, form: str, *, replace: bool = True) -> None:
    """Write the records of `tailrace` and of the user's loggers to stderr.

    Args:
        level: debug, info, warning or error.
        form: ``text`` (``TIME LEVEL logger message key=value…``) or ``json``.
        replace: The process is ours, and so is its log; else one that is set up already stays as it is.
    """
    if not replace and logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class _TextFormatter(logging.Formatter):
    """`2026-11-21T10:00:00.123Z INFO tailrace.server message`.

    A client's text can get into messages and into tracebacks. Its control characters are escaped, and a traceback is
    indented, so that no client writes lines of this log, or to the terminal that shows it.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_stamp(record)} {record.levelname} {record.name} {record.getMessage().translate(_ESCAPES)}"
        line += "".join(f" {name}={value}" for name, value in _place().items() if f" {name}=" not in line)
        if record.exc_info:
            traceback = _bounded(self.formatException(record.exc_info))
            line = "\n  ".join([line, *(text.translate(_ESCAPES) for text in traceback)])
        return line


_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _CONTROLS if chr(code) != "\t"}


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": _stamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_place(),
        }
        if record.exc_info:
            fields["exception"] = "\n".join(_bounded(self.formatException(record.exc_info)))
        return msgspec.json.encode(fields).decode()


def _place() -> dict[str, str]:
    """Where the running code belongs."""
    context = current()
    correlation = context.correlation_id
    if correlation is None:
        return {}
    place = {"correlation_id": str(correlation)[:128].translate(_ESCAPES)}
    trace = sys.modules.get("opentelemetry.trace")  # imported by whoever traces
    span = None if trace is None else trace.get_current_span().get_span_context()
    if span is not None and span.is_valid:  # the call's, or the user's own within it
        place |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
    elif isinstance(parent := context.value("traceparent"), str) and parent.count("-") >= 3:
        place["trace_id"] = parent.split("-")[1]  # the client's: nobody traces here
    return place


def _bounded(traceback: str) -> list[str]:
    """Its lines. The text of an exception often repeats what it was about (``int(text)``), which a client chose: long
    lines and many lines lose their middle."""
    lines = traceback.split("\n")
    if len(lines) > _LINES:
        lines[_LINES // 2 : -_LINES // 2] = [f"... {len(lines) - _LINES} lines ..."]
    half = _WIDTH // 2
    return [
        line if len(line) <= _WIDTH else f"{line[:half]} ... {len(line) - _WIDTH} characters ... {line[-half:]}"
        for line in lines
    ]


_LINES = 200
_WIDTH = 1000


def _stamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
