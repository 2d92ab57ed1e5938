"""The limits that a key or an account sets for itself, as they are asked for and as they are stored.

Knows neither the configured defaults nor what has been used.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Final, Literal


class Default(Enum):
    """Stands where no own limit is set: for a key the configuration's applies, for an account its keys' highest."""

    DEFAULT = "default"


DEFAULT: Final = Default.DEFAULT
Limit = int | None | Literal[Default.DEFAULT]
"""A number; None for no limit; DEFAULT."""

_NO_LIMIT_IN_DATABASE = -1


@dataclass(frozen=True, slots=True)
class OwnLimits:
    """See Allowance for their meaning."""

    requests_per_minute: Limit = DEFAULT
    requests_per_day: Limit = DEFAULT
    tokens_per_minute: Limit = DEFAULT
    in_flight: Limit = DEFAULT


LIMIT_NAMES = tuple(field.name for field in fields(OwnLimits))


def stored_limits(limits: OwnLimits) -> tuple[int | None, ...]:
    """As columns in the order of LIMIT_NAMES: NULL is the default, -1 is none."""
    return tuple(_stored(getattr(limits, name)) for name in LIMIT_NAMES)


def assignments_of(limits: Mapping[str, Limit]) -> dict[str, int | None]:
    """For an UPDATE of those that are given, by the names that LIMIT_NAMES has: SQL assignments with their values."""
    return {f"{name} = ?": _stored(limits[name]) for name in LIMIT_NAMES if name in limits}


def limits_from(columns: Iterable[int | None]) -> OwnLimits:
    return OwnLimits(*map(_read, columns))


def _stored(limit: Limit) -> int | None:
    if limit is DEFAULT:
        return None
    return _NO_LIMIT_IN_DATABASE if limit is None else limit


def _read(stored: int | None) -> Limit:
    if stored is None:
        return DEFAULT
    return None if stored == _NO_LIMIT_IN_DATABASE else stored
