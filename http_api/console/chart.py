"""Charts as SVG, drawn on the server: seen without a script, coloured by the style sheet, read by a screen reader.

Places and sizes are per cent of the drawing (it has no viewBox), so that it takes any width and its text keeps its size
on a telephone. Nothing carries a style attribute, which the policy of pages refuses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from markupsafe import Markup, escape

_BAR = 0.76
"""Of the room that each bar has."""
_MOST_LABELS = 6
_HIT = '<rect class="hit" x="{:.2f}%" y="0" width="{:.2f}%" height="100%"/>'
_PART = '<rect class="s{}" x="{:.2f}%" y="{:.2f}%" width="{:.2f}%" height="{:.2f}%"/>'
_LINE = '<line class="grid" x1="0" x2="100%" y1="{0:.2f}%" y2="{0:.2f}%"/>'
_LABEL = '<text x="{:.2f}%" y="100%" dy="18">{}</text>'
_BAR_ALONE = '<g class="bar" data-tip="{}">', "</g>"
_BAR_LINKED = '<a class="bar" data-tip="{}" href="{}" aria-label="{}" tabindex="-1">', "</a>"
"""Not among what the tabulator key goes through: arrow keys do, in the chart, and a table has the same links.

All these are filled with numbers, and with text that is escaped where that is done: Markup, which escapes whatever it
is filled with, takes most of a page's time for numbers.
"""
_DRAWING = Markup(
    '<div class="chart"><div class="rows" aria-hidden="true">{}</div>'
    '<svg role="{}" aria-label="{}" tabindex="0">{}</svg></div>'
)


@dataclass(frozen=True, slots=True)
class Stacked:
    """A part of each bar: one value for each label; amounts of money are exact."""

    name: str
    values: Sequence[Decimal]
    group: str = ""
    """What its requests share; nothing of several groups together."""


def stacked_bars(
    title: str,
    labels: Sequence[str],
    series: Sequence[Stacked],
    show: Callable[[Decimal], str],
    links: Sequence[str] = (),
) -> Markup:
    """One bar a label, one part of it a series; `data-tip` is what the pointer and the arrow keys read out.

    `links` are where each bar leads, if anywhere.
    """
    totals = [sum((one.values[place] for one in series), Decimal(0)) for place in range(len(labels))]
    are_whole = all(total == int(total) for total in totals)
    top, step = _scale(float(max(totals, default=0)), 1.0 if are_whole else 0.0)
    steps = round(top / step)
    marks = [_LINE.format(100 * number / steps) for number in range(steps + 1)]
    slot, every = 100 / max(len(labels), 1), max(1, math.ceil(len(labels) / _MOST_LABELS))
    for place, label in enumerate(labels):
        tip, shown = escape(_tip(label, place, series, totals[place], show)), escape(label)
        begin, end = _BAR_LINKED if links else _BAR_ALONE
        begin = begin.format(tip, escape(links[place]), shown) if links else begin.format(tip)
        left = (place + (1 - _BAR) / 2) * slot
        marks += [begin, _HIT.format(place * slot, slot), *_parts(place, series, top, left, slot * _BAR), end]
        if place % every == 0:
            marks.append(_LABEL.format(left, shown))
    rows = [Markup("<span>{}</span>").format(show(Decimal(step * number))) for number in range(steps, -1, -1)]
    drawn = Markup("".join(marks))  # noqa: S704 - see _BAR_LINKED
    return _DRAWING.format(Markup("").join(rows), "group" if links else "img", title, drawn)


def _tip(label: str, place: int, series: Sequence[Stacked], total: Decimal, show: Callable[[Decimal], str]) -> str:
    parts = (f"{one.name} {show(one.values[place])}" for one in series if one.values[place])
    return "\n".join([label, f"total {show(total)}", *parts])


def _parts(place: int, series: Sequence[Stacked], top: float, left: float, width: float) -> list[str]:
    parts, bottom = [], 100.0
    for order, one in enumerate(series):
        if height := float(one.values[place]) / top * 100:
            bottom -= height
            parts.append(_PART.format(order, left, bottom, width, height))
    return parts


def _scale(largest: float, least_step: float) -> tuple[float, float]:
    """The top of the axis, and the step between its lines: 1, 2 or 5 times a power of ten, about four lines.

    No step is smaller than the least: of what is counted there are no halves.
    """
    if largest <= 0:
        return 1.0, 1.0
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= largest / 4 * (1 - 1e-12))
    step = max(step, least_step)
    return math.ceil(largest / step * (1 - 1e-12)) * step, step
