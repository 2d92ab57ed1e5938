"""API keys as values: what one may do, until when, and why it is refused. Knows no database."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, NamedTuple

from mcp_gateway.core.caller import KeyScope
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.identity.own_limits import OwnLimits

LIVE_PREFIX = "gw_live_"
TEST_PREFIX = "gw_test_"
TEST_SCOPES: frozenset[KeyScope] = frozenset({"inference"})


class Maker(NamedTuple):
    """A key that made another one, or made that one's maker: what those use counts against its limits too."""

    key_id: str
    limits: OwnLimits


def binding(makers: Sequence[Maker]) -> list[Maker]:
    """Those of a line of makers, the nearest first, that bind more than the ones before them do.

    Of several with the same limits it is the first that was made: whatever the others have made is its too. So a key
    that is replaced again and again by one like itself has one maker that counts.
    """
    first = {maker.limits: maker for maker in makers}
    return [maker for maker in makers if first[maker.limits] is maker]


State = Literal["live", "revoked", "expired"]
"""Of a key; that of its account comes on top."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it may be shown: never the key itself, `prefix` is its first characters."""

    id: str
    account_id: str
    prefix: str
    name: str
    is_test: bool
    created_at_ms: int
    revoked_at_ms: int | None
    limits: OwnLimits
    scopes: frozenset[KeyScope]
    expires_at_ms: int | None = None
    made_by: str | None = None
    """The key that asked for this one; None for the operator."""
    makers: tuple[Maker, ...] = ()
    """That key, the one that made it, and so on."""
    is_account_active: bool = True

    def state_at(self, now_ms: int) -> State:
        if self.revoked_at_ms is not None:
            return "revoked"
        return "expired" if self.expires_at_ms is not None and self.expires_at_ms <= now_ms else "live"

    def fault_at(self, now_ms: int) -> Code | None:
        """The code that the key is refused with; None for a valid one."""
        if (code := _FAULTS[self.state_at(now_ms)]) is not None:
            return code
        return None if self.is_account_active else "account_deactivated"


_FAULTS: dict[State, Code | None] = {"live": None, "revoked": "revoked_api_key", "expired": "expired_api_key"}
_REFUSALS: dict[Code, str] = {
    "invalid_api_key": "This API key is not known here.",
    "revoked_api_key": "This API key was revoked.",
    "expired_api_key": "This API key has expired.",
    "account_deactivated": "The account of this API key is switched off.",
}


def refusal(code: Code) -> GatewayError:
    """What a caller is told whose key is not valid, or no longer."""
    return GatewayError(code, _REFUSALS[code])


def digest_of(raw: str) -> bytes:
    """All that is kept of a credential."""
    return sha256(raw.encode("utf-8", "surrogateescape")).digest()
