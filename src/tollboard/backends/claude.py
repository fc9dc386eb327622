"""Claude Code as a backend: the real program, driven through claude-agent-sdk (the extra `claude`).

A session is one conversation under an id that we choose and make durable before anything runs. Its program is started
at the first prompt, stays for the next ones, and is started again with `resume` when it died or the daemon restarted.
What happens within one turn is in `_claude_turn.py`, the program in `_claude_program.py`, its lines in
`_claude_events.py`, the options in `_claude_options.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import shutil
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tollboard.backends._claude_login import KEY, LOGIN, NO_LOGIN
from tollboard.backends._claude_options import (
    HERMETIC,
    PLAIN,
    ClaudeOptions,
    claude_powers,
    claude_worker_options,
    login_found,
    parse_claude_options,
)
from tollboard.backends._claude_stream import Speech, Stream
from tollboard.backends._environment import inherited_by_claude
from tollboard.errors import BackendUnavailable
from tollboard.ids import new_ref
from tollboard.runtime.approval import ApprovalRequest, Decision, Reject
from tollboard.runtime.backend import Backend, Health, Host, ProcessReport, Turn
from tollboard.runtime.background_task import BackgroundTask
from tollboard.runtime.event import Event

if TYPE_CHECKING:
    from tollboard.backends._claude_program import Program
    from tollboard.backends._claude_turn import ClaudeTurn, OwnTurn

INSTALL = "pip install 'tollboard[claude]'"
_VERSION_WAIT_S = 15.0


@dataclass(slots=True, eq=False)
class ClaudeSession:
    """One conversation. `begun`: a program may have written it; `answered`: a turn of it is known to have completed."""

    id: str
    options: ClaudeOptions
    begun: bool
    answered: bool
    effective: dict[str, str] = field(default_factory=dict)
    reported: bool = False
    program: Program | None = None
    stream: Stream = field(init=False)
    host: Host | None = None
    own: deque[Speech] = field(default_factory=deque)
    """Turns that the program has begun by itself and that nobody follows yet."""
    turn: OwnTurn | None = None
    closing: asyncio.Task[None] | None = None
    ending: asyncio.Task[ProcessReport] | None = None

    @property
    def marker(self) -> tuple[str, str]:
        """Return the variable that every process of this session carries."""
        return self.options.marker or ("TOLLBOARD_PROGRAM", self.id)

    def __post_init__(self) -> None:
        self.new_stream()

    def new_stream(self) -> Stream:
        """Return the stream of a program that is about to be started."""
        self.stream = Stream(
            self._begin_own, self._tell_background, lambda: self.turn.ref if self.turn else ""
        )
        return self.stream

    def _begin_own(self, speech: Speech, cause: str) -> None:
        if self.host is not None and self.ending is None:
            self.own.append(speech)
            if not self.host.begin_turn(cause):
                self.own.remove(speech)

    def _tell_background(self, running: Sequence[BackgroundTask], lost: str) -> None:
        if self.host is not None and self.ending is None:
            self.host.background(running, lost=lost)

    def dropped(self) -> None:
        """Note that the program has ended."""
        self.program = None

    async def ask(self, request: ApprovalRequest, agent: str | None = None) -> Decision:
        """Put a permission question to the turn in flight; that of a background sub-agent belongs to no turn."""
        task = self.stream.running.get(agent or "")
        if task is not None:
            request = replace(request, path=(self.stream.agents.get(task.id, task.id),))
        elif self.turn is not None:
            return await self.turn.decide(request)
        if self.host is None:
            return Reject("No turn is in flight, so nobody can be asked. Do it in the next turn.")
        return await self.host.ask(request, task.ref if task is not None else "")

    async def settled(self) -> None:
        """Wait until an earlier turn that was closed early has been cleared away, and its program has ended if it must.

        A reset whose caller left is still ending the old program: by the marker, which a new one would carry too.
        """
        if self.ending is not None:
            await asyncio.wait({self.ending})
        if self.closing is not None:
            await asyncio.shield(self.closing)
            self.closing = None


class ClaudeBackend(Backend[ClaudeSession]):
    """Run prompts through Claude Code.

    Options: `model`, `permission_mode` (default, acceptEdits, plan, dontAsk, auto, bypassPermissions), `allowed_tools`,
    `disallowed_tools`, `system_prompt` (added to Claude Code's own), `add_dirs`, `mcp_servers`, `strict_mcp` (default
    true: only those servers), `env`, `setting_sources` (default none: the directory's own settings and hooks are not
    read; give `["user", "project"]` for a directory you trust), `cli_path`, `base_url`, `max_turns` (model calls in a
    turn), `max_buffer_size` (bytes of one line of output, default 50 MiB).

    Calls that the program would ask about become approvals; with `permission_mode: bypassPermissions` nothing is asked.
    """

    name: ClassVar[str] = "claude"
    extra: ClassVar[str | None] = "claude"
    plain_options: ClassVar[frozenset[str]] = PLAIN

    def powers(self, options: Mapping[str, object]) -> tuple[str, ...]:
        """Return what `Backend.powers` does, and a permission mode in which less is asked."""
        return claude_powers(options, super().powers(options))

    def check_options(self, options: Mapping[str, object]) -> None:
        """Raise InvalidOption for an unknown or bad option, BackendUnavailable when `cli_path` is no program."""
        parse_claude_options(options)

    async def check_start(self, options: Mapping[str, object]) -> None:
        """Raise BackendUnavailable without the extra or a login too."""
        _require_sdk()
        await _require_login(parse_claude_options(options))

    async def start_session(self, options: Mapping[str, object]) -> ClaudeSession:
        """Return a session under a new id; nothing runs yet. Raises BackendUnavailable without a login."""
        _require_sdk()
        parsed = parse_claude_options(options)
        await _require_login(parsed)
        return ClaudeSession(new_ref(), parsed, begun=False, answered=False)

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> ClaudeSession:
        """Return a session that goes on with an earlier conversation; nothing runs yet."""
        _require_sdk()
        parsed = parse_claude_options(options)
        return ClaudeSession(provider_session_id, parsed, begun=True, answered=parsed.answered)

    async def prompt(self, session: ClaudeSession, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        """Run one turn of the program, which is started first if none runs."""
        await session.settled()
        if not session.reported:
            # Before the program starts: a crash in between must not lose the conversation (E19).
            await turn.checkpoint(session.id)
            session.reported = True
        async with aclosing(_follow(session, await _new_turn(session, text, turn))) as events:
            async for event in events:
                yield event

    def listen(self, session: ClaudeSession, host: Host) -> None:
        """Take the way to the agent, for the turns that the program begins by itself."""
        session.host = host

    async def own_turn(self, session: ClaudeSession, turn: Turn) -> AsyncGenerator[Event, None]:
        """Follow a turn that the program has begun by itself."""
        from tollboard.backends._claude_turn import OwnTurn

        await session.settled()
        async with aclosing(_follow(session, OwnTurn(session, turn, session.own.popleft()))) as events:
            async for event in events:
                yield event

    async def terminate_session(self, session: ClaudeSession) -> ProcessReport:
        """End the program, politely if it is idle, and every process that carries the session's marker."""
        session.ending = asyncio.create_task(_terminate(session, session.ending))
        return await asyncio.shield(session.ending)

    async def reset_session(self, session: ClaudeSession) -> ClaudeSession:
        """Return the session with a fresh conversation under a new id; its program stays where its `/clear` allows it.

        A caller that is cancelled leaves the clearing to the next prompt, which waits for it.
        """
        await session.settled()
        session.closing = asyncio.create_task(_clear(session))
        await session.settled()
        return session

    def worker_options(
        self, options: Mapping[str, object], *, opening: str | None, retried: bool
    ) -> Mapping[str, object]:
        """Return the options with who the worker is in the system prompt; a retried one's program tries once."""
        return claude_worker_options(options, opening, retried=retried)

    def login_command(self) -> Sequence[str]:
        """Return the program's own login. Raises BackendUnavailable without the extra."""
        _require_sdk()
        if (program := _find_program()) is None:
            raise BackendUnavailable(f"Claude Code's program is not there: {INSTALL} --force-reinstall")
        return (program, "auth", "login")

    async def check(self) -> Health:
        """Say which program would run and whether a login seems to be there."""
        if (program := _find_program()) is None:
            return Health(ok=False, detail="claude-agent-sdk is not installed", mend=INSTALL)
        version = await _version_of(program)
        if not version:
            return Health(ok=False, detail=f"{program} does not run", mend=f"{INSTALL} --force-reinstall")
        login = login_found(os.environ) or await _own_login(program, inherited_by_claude(os.environ))
        detail = f"Claude Code {version} ({program}); " + (f"login: {login}" if login else "no login found")
        return Health(
            ok=bool(login),
            detail=detail,
            mend="" if login else f"run `{LOGIN}`, or set {KEY} where the daemon runs",
        )


async def _follow(session: ClaudeSession, run: OwnTurn) -> AsyncGenerator[Event, None]:
    try:
        while (event := await run.next_event()) is not None:
            yield event
    finally:
        run.close()
        await session.settled()


async def _new_turn(session: ClaudeSession, text: str, turn: Turn) -> ClaudeTurn:
    # On a thread: the SDK takes 0.7 s to import, and a blocked loop stops every other agent.
    await asyncio.to_thread(importlib.import_module, "tollboard.backends._claude_program")
    from tollboard.backends._claude_turn import ClaudeTurn

    return ClaudeTurn(session, text, turn)


async def _clear(session: ClaudeSession) -> None:
    if session.program is None:
        session.id, session.begun, session.effective = new_ref(), False, {}
        session.answered = session.reported = False
        return
    from tollboard.backends._claude_clear import clear  # the SDK is imported: a program runs

    await clear(session)


async def _terminate(session: ClaudeSession, earlier: asyncio.Task[ProcessReport] | None) -> ProcessReport:
    for before in (earlier, session.closing):
        if before is not None:
            await asyncio.wait({before})  # whatever came of it: what is left is ended here
    program, session.program = session.program, None
    if program is not None:
        if session.turn is not None:
            await program.interrupt()  # a busy program would first finish what it does
        return await program.end(politely=program.alive)
    from tollboard.backends._process import end_processes

    return await end_processes(marker=session.marker)


def _require_sdk() -> None:
    if importlib.util.find_spec("claude_agent_sdk") is None:
        raise BackendUnavailable(f"the claude backend needs claude-agent-sdk: {INSTALL}")


def _find_program() -> str | None:
    """Return the program that would run: the one bundled with the SDK, else the one on the path."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is None or not spec.submodule_search_locations:
        return None
    bundled = Path(spec.submodule_search_locations[0]) / "_bundled" / "claude"
    return str(bundled) if bundled.is_file() else shutil.which("claude")


async def _require_login(options: ClaudeOptions) -> None:
    """Raise BackendUnavailable if there is no login to be found; where the program cannot say, the turn will."""
    marker = options.marker or ("TOLLBOARD_PROGRAM", "login")
    env = {**inherited_by_claude(os.environ), **options.environment(marker)}
    program = options.cli_path or _find_program()
    if login_found(env) or program is None or await _own_login(program, env) is not None:
        return
    raise BackendUnavailable(NO_LOGIN)


async def _own_login(program: str, env: Mapping[str, str]) -> str | None:
    """Return the login that the program knows of, which may be in a keychain; `None` when it says there is none.

    An empty text: it did not say. It reads its files and makes no network connection.
    """
    said = await _output_of(program, "auth", "status", "--json", env=env)
    try:
        found = json.loads(said)
    except ValueError:
        return ""
    if not isinstance(found, dict) or not isinstance(found.get("loggedIn"), bool):
        return ""
    return str(found.get("authMethod") or "the program's own") if found["loggedIn"] else None


async def _version_of(program: str) -> str:
    """Return what `--version` prints, an empty string if it does not run; it makes no network connection."""
    return (await _output_of(program, "--version", env=inherited_by_claude(os.environ))).split(" ")[0].strip()


async def _output_of(program: str, *arguments: str, env: Mapping[str, str]) -> str:
    """Return what the program prints, an empty string if it does not run or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            env={**env, **HERMETIC},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(_VERSION_WAIT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        return ""
    finally:
        if process.returncode is None:  # too slow, or nobody waits for it any more
            process.kill()
            await process.wait()
    return output.decode("utf-8", "replace")
