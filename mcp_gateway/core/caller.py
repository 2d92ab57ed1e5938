"""Who asks, and what they may use: the value that identity makes and everything else reads."""

from dataclasses import dataclass

GUEST_ACCOUNT_ID = "acc_guest"


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

    @property
    def is_guest(self) -> bool:
        return self.key_id is None
