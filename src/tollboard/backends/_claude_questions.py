"""What Claude Code asks people, as approvals: calls, its own questions, plans; and what it is told. Pure.

Its tool AskUserQuestion takes the answers as one more argument, by the text of each question; ExitPlanMode comes with
the plan, and what lets it run ends the plan mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tollboard.runtime.approval import (
    APPROVE,
    REJECT,
    ApprovalRequest,
    Approve,
    Decision,
    Edit,
    Reject,
    ask,
)
from tollboard.runtime.question import ANSWER, Answer, Option, Question

ASK, EXIT_PLAN = "AskUserQuestion", "ExitPlanMode"
PLAN = "plan"
YES, KEEP_PLANNING = "Approve", "Keep planning"
PLAN_DECISIONS = (APPROVE, REJECT, ANSWER)
PLAN_OPTIONS = (
    Option(YES, "end the plan mode and begin; the permission mode changes with it"),
    Option(KEEP_PLANNING, "nothing is done yet; words of your own say what the plan lacks"),
)
REJECTED = "A person rejected this call."

_DISPLAY_CHARS = 200
_SHOWN_FIRST = ("command", "file_path", "notebook_path", "path", "url", "query", "pattern", "prompt")

Denied = str
"""Why a call may not run; the model reads it."""


def approval_of(
    tool: str, arguments: Mapping[str, Any], *, tool_call_id: str = "", title: str = ""
) -> ApprovalRequest:
    """Return what to put to a person. `title` is the program's own sentence for it, if it has one."""
    if tool == ASK and (questions := _questions(arguments.get("questions"))):
        return ask(tool, questions, arguments=arguments, tool_call_id=tool_call_id)
    if tool == EXIT_PLAN:
        return _plan(arguments, tool_call_id)
    return ApprovalRequest(tool, arguments, tool_call_id, _display(tool, arguments, title))


def verdict(request: ApprovalRequest, decision: Decision) -> Mapping[str, Any] | Denied | None:
    """Return what to tell the program: other arguments to run with, `None` for its own, or why it may not run."""
    match decision:
        case Approve():
            return None
        case Edit(arguments):
            return arguments
        case Reject(message):
            return message or REJECTED
        case Answer() if request.tool == EXIT_PLAN:
            said = decision.reply(PLAN)
            return None if said.choose == (YES,) else said.text or "The person wants you to keep planning."
        case Answer():
            answers = {each.text: ", ".join(decision.reply(each.id).values) for each in request.questions}
            return {**request.arguments, "answers": answers}


def _questions(given: object) -> tuple[Question, ...]:
    """Return what is asked; nothing if it is not as we know it, and then it is shown as a call."""
    if not isinstance(given, list) or not all(isinstance(each, Mapping) for each in given):
        return ()
    return tuple(
        Question(
            id=str(number),
            text=str(each.get("question", "")),
            header=str(each.get("header") or ""),
            options=tuple(_option(option) for option in each.get("options") or ()),
            multiple=bool(each.get("multiSelect")),
        )
        for number, each in enumerate(given, 1)
    )


def _option(given: object) -> Option:
    option = given if isinstance(given, Mapping) else {"label": given}
    told = (str(option.get(name) or "") for name in ("description", "preview"))
    return Option(str(option.get("label", "")), "\n".join(text for text in told if text))


def _plan(arguments: Mapping[str, Any], tool_call_id: str) -> ApprovalRequest:
    plan = str(arguments.get("plan") or "").strip()
    file = arguments.get("planFilePath")
    text = plan or ("The agent wants to leave the plan mode; it has written no plan.")
    question = Question(PLAN, text, "Plan", PLAN_OPTIONS)
    display = f"{EXIT_PLAN}: a plan to approve" + (f" ({file})" if file else "")
    return ask(
        EXIT_PLAN, (question,), arguments=arguments, tool_call_id=tool_call_id, display=display,
        allowed=PLAN_DECISIONS,
    )  # fmt: skip


def _display(tool: str, arguments: Mapping[str, Any], title: str) -> str:
    """Return one short line that tells a person what would run."""
    shown = title
    if not shown:
        telling = next((str(arguments[name]) for name in _SHOWN_FIRST if arguments.get(name)), "")
        shown = f"{tool}: {telling}" if telling else tool
    line = " ".join(shown.split())
    return line if len(line) <= _DISPLAY_CHARS else line[: _DISPLAY_CHARS - 1] + "…"
