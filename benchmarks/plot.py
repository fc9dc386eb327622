"""Draws the makespans of W5 as an SVG that reads on light and on dark pages; no library needed."""

from __future__ import annotations

from collections.abc import Sequence

_LEFT, _TOP, _WIDTH, _BAR, _GAP = 190, 74, 420, 22, 30
_SCALE_FROM, _SCALE_TO = 1.0, 1.6
_GROUPS = (
    ("file", "the fixed file, 200 tasks"),
    ("batch40", "40 tasks"),
    ("batch200", "200 tasks"),
    ("batch1000", "1,000 tasks"),
)
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f } .small { font-size: 12px; fill: #57606a }
.title { font-size: 15px; font-weight: 600 } .grid { stroke: #d0d7de } .bound { stroke: #24292f }
.s0 { fill: #8c959f } .s1 { fill: #bc8cff } .s2 { fill: #1f883d } .s3 { fill: #0969da }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #3d444d } .bound { stroke: #e6edf3 }
.s0 { fill: #7d8590 } .s1 { fill: #a371f7 } .s2 { fill: #3fb950 } .s3 { fill: #4493f8 } }
"""


def makespans(found: dict[str, float], strategies: Sequence[str]) -> str:
    """Return a picture of how long a batch takes under each strategy, beside the lower bound."""
    rows = [(group, title, strategies) for group, title in _GROUPS]
    height = _TOP + len(rows) * (len(strategies) * _BAR + _GAP) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 70} {height}" '
        f'width="{_LEFT + _WIDTH + 70}" height="{height}" role="img" '
        'aria-label="Makespan of a batch under each strategy, beside the lower bound">',
        f"<style>{_STYLE}</style>",
        '<text class="title" x="16" y="26">How long a batch takes, beside what no strategy can beat</text>',
        '<text class="small" x="16" y="46">8 workers, durations lognormal (sigma 1), the real pool in virtual time; '
        "shorter is better</text>",
    ]
    for step in range(7):
        value = _SCALE_FROM + step * 0.1
        x = _x(value)
        line = "bound" if step == 0 else "grid"
        out.append(f'<line class="{line}" x1="{x}" y1="{_TOP - 10}" x2="{x}" y2="{height - 28}"/>')
        out.append(f'<text class="small" x="{x}" y="{height - 10}" text-anchor="middle">{value:.1f}x</text>')
    y = _TOP
    for group, title, names in rows:
        out.append(f'<text x="16" y="{y + 10}">{title}</text>')
        y += 16
        for number, name in enumerate(names):
            value = found[f"{group}_{name}"]
            wide = max(2, _x(value) - _LEFT)
            label = name.replace("_", " ")
            out.append(f'<text class="small" x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{label}</text>')
            out.append(
                f'<rect class="s{number}" x="{_LEFT}" y="{y + 2}" width="{wide}" height="{_BAR - 6}" rx="2"/>'
            )
            out.append(f'<text class="small" x="{_LEFT + wide + 6}" y="{y + 14}">{value:.3f}x</text>')
            y += _BAR
        y += _GAP - 16
    return "\n".join([*out, "</svg>", ""])


def _x(value: float) -> float:
    """Return where a value lies; what is off the scale lies at its end."""
    share = (min(value, _SCALE_TO) - _SCALE_FROM) / (_SCALE_TO - _SCALE_FROM)
    return round(_LEFT + share * _WIDTH, 1)
