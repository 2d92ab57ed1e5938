"""A table of counts that lives for one span of the wall clock and is then dropped whole, so it cannot grow for ever."""

from collections import defaultdict
from math import ceil

MINUTE_S = 60
DAY_S = 86_400


Counts = defaultdict[str, int]
"""By subject."""


class Window:
    """Counts within one span; starts empty at the next."""

    __slots__ = ("begins_at_s", "counts", "ends_at_s", "is_told_full", "span_s")

    def __init__(self, span_s: int) -> None:
        self.span_s = span_s
        self.begins_at_s = self.ends_at_s = -1
        """Unix time of the span that is counted: from the first, up to and without the second."""
        self.counts: Counts = defaultdict(int)
        self.is_told_full = False
        """Whether the log has said in this span that there is no room for further addresses."""

    def at(self, now_s: float) -> Counts:
        if not self.begins_at_s <= now_s < self.ends_at_s:
            self.begins_at_s = int(now_s) // self.span_s * self.span_s
            self.ends_at_s = self.begins_at_s + self.span_s
            self.counts = defaultdict(int)
            self.is_told_full = False
        return self.counts

    def seconds_left(self, now_s: float) -> int:
        return max(1, ceil(self.ends_at_s - now_s))
