"""The clock of the event loop, which a test moves on: limits are long, and run out when the test says so."""

import asyncio
from collections.abc import Callable


class Ahead:
    """A loop's clock, and how far a test has moved it on."""

    def __init__(self, time_s: Callable[[], float]) -> None:
        self._time_s = time_s
        self.passed_s = 0.0

    def __call__(self) -> float:
        return self._time_s() + self.passed_s


def pass_time(seconds: float) -> None:
    """Whatever the running loop has due within these seconds is due now. For asyncio's own loop, not for uvloop."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop.time, Ahead):
        loop.time = Ahead(loop.time)  # type: ignore[method-assign]
    loop.time.passed_s += seconds
