"""What the request log says of what backends were asked for, and tokens as they are compared. Knows no counters."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from mcp_gateway.core.engine import Scan
from mcp_gateway.core.record import OK

_ENDED_BY_CALLER = ("client_closed", "revoked_api_key", "expired_api_key", "invalid_api_key", "account_deactivated")
"""The codes of requests that ran when their caller or their key had ended."""

Fate = Literal["answered", "aborted", "cut", "estimated", "failed"]
"""How a request ended: `aborted` by its caller or key, `cut` by the gateway, `estimated` where no usage was told."""


class BilledUse(NamedTuple):
    """What the log says of a request that a backend was asked for."""

    backend: str
    model: str | None
    started_at_ms: int
    ended_at_ms: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    http_status: int
    error_code: str | None
    policy: str | None
    """By which it was billed where the backend told no usage."""
    ended_by: str | None
    """What ended an answer that the backend would have gone on with."""

    @property
    def fate(self) -> Fate:
        if self.error_code in _ENDED_BY_CALLER:
            return "aborted"
        if self.ended_by is not None:
            return "cut"
        if self.policy is not None:
            return "estimated"
        return "answered" if self.http_status == OK else "failed"


@dataclass(frozen=True, slots=True)
class UsesBetween(Scan[list[BilledUse]]):
    """By the ids of the requests, `before_id` exclusive."""

    first_id: str
    before_id: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """`cached` are a part of `prompt`."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.prompt + other.prompt, self.completion + other.completion, self.cached + other.cached)

    def __sub__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.prompt - other.prompt, self.completion - other.completion, self.cached - other.cached)

    @property
    def kinds(self) -> tuple[int, int, int]:
        return self.prompt, self.completion, self.cached

    @property
    def distance(self) -> int:
        return sum(map(abs, self.kinds))


NONE = Tokens()
