"""Commands for the manager's own text on a session: summary get, set, edit, versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.surfaces.cli.app import READING, Group, Name, app, command, show_help
from tollboard.surfaces.cli.editor import edit_text
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Column, Output
from tollboard.surfaces.cli.prompts import read_prompt
from tollboard.surfaces.cli.text import count, one_line

if TYPE_CHECKING:
    from tollboard.fleet.records import Summary

group = typer.Typer(
    name="summary",
    cls=Group,
    help="Keep your own notes on a session; no agent writes them.",
    rich_markup_mode=None,
)
group.callback(invoke_without_command=True)(show_help)
app.add_typer(group, rich_help_panel=READING)


@command(None, name="get", to=group)
def get(
    cli: Cli,
    name: Name,
    version: Annotated[
        int | None, typer.Option("--version", metavar="N", min=1, help="An earlier version.")
    ] = None,
) -> int:
    """Show the summary of a session.

    \b
    Example:
      tollboard summary get api
    """
    return cli.show(cli.run(lambda board: board.summary_get(name, version=version)), _print_summary)


def _print_summary(out: Output, summary: Summary) -> None:
    if not summary.version:
        out.beside(f"nobody has written one: tollboard summary set {summary.session} TEXT")
        return
    out.text(summary.text if summary.text.endswith("\n") else summary.text + "\n")
    stale = f", {count(summary.turns_since, 'turn')} since" if summary.turns_since else ""
    out.beside(f"version {summary.version} by {summary.author}, {out.time(summary.at)}{stale}")


@command(None, name="set", to=group)
def set_(
    cli: Cli,
    name: Name,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Markdown; `-` reads standard input.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the text from a file.")
    ] = None,
) -> int:
    """Write a new version of the summary; earlier ones are kept.

    \b
    Example:
      tollboard summary set api "Tests pass; next: the migration"
    """
    written = read_prompt(text, file, "summary")
    return cli.show(cli.run(lambda board: board.summary_update(name, written)), _print_written)


def _print_written(out: Output, summary: Summary) -> None:
    out.line(f"summary of {summary.session}, version {summary.version}", "green")


@command(None, name="edit", to=group)
def edit(cli: Cli, name: Name) -> int:
    """Edit the summary in $EDITOR.

    \b
    Example:
      tollboard summary edit api
    """
    import asyncio

    before = cli.run(lambda board: board.summary_get(name))
    after = asyncio.run(edit_text(before.text, suffix=".md"))
    if after is None or after == before.text:
        return cli.show(before, lambda out, _: out.beside("nothing was changed"))
    return cli.show(cli.run(lambda board: board.summary_update(name, after)), _print_written)


@command(None, name="versions", to=group)
def versions(cli: Cli, name: Name) -> int:
    """List every version of the summary.

    \b
    Example:
      tollboard summary versions api
    """
    return cli.show(cli.run(lambda board: board.summary_versions(name)), _print_versions)


def _print_versions(out: Output, found: Sequence[Summary]) -> None:
    if not found:
        out.beside("nobody has written one yet")
        return
    columns = (
        Column("VERSION", right=True),
        Column("WRITTEN"),
        Column("BY"),
        Column("TEXT", gives="right"),
    )
    out.table(columns, [(str(s.version), out.time(s.at), s.author, one_line(s.text)) for s in found])
