"""A circuit breaker: after failures in a row a backend rests, then single requests try whether it serves again.

Knows outcomes and a clock; what counts as a failure is decided elsewhere.
"""

from collections.abc import Callable
from time import monotonic


class Breaker:
    """Closed while all is well; open after `failures` in a row, and then half-open once every `rest_s` seconds.

    Half-open lets one request in, on trial: it closes the circuit or gives it another rest. Who enters gets a number
    to tell the outcome with, so that what began before the circuit opened, or closed, says nothing about after.
    """

    def __init__(self, failures: int = 5, rest_s: float = 5.0, now_s: Callable[[], float] = monotonic) -> None:
        self._most = failures
        self._rest_s = rest_s
        self._now_s = now_s
        self._epoch = 0
        self._failures = 0
        self._next_trial_at_s = 0.0
        self.reason = ""
        """Why it is open; empty while it is closed."""

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "half-open" if self.lets_in else "open"
        return f"<Breaker {state} failures={self._failures}>"

    @property
    def is_closed(self) -> bool:
        return not self.reason

    @property
    def lets_in(self) -> bool:
        """Whether requests should be sent here now: any while closed, one while half-open."""
        return not self.reason or self._now_s() >= self._next_trial_at_s

    def enter(self) -> int:
        """Take a request in; the number that its outcome is told with."""
        if self.reason:  # on trial: should it take long, the next may try after another rest
            self._next_trial_at_s = self._now_s() + self._rest_s
        return self._epoch

    def proved(self, number: int) -> None:
        """The backend began to answer: enough to end a trial, but not a row of failures."""
        if self.reason and number == self._epoch:
            self.reset()

    def succeeded(self, number: int) -> None:
        """The backend answered whole."""
        if number == self._epoch:
            self._failures = 0
            self.proved(number)

    def failed(self, number: int, why: str, *, is_certain: bool = False) -> None:
        """The backend failed; `is_certain` where it said itself that it will go on failing."""
        if number != self._epoch:
            return
        self._failures += 1
        if self.reason or is_certain or self._failures >= self._most:
            self.reason = why
            self._next_trial_at_s = self._now_s() + self._rest_s
            self._epoch += 1

    def left(self, number: int) -> None:
        """The request ended without a verdict; the place of a trial is free again."""
        if self.reason and number == self._epoch:
            self._next_trial_at_s = self._now_s()

    def reset(self) -> None:
        """Close, and forget what was."""
        self.reason = ""
        self._failures = 0
        self._epoch += 1
