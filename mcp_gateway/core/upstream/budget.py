"""How many requests may be sent a second time: a share of all, so that retries cannot feed on themselves.

When every backend is sick, each request that fails over is one more for the others, which makes them fail too: load
doubles just when there is the least room for it, and the fleet stays down after the cause is gone (a retry storm).
A limit on each request does not prevent it; a limit on all of them together does. After tower's retry budget.
"""

from collections.abc import Callable
from math import exp
from time import monotonic

RESERVE = 100.0
"""What may be retried however little is asked, so that a quiet gateway can save all that a dying backend had."""
_MEMORY_S = 10.0
"""How fast requests and retries are forgotten."""


class RetryBudget:
    """Each request adds `share` of a retry, a retry takes one; over seconds the balance goes back to the reserve."""

    def __init__(self, share: float = 0.2, now_s: Callable[[], float] = monotonic) -> None:
        self._share = share
        self._now_s = now_s
        self._balance = RESERVE
        self._as_of_s = now_s()

    def __repr__(self) -> str:
        return f"<RetryBudget {self._balance:.1f}>"

    def deposit(self) -> None:
        """Note a request that is sent for the first time."""
        self._relax()
        self._balance += self._share

    def withdraw(self) -> bool:
        """Take a retry, where there is one."""
        self._relax()
        if self._balance < 1:
            return False
        self._balance -= 1
        return True

    def _relax(self) -> None:
        now_s = self._now_s()
        self._balance = RESERVE + (self._balance - RESERVE) * exp((self._as_of_s - now_s) / _MEMORY_S)
        self._as_of_s = now_s
