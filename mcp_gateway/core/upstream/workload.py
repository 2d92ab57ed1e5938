"""How busy one server is: what this gateway has there, what its gauges tell, and whether its engine still makes tokens.

Knows no request beyond how long it may wait, and asks nothing of anybody.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from mcp_gateway.core.dialects.vllm_metrics import Gauges


@dataclass(slots=True, eq=False)
class Workload:
    """`queue` is what the gauges told at `read_at_s`, `sent_by_others` how many of those requests were not ours.

    The server is stuck where its counts of tokens have stood still for `stuck_after_s`, and for longer than any of
    `waits_s`.
    """

    stuck_after_s: float = 20.0
    now_s: Callable[[], float] = monotonic
    in_flight: int = 0
    waits_s: dict[object, float] = field(default_factory=dict, repr=False)
    """How long each request that it has not begun to answer may wait for its first token."""
    queue: Gauges | None = None
    read_at_s: float = 0.0
    moved_at_s: float = 0.0
    is_stuck: bool = False
    sent_by_others: int = 0
    busy_until_s: float = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether it has just said that its queue is full."""
        return self.now_s() < self.busy_until_s

    @property
    def has_queue(self) -> bool:
        """Whether its gauges told that requests wait for a place."""
        return self.queue is not None and self.queue.waiting > 0

    @property
    def load(self) -> int:
        """The requests that a new one would share it with; those that wait count twice: it has no place free."""
        there = self.in_flight + self.sent_by_others
        return there + (min(self.queue.waiting, there) if self.queue is not None else 0)

    def shows(self, since_s: float, *, still_s: float) -> bool | None:
        """Whether requests wait, or run and have brought tokens in the last `still_s`; None without gauges since."""
        if self.queue is None or self.read_at_s < since_s:
            return None
        return self.queue.waiting > 0 or (self.queue.running > 0 and self.now_s() - self.moved_at_s < still_s)

    def note(self, queue: Gauges | None) -> None:
        """Take gauges that were read now; None where there are none."""
        self._look_for_progress(queue)
        self.queue, self.read_at_s = queue, self.now_s()
        self.sent_by_others = max(0, queue.running + queue.waiting - self.in_flight) if queue is not None else 0

    def forget(self) -> None:
        """Know nothing of a server that is lost, but what this gateway still has there."""
        self.queue, self.sent_by_others, self.is_stuck = None, 0, False

    def _look_for_progress(self, queue: Gauges | None) -> None:
        """Whether tokens were made since the gauges were read last, and if not, whether that is too long ago.

        A prompt that is read counts only once it is read whole, so one that may take minutes is waited for.
        """
        now_s = self.now_s()
        before = self.queue.tokens if self.queue is not None else None
        if queue is None or not queue.running or queue.tokens is None or queue.tokens != before:
            self.moved_at_s = now_s
        longest_s = max(self.waits_s.values(), default=0.0)
        self.is_stuck = now_s - self.moved_at_s > max(self.stuck_after_s, longest_s)
