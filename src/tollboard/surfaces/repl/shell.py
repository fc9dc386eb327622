"""The prompt itself: IPython with top-level await, on the event loop that the connection to the daemon lives on."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from typing import Any

from IPython.core import async_helpers
from IPython.core.completer import SimpleCompletion, context_matcher
from IPython.terminal.ipapp import TerminalIPythonApp
from traitlets.config import Config

from tollboard.daemon.client import Client
from tollboard.errors import DaemonFrozen, TollboardError
from tollboard.surfaces.cli.failures import hint, parted
from tollboard.surfaces.cli.output import paint
from tollboard.surfaces.cli.text import safe
from tollboard.surfaces.repl.rendering import register
from tollboard.surfaces.repl.verbs import Tails, names_of

BANNER = "Tollboard at {home}: {count}. `help_board()` shows what you can type.\n"
_OPEN_STRING = re.compile(r"""[\w.]+\((?:[^"'()]*,\s*)?["']([\w.-]*)$""")


def _loop() -> asyncio.AbstractEventLoop:
    """Return the loop that IPython runs what is typed on."""
    loop: asyncio.AbstractEventLoop = async_helpers.get_asyncio_loop()  # type: ignore[no-untyped-call]
    return loop


def run(home: str | os.PathLike[str] | None) -> None:
    """Show the prompt until the person leaves it. The daemon is started if none runs, and goes on afterwards."""
    loop = _loop()
    client: Client = loop.run_until_complete(_connected(home))
    tails = Tails(client, loop)
    try:
        sessions = loop.run_until_complete(client.list_sessions())
        count = f"{len(sessions)} session{'' if len(sessions) == 1 else 's'}"
        _prompt(
            client, tails, BANNER.format(home=client.home.path, count=count), [one.name for one in sessions]
        )
        print("The fleet goes on; come back with: tollboard repl")
    finally:
        tails.untail()
        loop.run_until_complete(client.close())


async def _connected(home: str | os.PathLike[str] | None) -> Client:
    connected: Client = await Client.connect(home, surface="repl")
    return connected


def _prompt(client: Client, tails: Tails, banner: str, sessions: list[str]) -> None:
    config = Config()
    config.TerminalInteractiveShell.banner1 = banner
    config.TerminalInteractiveShell.confirm_exit = False
    config.TerminalInteractiveShell.term_title = False
    config.TerminalInteractiveShell.enable_tip = False
    if os.environ.get("NO_COLOR"):
        config.TerminalInteractiveShell.colors = "nocolor"
    app: Any = TerminalIPythonApp.instance(config=config)
    app.initialize(argv=[])
    shell = app.shell
    # Prompt and connection share one loop: what happens meanwhile is heard while one types.
    shell.enable_gui("asyncio")
    shell.user_ns.update(names_of(client, tails))
    register(shell)
    shell.set_custom_exc((TollboardError,), _tell)
    known = set(sessions)
    shell.Completer.custom_matchers.append(_matcher(known))
    shell.events.register("post_run_cell", lambda result: _learn(client, known, result))
    app.start()


def _tell(
    shell: Any, kind: type[BaseException], error: BaseException, traceback: Any, tb_offset: Any = None
) -> None:
    """Say what went wrong and what to do, without a traceback: it is not the program that failed."""
    assert isinstance(error, TollboardError)
    what, advice = parted(str(error))  # the advice of the command line is flags; here it is words
    print(f"{paint('error:', 'bold red', sys.stderr)} {safe(what)}", file=sys.stderr)
    for line in (advice or hint(error)).splitlines():
        print(f"{paint('  →', 'cyan', sys.stderr)} {safe(line)}", file=sys.stderr)


def _learn(client: Client, known: set[str], result: Any) -> None:
    """Look up the names of the sessions, for completion, once the loop is free."""
    if isinstance(result.error_in_exec, DaemonFrozen):
        return  # to find that out once was long enough

    async def look() -> None:
        try:
            found = {one.name for one in await client.list_sessions()}
        except TollboardError:
            return  # the next verb says so
        known.clear()
        known.update(found)

    _loop().run_until_complete(look())


def _matcher(known: set[str]) -> Any:
    @context_matcher()  # type: ignore[untyped-decorator]
    def session_names(context: Any) -> Any:
        """Complete the names of sessions inside quotes."""
        found = _OPEN_STRING.search(context.text_until_cursor)
        if found is None:
            return {"completions": []}
        begun = found.group(1)
        fitting = [
            SimpleCompletion(text=name, type="session") for name in sorted(known) if name.startswith(begun)
        ]
        return {"completions": fitting, "matched_fragment": begun, "suppress": bool(fitting)}

    return session_names
