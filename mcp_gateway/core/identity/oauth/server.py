"""The authorization server: who asks to be let in, and what becomes of the codes and tokens of those that were.

Knows no HTTP; people, and the keys that grants are, are made elsewhere.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from mcp_gateway.core.clock import DAY_MS, MINUTE_MS
from mcp_gateway.core.engine import Engine, Write
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import Key, digest_of
from mcp_gateway.core.identity.oauth.authorization import (
    AuthorizationParameters,
    AuthorizationRequest,
    check_parameters,
    refusal_address,
)
from mcp_gateway.core.identity.oauth.clients import (
    ClientAuth,
    ClientById,
    OAuthClient,
    RegisterClient,
    check_document_address,
    check_redirects,
    client_in_document,
    is_document_address,
    name_shown,
)
from mcp_gateway.core.identity.oauth.grants import (
    GrantByToken,
    GrantExchange,
    MakeGrant,
    OAuthGrant,
    RedeemCode,
    RefreshGrant,
    access_ends_at_ms,
    family_digest_of,
    first_refresh_token,
    is_refresh_token,
    new_access_token,
    new_code,
    next_refresh_token,
    useless,
)
from mcp_gateway.core.identity.oauth.redirects import host_of, is_among
from mcp_gateway.core.identity.oauth.refusals import OAuthRefusal

_UNUSED_MS = DAY_MS
_DOCUMENT_MS = 10 * MINUTE_MS
"""For which a client's description is remembered; what cannot be had is not."""
_MOST_DOCUMENTS = 1000

FetchDocument = Callable[[str, str], Awaitable[bytes | None]]
"""What stands at an address, asked for somebody; None where nothing does."""


class LedBack(NamedTuple):
    """A request whose refusal its client is told, by the browser that is sent to this address."""

    address: str


class NewClient(NamedTuple):
    """One that has registered, and its secret, which is not kept."""

    client: OAuthClient
    registered_at_ms: int
    secret: str | None


class GrantedTokens(NamedTuple):
    """What a client is given, which is not kept."""

    access_token: str
    expires_in_s: int
    refresh_token: str


class NewGrant(NamedTuple):
    """A code, and what is written with the key that the grant is."""

    code: str
    write_for: Callable[[Key], Sequence[Write[None]]]


class OAuthServer:
    """`resources` are the addresses that tokens may be for, the first where none is named; `count` hears what was
    done; `check_documents` and `check_registrations` refuse an address from which too much was asked for.
    """

    def __init__(
        self,
        store: Engine,
        keys: KeyRing,
        *,
        issuer: str,
        resources: Sequence[str],
        fetch: FetchDocument,
        check_documents: Callable[[str], None],
        check_registrations: Callable[[str], None],
        most_unused: int,
        new_id: Callable[[str], str],
        now_ms: Callable[[], int],
        count: Callable[[str], None],
    ) -> None:
        self.issuer = issuer
        self.fetch = fetch
        self._store = store
        self._keys = keys
        self._resources = resources
        self._check_documents = check_documents
        self._check_registrations = check_registrations
        self._most_unused = most_unused
        self._new_id = new_id
        self._now_ms = now_ms
        self._count = count
        self._documents: OrderedDict[str, tuple[OAuthClient, int]] = OrderedDict()
        """With until when each is remembered, the oldest first."""
        self._fetching = asyncio.Semaphore(8)

    # Clients

    async def register(self, name: str, redirect_uris: Sequence[str], auth: ClientAuth, address: str) -> NewClient:
        """Raises OAuthRefusal, and as `check_registrations`."""
        self._check_registrations(address)
        check_redirects(redirect_uris)
        now_ms = self._now_ms()
        secret = None if auth == "none" else secrets.token_urlsafe(32)
        client = OAuthClient(
            self._new_id("client"),
            name_shown(name, host_of(redirect_uris[0])),
            tuple(dict.fromkeys(redirect_uris)),
            auth,
            None if secret is None else digest_of(secret),
        )
        await self._store.write(RegisterClient(client, now_ms, now_ms - _UNUSED_MS, self._most_unused))
        self._count("registered")
        return NewClient(client, now_ms, secret)

    async def _asking(self, client_id: str, address: str) -> OAuthClient:
        """The client that says it is this one. Raises OAuthRefusal, and as `check_documents`.

        Its reader is told that it is none: nobody has shown a credential that could be wrong.
        """
        try:
            if is_document_address(client_id):
                return await self._documented(client_id, address)
            return await self.registered(client_id)
        except OAuthRefusal as refusal:
            raise OAuthRefusal("invalid_request", refusal.message) from None

    async def registered(self, client_id: str) -> OAuthClient:
        """Raises OAuthRefusal `invalid_client`."""
        client = await self._store.read(ClientById(client_id, self._now_ms() - _UNUSED_MS))
        if client is None:
            raise OAuthRefusal("invalid_client", "This client is not registered here, or not any more.")
        return client

    async def _documented(self, client_id: str, address: str) -> OAuthClient:
        check_document_address(client_id)
        known = self._documents.get(client_id)
        if known is not None and known[1] > self._now_ms():
            return known[0]
        self._check_documents(address)
        async with self._fetching:
            document = await self.fetch(client_id, address)
        self._count("document")
        if document is None:
            raise OAuthRefusal("invalid_client", "No description of the client could be had at its address.")
        client = client_in_document(client_id, document)
        self._documents[client_id] = client, self._now_ms() + _DOCUMENT_MS
        self._documents.move_to_end(client_id)
        if len(self._documents) > _MOST_DOCUMENTS:
            self._documents.popitem(last=False)
        return client

    # People

    async def read_request(
        self, client_id: str | None, redirect_uri: str | None, told: AuthorizationParameters, address: str
    ) -> AuthorizationRequest | LedBack:
        """Raises OAuthRefusal, and as `check_documents`, where nobody knows whom else to tell."""
        if client_id is None or redirect_uri is None:
            missing = "client_id" if client_id is None else "redirect_uri"
            raise OAuthRefusal("invalid_request", f"The program that led here did not say its `{missing}`.")
        client = await self._asking(client_id, address)
        if not is_among(redirect_uri, client.redirect_uris):
            raise OAuthRefusal("invalid_redirect_uri", "`redirect_uri` is none of the addresses of this client.")
        try:
            check_parameters(told, self._resources)
        except OAuthRefusal as refusal:
            return LedBack(refusal_address(redirect_uri, told.state, self.issuer, refusal))
        resource = told.resource or self._resources[0]
        return AuthorizationRequest(client, redirect_uri, told.state, resource, told.code_challenge or "", self.issuer)

    def new_grant(self, request: AuthorizationRequest, ends_at_ms: int) -> NewGrant:
        """What a person has allowed, to be written with its key."""
        code, client = new_code(), request.client

        def write_for(key: Key) -> Sequence[Write[None]]:
            grant = OAuthGrant(
                key.id, client.id, client.name, request.redirect_uri, request.resource, request.challenge, ends_at_ms
            )
            return (MakeGrant(grant, digest_of(code)),)

        return NewGrant(code, write_for)

    def note_decision(self, *, is_allowed: bool) -> None:
        self._count("allowed" if is_allowed else "denied")

    # Codes and tokens

    async def redeem(
        self, client: OAuthClient, *, code: str, redirect_uri: str, verifier: str, resource: str | None
    ) -> GrantedTokens:
        """Tokens for a code. Raises OAuthRefusal."""
        await self._check_known(digest_of(code))
        access, refresh, now_ms = new_access_token(), first_refresh_token(), self._now_ms()
        exchange = await self._store.write(
            RedeemCode(
                digest_of(code), client.id, redirect_uri, verifier, resource, now_ms,
                digest_of(access), family_digest_of(refresh), digest_of(refresh),
            )
        )  # fmt: skip
        return await self._given(exchange, access, refresh, now_ms, "redeemed")

    async def refresh(self, client: OAuthClient, refresh_token: str, resource: str | None) -> GrantedTokens:
        """Further tokens of a grant, for its refresh token. Raises OAuthRefusal."""
        if not is_refresh_token(refresh_token):
            raise useless()
        await self._check_known(family_digest_of(refresh_token))
        access, refresh, now_ms = new_access_token(), next_refresh_token(refresh_token), self._now_ms()
        exchange = await self._store.write(
            RefreshGrant(
                family_digest_of(refresh_token), digest_of(refresh_token), client.id, resource, now_ms,
                digest_of(access), digest_of(refresh),
            )
        )  # fmt: skip
        return await self._given(exchange, access, refresh, now_ms, "refreshed")

    async def _check_known(self, digest: bytes) -> None:
        """Raises OAuthRefusal for what is nobody's: whoever guesses makes the one that writes do nothing."""
        if await self._store.read(GrantByToken(digest)) is None:
            raise useless()

    async def _given(self, exchange: GrantExchange, access: str, refresh: str, now_ms: int, done: str) -> GrantedTokens:
        grant = exchange.grant
        if exchange.is_replayed:
            await self._keys.revoke(grant.key_id)  # it has ended already; whoever listens hears of it
            self._count("replayed")
            raise useless()
        self._count(done)
        return GrantedTokens(access, (access_ends_at_ms(grant, now_ms) - now_ms) // 1000, refresh)

    async def revoke(self, client: OAuthClient, token: str) -> None:
        """End the grant of a token, of whichever kind; what is no token is none already. Raises OAuthRefusal."""
        digest = family_digest_of(token) if is_refresh_token(token) else digest_of(token)
        grant = await self._store.read(GrantByToken(digest))
        if grant is None:
            return
        if grant.client_id != client.id:
            raise OAuthRefusal("invalid_grant", "This token is another client's.")
        await self._keys.revoke(grant.key_id)
        self._count("revoked")
