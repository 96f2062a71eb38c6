"""Two shapes of the code that guarantees stand on, held on the syntax tree.

G3: in each transport exactly one function writes to the peer. G2: exactly one function of
`core/session.py` sets a session's state to closed. Each check is also run on a source into which a
second writer or closer was planted, and has to name it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src/tailrace"
Matches = Callable[[ast.AST], bool]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_that(does: Matches, source: str) -> list[str]:
    """The qualified names of the functions in whose own body (not in a function inside it) `does` matches."""
    found: list[str] = []

    def walk(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | Function):
                walk(child, f"{name}.{child.name}".lstrip("."))
            elif isinstance(child, ast.Lambda):
                walk(child, f"{name}.<lambda>")
            else:
                if does(child) and name not in found:
                    found.append(name)
                walk(child, name)

    walk(ast.parse(source), "")
    return found


def last_name(node: ast.AST) -> str:
    """`send` for ``send`` and for ``self.send``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


# --- one writer a transport (G3) --------------------------------------------------------------------


def calls_send(node: ast.AST) -> bool:
    """A call of `send` (of ASGI, or of an inbox), unless the message spelled out there is none to an HTTP peer."""
    if not (isinstance(node, ast.Call) and last_name(node.func) in ("send", "_send")):
        return False
    return not any(
        isinstance(part, ast.Constant) and str(part.value).startswith(("lifespan.", "websocket."))
        for argument in node.args
        for part in ast.walk(argument)
    )


def calls_write(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and last_name(node.func) in ("write", "writev", "writelines", "print")


# A file that is added to `transports` has to say how it writes, or that it does not.
WRITERS: dict[str, Matches] = {
    "transports/asgi.py": calls_send,
    "transports/stdio.py": calls_write,
    "transports/http/h1.py": calls_write,
    "transports/http/h2_out.py": calls_write,
    "transports/relay.py": calls_send,
    "transports/relay_asked.py": calls_write,
}
SILENT = {
    "transports/authorization/introspection.py",
    "transports/authorization/jwts.py",
    "transports/authorization/keys.py",
    "transports/authorization/remembered.py",
    "transports/authorization/resource.py",
    "transports/bearer.py",
    "transports/embedded.py",
    "transports/guard.py",
    "transports/http/body.py",
    "transports/http/exchange.py",
    "transports/http/h2.py",
    "transports/http/h2_floods.py",
    "transports/http/h2_heads.py",
    "transports/http/h2_requests.py",
    "transports/http/h2_streams.py",
    "transports/http/h2_table.py",
    "transports/http/head.py",
    "transports/http/listener.py",
    "transports/http/sockets.py",
    "transports/http/tls.py",
    "transports/http/unread.py",
    "transports/incoming.py",
    "transports/lines.py",
    "transports/pipes.py",
    "transports/relay_pieces.py",
    "transports/relay_served.py",
    "transports/relay_window.py",
}

PLANTED_WRITERS = [
    (
        "transports/asgi.py",
        """
async def keep_alive(send):
    await send({"type": "http.response.body", "body": b": ping\\n\\n", "more_body": True})
""",
    ),
    (
        "transports/asgi.py",
        """
class Pushes:
    async def push(self, message):
        await self._send(message)
""",
    ),
    (
        "transports/http/h1.py",
        """
class Pinging:
    def sweep(self, now):
        self._transport.write(b": keep-alive\\n\\n")
""",
    ),
    (
        "transports/stdio.py",
        """
def log_to_the_client(descriptor, text):
    os.write(descriptor, text)
""",
    ),
    (
        "transports/stdio.py",
        """
class Log:
    def line(self, text):
        sys.__stdout__.write(text)
""",
    ),
]


def test_every_file_of_the_transports_says_how_it_writes() -> None:
    files = {path.relative_to(SRC).as_posix() for path in (SRC / "transports").rglob("*.py")}
    assert {name for name in files if not name.endswith("__init__.py")} == {*WRITERS, *SILENT}


@pytest.mark.parametrize("transport", WRITERS)
def test_exactly_one_function_writes_to_a_transport(transport: str) -> None:
    writers = functions_that(WRITERS[transport], (SRC / transport).read_text())
    assert len(writers) == 1, f"{transport}: {writers}"


@pytest.mark.parametrize("file", sorted(SILENT))
def test_what_says_that_it_does_not_write_does_not(file: str) -> None:
    source = (SRC / file).read_text()
    assert [name for does in WRITERS.values() for name in functions_that(does, source)] == []


@pytest.mark.parametrize(("transport", "planted"), PLANTED_WRITERS)
def test_a_second_writer_is_found(transport: str, planted: str) -> None:
    source = (SRC / transport).read_text()
    before = functions_that(WRITERS[transport], source)
    after = functions_that(WRITERS[transport], source + planted)
    assert len(after) == len(before) + 1 == 2


# --- one closer (G2) --------------------------------------------------------------------------------


def assignments(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """The (target, value) pairs of whatever sets something: ``=``, ``:=``, ``+=``, `setattr`."""
    if isinstance(node, ast.Assign):
        yield from ((target, node.value) for target in node.targets)
    elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, ast.Call) and last_name(node.func) in ("setattr", "__setattr__"):
        yield node, node


LIVES = ("lifecycle", "state")  # how an attribute is called that says where something stands


def sets_closed(node: ast.AST) -> bool:
    def names_closed(value: ast.AST) -> bool:
        return any(last_name(part) == "CLOSED" for part in ast.walk(value))

    return any(
        names_closed(value) and (isinstance(target, ast.Call | ast.Tuple) or last_name(target).strip("_") in LIVES)
        for target, value in assignments(node)
    )


PLANTED_CLOSERS = [
    "    def shut_down(self):\n        self.lifecycle = Lifecycle.CLOSED\n",
    "    async def expire(self):\n        self._lifecycle = Lifecycle.CLOSED\n",
    "    def both(self):\n        self.lifecycle, self.reason = Lifecycle.CLOSED, ''\n",
    "    def sly(self):\n        setattr(self, 'lifecycle', Lifecycle.CLOSED)\n",
    "    def maybe(self, now):\n        self.lifecycle = Lifecycle.CLOSED if now else self.lifecycle\n",
    "    def inside(self):\n        def later():\n            self.lifecycle = CLOSED\n        return later\n",
]


def test_exactly_one_function_sets_a_session_closed() -> None:
    closers = functions_that(sets_closed, (SRC / "core/session.py").read_text())
    assert len(closers) == 1, closers


@pytest.mark.parametrize("planted", PLANTED_CLOSERS)
def test_a_second_closer_is_found(planted: str) -> None:
    source = (SRC / "core/session.py").read_text()
    before = functions_that(sets_closed, source)
    after = functions_that(sets_closed, f"{source}\n\nclass Planted:\n{planted}")
    assert len(after) == len(before) + 1 == 2


def test_no_other_file_reaches_into_a_session_to_close_it() -> None:
    """Nobody but the session names its closed state in an assignment to something that is not `self`."""

    def sets_another_closed(node: ast.AST) -> bool:
        return sets_closed(node) and not any(
            isinstance(target, ast.Attribute) and last_name(target.value) == "self" for target, _ in assignments(node)
        )

    found = {
        str(path.relative_to(SRC)): names
        for path in SRC.rglob("*.py")
        if (names := functions_that(sets_another_closed, path.read_text()))
    }
    assert found == {}
