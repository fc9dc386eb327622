"""The command line. `main` is the program `tollboard`; one file per group of commands, the tools beside them.

app.py          how commands are registered; help in sections
invocation.py   one run of a command: state directory, output, the way to the board
connection.py   the seam to the daemon
output.py text.py failures.py streams.py      tables, JSON, colour; safe text and times; exit codes and hints; streams
    that are closed or full
sessions.py listing.py prompts.py following.py reading.py summaries.py control.py approvals.py
    sub_agents.py daemon_cmds.py
review.py question.py answering.py keyboard.py editor.py      what waits, one after the other; how it is shown; what is
    typed
fleet_files.py   fleets written down in a file
pools.py pool_tasks.py submission.py task_files.py progress.py      workers, their tasks, tasks from files, how far it
    has come
mcp_cmds.py      what MCP hosts start, and how they are told
repl_cmd.py      the Python prompt
login.py doctor.py checks.py demo.py stage.py completion.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tollboard.surfaces.cli.output import Output

PROGRAM = "tollboard"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. The arguments are those of the process unless given."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130  # as early as in the imports below


def _run(arguments: list[str]) -> int:
    from tollboard.surfaces.cli.failures import reader_gone
    from tollboard.surfaces.cli.output import Output
    from tollboard.surfaces.cli.streams import open_closed, report_failed

    open_closed()
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    out = Output(json="--json" in options)
    try:
        code = _invoke(arguments, out)
        sys.stdout.flush()
    except BrokenPipeError:
        return reader_gone()
    except OSError as failed:
        return report_failed(failed, out)
    return code


def _invoke(arguments: list[str], out: Output) -> int:
    import typer
    from typer.exceptions import TyperException

    from tollboard.surfaces.cli.commands import app
    from tollboard.surfaces.cli.failures import DONE, FAILED, complain

    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except TyperException as wrong:
        return complain(out, "usage", wrong.format_message(), _next_step(wrong), wrong.exit_code)
    except typer.Abort:
        return complain(out, "aborted", "nothing was done", "", FAILED)
    return code if isinstance(code, int) else DONE


def _next_step(wrong: Exception) -> str:
    context = getattr(wrong, "ctx", None)
    path = getattr(context, "command_path", PROGRAM)
    return f"see how it is used: {path} --help"
