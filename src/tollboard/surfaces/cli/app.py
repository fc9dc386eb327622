"""The typer application: how commands are registered, the options all of them take, help in sections.

Importing this file must stay cheap: `tollboard --help` imports typer and nothing heavier.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from functools import wraps
from gettext import gettext
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, cast

import typer
from typer.core import TyperCommand, TyperGroup

from tollboard.errors import TollboardError
from tollboard.surfaces.cli.completion import complete_session
from tollboard.surfaces.cli.failures import reader_gone, report, stopped
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import paint

P = ParamSpec("P")

SESSIONS, PROMPTS, READING, CONTROL, APPROVALS, POOLS, DAEMON = (
    "Sessions",
    "Prompts",
    "Reading",
    "Control",
    "Approvals",
    "Pools",
    "Daemon",
)
SECTIONS = (SESSIONS, PROMPTS, READING, CONTROL, APPROVALS, POOLS, DAEMON)
FIRST = ("start", "list", "status", "doctor", "demo")
"""What somebody new looks for stands first in its section."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="The session.", autocompletion=complete_session)]
AnyName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="The session.", autocompletion=complete_session)
]


def given_path(value: str | Path) -> Path:
    """Return a path that was given. An empty text is none: it is mostly a variable that was not set."""
    if value == "":
        raise typer.BadParameter("an empty text is no path")
    return Path(value)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="DIR", parser=given_path,
        help="The state directory (otherwise $TOLLBOARD_HOME, or the default).",
    ),
]  # fmt: skip


class Command(TyperCommand):
    """One command."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, as `_finish` leaves it."""
        super().format_help(ctx, formatter)
        _finish(formatter)


class Group(TyperGroup):
    """The commands under the headings of their sections."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, as `_finish` leaves it."""
        super().format_help(ctx, formatter)
        _finish(formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands first: they are what one looks for."""
        self.format_commands(ctx, formatter)
        TyperCommand.format_options(cast(TyperCommand, self), ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one list of commands for each section."""
        names = sorted(self.list_commands(ctx), key=lambda name: (*FIRST, name).index(name))
        shown = [(name, self.commands[name]) for name in names]
        width = max(len(name) for name, _ in shown)
        for section in dict.fromkeys((*SECTIONS, None)):
            rows = [
                (name.ljust(width), command.get_short_help_str(formatter.width - width - 6))
                for name, command in shown
                if not command.hidden and getattr(command, "rich_help_panel", None) == section
            ]
            if rows:
                with formatter.section(gettext(section or "Commands")):
                    formatter.write_dl(rows)


_ARGUMENT_TYPE = re.compile(r"^(  [A-Z]+(?:\.\.\.)?)( <[^>]+>)")
_BRACES = re.compile(r"\{([A-Z]+)\}")


def _finish(formatter: Any) -> None:
    """Make the help plainer: headings in bold, no types behind arguments, `NAME` instead of `{NAME}`."""
    lines = []
    for line in formatter.getvalue().splitlines():
        if line.startswith("Usage:"):
            line = _BRACES.sub(r"\1", line)
        elif line.endswith(":") and line[:1].strip():
            line = paint(line, "bold", sys.stdout)
        lines.append(_ARGUMENT_TYPE.sub(lambda found: found[1] + " " * len(found[2]), line) + "\n")
    formatter.buffer = lines


app = typer.Typer(
    name="tollboard",
    cls=Group,
    help="""A switchboard for long-lived AI agents.

    Start named sessions on working directories, send them prompts without waiting, read what they answered, halt and
    resume them. A daemon keeps them; any command starts it if none runs.

    \b
    Example:
      tollboard start api --path ~/src/api
      tollboard send api "Run the tests and mend what fails" --wait
    """,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from tollboard.surfaces.cli.daemon_cmds import own_version

        typer.echo(f"tollboard {own_version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    home: Home = None,
    json: Json = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take the options that may stand before the command as well."""
    context.obj = {"home": home, "json": json}
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def show_help(context: typer.Context) -> None:
    """Show the help of a group of commands when none of them was named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def command(
    section: str | None, *, name: str | None = None, to: typer.Typer = app
) -> Callable[[Callable[Concatenate[Cli, P], int | None]], Callable[Concatenate[Cli, P], int | None]]:
    """Register a command: it gets a `Cli` first, takes --json and --home, and its errors become exit codes."""

    def register(
        function: Callable[Concatenate[Cli, P], int | None],
    ) -> Callable[Concatenate[Cli, P], int | None]:
        to.command(name, cls=Command, rich_help_panel=section)(invocable(function))
        return function

    return register


def invocable(function: Callable[..., int | None]) -> Callable[..., int]:
    """Return the function as typer calls it, with the common options in its signature."""

    @wraps(function)
    def invoke(context: typer.Context, *, home: Path | None, json: bool, **given: Any) -> int:
        before = context.find_root().obj or {}
        cli = Cli(home=home or before.get("home"), json=json or bool(before.get("json")))
        try:
            return function(cli, **given) or 0
        except TollboardError as error:
            return report(error, cli.out)
        except KeyboardInterrupt:
            return stopped(cli.out)
        except BrokenPipeError:
            return reader_gone()  # typer would make it a failure

    del invoke.__wrapped__
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    kind = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter("json", kind, default=False, annotation=Json),
        inspect.Parameter("home", kind, default=None, annotation=Home),
    ]
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_ONLY, annotation=typer.Context)
    parameters = [first, *(parameter.replace(kind=kind) for parameter in own), *shared]
    invoke.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    invoke.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return invoke
