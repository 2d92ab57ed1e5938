"""Accounts: who keys belong to and money is kept for; their own limits bound all of their keys together."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.engine import Announcement, Engine, Read, Scan, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.own_limits import Limit, OwnLimits
from mcp_gateway.core.text import check_one_line, shown

MAX_MARGIN = 100_000
"""In hundredths of a percent."""
_PERCENT = re.compile(r"[0-9]{1,4}(\.[0-9]{1,2})?")
LIMITS_OF = "limits_of_"
"""Before an account's id in the notes of changes: of what all its keys may use together, which changes none of them."""


@dataclass(frozen=True, slots=True)
class IdentitiesChanged(Announcement):
    """Something is noted of keys, accounts, users or sessions; what, stands in the notes of changes."""

    word: ClassVar[str] = "identities"


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
class ChangeAccount(Write[bool]):
    """Several changes of one account, in their order; False, and none of them, where there is no such account.

    Those that follow here are parts of it.
    """

    account_id: str
    changes: tuple[Write[Any], ...]


@dataclass(frozen=True, slots=True)
class RenameAccount(Write[bool]):
    """Whether that is another name."""

    account_id: str
    name: str


@dataclass(frozen=True, slots=True)
class SetAccountActive(Write[None]):
    account_id: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class SetAccountLimits(Write[None]):
    """Those that are given, by name."""

    account_id: str
    limits: Mapping[str, Limit]


@dataclass(frozen=True, slots=True)
class SetAccountMargin(Write[None]):
    """In hundredths of a percent."""

    account_id: str
    margin: int


@dataclass(frozen=True, slots=True)
class LetAccountProxy(Write[None]):
    account_id: str
    is_let: bool


@dataclass(frozen=True, slots=True)
class AttributeAccount(Write[None]):
    account_id: str
    is_attributed: bool


_NOT_OF_GUESTS: dict[type[Write[Any]], str] = {
    RenameAccount: "The guests' account keeps its name.",
    SetAccountLimits: "What guests may use is set in the configuration, under [guests].",
    SetAccountMargin: "Guests pay nothing.",
    LetAccountProxy: "Guests never ask providers by their own paths.",
    AttributeAccount: "What guests ask for is attributed to nobody.",
}
"""Why each is refused of the guests' account."""


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
        account = Account(self._new_id("acc"), _checked_name(name), self._now_ms(), True, OwnLimits())
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

    async def change(
        self,
        account_id: str,
        *,
        name: str | None = None,
        limits: Mapping[str, Limit] | None = None,
        margin: int | None = None,
        may_proxy: bool | None = None,
        is_attributed: bool | None = None,
        is_active: bool | None = None,
        and_then: Sequence[Write[Any]] = (),
    ) -> None:
        """Change what is given, of the limits those that are, and behind that `and_then`: all of it, or nothing.

        `margin` is what it pays above the prices of the settings from now on, in hundredths of a percent. A key of an
        account that is not active is refused. Raises GatewayError `not_found`; `conflict` for what the guests' account
        cannot be given; `invalid_value` for a name that is no line of text, or empty.
        """
        changes: list[Write[Any]] = []
        if name is not None:
            changes.append(RenameAccount(account_id, _checked_name(name)))
        if limits:
            changes.append(SetAccountLimits(account_id, limits))
        if margin is not None:
            changes.append(SetAccountMargin(account_id, _checked_margin(margin)))
        if may_proxy is not None:
            changes.append(LetAccountProxy(account_id, may_proxy))
        if is_attributed is not None:
            changes.append(AttributeAccount(account_id, is_attributed))
        if is_active is not None:
            changes.append(SetAccountActive(account_id, is_active))
        if account_id == GUEST_ACCOUNT_ID:
            _check_guests(changes)
        if not await self._store.write(ChangeAccount(account_id, (*changes, *and_then))):
            raise _unknown(account_id)


def _check_guests(changes: Sequence[Write[Any]]) -> None:
    for change in changes:
        if type(change) in _NOT_OF_GUESTS:
            raise GatewayError("conflict", _NOT_OF_GUESTS[type(change)])


def _checked_name(name: str) -> str:
    check_one_line(name, "name")
    if not name.strip():
        raise GatewayError("invalid_value", "An account needs a name.", param="name")
    return name


def _checked_margin(margin: int) -> int:
    if not 0 <= margin <= MAX_MARGIN:
        raise ValueError(f"a margin is from 0 to {MAX_MARGIN}")
    return margin


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
