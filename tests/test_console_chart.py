"""Charts of the console, without a page: every bar is as tall as its part of the axis, and reads out what it is."""

import re
from decimal import Decimal
from html import unescape

import pytest

from http_api.console.chart import Stacked, _scale, stacked_bars

VALUES = [Decimal(2), Decimal(0), Decimal(4)]
FIRST = [Decimal(2), Decimal(0), Decimal(0)]


def drawn(*series: Stacked, labels: int = 3) -> str:
    return str(
        stacked_bars("a <title>", [f"day {number}" for number in range(labels)], series, lambda value: f"{value:f}")
    )


@pytest.mark.parametrize(
    ("largest", "top", "step"),
    [(0, 1, 1), (1, 1, 0.5), (4, 4, 1), (7, 8, 2), (100, 100, 50), (0.003, 0.003, 0.001), (999, 1000, 500)],
)
def test_the_axis_ends_where_a_line_is_that_people_count_by(largest: float, top: float, step: float) -> None:
    assert _scale(largest, 0) == pytest.approx((top, step))


def test_of_what_is_counted_no_axis_shows_halves() -> None:
    assert _scale(2, 1) == (2, 1)
    assert "<span>0.5</span>" not in drawn(Stacked("x", [Decimal(1), Decimal(2)]), labels=2)
    assert "<span>0.5</span>" in drawn(Stacked("x", [Decimal(1), Decimal("1.5")]), labels=2)


def test_parts_of_a_bar_stand_on_each_other() -> None:
    text = drawn(Stacked("a", VALUES), Stacked("b", FIRST))
    parts = re.findall(r'class="s(\d)" x="[\d.]+%" y="([\d.]+)%" width="[\d.]+%" height="([\d.]+)%"', text)
    assert parts == [("0", "50.00", "50.00"), ("1", "0.00", "50.00"), ("0", "0.00", "100.00")]


def test_a_bar_reads_out_its_total_and_the_parts_that_there_are() -> None:
    text = drawn(Stacked("a", VALUES), Stacked("<b>", FIRST))
    tips = [unescape(tip) for tip in re.findall(r'data-tip="([^"]+)"', text)]
    assert tips == ["day 0\ntotal 4\na 2\n<b> 2", "day 1\ntotal 0", "day 2\ntotal 4\na 4"]
    assert "<b>" not in text
    assert "<title>" not in text


def test_a_bar_leads_where_it_is_said_to() -> None:
    text = str(stacked_bars("title", ["a", "b"], [Stacked("x", VALUES)], str, ["/one?a&b", "/two"]))
    assert re.findall(r'<a class="bar" data-tip="[^"]+" href="([^"]+)" aria-label="([^"]+)"', text) == [
        ("/one?a&amp;b", "a"), ("/two", "b"),
    ]  # fmt: skip
    assert 'role="group"' in text
    assert 'role="img"' in drawn(Stacked("x", VALUES))


@pytest.mark.parametrize("labels", [0, 1, 24, 90])
def test_labels_are_few_enough_to_read_and_stand_below_their_bars(labels: int) -> None:
    text = drawn(Stacked("a", [Decimal(1)] * labels), labels=labels)
    assert len(re.findall("<text", text)) <= 6
    bars = re.findall(r'class="s0" x="([\d.]+)%"', text)
    assert set(re.findall(r'<text x="([\d.]+)%"', text)) <= set(bars)
