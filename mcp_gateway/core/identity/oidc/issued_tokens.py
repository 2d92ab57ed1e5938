"""The issuer's tokens that programs have shown: verified once each, and remembered until they are over.

A token is forgotten sooner where the issuer withdraws its key, and looked at anew where its user or account changes.
"""

from collections.abc import Callable, Collection, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

from mcp_gateway.core.caller import ROLE_SCOPES, KeyScope, User
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.keys import digest_of
from mcp_gateway.core.identity.oidc.arrivals import Arrivals, Refusal
from mcp_gateway.core.identity.oidc.claims import scopes_in
from mcp_gateway.core.identity.oidc.identities import UserStanding
from mcp_gateway.core.identity.oidc.issuer import Issuer
from mcp_gateway.core.identity.oidc.issuer_keys import IssuerKey
from mcp_gateway.core.identity.people import Person
from mcp_gateway.core.identity.sessions import session_refusal
from mcp_gateway.core.identity.settled import settled

_MOST_KNOWN = 10_000
_OURS = "HS256"
"""What signs the gateway's own tokens, and none of an issuer's."""


@dataclass(frozen=True, slots=True)
class TokenHolder:
    """A user as one of their tokens has them."""

    id: str
    """Of this token."""
    account_id: str
    user: User
    scopes: frozenset[KeyScope]
    scopes_to_ask_for: frozenset[KeyScope]


OnTokenEnd = Callable[[TokenHolder, GatewayError], None]
"""Hears whose token is good no more though it has not expired, and the refusal that it gets."""


class _KnownToken(NamedTuple):
    holder: TokenHolder
    named: frozenset[KeyScope] | None
    key: IssuerKey
    until_ms: int


class IssuedTokens:
    """Of one issuer."""

    def __init__(
        self,
        issuer: Issuer,
        arrivals: Arrivals,
        *,
        audiences: Collection[str],
        types: Collection[str],
        offered_scopes: Collection[KeyScope],
        now_ms: Callable[[], int],
    ) -> None:
        self._issuer = issuer
        self._arrivals = arrivals
        self._audiences = audiences
        self._types = types
        self._offered_scopes = frozenset(offered_scopes)
        self._now_ms = now_ms
        self._known: dict[bytes, _KnownToken] = {}
        """By what was shown, the oldest first."""
        self._changes = 0
        self._on_end: list[OnTokenEnd] = []
        issuer.on_withdrawn(self._forget_withdrawn)

    def __len__(self) -> int:
        return len(self._known)

    def on_end(self, listener: OnTokenEnd) -> None:
        """Call `listener` for each token that ends before its time, because of its user or its account."""
        self._on_end.append(listener)

    def recall(self, token: str) -> TokenHolder | None:
        """Of a token that is known; None where it has to be looked up."""
        digest = digest_of(token)
        known = self._known.get(digest)
        if known is None:
            return None
        if known.until_ms <= self._now_ms():
            del self._known[digest]
            return None
        return known.holder

    async def look_up(self, token: str, newcomers_refusal: Refusal = None) -> TokenHolder:
        """Raises GatewayError (401, 403, 503); with `newcomers_refusal` nobody comes for the first time."""
        verified = await self._issuer.verify(token, audiences=self._audiences, types=self._types)
        person = await settled(
            lambda: self._arrivals.person_of(verified.claims, newcomers_refusal=newcomers_refusal),
            lambda: self._changes,
        )
        named = scopes_in(verified.claims)
        digest = digest_of(token)
        holder = self._holder(digest.hex(), person, named)
        if self._issuer.stands_by(verified.key):  # it may have been withdrawn meanwhile
            if len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[digest] = _KnownToken(holder, named, verified.key, verified.expires_at_ms)
        return holder

    async def catch_up(self, changed_ids: Set[str]) -> None:
        """Look again at the tokens whose users or accounts have changed. Raises DatabaseError."""
        self._changes += 1
        touched: dict[str, list[bytes]] = {}
        for digest, known in self._known.items():
            holder = known.holder
            if holder.user.user_id in changed_ids or holder.account_id in changed_ids:
                touched.setdefault(holder.user.user_id, []).append(digest)
        for user_id, digests in touched.items():
            standing = await self._arrivals.standing_of(user_id)
            for digest in digests:
                self._replace(digest, standing)

    def _replace(self, digest: bytes, standing: UserStanding | None) -> None:
        known = self._known.get(digest)
        if known is None:
            return
        try:
            if standing is None:
                raise session_refusal("expired_session")
            standing.check()
        except GatewayError as refusal:
            del self._known[digest]
            for listener in self._on_end:
                listener(known.holder, refusal)
            return
        holder = self._holder(known.holder.id, standing.person, known.named)
        self._known[digest] = known._replace(holder=holder)

    def _holder(self, token_id: str, person: Person, named: frozenset[KeyScope] | None) -> TokenHolder:
        """A token that names scopes has those of them which its user's role has, and is for nothing else; any other is
        for all that this has.
        """
        role_scopes = ROLE_SCOPES[person.role]
        user = User(person.id, role=person.role, is_administrator=person.is_administrator)
        if named is None:
            return TokenHolder(token_id, person.account_id, user, role_scopes, frozenset())
        narrowed = replace(user, is_whole=False, is_administrator=False)
        scopes = named & role_scopes
        return TokenHolder(token_id, person.account_id, narrowed, scopes, (role_scopes & self._offered_scopes) - scopes)

    def _forget_withdrawn(self) -> None:
        gone = [digest for digest, known in self._known.items() if not self._issuer.stands_by(known.key)]
        for digest in gone:
            del self._known[digest]


def is_issued_elsewhere(token: str) -> bool:
    """Whether a token is signed as none of the gateway's own is; its head is all that is looked at."""
    import jwt  # noqa: PLC0415 - takes 0.1 s to import

    try:
        return jwt.get_unverified_header(token).get("alg") != _OURS
    except (jwt.PyJWTError, ValueError):
        return False
