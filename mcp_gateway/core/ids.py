"""Ids that sort by time: a kind, 48 bits of milliseconds, 80 bits of chance."""

import secrets
import time


def new_id(kind: str) -> str:
    """A fresh id such as `req_0193…`: unique, and greater than those of earlier milliseconds."""
    return first_id_at(kind, now_ms()) + secrets.token_hex(10)


def first_id_at(kind: str, at_ms: int) -> str:
    """What every id made at `at_ms` or later sorts at or after."""
    return f"{kind}_{at_ms:012x}"


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
