"""The limits that the operator sets for accounts and keys, each a number, none or default."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from http_api.operations import Told
from mcp_gateway.core.identity.own_limits import DEFAULT, LIMIT_NAMES, Limit

OwnLimit = Annotated[int, Field(ge=1, le=2**53 - 1)] | Literal["none", "default"]
"""`none` for no limit; `default` for what the configuration says, or for an account the highest among its keys."""


class OwnLimitsChange(BaseModel):
    """What is left out stays as it is, or of a new key is the default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    requests_per_minute: OwnLimit | None = None
    requests_per_day: OwnLimit | None = None
    tokens_per_minute: OwnLimit | None = None
    in_flight: OwnLimit | None = None


class OwnLimitsObject(Told):
    """As they were set, whatever is in force."""

    requests_per_minute: OwnLimit
    requests_per_day: OwnLimit
    tokens_per_minute: OwnLimit
    in_flight: OwnLimit


def own_limits_in(body: OwnLimitsChange) -> Mapping[str, Limit]:
    """Those that a body names."""
    named = ((name, getattr(body, name)) for name in LIMIT_NAMES)
    return {name: _limit(given) for name, given in named if given is not None}


def _limit(given: int | str) -> Limit:
    if isinstance(given, int):
        return given
    return None if given == "none" else DEFAULT
