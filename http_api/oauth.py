"""/oauth: where MCP clients register, are let in by people, and get the tokens that they show at the MCP door.

All that is said of it stands in standards: RFC 6749 with PKCE (7636), 7009, 7591, 8414, 8707, 9207, and the draft on
client ID metadata documents.
"""

import binascii
from base64 import b64decode
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote_plus, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from http_api.operations import Absent, Answered, AnyOperation, Asked, Nothing, Told, page_at_root
from http_api.query import AnyQuery
from http_api.rendering import Shape
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.oauth.authorization import (
    GRANTED_SCOPE,
    AuthorizationParameters,
    AuthorizationRequest,
    check_scope,
)
from mcp_gateway.core.identity.oauth.clients import (
    CLIENT_AUTHS,
    MAX_REDIRECTS,
    ClientAuth,
    OAuthClient,
    is_document_address,
)
from mcp_gateway.core.identity.oauth.grants import CODE_MS
from mcp_gateway.core.identity.oauth.redirects import MAX_REDIRECT_CHARS
from mcp_gateway.core.identity.oauth.refusals import OAuthError, OAuthRefusal, oauth_error_of
from mcp_gateway.core.identity.oauth.server import GrantedTokens, LedBack, OAuthServer
from mcp_gateway.core.ledger.budgets import BudgetWindow
from mcp_gateway.core.minting import MAX_MODELS, Mint, WantedBudget, WantedEnd, WantedKey, budget_amount

AUTHORIZE_PATH = "/oauth/authorize"
REGISTER_PATH = "/oauth/register"
TOKEN_PATH = "/oauth/token"  # noqa: S105 - a path
REVOKE_PATH = "/oauth/revoke"
_WELL_KNOWN = "/.well-known/oauth-authorization-server"
_FOR_ALL_PAGES = ((b"access-control-allow-origin", b"*"), (b"cache-control", b"max-age=300"))
_NOT_STORED = ((b"access-control-allow-origin", b"*"), (b"cache-control", b"no-store"))
_Text = Annotated[str, Field(max_length=2000)]


class OAuthErrorBody(BaseModel):
    """A refusal, as the standards have it."""

    model_config = ConfigDict(extra="allow")

    error: OAuthError
    error_description: str


def _shape(otherwise: OAuthError) -> Shape:
    def wording(error: GatewayError, _context: RequestContext) -> dict[str, Any]:
        return {"error": oauth_error_of(error, otherwise), "error_description": error.message}

    return Shape(wording, OAuthErrorBody)


OAUTH_SHAPE = _shape("invalid_request")
REGISTRATION_SHAPE = _shape("invalid_client_metadata")


class AuthorizationServerObject(Told):
    """Where everything is, and what may be asked for (RFC 8414)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    registration_endpoint: str
    revocation_endpoint: str
    scopes_supported: list[str]
    response_types_supported: list[str]
    response_modes_supported: list[str]
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[ClientAuth]
    revocation_endpoint_auth_methods_supported: list[ClientAuth]
    code_challenge_methods_supported: list[str]
    authorization_response_iss_parameter_supported: bool
    client_id_metadata_document_supported: bool


class ClientBody(BaseModel):
    """What a client says of itself; what is not known here is passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    redirect_uris: Annotated[
        list[Annotated[str, Field(max_length=MAX_REDIRECT_CHARS)]], Field(max_length=MAX_REDIRECTS)
    ]
    client_name: _Text | None = None
    token_endpoint_auth_method: _Text | None = None
    grant_types: Annotated[list[_Text], Field(max_length=20)] | None = None
    response_types: Annotated[list[_Text], Field(max_length=20)] | None = None


class ClientObject(Told):
    """A client that has registered; a secret is told this once."""

    client_id: str
    client_id_issued_at: int
    client_name: str
    redirect_uris: list[str]
    grant_types: list[str]
    response_types: list[str]
    token_endpoint_auth_method: ClientAuth
    scope: str
    client_secret: str | Absent = None
    client_secret_expires_at: int | Absent = None


class AuthorizeQuery(AnyQuery):
    """What a client asks a person for."""

    response_type: _Text | None = None
    client_id: _Text | None = None
    redirect_uri: _Text | None = None
    state: _Text | None = None
    scope: _Text | None = None
    resource: _Text | None = None
    code_challenge: _Text | None = None
    code_challenge_method: _Text | None = None
    request: _Text | None = None
    request_uri: _Text | None = None


class ConsentBody(BaseModel):
    """What a person lets a client do: until when, for how much money in which time, and by which models."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expires_in_days: Annotated[int, Field(ge=1)]
    budget_usd: Annotated[str, Field(max_length=40)] | None = None
    budget_window: BudgetWindow = "month"
    models: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=MAX_MODELS)] | None = None


class TokenBody(BaseModel):
    """A code or a refresh token; what is not known here is passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    grant_type: _Text
    client_id: _Text | None = None
    client_secret: _Text | None = None
    code: _Text | None = None
    redirect_uri: _Text | None = None
    code_verifier: _Text | None = None
    refresh_token: _Text | None = None
    scope: _Text | None = None
    resource: _Text | None = None


class GrantedTokensObject(Told):
    """An access token for the MCP door, and what another one is had for when it has ended."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    refresh_token: str
    scope: str


class RevokeBody(BaseModel):
    """A token of either kind."""

    model_config = ConfigDict(extra="ignore", strict=True)

    token: _Text
    client_id: _Text | None = None
    client_secret: _Text | None = None


class RevokedToken(Told):
    """Nothing is told of a token that is none any more."""


class _SentClient(NamedTuple):
    """How a client says who it is."""

    client_id: str
    secret: str | None
    by: ClientAuth


class OAuthDoor:
    """`max_grant_days` bounds for how long a person may let a client in."""

    def __init__(
        self,
        server: OAuthServer,
        mint: Mint,
        *,
        max_grant_days: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._server = server
        self._mint = mint
        self.max_grant_days = max_grant_days
        self._now_ms = now_ms

    @property
    def metadata_rows(self) -> list[AnyOperation]:
        """At the root, and with the path inserted below which the gateway is."""
        above = urlsplit(self._server.issuer).path
        return [
            page_at_root(
                at,
                f"authorization_server{number or ''}",
                "Tell where clients register, and where people let them in.",
                AuthorizationServerObject,
                self.metadata,
                is_for_all_pages=True,
            )
            for number, at in enumerate(dict.fromkeys((_WELL_KNOWN, _WELL_KNOWN + above)))
        ]

    async def metadata(self, _asked: Asked[AnyQuery, Nothing]) -> Answered[AuthorizationServerObject]:
        issuer = self._server.issuer
        document = AuthorizationServerObject(
            issuer=issuer,
            authorization_endpoint=issuer + AUTHORIZE_PATH,
            token_endpoint=issuer + TOKEN_PATH,
            registration_endpoint=issuer + REGISTER_PATH,
            revocation_endpoint=issuer + REVOKE_PATH,
            scopes_supported=[GRANTED_SCOPE],
            response_types_supported=["code"],
            response_modes_supported=["query"],
            grant_types_supported=["authorization_code", "refresh_token"],
            token_endpoint_auth_methods_supported=list(CLIENT_AUTHS),
            revocation_endpoint_auth_methods_supported=list(CLIENT_AUTHS),
            code_challenge_methods_supported=["S256"],
            authorization_response_iss_parameter_supported=True,
            client_id_metadata_document_supported=True,
        )
        return Answered(document, headers=_FOR_ALL_PAGES)

    async def register(self, asked: Asked[AnyQuery, ClientBody]) -> Answered[ClientObject]:
        told = asked.body
        if "authorization_code" not in (told.grant_types or ("authorization_code",)):
            raise OAuthRefusal("invalid_client_metadata", "`grant_types` must have `authorization_code`.")
        if "code" not in (told.response_types or ("code",)):
            raise OAuthRefusal("invalid_client_metadata", "`response_types` must have `code`.")
        auth, address = _auth_of(told), asked.context.address
        made = await self._server.register(told.client_name or "", told.redirect_uris, auth, address)
        secret: dict[str, Any] = (
            {} if made.secret is None else {"client_secret": made.secret, "client_secret_expires_at": 0}
        )
        client = ClientObject(
            client_id=made.client.id,
            client_id_issued_at=made.registered_at_ms // 1000,
            client_name=made.client.name,
            redirect_uris=list(made.client.redirect_uris),
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            token_endpoint_auth_method=made.client.auth,
            scope=GRANTED_SCOPE,
            **secret,
        )
        return Answered(client, headers=_NOT_STORED)

    async def read(self, asked: Asked[Any, Any], query: AuthorizeQuery) -> AuthorizationRequest | LedBack:
        """What a browser brings. Raises GatewayError where only its reader can be told."""
        told = AuthorizationParameters(
            query.response_type,
            query.state,
            query.scope,
            query.resource,
            query.code_challenge,
            query.code_challenge_method,
            query.request,
            query.request_uri,
        )
        return await self._server.read_request(query.client_id, query.redirect_uri, told, asked.context.address)

    async def allow(self, asked: Asked[Any, ConsentBody], request: AuthorizationRequest) -> str:
        """Make a grant; returns where the browser goes on. Raises GatewayError as Mint.make."""
        chosen, now_ms = asked.body, self._now_ms()
        if chosen.expires_in_days > self.max_grant_days:
            message = f"`expires_in_days` is {self.max_grant_days} at most."
            raise GatewayError("invalid_value", message, param="expires_in_days")
        budgets: tuple[WantedBudget, ...] = ()
        if chosen.budget_usd:
            budgets = (WantedBudget(budget_amount(chosen.budget_usd, "budget_usd"), chosen.budget_window),)
        grant = self._server.new_grant(request, now_ms + chosen.expires_in_days * DAY_MS)
        wanted = WantedKey(
            name=request.client.name,
            scopes=(GRANTED_SCOPE,),
            end=WantedEnd(now_ms + CODE_MS, "expires_in_days"),  # until the code is redeemed
            models=chosen.models or None,
            budgets=budgets,
        )
        await self._mint.make(asked.caller, wanted, lambda _key, _budgets: None, grant.write_for)
        self._server.note_decision(is_allowed=True)
        return request.answered(grant.code)

    def deny(self, request: AuthorizationRequest) -> str:
        """Returns where the browser goes on."""
        self._server.note_decision(is_allowed=False)
        return request.refused("access_denied", "The person did not let this client in.")

    async def token(self, asked: Asked[AnyQuery, TokenBody]) -> Answered[GrantedTokensObject]:
        body = asked.body
        client = await self._client_of(asked, body)
        check_scope(body.scope)
        if body.grant_type == "authorization_code":
            given = await self._redeemed(client, body)
        elif body.grant_type == "refresh_token":
            given = await self._server.refresh(client, _needed(body, "refresh_token"), body.resource)
        else:
            message = "`grant_type` must be `authorization_code` or `refresh_token`."
            raise OAuthRefusal("unsupported_grant_type", message)
        tokens = GrantedTokensObject(
            access_token=given.access_token,
            token_type="Bearer",  # noqa: S106 - a kind of token
            expires_in=given.expires_in_s,
            refresh_token=given.refresh_token,
            scope=GRANTED_SCOPE,
        )
        return Answered(tokens, headers=_NOT_STORED)

    async def _redeemed(self, client: OAuthClient, body: TokenBody) -> GrantedTokens:
        return await self._server.redeem(
            client,
            code=_needed(body, "code"),
            redirect_uri=_needed(body, "redirect_uri"),
            verifier=_needed(body, "code_verifier"),
            resource=body.resource,
        )

    async def revoke(self, asked: Asked[AnyQuery, RevokeBody]) -> Answered[RevokedToken]:
        client = await self._client_of(asked, asked.body)
        await self._server.revoke(client, asked.body.token)
        return Answered(RevokedToken(), headers=_NOT_STORED)

    async def _client_of(self, asked: Asked[Any, Any], body: TokenBody | RevokeBody) -> OAuthClient:
        """Raises OAuthRefusal `invalid_client`.

        One with a document shows nothing, so that nobody asks for that again: what it has is told by its address.
        """
        sent = _client_in(asked, body)
        if is_document_address(sent.client_id):
            client = OAuthClient(sent.client_id, "", ())
        else:
            client = await self._server.registered(sent.client_id)
        client.check_secret(sent.secret, sent.by)
        return client


def _auth_of(told: ClientBody) -> ClientAuth:
    """Raises OAuthRefusal for what is not known here. Who says nothing gets no secret: most could not keep it."""
    wanted = told.token_endpoint_auth_method or "none"
    auth = next((auth for auth in CLIENT_AUTHS if auth == wanted), None)
    if auth is None:
        message = f"`token_endpoint_auth_method` must be one of {', '.join(CLIENT_AUTHS)}."
        raise OAuthRefusal("invalid_client_metadata", message)
    return auth


def _client_in(asked: Asked[Any, Any], body: TokenBody | RevokeBody) -> _SentClient:
    """In the form, or in `Authorization: Basic`, and not in both."""
    scheme, _, value = asked.context.sent.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        if body.client_id is None:
            raise OAuthRefusal("invalid_client", "`client_id` is missing.")
        by: ClientAuth = "none" if body.client_secret is None else "client_secret_post"
        return _SentClient(body.client_id, body.client_secret, by)
    try:
        name, colon, secret = b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        name, colon, secret = "", "", ""
    client_id = unquote_plus(name)
    if not colon or body.client_secret is not None or body.client_id not in (None, client_id):
        raise OAuthRefusal("invalid_client", "Send the client's id and secret once, as Basic or in the form.")
    return _SentClient(client_id, unquote_plus(secret), "client_secret_basic")


def _needed(body: TokenBody, name: str) -> str:
    """Raises GatewayError `missing_parameter`."""
    value: str | None = getattr(body, name)
    if value is None:
        raise GatewayError("missing_parameter", f"`{name}` is missing.", param=name)
    return value
