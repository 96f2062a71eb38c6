"""`tailrace bench URL`: how many calls a second one server answers, and how long an answer takes.

This file reads the flags and prints; `tailrace.cli.load` makes the load. Tailrace is compared with others by
`make bench`, whose generator is not the bottleneck.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import click

from tailrace.cli.failures import explained

__all__ = ["bench_command"]

_PYTHON = "The load was made in pure Python, on one core: a server faster than that does not look faster."


@click.command("bench")
@click.argument("url")
@click.argument("words", nargs=-1, metavar="[TOOL [NAME=VALUE | JSON]...]", type=click.UNPROCESSED)
@click.option("--clients", type=click.IntRange(1, 1000), default=8, show_default=True, help="Calls in flight, each in "
              "a session of its own.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0, 600, min_open=True), default=5.0, show_default=True,
              help="How long to measure.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True,
              help="Seconds to wait for one answer.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench_command(
    url: str, words: tuple[str, ...], clients: int, seconds: float, timeout: float, as_json: bool
) -> None:
    """Call a server's TOOL over and over (without one: ping), and print calls a second and percentiles.

    \b
    tailrace bench http://127.0.0.1:8000/mcp
    tailrace bench http://127.0.0.1:8000/mcp echo text=hello

    Every answer is checked to be the call's own and no error. Exit code 1 if one was not.
    """
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"{url!r}: only http:// and https:// can be measured.")
    import asyncio

    from tailrace.cli.load import measure

    if not urlsplit(url).path.strip("/"):  # as `ls` and `call` read it
        url = url.rstrip("/") + "/mcp"

    with explained():
        report = asyncio.run(measure(url, words, clients, seconds, timeout))
    click.echo(json.dumps(report) if as_json else _text(report))
    if report["failed"]:
        raise SystemExit(1)


def _text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['calls']} calls of {report['what']} by {report['clients']} clients in {report['seconds']:.1f} s: "
        f"{report['per_second']:,.0f} a second",
        "  ".join(f"p{p} {report[f'p{p}_ms']:.2f} ms" for p in (50, 90, 99)),
    ]
    if report["failed"]:
        lines.append(f"{report['failed']} failed; the first: {report['complaint']}")
    return "\n".join([*lines, _PYTHON])
