"""Who asks, and what they may use: the value that identity makes and everything else reads."""

from dataclasses import dataclass
from typing import Literal, get_args

from mcp_gateway.core.errors import GatewayError

GUEST_ACCOUNT_ID = "acc_guest"

KeyScope = Literal["inference", "read", "billing", "manage"]
"""What a key may be used for: chats, models, limits and the balance; the account's history; its payments; its keys."""
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one caller may use; None is unlimited. Minutes are clock minutes, days are UTC days."""

    requests_per_minute: int | None
    requests_per_day: int | None
    tokens_per_minute: int | None
    in_flight: int | None


@dataclass(frozen=True, slots=True)
class Caller:
    """An account's key, or a guest at an address.

    `subject` is what limits count by: the key's id, or the guest's address (an IPv6 caller counts by its /64).
    """

    account_id: str
    key_id: str | None
    subject: str
    allowance: Allowance
    is_test: bool = False
    scopes: frozenset[KeyScope] = frozenset(SCOPES)

    def check_scope(self, scope: KeyScope) -> None:
        """Raises GatewayError `insufficient_scope` for a key without it; guests have none and are judged elsewhere."""
        if scope not in self.scopes and not self.is_guest:
            raise lacking_scope(scope)

    @property
    def is_guest(self) -> bool:
        return self.key_id is None


def lacking_scope(scope: KeyScope) -> GatewayError:
    return GatewayError("insufficient_scope", f"This API key does not have the scope `{scope}`.")
