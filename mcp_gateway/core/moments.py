"""Moments as people and programs write them: Unix seconds, dates, ISO 8601. Knows no query and no command."""

from datetime import UTC, date, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS, _SIGNS = 8, 10
"""Of a date."""
_MAX_MS = 2**48 - 1
"""What an id has room for; about the year 10889."""


def unix_ms(text: str) -> int:
    """Unix milliseconds of Unix seconds or an ISO 8601 text. Raises ValueError that says what it must be."""
    try:
        is_number = text.isdecimal() and date_in(text) is None
        moment = _EPOCH + timedelta(seconds=int(text)) if is_number else datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        moment_ms = (aware - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        moment_ms = -1
    if not 0 <= moment_ms <= _MAX_MS:
        raise ValueError("must be Unix seconds, or a date or time such as 2026-01-31 or 2026-01-31T12:00:00Z (UTC)")
    return moment_ms


def date_in(text: str) -> date | None:
    """The date that a text is, such as 2026-01-31 or 20260131; None for a moment, or Unix seconds.

    Ten digits are seconds, of which Python would read the first eight as a date where they can be.
    """
    try:
        return date.fromisoformat(text) if len(text) == _DIGITS or (len(text) == _SIGNS and "-" in text) else None
    except ValueError:
        return None
