"""Who asks, and what they may use: the value that identity makes and everything else reads."""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.networks import Networks, address_of
from mcp_gateway.core.optimization import NO_DEFAULTS, RoutingDefaults
from mcp_gateway.core.tags import Tags
from mcp_gateway.core.text import shown

GUEST_ACCOUNT_ID = "acc_guest"
SERVER_LABEL = re.compile(r"[A-Za-z0-9_-]{1,32}")
"""What a server of tools may be called."""

KeyScope = Literal["inference", "read", "billing", "manage"]
"""What a key may be used for: chats, models, limits and the balance; the account's history; its payments; its keys."""
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)

Role = Literal["owner", "member", "viewer"]
"""Of a user in an account."""
ROLES: tuple[Role, ...] = get_args(Role)
ROLE_SCOPES: dict[Role, frozenset[KeyScope]] = {
    "owner": frozenset(SCOPES),
    "member": frozenset({"inference", "read", "manage"}),
    "viewer": frozenset({"read"}),
}


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one subject may use; None is unlimited. Minutes are clock minutes, days are UTC days."""

    requests_per_minute: int | None
    requests_per_day: int | None
    tokens_per_minute: int | None
    in_flight: int | None
    listings_per_minute: int | None = None
    """Calls that ask about things rather than for inference."""


Whose = Literal["key", "user", "maker", "account", "origin", "address", "site", "guests"]


@dataclass(frozen=True, slots=True)
class Quota:
    """An allowance and the subject that it is counted by; `whose` says what the subject is.

    The subject is a key, a user, a key that made it or its maker, an account, the address that accounts were registered
    from which have not paid, a guest's address (IPv6: its /64), an IPv6 guest's site (its /48), or all guests.
    """

    whose: Whose
    subject: str
    allowance: Allowance

    @property
    def is_of_guests(self) -> bool:
        return self.whose in ("address", "site", "guests")


@dataclass(eq=False, slots=True, weakref_slot=True)
class Validity:
    """Whether a key may still be used: `ended_by` is the code that it is refused with since it may not."""

    ended_by: Code | None = None


_GUESTS = Validity()
"""Without a key nothing can end."""


@dataclass(frozen=True, slots=True)
class Guest:
    """Whoever shows nothing, known by an address alone."""


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A program that shows an account's key."""

    key_id: str


@dataclass(frozen=True, slots=True)
class User:
    """A person who has signed in, in one of their sessions."""

    user_id: str
    session_id: str = ""
    """Empty for a program that shows a token of an issuer."""
    role: Role = "owner"
    """In the account that they ask for."""
    is_administrator: bool = False
    """Whether they run the gateway, too."""
    is_whole: bool = True
    """Whether they are let in for all that they may, and not by a token that names scopes, which is for these alone."""


@dataclass(frozen=True, slots=True)
class Administrator:
    """A program of the operator's that shows an administrator's key, which belongs to no account."""

    admin_key_id: str


Principal = Guest | KeyHolder | User | Administrator
GUEST = Guest()


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal and what it may use.

    What it uses counts against every one of its quotas: its own, then those that it shares. Of several that are used
    up, the first is told.
    """

    account_id: str
    principal: Principal
    quotas: tuple[Quota, ...]
    is_test: bool = False
    scopes: frozenset[KeyScope] = frozenset(SCOPES)
    scopes_to_ask_for: frozenset[KeyScope] = frozenset()
    """Those that another token of the same person could have, and this one has not; none of keys and guests."""
    margin: int = 0
    """What its account pays above the prices of the settings, in hundredths of a percent."""
    validity: Validity = field(default=_GUESTS, compare=False)
    """One for all callers that are made of a secret of a key, so that whoever still holds one sees its end."""
    spent_by: frozenset[str] = field(default=frozenset(), compare=False)
    """The key, those that stand behind it, and their groups: whose budgets bound what it spends."""
    models: frozenset[str] | None = None
    """The ids or aliases of all that it may ask for; None for whatever is published."""
    is_minted: bool = field(default=False, compare=False)
    """Whether its key sees itself and what it has made alone, and of its account nothing else."""
    may_mint_over_mcp: bool = False
    """Whether it may make keys with budgets by a tool."""
    mcp_servers: frozenset[str] = frozenset()
    """The labels of the servers whose tools it may use, as far as its account may; `*` for all of them."""
    may_proxy: bool = False
    """Whether it may ask providers by their own paths."""
    offers_mcp_tools: bool = False
    """Whether these tools are offered in chats that name no server themselves."""
    routing: RoutingDefaults = NO_DEFAULTS
    """What its key says of the choice of models."""
    networks: tuple[Networks, ...] = ()
    """Each of which must have the address that it asks from: its key's, and those of the keys that made it."""
    shows_replaced_secret: bool = False
    """Whether its key has been given another secret since, for which this one may not be exchanged."""
    is_attributed: bool = False
    """Whether its account has its requests attributed to users and tags."""
    tags: Tags = ()
    """Of its key."""
    audience: str | None = None
    """The one address that it may ask at, of a program that shows a token for that; None for all that there are."""
    key_id: str | None = field(init=False, compare=False)
    """Of the key that is shown; None without one."""
    credential_id: str | None = field(init=False, compare=False)
    """The same, or the session of a user, or the user where there is none: what ends when it may go on no longer."""
    is_guest: bool = field(init=False, compare=False)
    is_bound: bool = field(init=False, compare=False)
    """Whether it may ask from some networks, or at one address, alone."""

    def __post_init__(self) -> None:
        """What every request asks of the principal is looked up once."""
        key_id = self.principal.key_id if isinstance(self.principal, KeyHolder) else None
        user = self.principal if isinstance(self.principal, User) else None
        object.__setattr__(self, "key_id", key_id)
        object.__setattr__(self, "credential_id", key_id or (user and (user.session_id or user.user_id)))
        object.__setattr__(self, "is_guest", isinstance(self.principal, Guest))
        object.__setattr__(self, "is_bound", bool(self.networks) or self.audience is not None)

    def may(self, scope: KeyScope) -> bool:
        """Guests have every scope and are judged elsewhere."""
        return scope in self.scopes

    def check_scope(self, scope: KeyScope) -> None:
        """Raises GatewayError `insufficient_scope` for a key without it."""
        if scope not in self.scopes:
            raise lacking_scope(scope, self._named)

    @property
    def _named(self) -> str:
        """What decides on its scopes."""
        if isinstance(self.principal, User):
            return "Your role" if self.principal.is_whole else "This token"
        return "This API key"

    def check_address(self, address: str) -> None:
        """Raises GatewayError `ip_not_authorized` for one that its key may not be used from."""
        parsed = address_of(address)
        if not all(parsed is not None and any(parsed in one for one in networks) for networks in self.networks):
            message = f"This API key may not be used from the address {shown(address)}."
            raise GatewayError("ip_not_authorized", message)

    def check_asks_at(self, address: str | None) -> None:
        """Raises GatewayError `invalid_api_key` for another address than the one that its token is for."""
        if self.audience is not None and (address is None or address.rstrip("/") != self.audience.rstrip("/")):
            raise GatewayError("invalid_api_key", f"This token is for {self.audience}, and for nothing else.")

    def check_may_mint_over_mcp(self) -> None:
        """Raises GatewayError `missing_credentials`, `insufficient_permissions`."""
        if self.is_guest:
            raise GatewayError("missing_credentials", "Only callers with an API key may have budgets made.")
        if not self.may_mint_over_mcp:
            raise lacking_right()

    def check_secret_is_current(self) -> None:
        """Raises GatewayError `insufficient_permissions` for one that gives no further secrets."""
        if self.shows_replaced_secret:
            message = "This secret of the API key was replaced; ask with the new one to rotate or make keys."
            raise GatewayError("insufficient_permissions", message)

    @property
    def is_administrator(self) -> bool:
        """Whether it may do what the operator does, over /v1/admin."""
        principal = self.principal
        return isinstance(principal, Administrator) or (isinstance(principal, User) and principal.is_administrator)

    def check_is_administrator(self) -> None:
        """Raises GatewayError `missing_credentials`, `insufficient_permissions`."""
        if self.is_guest:
            raise GatewayError("missing_credentials", "Send an administrator's credential: this is for the operator.")
        if not self.is_administrator:
            raise GatewayError("insufficient_permissions", "Only the operator's administrators may do this.")

    @property
    def user(self) -> User:
        """Raises GatewayError `missing_credentials` for guests; `insufficient_permissions` for keys, and for tokens
        that name scopes.
        """
        if isinstance(self.principal, User):
            if not self.principal.is_whole:
                message = (
                    "This token is for its scopes, and this is none of them: sign in, or show one that names none."
                )
                raise GatewayError("insufficient_permissions", message)
            return self.principal
        if self.is_guest:
            raise GatewayError("missing_credentials", "Sign in first: POST /auth/login.")
        raise GatewayError("insufficient_permissions", "This is about a person who is signed in; a key is nobody.")

    @property
    def subject(self) -> str:
        """What tells this caller from all others."""
        return self.quotas[0].subject

    @property
    def within(self) -> str | None:
        """The key that, with what it has made, is all that it sees; None for its whole account."""
        return self.key_id if self.is_minted else None

    @property
    def allowance(self) -> Allowance:
        """Its own, whatever else bounds it."""
        return self.quotas[0].allowance


def lacking_scope(scope: KeyScope, whose: str = "This API key") -> GatewayError:
    return GatewayError("insufficient_scope", f"{whose} does not have the scope `{scope}`.", details={"scope": scope})


def lacking_right(param: str | None = None) -> GatewayError:
    """Of a key that may not mint over MCP."""
    return GatewayError("insufficient_permissions", "This API key may not mint over MCP.", param=param)
