"""What people need to read of pyqwest's exceptions, for all clients alike."""

from __future__ import annotations

__all__ = ["short_cause"]


def short_cause(error: Exception) -> str:
    """The innermost cause in pyqwest's chains of colons, at most 200 characters."""
    text = str(error)
    for lead in ("tcp connect error: ", "dns error: ", "from connection: ", "client error (Connect): "):
        _, found, rest = text.partition(lead)
        text = rest if found else text
    if "InvalidContentType" in text or "WRONG_VERSION_NUMBER" in text:
        return "the server does not speak TLS there (is it http://?)"
    return text[:200] or type(error).__name__
