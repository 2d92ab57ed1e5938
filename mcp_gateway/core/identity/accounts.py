"""Accounts: who keys belong to and money is kept for; their own limits bound all of their keys together."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.engine import Engine, Read, Scan, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.own_limits import Limit, OwnLimits
from mcp_gateway.core.text import check_one_line, shown

MAX_MARGIN = 100_000
"""In hundredths of a percent."""
_PERCENT = re.compile(r"[0-9]{1,4}(\.[0-9]{1,2})?")
LIMITS_OF = "limits_of_"
"""Before an account's id in the notes of changes: of what all its keys may use together, which changes none of them."""


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    name: str
    created_at_ms: int
    is_active: bool
    limits: OwnLimits
    margin: int = 0
    """What it pays above the prices of the settings, in hundredths of a percent."""
    may_proxy: bool = False
    """Whether its keys may ask providers by their own paths."""
    is_attributed: bool = False
    """Whether its requests are attributed to the users and tags that they name."""


@dataclass(frozen=True, slots=True)
class CreateAccount(Write[None]):
    account: Account


@dataclass(frozen=True, slots=True)
class SetAccountActive(Write[bool]):
    """False where there is no such account."""

    account_id: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class SetAccountLimits(Write[bool]):
    """Those that are given, by name; False where there is no such account."""

    account_id: str
    limits: Mapping[str, Limit]


@dataclass(frozen=True, slots=True)
class SetAccountMargin(Write[bool]):
    """In hundredths of a percent; False where there is no such account."""

    account_id: str
    margin: int


@dataclass(frozen=True, slots=True)
class LetAccountProxy(Write[bool]):
    """False where there is no such account."""

    account_id: str
    is_let: bool


@dataclass(frozen=True, slots=True)
class AttributeAccount(Write[bool]):
    """False where there is no such account."""

    account_id: str
    is_attributed: bool


@dataclass(frozen=True, slots=True)
class AllAccounts(Scan[list[Account]]):
    """The oldest first."""


@dataclass(frozen=True, slots=True)
class AccountsPage(Scan[Sequence[Account]]):
    """The newest first, from those before `before_id` on; of one name, active or not, where that is said."""

    before_id: str | None
    limit: int
    name: str | None = None
    is_active: bool | None = None


@dataclass(frozen=True, slots=True)
class AccountById(Read[Account | None]):
    account_id: str


class Accounts:
    """All accounts; changes are noticed by a server that runs beside."""

    def __init__(self, store: Engine, *, new_id: Callable[[str], str], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._new_id = new_id
        self._now_ms = now_ms

    async def create(self, name: str) -> Account:
        """Raises GatewayError `invalid_value` for a name that is no line of text, or empty."""
        check_one_line(name, "name")
        if not name.strip():
            raise GatewayError("invalid_value", "An account needs a name.", param="name")
        account = Account(self._new_id("acc"), name, self._now_ms(), True, OwnLimits())
        await self._store.write(CreateAccount(account))
        return account

    async def list(self) -> "list[Account]":
        """All accounts, the oldest first; the guests' is the first."""
        return await self._store.read(AllAccounts())

    async def page(
        self, *, before_id: str | None, limit: int, name: str | None = None, is_active: bool | None = None
    ) -> Sequence[Account]:
        """The newest first; see AccountsPage."""
        return await self._store.read(AccountsPage(before_id, limit, name, is_active))

    async def get(self, account_id: str) -> Account:
        """Raises GatewayError `not_found`."""
        account = await self._store.read(AccountById(account_id))
        if account is None:
            raise _unknown(account_id)
        return account

    async def set_active(self, account_id: str, *, is_active: bool) -> None:
        """Switch an account's keys off or on. Raises GatewayError `not_found`."""
        if not await self._store.write(SetAccountActive(account_id, is_active)):
            raise _unknown(account_id)

    async def set_limits(self, account_id: str, limits: Mapping[str, Limit]) -> None:
        """Set those of an account's own limits that are given, one at least; others stay as they are by then.

        Raises GatewayError `not_found`, `conflict` for the guests'.
        """
        if account_id == GUEST_ACCOUNT_ID:
            raise GatewayError("conflict", "What guests may use is set in the configuration, under [guests].")
        if not await self._store.write(SetAccountLimits(account_id, limits)):
            raise _unknown(account_id)

    async def set_margin(self, account_id: str, margin: int) -> None:
        """Have an account pay so many hundredths of a percent above the prices of the settings, from now on.

        Raises GatewayError `not_found`, or `conflict` for the guests'.
        """
        if not 0 <= margin <= MAX_MARGIN:
            raise ValueError(f"a margin is from 0 to {MAX_MARGIN}")
        if account_id == GUEST_ACCOUNT_ID:
            raise GatewayError("conflict", "Guests pay nothing.")
        if not await self._store.write(SetAccountMargin(account_id, margin)):
            raise _unknown(account_id)

    async def let_proxy(self, account_id: str, *, is_let: bool) -> None:
        """Let an account's keys ask providers by their own paths, or not. Raises GatewayError `not_found`, `conflict`
        for the guests'.
        """
        if account_id == GUEST_ACCOUNT_ID:
            raise GatewayError("conflict", "Guests never ask providers by their own paths.")
        if not await self._store.write(LetAccountProxy(account_id, is_let)):
            raise _unknown(account_id)

    async def attribute(self, account_id: str, *, is_attributed: bool) -> None:
        """Have an account's requests attributed to users and tags from now on, or not. Raises GatewayError `not_found`,
        `conflict` for the guests'.
        """
        if account_id == GUEST_ACCOUNT_ID:
            raise GatewayError("conflict", "What guests ask for is attributed to nobody.")
        if not await self._store.write(AttributeAccount(account_id, is_attributed)):
            raise _unknown(account_id)


def margin_of(percent: str) -> int:
    """Hundredths of a percent. Raises ValueError that says what to write."""
    if not _PERCENT.fullmatch(percent):
        raise ValueError(f"takes a percentage such as 20 or 12.5, at most two decimals; not '{shown(percent)}'")
    whole, _, part = percent.partition(".")
    margin = int(whole) * 100 + int(part.ljust(2, "0"))
    if margin > MAX_MARGIN:
        raise ValueError("is from 0 to 1000 percent")
    return margin


def in_percent(margin: int) -> str:
    return f"{margin / 100:g}"


def _unknown(account_id: str) -> GatewayError:
    message = f"There is no account '{shown(account_id)}'; `mcp-gateway accounts list` shows them."
    return GatewayError("not_found", message)
