"""The application that every command joins."""

from __future__ import annotations

from typing import Annotated

import typer

from stimage_qupath import __version__, console

app = typer.Typer(
    name="stimage-qupath",
    help="Predicted gene expression for every nucleus of an H&E slide, with uncertainty. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        console.say(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        console.say(context.get_help())
