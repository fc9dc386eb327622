"""One running Claude Code program: starting it, its lines, sending, interrupting, ending its whole process tree.

The only file that imports claude_agent_sdk (0.7 s), and so itself imported on a thread when a first program is started.
No call into the SDK is ever cancelled: a raw asyncio cancellation would skip its cleaning up. Calls run in tasks of
their own, which are waited for with a bound; what hangs is ended by ending the program.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, cast

import psutil
from claude_agent_sdk import (
    CanUseToolShadowedWarning,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    PermissionResultAllow,
    PermissionResultDeny,
    ToolPermissionContext,
)
from claude_agent_sdk._internal.transport import subprocess_cli

from tollboard.backends._claude_elicitation import serve
from tollboard.backends._claude_events import Line
from tollboard.backends._claude_options import ClaudeOptions
from tollboard.backends._claude_questions import approval_of, verdict
from tollboard.backends._claude_stream import Stream
from tollboard.backends._environment import inherited_by_claude
from tollboard.backends._process import Marker, end_processes, find_processes, identify
from tollboard.errors import BackendError
from tollboard.runtime.approval import ApprovalRequest, Decision
from tollboard.runtime.backend import ProcessReport

Ask = Callable[[ApprovalRequest, str | None], Awaitable[Decision]]
"""Asks a person; with the id of the sub-agent that asks, if one does."""

_LINES_WAITING = 256
_STDERR_LINES = 20
_INTERRUPT_WAIT_S = 3.0
_POLITE_END_S = 4.0
_CLOSE_WAIT_S = 20.0
_START_LOOK_S = 1.0
_FORK_LOOK_S, _FORK_LOOKS = 0.05, 200
_START_WAIT_S = 2.0
_LAST_LINES_S = 1.0
_STOP_TASK_WAIT_S = 3.0

_pass_env: ContextVar[Sequence[str]] = ContextVar("pass_env", default=())


class _System:
    """The module `os` as the SDK sees it where it starts a program: it would pass on our whole environment."""

    @property
    def environ(self) -> dict[str, str]:
        return inherited_by_claude(os.environ, _pass_env.get())

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


subprocess_cli.os = cast(Any, _System())  # type: ignore[attr-defined, unused-ignore]

# Tools that the caller allowed outright are meant not to be asked about.
warnings.filterwarnings("ignore", category=CanUseToolShadowedWarning)


class ProgramFailed(BackendError):
    """The program could not be started, or ended; `stderr` is the last of what it said."""

    def __init__(self, message: str, *, exit_code: int | None, stderr: str) -> None:
        super().__init__(f"{message}: {stderr}" if stderr else message)
        self.exit_code = exit_code
        self.stderr = stderr


class Program:
    """A client of the SDK and the process behind it. A dead program stays dead: start a new one with `resume`."""

    def __init__(
        self,
        options: ClaudeOptions,
        session_id: str,
        *,
        resume: bool,
        marker: Marker,
        ask: Ask,
        stream: Stream,
    ) -> None:
        self._marker = marker
        self._inherits = options.pass_env
        self._ask = ask
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._client = ClaudeSDKClient(self._sdk_options(options, session_id, resume))
        self._process: psutil.Process | None = None
        self._stream = stream
        self._connecting: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[ProcessReport] | None = None

    def _sdk_options(self, options: ClaudeOptions, session_id: str, resume: bool) -> ClaudeAgentOptions:
        append = {"append": options.system_prompt} if options.system_prompt else {}
        return ClaudeAgentOptions(
            cwd=options.cwd,
            env=options.environment(self._marker),
            model=options.model,
            permission_mode=cast(Any, options.permission_mode),
            allowed_tools=list(options.allowed_tools),
            disallowed_tools=[*options.disallowed_tools, *_closed(options.private)],
            system_prompt=cast(Any, {"type": "preset", "preset": "claude_code", **append}),
            add_dirs=list(options.add_dirs),
            mcp_servers=dict(options.mcp_servers),
            strict_mcp_config=options.strict_mcp,
            setting_sources=cast(Any, list(options.setting_sources)),
            cli_path=options.cli_path,
            max_turns=options.max_turns,
            max_buffer_size=options.max_buffer_size,
            resume=session_id if resume else None,
            session_id=None if resume else session_id,
            include_partial_messages=True,
            can_use_tool=self._can_use_tool,
            stderr=self._stderr.append,
        )

    # --- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the process and shake hands. Raises ProgramFailed; when cancelled, call `end`."""
        _pass_env.set(self._inherits)
        self._connecting = connecting = asyncio.create_task(self._client.connect())
        ended = False
        # The SDK waits a minute for the answer of a program that has ended without an error.
        while not (await asyncio.wait({connecting}, timeout=_START_LOOK_S))[0]:
            code = getattr(getattr(self._client._transport, "_process", None), "returncode", None)
            if ended:
                raise self._failed("Claude Code ended before it was ready", None)
            ended = code is not None
        if (error := connecting.exception()) is not None:
            raise self._failed("Claude Code did not start", error) from error
        serve(self._client._query, lambda request: self._ask(request, None))
        transport = self._client._transport
        self._process = identify(getattr(getattr(transport, "_process", None), "pid", -1))
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._stream.close())
        self._watch_exit()

    def _watch_exit(self) -> None:
        """End the lines when the process has exited, also while something it started holds its pipe open."""
        try:
            exited = os.pidfd_open(self._process.pid) if self._process is not None else -1
        except (OSError, AttributeError):
            return  # no Linux, or it has exited already: then the end of the pipe has to do
        if exited < 0:
            return
        loop, reader = asyncio.get_running_loop(), self._reader
        assert reader is not None

        def seen() -> None:
            done()
            # What it printed last is in the pipe: give it to the reader before nobody writes any more.
            loop.call_later(_LAST_LINES_S, reader.cancel)

        def done(_: object = None) -> None:
            nonlocal exited
            if exited >= 0:
                loop.remove_reader(exited)
                os.close(exited)
                exited = -1

        loop.add_reader(exited, seen)
        reader.add_done_callback(done)

    @property
    def alive(self) -> bool:
        """Return whether the program still prints lines."""
        return self._reader is not None and not self._reader.done()

    async def processes(self) -> list[psutil.Process]:
        """Return the program and everything that descends from it or carries its marker."""
        return await find_processes(roots=[self._process] if self._process else [], marker=self._marker)

    async def end_tools(self, before: list[psutil.Process]) -> ProcessReport:
        """End the commands that were started after `before` was looked up; the program and its MCP servers stay.

        A command runs in a session (setsid) of its own, an MCP server in the program's.
        """
        stay = [process for process in await self.processes() if process in before or self._is_own(process)]
        return await end_processes(
            roots=[self._process] if self._process else [], marker=self._marker, keep=stay
        )

    def _is_own(self, process: psutil.Process) -> bool:
        return self._process is not None and _same_session(process, self._process)

    async def end(self, *, politely: bool) -> ProcessReport:
        """End the program and all its processes. Politely: let an idle program write its files first. Idempotent.

        A task of its own, which every caller joins: whoever is cancelled, it is not left half ended.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(politely))
        return await asyncio.shield(self._ending)

    async def _end(self, politely: bool) -> ProcessReport:
        family = await self.processes()  # before anything is killed: orphans are not found by descent
        closing = asyncio.create_task(self._client.disconnect()) if politely else None
        if closing is not None:
            await asyncio.wait({closing}, timeout=_POLITE_END_S)
        report = await end_processes(roots=family, marker=self._marker)
        if self._connecting is not None and not self._connecting.done():
            late = await self._end_start(self._connecting)
            report = ProcessReport(report.killed + late.killed, report.unverified + late.unverified)
        await _settle(self._connecting)
        await _settle(closing or asyncio.create_task(self._client.disconnect()))
        await _settle(self._reader, cancel=True)
        return report

    async def _end_start(self, connecting: asyncio.Task[None]) -> ProcessReport:
        """End what a start that was cut off has forked since, or is about to."""
        for _ in range(_FORK_LOOKS):
            if connecting.done() or getattr(self._client._transport, "_process", None) is not None:
                break
            await asyncio.wait({connecting}, timeout=_FORK_LOOK_S)
        report = await end_processes(marker=self._marker)
        await asyncio.wait({connecting}, timeout=_START_WAIT_S)
        connecting.cancel()  # its program is dead: nothing would be cleaned up by waiting for an answer
        return report

    # --- lines --------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Give every line to the stream, in turns and between them; a slow follower holds the program up."""
        query = self._client._query
        if query is None:
            return
        async for line in cast(AsyncIterator[Line], query.receive_messages()):
            await self._stream.take(line)

    async def send(self, text: str, uuid: str) -> None:
        """Write a prompt. Raises ProgramFailed when the program is gone."""
        message = {
            "type": "user",
            "message": {"role": "user", "content": text},
            "parent_tool_use_id": None,
            "session_id": "",
            "uuid": uuid,
        }

        async def one() -> AsyncIterator[dict[str, Any]]:
            yield message

        sending = asyncio.create_task(self._client.query(one()))
        await asyncio.wait({sending})
        if (error := sending.exception()) is not None:
            raise self._failed("Claude Code did not take the prompt", error) from error

    async def interrupt(self) -> bool:
        """Ask the program to stop what it does; return whether it said yes in time."""
        asking = asyncio.create_task(self._client.interrupt())
        done, _ = await asyncio.wait({asking}, timeout=_INTERRUPT_WAIT_S)
        if not done:
            asking.cancel()
            return False
        return asking.exception() is None

    async def stop_task(self, task: str) -> None:
        """Ask the program to end something it runs in the background; one that does not answer is not waited for."""
        asking = asyncio.create_task(self._client.stop_task(task))
        await asyncio.wait({asking}, timeout=_STOP_TASK_WAIT_S)
        if not asking.done():
            asking.cancel()
        elif not asking.cancelled():
            asking.exception()  # what it did not end is ended with its processes

    def failure(self, message: str) -> ProgramFailed:
        """Return the error of a program that has ended: its exit code and its last words."""
        reader = self._reader
        over = reader is not None and reader.done() and not reader.cancelled()
        error = reader.exception() if reader is not None and over else None
        return self._failed(message, error)

    def _failed(self, message: str, error: BaseException | None) -> ProgramFailed:
        process = getattr(self._client._transport, "_process", None)
        code = getattr(error, "exit_code", None)
        if code is None and process is not None:
            code = process.returncode
        if code is not None:
            message += f" (exit code {code})"
        said = "\n".join(self._stderr) or (str(error) if error is not None and code is None else "")
        return ProgramFailed(message, exit_code=code, stderr=said)

    # --- permission questions -----------------------------------------------------------------------------------

    async def _can_use_tool(
        self, tool: str, arguments: dict[str, Any], context: ToolPermissionContext
    ) -> PermissionResultAllow | PermissionResultDeny:
        request = approval_of(
            tool, arguments, tool_call_id=context.tool_use_id or "", title=context.title or ""
        )
        told = verdict(request, await self._ask(request, context.agent_id))
        if isinstance(told, str):
            return PermissionResultDeny(message=told)
        return PermissionResultAllow(updated_input=None if told is None else dict(told))


def _same_session(one: psutil.Process, other: psutil.Process) -> bool:
    try:
        return os.getsid(one.pid) == os.getsid(other.pid)
    except OSError:
        return False


def _closed(private: Sequence[str]) -> list[str]:
    """Return the rules that keep the program's file tools out of these directories, in every mode; `//` is the root."""
    return [f"{tool}(/{directory}/**)" for directory in private for tool in ("Read", "Edit")]


async def _settle(task: asyncio.Task[None] | None, *, cancel: bool = False) -> None:
    """Wait for a task whose failure no longer matters, within a bound."""
    if task is None:
        return
    if cancel:
        task.cancel()
    await asyncio.wait({task}, timeout=_CLOSE_WAIT_S)
    if task.done() and not task.cancelled():
        task.exception()  # looked at, so that asyncio does not report it as lost
