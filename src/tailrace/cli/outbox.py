"""`tailrace outbox ls | show | retry | drop`: what waits for a broker, and what the broker refused for good.

Where the messages are, and who may change them, is `outbox_desk`'s to know.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from tailrace.cli.failures import explained

if TYPE_CHECKING:
    from tailrace.cli.outbox_desk import Desk
    from tailrace.publish.letters import Letter

__all__ = ["outbox_group"]

_SHOWN = 60  # characters of a value in the list


def _store_of(_: click.Context, __: click.Parameter, value: str) -> str:
    from tailrace.server.places import is_shared

    if is_shared(value) or (value.startswith("sqlite:") and value != "sqlite:"):
        return value
    raise click.BadParameter(
        f"{value!r} keeps no outbox; give sqlite:PATH or valkey://HOST:PORT/DB, as the server's ready line shows it."
    )


_store_option = click.option(
    "--store", required=True, callback=_store_of, envvar="TAILRACE_STORE", show_envvar=True, metavar="STORE",
    help="The server's store, as its ready line shows it: sqlite:PATH or valkey://HOST:PORT/DB.",
)  # fmt: skip
_service_option = click.option("--service", metavar="NAME", help="Whose messages, in Valkey: as Service(NAME) has it.")


@click.group("outbox")
def outbox_group() -> None:
    """Messages that wait for a broker, and those that it refused.

    Over Valkey the servers may run. The server that uses a SQLite file has to be stopped first.
    """


@outbox_group.command("ls")
@_store_option
@_service_option
@click.option("--dead", is_flag=True, help="Only those that the broker refused.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Messages shown at most.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, a line each.")
def ls_command(store: str, service: str | None, dead: bool, limit: int, as_json: bool) -> None:
    """List the messages, the oldest first."""

    async def show(desk: Desk) -> None:
        shown = 0
        async for letter in desk.letters(dead=dead):
            if shown == limit:
                click.echo(f"… and more; see --limit (it is {limit})", err=True)
                return
            shown += 1
            click.echo(json.dumps(_described(letter)) if as_json else _line(letter))
        if not shown and not as_json:
            click.echo("nothing waits" if not dead else "nothing was refused")

    _at_desk(store, service, show)


@outbox_group.command("show")
@_store_option
@_service_option
@click.argument("id", metavar="MESSAGE-ID")
def show_command(store: str, service: str | None, id: str) -> None:
    """Print one message whole, as JSON."""

    async def show(desk: Desk) -> None:
        async for letter in desk.letters(dead=False):
            if letter.message.id == id:
                return click.echo(json.dumps(_described(letter), indent=2))
        raise click.ClickException("no such message is there (any more)")

    _at_desk(store, service, show)


@outbox_group.command("retry")
@_store_option
@_service_option
@click.argument("ids", nargs=-1, metavar="[MESSAGE-ID]...")
@click.option("--all", "every", is_flag=True, help="All that were refused.")
def retry_command(store: str, service: str | None, ids: tuple[str, ...], every: bool) -> None:
    """Put refused messages back, behind those that wait; a server that runs delivers them at once, another one at its
    next start."""
    _check_chosen(ids, every)

    async def retry(desk: Desk) -> None:
        _say("put back", await desk.retry(None if every else set(ids)), ids)

    _at_desk(store, service, retry)


@outbox_group.command("drop")
@_store_option
@_service_option
@click.argument("ids", nargs=-1, metavar="[MESSAGE-ID]...")
@click.option("--all", "every", is_flag=True, help="All that were refused; what only waits is kept.")
def drop_command(store: str, service: str | None, ids: tuple[str, ...], every: bool) -> None:
    """Delete messages for good: refused ones, or by id, where no server runs, those that still wait, too."""
    _check_chosen(ids, every)

    async def drop(desk: Desk) -> None:
        _say("dropped", await desk.drop(None if every else set(ids)), ids)

    _at_desk(store, service, drop)


def _check_chosen(ids: tuple[str, ...], every: bool) -> None:
    if bool(ids) == every:
        raise click.UsageError("give the ids of messages (see `tailrace outbox ls`), or --all.")


def _say(what: str, done: int, ids: tuple[str, ...]) -> None:
    click.echo(f"{what}: {done}")
    if done < len(set(ids)):
        raise click.ClickException(f"{len(set(ids)) - done} of the messages are not there (any more)")


def _at_desk(store: str, service: str | None, work: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    import asyncio

    from tailrace.cli.outbox_desk import desk

    async def run() -> None:
        async with desk(store, service) as opened:
            await work(opened)

    with explained():
        asyncio.run(run())


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
