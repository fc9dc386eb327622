"""Commands that copy everything the fleet remembers: backup, restore, export. None of them needs a daemon."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import Invalid
from tollboard.surfaces.cli.app import DAEMON, command, given_path
from tollboard.surfaces.cli.connection import places
from tollboard.surfaces.cli.failures import DONE
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Output, write
from tollboard.surfaces.cli.text import count

if TYPE_CHECKING:
    from tollboard.daemon.config import StateDirectory
    from tollboard.store.backup import Copied

File = Annotated[Path, typer.Argument(metavar="FILE", parser=given_path, help="The backup.")]


@command(DAEMON)
def backup(cli: Cli, file: File) -> int:
    """Copy everything the fleet remembers into one file.

    The daemon may run meanwhile.

    \b
    Example:
      tollboard backup ~/backups/tollboard-monday.db
    """
    from tollboard.store.backup import back_up

    return cli.show(back_up(places(cli.home).database, file.absolute()), _made)


@command(DAEMON)
def restore(
    cli: Cli,
    file: File,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Replace the database with a backup; the daemon must not run.

    The database that was there is kept beside it. Nothing in a restored one runs by itself, because it may have run
    since the backup was made: sessions are halted with their queues, open questions and pool tasks have ended.

    \b
    Example:
      tollboard shutdown
      tollboard restore ~/backups/tollboard-monday.db
    """
    from tollboard.daemon.single import Ownership, new_id, private_text
    from tollboard.store.backup import restore as put_back
    from tollboard.store.identity import Home

    home = places(cli.home)
    home.prepare()
    owner = Ownership.claim(home)
    try:
        if not yes:
            _confirm(home, file)
        identity = Home(private_text(home.identity, new_id))
        done = put_back(file.absolute(), home.database, identity)
    finally:
        owner.release()
    return cli.show(done, _restored)


@command(DAEMON)
def export(
    cli: Cli,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", parser=given_path, help="Where to write (otherwise standard output)."),
    ] = None,
) -> int:
    """Write everything the fleet remembers as JSON lines.

    Each line is one row of one table.

    \b
    Example:
      tollboard export fleet.jsonl
    """
    from tollboard.store.backup import export as lines
    from tollboard.store.backup import export_to

    database = places(cli.home).database
    if file is None:
        for line in lines(database):
            write(sys.stdout, line + "\n")
        return DONE
    rows = export_to(database, file.absolute())
    return cli.show(
        {"file": str(file), "rows": rows},
        lambda out, _: out.line(f"wrote {count(rows, 'row')} to {file}", "green"),
    )


def _confirm(home: StateDirectory, file: Path) -> None:
    if not sys.stdin.isatty():
        raise Invalid("this replaces the database; add --yes")
    typer.confirm(f"Replace {home.database} with {file}? The database that is there now is kept.", abort=True)


def _made(out: Output, done: Copied) -> None:
    out.line(
        f"copied everything to {done.path} ({done.bytes / (1 << 20):,.1f} MiB, schema {done.schema})", "green"
    )


def _restored(out: Output, done: Copied) -> None:
    out.line(f"restored {done.path} (schema {done.schema})", "green")
    if done.kept_as:
        out.line(f"the database that was there is now {done.kept_as}")
    out.line("every session is halted: look at `tollboard list`, then `tollboard resume NAME`")
