"""The command line: `tailrace run | guard | demo | ls | call | inspect | check | doctor | bench | outbox | gen |
install`.

Only click is imported here. Each command imports what it needs when it is run, so that `--help`,
`--version` and a shell's completion stay quick. Exit codes: 0 ok, 1 the thing asked for failed, 2 wrong use.
"""

from __future__ import annotations

import click

from tailrace import __version__
from tailrace.cli.bench import bench_command
from tailrace.cli.call import call_command
from tailrace.cli.check import check_command
from tailrace.cli.doctor import doctor_command
from tailrace.cli.gen import gen_group
from tailrace.cli.guard import guard_command
from tailrace.cli.inspect import inspect_command
from tailrace.cli.install import install_command
from tailrace.cli.ls import ls_command
from tailrace.cli.outbox import outbox_group
from tailrace.cli.run import run_command

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tailrace", message="%(prog)s %(version)s")
def main() -> None:
    """Serve typed Python functions to agents over MCP, in calls that outlive their connections."""


@main.command("demo", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo_command(arguments: tuple[str, ...]) -> None:
    """Watch calls survive a dropped stream and a kill -9, and count them (under 30 seconds)."""
    from tailrace.cli.demo import main as demo

    raise SystemExit(demo(list(arguments)))


main.add_command(run_command)
main.add_command(guard_command)
main.add_command(ls_command)
main.add_command(call_command)
main.add_command(inspect_command)
main.add_command(check_command)
main.add_command(doctor_command)
main.add_command(bench_command)
main.add_command(outbox_group)
main.add_command(gen_group)
main.add_command(install_command)
