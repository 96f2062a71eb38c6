"""How what is offered, progress and results look on a terminal. Text from servers is shown as text, never obeyed.

Results go to standard output; progress, log records and errors to standard error, so that a pipe gets
the result alone. What is drawn is plain MCP JSON, as dictionaries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from tailrace.cli.arguments import Schema, alternatives, is_object

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Task, TaskID

    from tailrace.clients.mcp.results import LogMessage

__all__ = ["CallView", "clean", "print_offered", "print_result"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LEVELS = {"debug": "dim", "info": "cyan", "notice": "cyan", "warning": "yellow"}  # all above: red


def clean(text: str) -> str:
    """A server's text without what a terminal would obey: escape sequences, and marks that turn text around."""
    return _CONTROL.sub("�", text.replace("\r\n", "\n"))


def print_offered(offered: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """What a server offers: its tools, and under headings of their own what else there is."""
    console = _console()
    for tool in offered["tools"]:
        annotations: Mapping[str, Any] = tool.get("annotations") or {}
        title = tool.get("title") or annotations.get("title")
        rows = _argument_rows(tool.get("inputSchema") or {})
        _print_one(console, tool["name"], title, _hints(annotations), tool.get("description"), rows)
    if not offered["tools"]:
        console.print("This server has no tools.", style="dim")
    for heading, kind, key in (("Resources", "resources", "uri"), ("Templates", "resourceTemplates", "uriTemplate")):
        if offered.get(kind):
            console.print(Text(heading, style="bold"))
            for one in offered[kind]:
                title = one.get("title") or (one["name"] if one.get("name") not in (None, "", one[key]) else None)
                mime = f"  ({clean(one['mimeType'])})" if one.get("mimeType") else ""
                _print_one(console, one[key], title, mime, one.get("description"), ())
    if offered.get("prompts"):
        console.print(Text("Prompts", style="bold"))
        for prompt in offered["prompts"]:
            rows = [
                (
                    Text(clean(one["name"])),
                    Text("required" if one.get("required") else ""),
                    Text(clean(one.get("description") or one.get("title") or "")),
                )
                for one in prompt.get("arguments") or ()
            ]
            _print_one(console, prompt["name"], prompt.get("title"), "", prompt.get("description"), rows)


def _print_one(
    console: Console,
    name: str,
    title: str | None,
    more: str,
    description: str | None,
    rows: Sequence[tuple[Text, Text, Text]],
) -> None:
    """One block: its name and what it is for, then its arguments."""
    head = Text(clean(name), style="bold cyan")
    if title:
        head.append(f"  {clean(title)}", style="default")
    head.append(more, style="dim")
    console.print(head)
    if description := (description or "").strip():
        console.print(Padding(Text(clean(description.split("\n\n")[0])), (0, 0, 0, 2)))
    if rows:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="green", no_wrap=True)
        table.add_column(style="dim", overflow="fold")
        table.add_column(overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(Padding(table, (0, 0, 0, 4)))
    console.print()


def print_result(result: Mapping[str, Any]) -> None:
    """The answer of a tool: its structured content if it has some, else its content, block by block."""
    console = _console(stderr=bool(result.get("isError")))
    style = "red" if result.get("isError") else None
    structured: object = result.get("structuredContent")
    blocks: Sequence[Mapping[str, Any]] = result.get("content") or []
    if is_object(structured) and not result.get("isError"):
        value = structured["result"] if list(structured) == ["result"] else structured
        if isinstance(value, str):
            _write(console, value)
        else:
            console.print_json(json.dumps(value), ensure_ascii=False)
        blocks = [block for block in blocks if block.get("type") != "text"]  # the same again, as text
    for block in blocks:
        _write(console, _block_text(block), style)


class CallView:
    """What is seen of a running call: a bar for its progress, and its log records above that.

    Where standard error is no terminal, each is one line instead. Use it as a context manager.
    """

    def __init__(self) -> None:
        self._console = _console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> CallView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Draw one progress notification."""
        said = clean(message or "").replace("\n", " ")
        if not self._console.is_terminal:
            share = f"{done:g}/{total:g}" if total is not None else f"{done:g}"
            self._line(Text(f"progress {share} {said}".rstrip()))
            return
        if self._bar is None or self._task is None:
            self._bar = Progress(
                SpinnerColumn(), BarColumn(), _Share(), TextColumn("{task.description}", markup=False),
                console=self._console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(said, total=total, completed=int(done))
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, description=said)

    def log(self, record: LogMessage) -> None:
        """Print one log record."""
        line = Text(f"{clean(record.level)} ", style=_LEVELS.get(record.level, "red"))
        if record.logger:
            line.append(f"{clean(record.logger)}: ", style="dim")
        data = record.data if isinstance(record.data, str) else json.dumps(record.data, ensure_ascii=False)
        line.append(clean(data), style="default")
        self._line(line)

    def warn(self, text: str) -> None:
        """Print what the client finds odd, such as a resumed stream that lacks events."""
        self._line(Text(f"warning: {clean(text)}", style="yellow"))

    def _line(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)


class _Share(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = f"/{task.total:g}" if task.total is not None else ""
        return Text(f"{task.completed:g}{total}", style="green")


# --- pieces ---------------------------------------------------------------------------------------


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width; 80 would break lines for nothing
    return console


def _write(console: Console, text: str, style: str | None = None) -> None:
    console.print(Text(clean(text), style=style or ""), soft_wrap=True)


def _hints(annotations: Mapping[str, Any]) -> str:
    words = {"readOnlyHint": "read only", "destructiveHint": "destructive", "idempotentHint": "idempotent"}
    said = [word for key, word in words.items() if annotations.get(key)]
    return f"  ({', '.join(said)})" if said else ""


def _argument_rows(schema: Schema) -> list[tuple[Text, Text, Text]]:
    required = set(schema.get("required", ()))
    rows: list[tuple[Text, Text, Text]] = []
    for name, argument in schema.get("properties", {}).items():
        kind = _type(argument, schema)
        if name in required:
            kind += ", required"
        elif "default" in argument:
            kind += f" = {json.dumps(argument['default'], ensure_ascii=False)}"
        rows.append((Text(clean(name)), Text(clean(kind)), Text(clean(argument.get("description") or ""))))
    return rows


def _type(schema: Schema, root: Schema) -> str:
    words: list[str] = []
    for option in alternatives(schema, root):
        if "enum" in option or "const" in option:
            words += [json.dumps(choice, ensure_ascii=False) for choice in option.get("enum", [option.get("const")])]
        elif option.get("type") == "array":
            items = option.get("items")
            words.append(f"list of {_type(items, root)}" if is_object(items) and items else "list")
        else:
            words.append(str(option.get("type", "anything")))
    return " | ".join(dict.fromkeys(words)) or "anything"


def _block_text(block: Mapping[str, Any]) -> str:
    kind = block.get("type")
    if kind == "text":
        return str(block.get("text", ""))
    if kind in {"image", "audio"}:
        size = len(str(block.get("data", ""))) * 3 // 4
        return f"[{kind}, {block.get('mimeType')}, {size:,} bytes; --json shows it]"
    if kind == "resource_link":
        return f"[link to {block.get('uri')}]"
    if kind == "resource":
        resource: Mapping[str, Any] = block.get("resource") or {}
        return str(resource.get("text", f"[resource {resource.get('uri')}; --json shows it]"))
    return json.dumps(block, ensure_ascii=False)
