"""`tailrace run TARGET`: serve it until a signal ends it.

This file only reads the flags; what they mean is `tailrace.server.run`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tailrace.cli.failures import explained
from tailrace.cli.reload import Files, Supervisor, end_with_parent, folders_of, free_port
from tailrace.cli.target import Target, default_store, load

if TYPE_CHECKING:
    from tailrace.server.front import Front

__all__ = ["check_flags", "run_command"]

_HTTP_ONLY = ("host", "port", "uds", "server", "allow_host", "allow_origin", "auth_token", "auth_issuer",
              "auth_audience", "auth_scope", "insecure", "tls_cert", "tls_key", "keep_alive", "session_idle",
              "max_sessions", "max_body", "shutdown_delay", "stateless")  # fmt: skip
_WORDS = "tailrace.words"  # where the context keeps them
_SECONDS = click.FloatRange(min=0)
_END = 3.0  # seconds that a worker needs to end, beside what is counted in `_ending`
_ABSENCE = 10.0  # seconds, at least, that a worker may tell nothing until another takes its place


def _option(name: str, help: str, **settings: Any) -> Any:
    """An option with its variable in the environment: `--keep-alive` is TAILRACE_KEEP_ALIVE."""
    variable = "TAILRACE_" + name.lstrip("-").replace("-", "_").upper()
    settings = {"envvar": variable, "show_envvar": True, "show_default": True, **settings}
    return click.option(name, help=help, **settings)


def _store(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is None or value in {"memory", "sqlite"} or (value.startswith("sqlite:") and value != "sqlite:"):
        return value
    if value.startswith(("valkey://", "valkeys://", "redis://", "rediss://")):
        return value
    raise click.BadParameter(f"{value!r} is no store; give sqlite, sqlite:PATH, valkey://HOST:PORT/DB or memory.")


class _Remembering(click.Command):
    """A command whose words are kept as they were given, to be given to a child."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)


@click.command("run", cls=_Remembering)
@click.argument("target")
@_option("--stdio", "Speak over standard input and output instead of HTTP.", is_flag=True)
@_option("--host", "Address to listen on.", default="127.0.0.1")
@_option("--port", "Port to listen on; 0 picks a free one.", type=click.IntRange(0, 65535), default=8000)
@_option("--uds", "Listen on this Unix socket instead.", type=click.Path(dir_okay=False), metavar="PATH")
@_option("--store", "Where sessions and accepted calls are kept: sqlite, sqlite:PATH, valkey://HOST:PORT/DB or memory. "
         "Default: sqlite in your state folder; with --stdio: memory.", callback=_store)  # fmt: skip
@_option("--publish", "Where what calls publish goes: kafka://HOST:PORT, log: or memory:.", metavar="URL")
@_option("--store-wait", "Seconds to wait for a process that holds the store.", type=_SECONDS, default=30.0)
@_option("--lease", "Seconds for which a process owns its sessions in Valkey.", type=_SECONDS, default=5.0)
@_option("--server", "What moves the bytes.", type=click.Choice(["listener", "uvicorn"]), default="listener")
@_option("--drain", "Seconds that running calls get at shutdown.", type=_SECONDS, default=25.0)
@_option("--shutdown-delay", "Seconds to go on accepting after the signal.", type=_SECONDS, default=0.0)
@_option("--keep-alive", "Seconds between keep-alives on an idle stream.", type=click.FloatRange(min=0.1), default=15.0)
@_option("--session-idle", "Seconds after which an idle session ends.", type=_SECONDS, default=1800.0)
@_option("--max-sessions", "Sessions at most.", type=click.IntRange(min=1), default=10_000)
@_option("--max-body", "Bytes of a request at most.", type=click.IntRange(min=1), default=4 * 1024 * 1024)
@_option("--stateless", "Legacy Streamable HTTP without sessions.", is_flag=True)
@_option("--allow-host", "Serve requests for this Host as well (repeatable).", multiple=True, metavar="HOST")
@_option("--allow-origin", "Serve browser pages from this Origin as well (repeatable).", multiple=True,
         metavar="ORIGIN")  # fmt: skip
@_option("--auth-token", "Bearer token that a client has to show (repeatable; several in the environment are "
         "separated by spaces).", multiple=True, metavar="TOKEN", show_default=False)  # fmt: skip
@_option("--auth-issuer", "Authorization server whose JWTs are valid, as its tokens say it; needs tailrace[auth].",
         metavar="URL")  # fmt: skip
@_option("--auth-audience", "What these tokens have to be for: this server's address, as clients know it.",
         metavar="URL")  # fmt: skip
@_option("--auth-scope", "Scope that every request needs (repeatable).", multiple=True, metavar="SCOPE")
@_option("--insecure", "Allow an address that others can reach, without authentication.", is_flag=True)
@_option("--tls-cert", "Certificate chain (PEM).", type=click.Path(exists=True, dir_okay=False))
@_option("--tls-key", "Private key (PEM).", type=click.Path(exists=True, dir_okay=False))
@_option("--admin", "Serve metrics and the console there, to you only: HOST:PORT, PORT, or the path of a Unix socket.",
         metavar="ADDRESS")  # fmt: skip
@_option("--admin-token", "Token that everything at --admin asks for, metrics, too.", metavar="TOKEN",
         show_default=False)  # fmt: skip
@_option("--workers", "Serve with so many processes, which are started again when they end, and replaced one after the "
         "other on SIGHUP. More than one need --store valkey://... or --stateless.", type=click.IntRange(1, 256),
         metavar="N")  # fmt: skip
@_option(
    "--reload", "Start again whenever a .py file below the target's folder changes: for development.", is_flag=True
)
@_option("--log-level", "What the server logs.", default="info",
         type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False))  # fmt: skip
@_option("--log-format", "How it is written to stderr.", type=click.Choice(["text", "json"]), default="text")
@click.pass_context
def run_command(
    context: click.Context, target: str, stdio: bool, reload: bool, workers: int | None, **flags: Any
) -> None:
    """Serve the Service in TARGET: file.py, file.py:svc or pkg.mod:svc.

    Over HTTP it is at /mcp (Streamable HTTP) and /sse (HTTP+SSE). One line on stderr says when it is ready.
    SIGTERM or SIGINT drains it: running calls are answered or kept.
    """
    check_flags(context, stdio, flags)
    from tailrace.server.worker import Worker

    worker = Worker.of_environment()
    if worker is None and (reload or workers is not None):
        name = "reload" if reload else "workers"
        if stdio:
            raise click.UsageError(f"--{name} is for HTTP: over --stdio the client starts the server.")
        if reload and workers is not None:
            raise click.UsageError("give --reload or --workers, not both: one is for development.")
        if workers is not None:
            raise SystemExit(_supervise(context.meta[_WORDS], workers, flags))
        raise SystemExit(_reload(context.meta[_WORDS], target, flags))
    with explained(debug=flags["log_level"] == "debug"):
        pipes: dict[str, Any] = {}
        if stdio:
            from tailrace.transports.pipes import guard

            pipes["pipes"] = guard()  # before any of the user's code: whatever that prints goes to stderr
        end_with_parent()
        found = load(target)
        flags["store"] = _chosen_store(flags["store"], found, stdio)

        from tailrace import server

        transport = "stdio" if stdio else "http"
        server.run(found.service, transport=transport, target=found.resolved, worker=worker, **pipes, **flags)


def _reload(words: Sequence[str], target: str, flags: dict[str, Any]) -> int:
    """Be the parent of a server that is started again when its files change."""
    command = [sys.executable, "-m", "tailrace", "run", *(word for word in words if word != "--reload")]
    if flags["port"] == 0 and flags["uds"] is None:
        command += ["--port", str(free_port(flags["host"]))]  # the same for every life
    folders = folders_of(target)

    def say(text: str) -> None:
        click.echo(f"tailrace reload: {text}", err=True)

    say(f"watching {', '.join(map(str, folders))}")
    if flags["store"] == "memory":
        say("sessions do not survive a restart with --store memory")
    return Supervisor(command, Files(folders), limit=flags["drain"] + flags["shutdown_delay"] + 2.0, say=say).run()


def _supervise(words: Sequence[str], count: int, flags: dict[str, Any]) -> int:
    """Be the parent of several processes that serve on one port."""
    from tailrace.cli.workers import Workers, slots
    from tailrace.server.places import is_shared

    store: str | None = flags["store"]
    shared = store is not None and is_shared(store)
    if count > 1 and not shared and not flags["stateless"]:
        raise click.UsageError(
            f"--workers {count} needs a store that processes can share: --store valkey://HOST:PORT; "
            "or --stateless, where no session is kept."
        )
    if count > 1 and store is not None and store.startswith("sqlite"):
        raise click.UsageError("a SQLite file has one worker: give --store valkey://HOST:PORT, or memory.")
    if count > 1 and store is None:
        words = [*words, "--store", "memory"]
    with (
        explained(debug=flags["log_level"] == "debug"),
        slots(count, flags) as places,
        _front(flags["admin"], flags["admin_token"], count) as admin,
    ):
        return Workers(
            [sys.executable, "-m", "tailrace", "run", *words],
            places,
            limit=_ending(flags, shared=shared),
            waits=flags["store_wait"],
            exclusive=not shared and count == 1 and store != "memory",
            keeps=count == 1 or shared,
            say=lambda text: click.echo(f"tailrace workers: {text}", err=True),
            ready=lambda facts: click.echo(f"tailrace ready {facts}", err=True),
            front=admin,
            absence=max(_ABSENCE, 2 * flags["lease"]) if shared and count > 1 else None,
        ).run()


def _ending(flags: Mapping[str, Any], *, shared: bool) -> float:
    """Seconds that a worker may take to end: for its drain and its lifespan, over a shared store for its sessions."""
    from tailrace.core.settings import Settings, takeover_time

    hook_time = Settings().hook_time  # which no flag changes
    handing_over = takeover_time(flags["lease"], hook_time) if shared else 0.0
    return flags["shutdown_delay"] + flags["drain"] + hook_time + handing_over + _END


def _front(address: str | None, token: str | None, count: int) -> AbstractContextManager[Front | None]:
    if address is None:
        return nullcontext()
    from tailrace.server.front import front  # which needs what writes metrics

    return front(address, token, count)


def check_flags(context: click.Context, stdio: bool, flags: dict[str, Any]) -> None:
    """Refuse flags that contradict each other. What the environment says is only a default."""
    given = [name for name in flags if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if stdio and (over := [name for name in given if name in _HTTP_ONLY]):
        raise click.UsageError(f"{_flag(over[0])} is about HTTP, and there is none with --stdio.")
    if "uds" in given and (over := [name for name in given if name in {"host", "port"}]):
        raise click.UsageError(f"give --uds or {_flag(over[0])}, not both.")
    if (flags["auth_issuer"] is None) != (flags["auth_audience"] is None):
        raise click.UsageError("--auth-issuer and --auth-audience belong together.")
    if flags["auth_token"] and flags["auth_issuer"] is not None:
        raise click.UsageError("give --auth-token or --auth-issuer, not both.")
    if (flags["tls_cert"] is None) != (flags["tls_key"] is None):
        raise click.UsageError("--tls-cert and --tls-key belong together.")
    if flags["admin_token"] is not None and flags["admin"] is None:
        raise click.UsageError("--admin-token needs --admin: it is the token of that address.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _chosen_store(wanted: str | None, found: Target, stdio: bool) -> str:
    """The default is durable over HTTP; over stdio the client starts the process, and its end is the session's."""
    if wanted is None:
        wanted = "memory" if stdio else "sqlite"
    if wanted != "sqlite":
        return wanted
    path = default_store(found)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"sqlite:{path}"
