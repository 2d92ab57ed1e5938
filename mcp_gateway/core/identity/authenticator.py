"""Who is this? A credential and an address in, a Caller out."""

from collections.abc import Callable
from weakref import WeakValueDictionary

from mcp_gateway.core.caller import (
    GUEST,
    GUEST_ACCOUNT_ID,
    Allowance,
    Caller,
    KeyHolder,
    Quota,
    Validity,
)
from mcp_gateway.core.config import GuestSettings, LimitSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.access_tokens import TOKEN_PREFIX
from mcp_gateway.core.identity.address import counted_as, site_of
from mcp_gateway.core.identity.admin_keys import ADMIN_PREFIX, AdminKeys
from mcp_gateway.core.identity.key_ring import AccountLimits
from mcp_gateway.core.identity.keys import Key, binding, in_force
from mcp_gateway.core.identity.known_keys import KnownKeys
from mcp_gateway.core.identity.oidc.arrivals import Refusal
from mcp_gateway.core.identity.oidc.issued_tokens import IssuedTokens, TokenHolder, is_issued_elsewhere
from mcp_gateway.core.identity.own_limits import DEFAULT, LIMIT_NAMES, Limit, OwnLimits
from mcp_gateway.core.identity.sessions import KnownSessions, UserSession

_MOST_PEOPLE = 10_000
"""Sessions whose callers are kept."""


class Authenticator:
    """Knows keys, people, guests and administrators; each Caller carries what it may use."""

    def __init__(
        self,
        keys: KnownKeys,
        guests: GuestSettings,
        limits: LimitSettings,
        admin_keys: AdminKeys,
        sessions: KnownSessions | None = None,
        issued: IssuedTokens | None = None,
    ) -> None:
        self._keys = keys
        self._admin_keys = admin_keys
        self._sessions = sessions
        self._issued = issued
        self._callers: dict[bytes, tuple[Key, AccountLimits, Caller]] = {}
        """By the digest of the secret: each may end by itself."""
        self._people: dict[str, tuple[UserSession | TokenHolder, AccountLimits, Caller]] = {}
        """By session, or by the token of an issuer."""
        self._validities: WeakValueDictionary[bytes | str, Validity] = WeakValueDictionary()
        """By either; for as long as anybody holds a caller that was made of it, or its validity."""
        keys.on_secret_end(self._forget)
        keys.on_let_go(self._let_go)
        if sessions is not None:
            sessions.on_close(self._forget_person)
        if issued is not None:
            issued.on_end(lambda holder, error: self._forget_person(holder.id, error))
        self.configure(guests, limits)

    def configure(self, guests: GuestSettings, limits: LimitSettings) -> None:
        """Have each caller be made anew by these; who asks already goes on with what it was let in with."""
        self._limits = limits
        self._serves_guests = guests.enabled
        self._address_allowance = _guest_allowance(
            guests.requests_per_minute, guests.in_flight_per_address, limits.listing_requests_per_minute
        )
        self._site_allowance = _guest_allowance(
            guests.requests_per_minute_per_48, guests.in_flight_per_48, guests.listing_requests_per_minute_per_48
        )
        self._all_guests = Quota("guests", "guests", _guest_allowance(None, guests.in_flight, None))
        # another object in the place of an account's limits has a caller made anew, with its validity
        self._callers = {digest: (key, own._replace(), caller) for digest, (key, own, caller) in self._callers.items()}
        self._people = {made_id: (one, own._replace(), caller) for made_id, (one, own, caller) in self._people.items()}

    def recall(self, credential: str) -> Caller | None:
        """The caller with a credential that was shown before; None where `identify` has to be awaited.

        Raises GatewayError (401, 403) for a credential that is known to be wrong.
        """
        if not credential.startswith(TOKEN_PREFIX):
            key = self._keys.recall(credential)
            return None if key is None else self._key_caller(key)
        person = self._recall_person(credential)
        if person is None or not self._keys.has_learned(person.account_id):  # another request learns it meanwhile
            return None
        return self._person_caller(person)

    def _recall_person(self, token: str) -> UserSession | TokenHolder | None:
        person = None if self._issued is None else self._issued.recall(token)
        return self._sessions.recall(token) if person is None and self._sessions is not None else person

    async def identify(self, credential: str, newcomers_refusal: Refusal = None) -> Caller:
        """The caller with a credential, shown before or not. Raises GatewayError (401, 403, 503).

        `newcomers_refusal` makes what whoever would come for the first time is refused with; None where they may.
        """
        if (known := self.recall(credential)) is not None:
            return known
        if credential.startswith(TOKEN_PREFIX):
            return await self._identify_person(credential, newcomers_refusal)
        if credential.startswith(ADMIN_PREFIX):
            return await self._admin_keys.identify(credential)
        return self._key_caller(await self._keys.look_up(credential))

    async def _identify_person(self, token: str, newcomers_refusal: Refusal) -> Caller:
        if self._issued is not None and is_issued_elsewhere(token):
            return await self._known_person(await self._issued.look_up(token, newcomers_refusal))
        if self._sessions is not None:
            return await self._known_person(await self._sessions.look_up_token(token))
        return self._key_caller(await self._keys.look_up(token))

    async def with_cookie(self, cookie: str) -> Caller:
        """The caller with a browser's session. Raises GatewayError (401, 403, 503)."""
        assert self._sessions is not None
        session = self._sessions.recall(cookie) or await self._sessions.look_up_cookie(cookie)
        return await self._known_person(session)

    def without_key(self, address: str) -> Caller:
        """The caller of a request that shows none. Raises GatewayError (401) where guests are switched off."""
        if not self._serves_guests:
            raise GatewayError("missing_credentials", "Send an API key as `Authorization: Bearer gw_live_...`.")
        return self.guest(address)

    def guest(self, address: str) -> Caller:
        """A caller without a key, for what is told to everybody also where guests are switched off."""
        address = counted_as(address)
        own = Quota("address", f"guest:{address}", self._address_allowance)
        site = site_of(address)
        if site is None:
            return Caller(GUEST_ACCOUNT_ID, GUEST, (own, self._all_guests))
        shared = Quota("site", f"guest:{site}", self._site_allowance)
        return Caller(GUEST_ACCOUNT_ID, GUEST, (own, shared, self._all_guests))

    @property
    def defaults(self) -> Allowance:
        """What a key may use that sets no limits itself."""
        return self._allowance(lambda name: getattr(self._limits, name))

    def allowance_of(self, limits: OwnLimits) -> Allowance:
        """A key's limits with the configured defaults filled in."""
        return in_force(limits, self.defaults)

    def _account_allowance(self, limits: AccountLimits) -> Allowance:
        """What an account was given, or else the highest among its keys and what a key has by default."""

        def limit(name: str) -> int | None:
            default: int | None = getattr(self._limits, name)
            return _own_or(_higher(default, _own_or(default, limits.highest, name)), limits.own, name)

        return self._allowance(limit)

    def _maker_allowance(self, maker: OwnLimits, account: OwnLimits) -> Allowance:
        """What a key may use together with those that it made: its own limits; where it has none, what a key has by
        default, unless the operator has given the account another limit.
        """

        def limit(name: str) -> int | None:
            default = getattr(self._limits, name) if getattr(account, name) is DEFAULT else None
            return _own_or(default, maker, name)

        return self._allowance(limit)

    def _allowance(self, limit_of: Callable[[str], int | None]) -> Allowance:
        limits = {name: limit_of(name) for name in LIMIT_NAMES}
        return Allowance(**limits, listings_per_minute=self._limits.listing_requests_per_minute)

    def _key_caller(self, key: Key) -> Caller:
        limits = self._keys.account_limits(key.account_id)
        made = self._callers.get(key.secret)
        if made is None or made[0] is not key or made[1] is not limits:
            made = self._callers[key.secret] = key, limits, self._make_caller(key, limits, self._validity(key.secret))
        return made[2]

    async def _known_person(self, person: UserSession | TokenHolder) -> Caller:
        await self._keys.learn(person.account_id)
        return self._person_caller(person)

    def _person_caller(self, person: UserSession | TokenHolder) -> Caller:
        limits = self._keys.account_limits(person.account_id)
        made = self._people.get(person.id)
        if made is None or made[0] is not person or made[1] is not limits:
            if made is None and len(self._people) >= _MOST_PEOPLE:
                del self._people[next(iter(self._people))]
            made = self._people[person.id] = person, limits, self._make_person(person, limits)
        return made[2]

    def _validity(self, shown: bytes | str) -> Validity:
        """One for all callers that are made of what is shown, also where those that were made first are forgotten."""
        validity = self._validities.get(shown)
        if validity is None:
            validity = self._validities[shown] = Validity()
        return validity

    def _make_person(self, person: UserSession | TokenHolder, limits: AccountLimits) -> Caller:
        own = Quota("user", person.user.user_id, self.allowance_of(OwnLimits()))
        return Caller(
            person.account_id,
            person.user,
            (own, *self._shared(person.account_id, limits)),
            scopes=person.scopes,
            scopes_to_ask_for=person.scopes_to_ask_for,
            margin=limits.margin,
            validity=self._validity(person.id),
            may_proxy=limits.may_proxy,
            is_attributed=limits.is_attributed,
        )

    def _shared(self, account_id: str, limits: AccountLimits) -> tuple[Quota, ...]:
        """What all of an account count by, and all accounts from one address together that have not paid yet."""
        account = Quota("account", account_id, self._account_allowance(limits))
        if limits.origin is None:
            return (account,)
        return account, Quota("origin", f"origin:{limits.origin}", self.defaults)

    def _make_caller(self, key: Key, limits: AccountLimits, validity: Validity) -> Caller:
        own = Quota("key", key.id, self.allowance_of(key.limits))
        makers = [
            Quota("maker", maker.key_id, self._maker_allowance(maker.limits, limits.own))
            for maker in binding(key.makers)
        ]
        quotas = (own, *self._shared(key.account_id, limits), *makers)
        return Caller(
            key.account_id,
            KeyHolder(key.id),
            quotas,
            is_test=key.is_test,
            scopes=key.scopes,
            margin=limits.margin,
            validity=validity,
            spent_by=key.holders,
            models=key.models,
            is_minted=key.is_minted,
            may_mint_over_mcp=key.may_mint_over_mcp,
            mcp_servers=key.mcp_servers,
            may_proxy=limits.may_proxy,
            is_attributed=limits.is_attributed,
            tags=key.particulars.tags,
            offers_mcp_tools=key.offers_mcp_tools,
            routing=key.routing,
            networks=key.networks,
            shows_replaced_secret=key.secret_ends_at_ms is not None,
            audience=key.audience,
        )

    def _forget_person(self, shown_id: str, error: GatewayError) -> None:
        self._people.pop(shown_id, None)
        self._end(shown_id, error)

    def _forget(self, key: Key, error: GatewayError) -> None:
        self._callers.pop(key.secret, None)
        self._end(key.secret, error)

    def _end(self, shown: bytes | str, error: GatewayError) -> None:
        if (validity := self._validities.pop(shown, None)) is not None:
            validity.ended_by = error.code

    def _let_go(self, key: Key) -> bool:
        """Forget a key's caller; whether nobody holds one: no request that came, no answer that runs, no session."""
        self._callers.pop(key.secret, None)
        return key.secret not in self._validities


def _guest_allowance(requests_per_minute: int | None, in_flight: int, listings_per_minute: int | None) -> Allowance:
    return Allowance(
        requests_per_minute=requests_per_minute,
        requests_per_day=None,
        tokens_per_minute=None,
        in_flight=in_flight,
        listings_per_minute=listings_per_minute,
    )


def _own_or(otherwise: int | None, limits: OwnLimits, name: str) -> int | None:
    own: Limit = getattr(limits, name)
    return otherwise if own is DEFAULT else own


def _higher(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)
