"""`tailrace outbox ls | retry | drop`: what waits for a broker, and what the broker refused for good.

They open the store themselves, so its server must not be running: SQLite is for one process.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from tailrace.cli.failures import explained

if TYPE_CHECKING:
    from tailrace.core.ports import Store
    from tailrace.publish.letters import Letter

__all__ = ["outbox_group"]

_IN_USE = (
    "Its server is running, and has the messages to itself: stop it, then look again. What waits, and why, it says "
    "itself: in svc.statistics()['outbox'] and in its log."
)
_SHOWN = 60  # characters of a value in the list


def _store_of(_: click.Context, __: click.Parameter, value: str) -> str:
    if not value.startswith("sqlite:") or value == "sqlite:":
        raise click.BadParameter(f"{value!r} keeps no outbox; give sqlite:PATH, as the server's ready line shows it.")
    return value


_store_option = click.option(
    "--store", required=True, callback=_store_of, envvar="TAILRACE_STORE", show_envvar=True, metavar="sqlite:PATH",
    help="The server's store, as its ready line shows it.",
)  # fmt: skip


@click.group("outbox")
def outbox_group() -> None:
    """Messages that wait for a broker, and those that it refused.

    The server that uses the store has to be stopped first.
    """


@outbox_group.command("ls")
@_store_option
@click.option("--dead", is_flag=True, help="Only those that the broker refused.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Messages shown at most.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, a line each.")
def ls_command(store: str, dead: bool, limit: int, as_json: bool) -> None:
    """List the messages, the oldest first."""

    async def show(opened: Store) -> None:
        from tailrace.publish.letters import letters

        shown = 0
        async for letter in letters(opened, dead=dead):
            if shown == limit:
                click.echo(f"… and more; see --limit (it is {limit})", err=True)
                return
            shown += 1
            click.echo(json.dumps(_described(letter)) if as_json else _line(letter))
        if not shown and not as_json:
            click.echo("nothing waits" if not dead else "nothing was refused")

    _with_store(store, show)


@outbox_group.command("retry")
@_store_option
@click.argument("ids", nargs=-1, metavar="[MESSAGE-ID]...")
@click.option("--all", "every", is_flag=True, help="All that were refused.")
def retry_command(store: str, ids: tuple[str, ...], every: bool) -> None:
    """Put refused messages back, behind those that wait; the server delivers them at its next start."""
    _check_chosen(ids, every)

    async def retry(opened: Store) -> None:
        from tailrace.publish.letters import retry_letters

        _say("put back", await retry_letters(opened, None if every else set(ids)), ids)

    _with_store(store, retry)


@outbox_group.command("drop")
@_store_option
@click.argument("ids", nargs=-1, metavar="[MESSAGE-ID]...")
@click.option("--all", "every", is_flag=True, help="All that were refused; what only waits is kept.")
def drop_command(store: str, ids: tuple[str, ...], every: bool) -> None:
    """Delete messages for good: refused ones, or by id those that still wait, too."""
    _check_chosen(ids, every)

    async def drop(opened: Store) -> None:
        from tailrace.publish.letters import drop_letters

        _say("dropped", await drop_letters(opened, None if every else set(ids)), ids)

    _with_store(store, drop)


def _check_chosen(ids: tuple[str, ...], every: bool) -> None:
    if bool(ids) == every:
        raise click.UsageError("give the ids of messages (see `tailrace outbox ls`), or --all.")


def _say(what: str, done: int, ids: tuple[str, ...]) -> None:
    click.echo(f"{what}: {done}")
    if done < len(set(ids)):
        raise click.ClickException(f"{len(set(ids)) - done} of the messages are not there (any more)")


def _with_store(text: str, work: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    import asyncio
    from pathlib import Path

    if not Path(text.partition(":")[2]).exists():
        raise click.UsageError(f"there is no store at {text.partition(':')[2]}.")
    with explained():
        asyncio.run(_run(text, work))


async def _run(text: str, work: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    async with _opened(text) as store:
        await work(store)


@asynccontextmanager
async def _opened(text: str) -> AsyncGenerator[Store]:
    from tailrace.errors import StoreBusy
    from tailrace.server import make_store

    store = make_store(text)
    try:
        await store.open(wait=1.0)
    except StoreBusy as busy:
        raise click.ClickException(f"{busy}\n{_IN_USE}") from None
    try:
        yield store
    finally:
        await store.close()


def _line(letter: Letter) -> str:
    message = letter.message
    age = max(0.0, time.time() - message.created)
    key = "" if message.key is None else f" key={message.key.decode(errors='replace')}"
    value = message.value[:_SHOWN].decode(errors="replace").replace("\n", " ")
    state = f"refused {letter.attempts}x: {letter.error}" if letter.dead else "waits"
    return f"{message.id}  {message.topic}{key}  {age:.0f} s  {state}  {value}"


def _described(letter: Letter) -> dict[str, Any]:
    message = letter.message
    return {
        "message_id": message.id, "topic": message.topic,
        "key": None if message.key is None else message.key.decode(errors="replace"),
        "value": message.value.decode(errors="replace"), "created": message.created,
        "headers": {name: value.decode(errors="replace") for name, value in message.headers},
        "dead": letter.dead, "attempts": letter.attempts, "error": letter.error,
    }  # fmt: skip
