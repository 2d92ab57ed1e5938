"""A limit for log lines that anybody can cause as often as he likes."""

import logging
from collections.abc import Callable
from math import inf
from time import monotonic

_REST_S = 60.0


class LogLimit:
    """Passes a warning on once a minute and drops the others."""

    def __init__(self, logger: logging.Logger, now_s: Callable[[], float] = monotonic) -> None:
        self._logger = logger
        self._now_s = now_s
        self._next_at_s = -inf

    def warning(self, message: str, *values: object) -> bool:
        """Whether it was passed on."""
        now_s = self._now_s()
        if now_s < self._next_at_s:
            return False
        self._next_at_s = now_s + _REST_S
        self._logger.warning(message, *values)
        return True
