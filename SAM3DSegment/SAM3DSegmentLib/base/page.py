"""Pages of HTML that need nothing else, and line charts in them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _MARGIN = 500, 240, 44
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; } td, th { padding: .25em .8em; text-align: right; border-bottom: 1px solid #eee; }
td:first-child, th:first-child { text-align: left; } .charts { display: flex; flex-wrap: wrap; gap: 1.5em; }
figure { margin: 0; } figcaption { color: #555; } .value { font-variant-numeric: tabular-nums; }
pre { background: #f6f6f6; padding: 1em; overflow: auto; font-size: 12px; } img { max-width: 100%; }
.key { display: inline-block; width: .9em; height: .9em; margin: 0 .35em 0 1em; vertical-align: -0.1em; }
"""


def text(value: object) -> str:
    return html.escape(str(value))


def page(title: str, parts: Sequence[str]) -> str:
    """parts: pieces of HTML, one below the other."""
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    colors: Mapping[str, str],
    top: float,
    axis: str = "step",
    first: int = 0,
) -> str:
    """An inline SVG of lines over whole numbers from `first` on, which `axis` names; values from 0 to `top`."""
    last = max((step for points in series.values() for step, _ in points), default=first + 1)
    right, bottom = _WIDTH - 12, _HEIGHT - _MARGIN

    def place(step: float, value: float) -> tuple[float, float]:
        along = (step - first) / max(last - first, 1)
        return _MARGIN + (right - _MARGIN) * along, bottom - (bottom - 12) * value / top

    lines = []
    for part in range(5):
        value = top * part / 4
        _, y = place(first, value)
        lines.append(f'<line x1="{_MARGIN}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{_MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for step in sorted({first, (first + last) // 2, last}):
        x, _ = place(step, 0)
        lines.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{step}</text>')
    for name, points in series.items():
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        lines.append(f'<polyline points="{places}" fill="none" stroke="{colors[name]}" stroke-width="2"/>')
        lines += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colors[name]}"/>'
            for x, y in (place(*point) for point in points)
        ]
    keys = "".join(f'<span class="key" style="background: {colors[name]}"></span>{text(name)}' for name in series)
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}" font-size="11" fill="#555" role="img">{"".join(lines)}'
        f'<text x="{(right + _MARGIN) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{text(axis)}</text></svg>'
        f"<figcaption>{text(title)} {keys}</figcaption></figure>"
    )
