"""`tailrace doctor`: what a server is put on and behind, looked at before users find out.

This file reads the flags. `valkey` and `sqlite` look at stores, `proxy` at what stands before a running server,
`findings` shows what was seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tailrace.cli.failures import explained

if TYPE_CHECKING:
    from tailrace.cli.doctor.findings import Finding

__all__ = ["doctor_command"]


@click.command("doctor")
@click.option(
    "--store",
    envvar="TAILRACE_STORE",
    show_envvar=True,
    metavar="STORE",
    help="A store as `run` takes it: sqlite:PATH or valkey://HOST:PORT/DB.",
)
@click.option(
    "--service",
    default="tailrace",
    show_default=True,
    metavar="NAME",
    help="Whose keys are looked for in a Valkey cluster.",
)
@click.option("--url", metavar="URL", help="A running server as its clients reach it, through what stands before it.")
@click.option(
    "--token", metavar="TOKEN", envvar="TAILRACE_TOKEN", show_envvar=True, help="Bearer token to show to that server."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=86_400),
    default=35.0,
    show_default=True,
    help="How long to watch an idle stream of its.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings as well.")
def doctor_command(
    store: str | None, service: str, url: str | None, token: str | None, seconds: float, as_json: bool, strict: bool
) -> None:
    """Look at what a server stands on, and at what stands before it, and say what is at risk.

    \b
    tailrace doctor --store valkey://127.0.0.1:6379/0
    tailrace doctor --store sqlite:/var/lib/orders/store.sqlite
    tailrace doctor --url https://agents.example.com/mcp --token TOKEN

    Each finding is ok, warn or risk. Exit code 0 if nothing is at risk, 1 if something is, 2 for wrong use.
    """
    if store is None and url is None:
        raise click.UsageError("say what to look at: --store STORE, --url URL, or both.")
    if url is not None and not url.startswith(("http://", "https://")):
        raise click.UsageError(f"{url!r}: only http:// and https:// can be looked at.")
    findings: list[Finding] = []
    with explained():
        if store is not None:
            findings += _store(store, service)
        if url is not None:
            findings += _proxy(url, token, seconds)
    from tailrace.cli.doctor import findings as shown

    if as_json:
        click.echo(shown.as_json(findings))
    else:
        shown.print_findings(findings)
    bad = {shown.Level.RISK, shown.Level.WARN} if strict else {shown.Level.RISK}
    if any(finding.level in bad for finding in findings):
        raise SystemExit(1)


def _proxy(url: str, token: str | None, seconds: float) -> list[Finding]:
    import asyncio

    from tailrace.cli.doctor.proxy import examine_proxy

    return asyncio.run(examine_proxy(url, token=token, seconds=seconds))


def _store(store: str, service: str) -> list[Finding]:
    import asyncio
    import logging

    from tailrace.cli.doctor.findings import risk

    logging.getLogger("tailrace").addHandler(logging.NullHandler())  # what the store would log is among the findings
    kind, _, rest = store.partition(":")
    if store == "memory":
        return [
            risk(
                store,
                "persistence",
                "nothing is kept",
                "Sessions, answers and keys end with the process: give it --store sqlite or valkey://.",
            )
        ]
    if kind == "sqlite" and rest:
        from tailrace.cli.doctor.sqlite import examine_sqlite

        return examine_sqlite(Path(rest))
    if kind in ("valkey", "valkeys", "redis", "rediss"):
        from tailrace.cli.doctor.valkey import examine_valkey

        return asyncio.run(examine_valkey(store, service))
    raise click.UsageError(
        f"{store!r}: give sqlite:PATH, as the server's ready line shows it, or valkey://HOST:PORT/DB."
    )
