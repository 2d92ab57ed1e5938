"""The limits that a key or an account sets for itself, as they are asked for.

Knows neither the configured defaults nor what has been used.
"""

from dataclasses import dataclass, fields
from enum import Enum
from typing import Final, Literal


class Default(Enum):
    """Stands where no own limit is set: for a key the configuration's applies, for an account its keys' highest."""

    DEFAULT = "default"


DEFAULT: Final = Default.DEFAULT
Limit = int | None | Literal[Default.DEFAULT]
"""A number; None for no limit; DEFAULT."""


@dataclass(frozen=True, slots=True)
class OwnLimits:
    """See Allowance for their meaning."""

    requests_per_minute: Limit = DEFAULT
    requests_per_day: Limit = DEFAULT
    tokens_per_minute: Limit = DEFAULT
    in_flight: Limit = DEFAULT

    def as_object(self) -> dict[str, int | str]:
        """As they are given: a number, "none" or "default"."""
        own = {name: getattr(self, name) for name in LIMIT_NAMES}
        return {
            name: "default" if limit is DEFAULT else "none" if limit is None else limit for name, limit in own.items()
        }


LIMIT_NAMES = tuple(field.name for field in fields(OwnLimits))
