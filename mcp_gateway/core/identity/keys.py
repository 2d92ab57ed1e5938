"""API keys as values: what one may do, until when, and why it is refused. Knows no database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from mcp_gateway.core.caller import SCOPES, Allowance, KeyScope
from mcp_gateway.core.clock import DAY_MS, MINUTE_MS
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.identity.own_limits import DEFAULT, LIMIT_NAMES, Limit, OwnLimits
from mcp_gateway.core.identity.particulars import NO_PARTICULARS, Particulars, in_line
from mcp_gateway.core.networks import Networks
from mcp_gateway.core.optimization import NO_DEFAULTS, RoutingDefaults
from mcp_gateway.core.text import shown

LIVE_PREFIX = "gw_live_"
TEST_PREFIX = "gw_test_"
ACCESS_PREFIX = "gwo_"
"""Of what a program shows that a person has let in by the gateway's own authorization server, for a key's secret."""
_YEAR_10000_MS = 253_402_300_800_000
"""No calendar goes further."""
TEST_SCOPES: frozenset[KeyScope] = frozenset({"inference"})


class Maker(NamedTuple):
    """A key that made another one, or made that one's maker: what those use counts against its limits too."""

    key_id: str
    limits: OwnLimits
    group_id: str | None = None
    networks: Networks | None = None


def binding(makers: Sequence[Maker]) -> list[Maker]:
    """Those of a line of makers, the nearest first, that bind more than the ones before them do.

    Of several with the same limits it is the first that was made: whatever the others have made is its too. So a key
    that is replaced again and again by one like itself has one maker that counts.
    """
    first = {maker.limits: maker for maker in makers}
    return [maker for maker in makers if first[maker.limits] is maker]


State = Literal["live", "revoked", "expired"]
"""Of a key; that of its account comes on top."""


class Ending:
    """A key that is of use until it is revoked or expires."""

    __slots__ = ()
    revoked_at_ms: int | None
    expires_at_ms: int | None

    def state_at(self, now_ms: int) -> State:
        if self.revoked_at_ms is not None:
            return "revoked"
        return "expired" if self.expires_at_ms is not None and self.expires_at_ms <= now_ms else "live"


class KeyGrant(NamedTuple):
    """Whom a person has let in by a key: a program, by the name that it calls itself, answered at an address."""

    client_id: str
    client_name: str
    redirect_uri: str


ANY_SERVER = "*"
MOST_REPLACED = 2
"""Secrets of a key that others have replaced, and that are of use still."""
MAX_KEPT_S = 30 * 24 * 60 * 60
"""For which the old secret of a key that is given another may still be of use."""


@dataclass(frozen=True, slots=True)
class Key(Ending):
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
    group_id: str | None = None
    """Of the keys that it has budgets together with."""
    group: str | None = None
    """That group's name."""
    models: frozenset[str] | None = None
    """The ids or aliases of all that it may be used for; None for whatever is published."""
    is_minted: bool = False
    """Made by a key with a budget, or by such a key: it ends with its maker, and sees itself and what it made alone."""
    may_mint_over_mcp: bool = False
    """Whether it may make keys with budgets by a tool, in whose result the new key stands."""
    mcp_servers: frozenset[str] = frozenset()
    """The labels of the servers whose tools it may use, as far as its account may; ANY_SERVER for all of them."""
    offers_mcp_tools: bool = False
    """Whether these tools are offered in chats that name no server themselves."""
    routing: RoutingDefaults = NO_DEFAULTS
    """What it says of the choice of a model, where none is named."""
    particulars: Particulars = NO_PARTICULARS
    replaced_until_ms: int | None = None
    """When the last of the secrets that were its own before ends, or has ended."""
    secret: bytes = field(default=b"", compare=False, repr=False)
    """The digest of the secret that it was found by, and of no key that was found otherwise."""
    secret_ends_at_ms: int | None = None
    """Of a secret that another has replaced; `expires_at_ms` is then no later."""
    grant: KeyGrant | None = None
    """Of a key that a program is let in by, which has no secret but the tokens that it is given."""
    audience: str | None = None
    """Of such a token: the address that it is for, and for no other."""

    @property
    def holders(self) -> frozenset[str]:
        """Whose budgets bound what it spends: its own, those of its makers, and those of their groups."""
        line = (self.id, self.group_id), *((maker.key_id, maker.group_id) for maker in self.makers)
        return frozenset(holder for pair in line for holder in pair if holder is not None)

    @property
    def above(self) -> tuple[str, ...]:
        """Who its budgets are under: all of `holders` but itself."""
        return tuple(sorted(self.holders - {self.id}))

    @property
    def networks(self) -> tuple[Networks, ...]:
        """Each of which must have the address that it is used from: its own, and those of its makers."""
        return in_line(self.particulars.networks, [maker.networks for maker in self.makers])

    def particulars_told(self) -> dict[str, Any]:
        """As callers are told of them; where it sets no networks, those of the nearest key that made it and does."""
        nearest = next(iter(self.networks), None)
        return {
            "networks": None if nearest is None else list(map(str, nearest)),
            "note": self.particulars.note,
            "tags": list(self.particulars.tags),
        }

    def found_by(self, secret: bytes, secret_ends_at_ms: int | None, audience: str | None = None) -> "Key":
        """As whoever shows this secret has it: one that another has replaced, or a token, makes it end sooner."""
        ends = [at_ms for at_ms in (self.expires_at_ms, secret_ends_at_ms) if at_ms is not None]
        return replace(
            self,
            secret=secret,
            secret_ends_at_ms=secret_ends_at_ms,
            expires_at_ms=min(ends, default=None),
            audience=audience,
        )

    def is_replaced_one_valid_at(self, now_ms: int) -> bool:
        """Whether a secret that another has replaced is of use still."""
        return self.replaced_until_ms is not None and self.replaced_until_ms > now_ms

    def fault_at(self, now_ms: int) -> Code | None:
        """The code that the key is refused with; None for a valid one."""
        if self.secret_ends_at_ms is not None and self.secret_ends_at_ms <= now_ms:
            return "revoked_api_key" if self.audience is None else "expired_session"
        if (code := FAULTS[self.state_at(now_ms)]) is not None:
            return code
        return None if self.is_account_active else "account_deactivated"


FAULTS: dict[State, Code | None] = {"live": None, "revoked": "revoked_api_key", "expired": "expired_api_key"}
_REFUSALS: dict[Code, str] = {
    "invalid_api_key": "This API key is not known here.",
    "revoked_api_key": "This API key was revoked.",
    "expired_api_key": "This API key has expired.",
    "expired_session": "This token has expired: have another made, or sign in again.",
    "account_deactivated": "The account of this API key is switched off.",
}


def refusal(code: Code) -> GatewayError:
    """What a caller is told whose key is not valid, or no longer."""
    return GatewayError(code, _REFUSALS[code])


def digest_of(raw: str) -> bytes:
    """All that is kept of a credential."""
    return sha256(raw.encode("utf-8", "surrogateescape")).digest()


class KeysPerAccount(NamedTuple):
    """How many keys one account may have that are valid, and how many it may make in a UTC day, ended ones included.

    A rotation counts as a key that is made. Minted ones count apart, and those that are made in a clock minute.
    """

    live: int
    a_day: int
    minted_live: int = 10_000
    minted_a_minute: int = 60


_MOST_MAKERS = 8
"""With other limits each, before a key: every request of it is counted by all of them."""


def makers_of(maker: Key | None, now_ms: int) -> tuple[Maker, ...]:
    """The makers of a key that this one makes. Raises GatewayError.

    A key that ended while its request was read makes no other, nor does the last of a long line.
    """
    code = "invalid_api_key" if maker is None else maker.fault_at(now_ms)
    if maker is None or code is not None:
        raise refusal(code or "invalid_api_key")
    makers = Maker(maker.id, maker.limits, maker.group_id, maker.particulars.networks), *maker.makers
    if len(binding(makers)) > _MOST_MAKERS:
        message = f"This key is the last in a line of {_MOST_MAKERS + 1}, each with other limits; it makes no more."
        raise GatewayError("conflict", message)
    return makers


_MOST_MINTED_IN_LINE = 8
"""Each made by the one before: every request of the last is spent by all of them."""


def check_line(minted: int) -> None:
    """Raises GatewayError `conflict` where so many minted keys stand before one that is to be minted, too."""
    if minted >= _MOST_MINTED_IN_LINE:
        message = f"This key is the last in a line of {_MOST_MINTED_IN_LINE} minted ones, and mints none."
        raise GatewayError("conflict", message)


def counted_for_ms(*, is_minted: bool) -> int:
    """The window in which a key that is made counts."""
    return MINUTE_MS if is_minted else DAY_MS


def check_live(most: KeysPerAccount, live: int, *, is_minted: bool) -> None:
    """Raises GatewayError `conflict` where an account has so many valid keys, minted ones or others."""
    most_live = most.minted_live if is_minted else most.live
    if live >= most_live:
        raise GatewayError("conflict", f"This account has {most_live} {_what(is_minted)} already; revoke one first.")


def check_made(most: KeysPerAccount, made: int, now_ms: int, *, is_minted: bool) -> None:
    """Raises GatewayError `requests_per_day` or `requests_per_minute` where an account may make and rotate no more."""
    most_made = most.minted_a_minute if is_minted else most.a_day
    if made >= most_made:
        window_ms = counted_for_ms(is_minted=is_minted)
        when = "in this minute" if is_minted else "today"
        message = f"This account has made {most_made} {_what(is_minted)} {when}, revoked ones and rotations included."
        retry_after_s = (window_ms - now_ms % window_ms) // 1000 + 1
        code: Code = "requests_per_minute" if is_minted else "requests_per_day"
        raise GatewayError(code, message, retry_after_s=retry_after_s)


def _what(is_minted: bool) -> str:
    return "keys with budgets that its keys made" if is_minted else "keys"


def in_force(limits: OwnLimits, defaults: Allowance) -> Allowance:
    """A key's limits, with the defaults filled in."""
    own = {name: limit for name in LIMIT_NAMES if (limit := getattr(limits, name)) is not DEFAULT}
    return replace(defaults, **own)


def check_lowered(allowance: Allowance, limits: Mapping[str, Limit]) -> None:
    """Raises GatewayError for a limit above the one in force."""
    for name, limit in limits.items():
        most = getattr(allowance, name)
        if most is not None and (not isinstance(limit, int) or limit > most):
            message = f"`{name}` can only be lowered here, to at most {most}; the operator can raise it."
            raise GatewayError("insufficient_permissions", message, param=name)


def scopes_by_default(*, is_test: bool) -> frozenset[KeyScope]:
    """Of a key of which nothing more is said."""
    return TEST_SCOPES if is_test else frozenset(SCOPES)


def check_may_mint_over_mcp(scopes: Collection[KeyScope]) -> None:
    """Raises GatewayError `invalid_value` for scopes with which the right is of no use, as those of a test key."""
    if "manage" not in scopes:
        message = "Only a key with the scope `manage` may mint over MCP."
        raise GatewayError("invalid_value", message, param="mint_over_mcp")


def servers_within(own: frozenset[str], most: frozenset[str]) -> frozenset[str]:
    """Of the servers of a key those that another may use, too: the one that made it."""
    if ANY_SERVER in most:
        return own
    return most if ANY_SERVER in own else own & most


def check_servers(own: frozenset[str], most: frozenset[str], whose: str) -> None:
    """Raises GatewayError `insufficient_permissions` for a server that the key behind it may not use itself."""
    if more := sorted(own - servers_within(own, most)):
        message = f"{whose} may not use the server '{shown(more[0])}' itself."
        raise GatewayError("insufficient_permissions", message, param="mcp_servers")


def later(expires_at_ms: int | None, now_ms: int) -> int | None:
    """The end of a new key. Raises GatewayError `invalid_value` for a time that is past or beyond calendars."""
    if expires_at_ms is not None and not now_ms < expires_at_ms < _YEAR_10000_MS:
        message = "`expires_at` must be in the future, and before the year 10000."
        raise GatewayError("invalid_value", message, param="expires_at")
    return expires_at_ms


def unknown_account(account_id: str) -> GatewayError:
    return GatewayError("not_found", f"There is no account '{shown(account_id)}'.")
