"""What a terminal shows after a program has written to it: just enough of one for prompts, with no end of lines."""

from __future__ import annotations

import re

_PART = re.compile(
    r"\x1b\[(?P<given>[0-9;?]*)(?P<verb>[a-zA-Z])|\x1b\][^\x07]*\x07|\x1b[=>]"
    r"|\x1b\[?[0-9;?]*$"  # its rest has not come yet
    r"|(?P<move>[\r\n\b])|(?P<text>[^\x1b\r\n\b]+)"
)


def screen(written: str) -> list[str]:
    """Return the lines that stand on the screen and above it. Colours and modes of keys are left out; a sequence that
    moves the cursor in a way that is not known here fails."""
    lines, row, column = [""], 0, 0
    for part in _PART.finditer(written):
        given = part["given"] or ""
        number = int(given) if given.isdigit() else 1
        match part["move"] or part["verb"]:
            case None if part["text"]:
                lines[row] = _over(lines[row], column, part["text"])
                column += len(part["text"])
            case "\r":
                column = 0
            case "\n":
                row += 1
            case "\b" | "D":
                column = max(0, column - number)
            case "C":
                column += number
            case "A":
                row = max(0, row - number)
            case "B":
                row += number
            case "J" | "K" as erased:
                assert given in ("", "0"), f"cannot erase {part[0]!r}"
                lines[row] = lines[row][:column]
                if erased == "J":
                    del lines[row + 1 :]
            case None | "m" | "h" | "l":
                pass
            case _:
                raise AssertionError(f"{part[0]!r} is not known here")
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]


def _over(line: str, column: int, text: str) -> str:
    return line[:column].ljust(column) + text + line[column + len(text) :]
