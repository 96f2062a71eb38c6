"""Commands after whose `--` comes a program to start, with flags of its own."""

from __future__ import annotations

import click

__all__ = ["PROGRAM", "WithProgram"]

PROGRAM = "tailrace.program"  # where the context keeps the program's words; absent without a `--`


class WithProgram(click.Command):
    """A command that leaves everything after ``--`` to the program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[PROGRAM] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)
