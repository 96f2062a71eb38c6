"""The files of the console's page, read once, with the module: a server's loop opens none of them."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["FILES", "INDEX"]

INDEX = "index.html"
_KINDS = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}


def _read() -> dict[str, tuple[bytes, bytes]]:
    folder = files("tailrace.console") / "static"
    every = ((file.name, _KINDS.get(file.name.rpartition(".")[2])) for file in folder.iterdir())
    return {name: (kind, (folder / name).read_bytes()) for name, kind in every if kind is not None}


FILES = _read()
"""Media type and contents, by name."""
