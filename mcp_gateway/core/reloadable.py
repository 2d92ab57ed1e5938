"""Which settings a running gateway can take over from a configuration that is read again, and which need a restart."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from mcp_gateway.core.config import Settings
from mcp_gateway.core.section import Section

RELOADED = frozenset({
    "models", "publish_discovered", "providers", "vllm_urls", "vllm_api_key", "incident", "maintenance",
    "limits.requests_per_minute", "limits.requests_per_day", "limits.tokens_per_minute", "limits.in_flight",
    "limits.listing_requests_per_minute", "limits.assumed_output_tokens", "limits.max_choices",
    "limits.keys_per_account", "limits.keys_per_account_per_day", "limits.minted_keys_per_account",
    "limits.minted_keys_per_minute",
    "guests.enabled", "guests.requests_per_minute", "guests.requests_per_minute_per_48",
    "guests.listing_requests_per_minute_per_48", "guests.in_flight", "guests.in_flight_per_address",
    "guests.in_flight_per_48", "guests.max_tokens", "attribution.user_headers",
})  # fmt: skip
"""By their names, with the table before them where they stand in one."""


class Reloaded(NamedTuple):
    """What was taken over, and what differs in the file and waits for a restart; names of settings, in order."""

    changed: list[str]
    needs_restart: list[str]

    def as_object(self) -> dict[str, Any]:
        return self._asdict()


def compare(before: Settings, after: Settings) -> Reloaded:
    names = list(_differing(before, after))
    return Reloaded([name for name in names if name in RELOADED], [name for name in names if name not in RELOADED])


def taken_over(before: Settings, after: Settings) -> Settings:
    """`before` with what a running gateway takes over of `after`."""
    return before.model_copy(update=_update(before, after, ""))


def _differing(before: Section, after: Section, within: str = "") -> Iterator[str]:
    for name in type(before).model_fields:
        one, other = getattr(before, name), getattr(after, name)
        if isinstance(one, Section) and isinstance(other, Section):
            yield from _differing(one, other, f"{within}{name}.")
        elif one != other:
            yield within + name


def _update(before: Section, after: Section, within: str) -> dict[str, Any]:
    update: dict[str, Any] = {}
    for name in type(before).model_fields:
        one, other = getattr(before, name), getattr(after, name)
        if within + name in RELOADED:
            update[name] = other
        elif isinstance(one, Section) and isinstance(other, Section):
            update[name] = one.model_copy(update=_update(one, other, f"{within}{name}."))
    return update
