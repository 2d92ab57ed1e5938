"""Ids that sort by time: a kind, 48 bits of milliseconds, 80 bits of chance."""

import os
import time
from collections.abc import Iterator

_CHANCE_BYTES = 10


def new_id(kind: str) -> str:
    """A fresh id such as `req_0193…`: unique, and greater than those of earlier milliseconds."""
    return first_id_at(kind, now_ms()) + next(_chances)


def _drawn() -> Iterator[str]:
    """Random hexadecimal digits, for a few hundred ids at a time: asking the system costs more than all the rest."""
    while True:
        drawn = os.urandom(256 * _CHANCE_BYTES).hex()
        for start in range(0, len(drawn), 2 * _CHANCE_BYTES):
            yield drawn[start : start + 2 * _CHANCE_BYTES]


_chances = _drawn()


def first_id_at(kind: str, at_ms: int) -> str:
    """What every id made at `at_ms` or later sorts at or after."""
    return f"{kind}_{at_ms:012x}"


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
