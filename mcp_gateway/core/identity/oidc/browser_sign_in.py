"""How a person signs in with a browser at the issuer: by a code, which nobody else can use.

What is needed when the browser comes back stands in a cookie of that browser and nowhere else; the issuer is told
values that follow from it. So an answer that was begun in another browser fits no cookie, nor one that was changed.
Sources: OpenID Connect Core 1.0 (3.1), RFC 6749, RFC 7636 (PKCE), RFC 9207 (the issuer in the answer).
"""

import hashlib
import hmac
import logging
import re
import secrets
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple, Self
from urllib.parse import quote, urlencode

from mcp_gateway.core.clock import MINUTE_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.oidc.issuer import ID_TOKEN_TYPES, Claims, Issuer, IssuerMetadata, issuer_unavailable
from mcp_gateway.core.identity.oidc.issuer_http import IssuerFault
from mcp_gateway.core.oidc_settings import OidcSettings
from mcp_gateway.core.web_address import local_path

logger = logging.getLogger(__name__)

START, CALLBACK = "/auth/oidc/start", "/auth/oidc/callback"
"""Below public_url."""
FLOW_MS = 10 * MINUTE_MS
"""So long may a person take at the issuer."""
_SAFE_IN_PATHS = "/?#[]@!$&'()*+,;=%:-._~"
_HOME = "/console/"
_ERROR = re.compile("[a-z_]{1,50}")


@dataclass(frozen=True, slots=True)
class SignInFlow:
    """A sign-in under way, as the cookie has it: when it began, where the browser goes then, and a secret."""

    written: str
    begun_ms: int
    then: str

    @classmethod
    def begin(cls, then: str, now_ms: int) -> Self:
        path = urlsafe_b64encode(then.encode()).decode()
        return cls(f"{secrets.token_urlsafe(32)}.{now_ms}.{path}", now_ms, then)

    @classmethod
    def read(cls, written: str) -> Self | None:
        """None for what is none; whether it is one of ours, `state` shows."""
        _secret, _, rest = written.partition(".")
        begun, _, path = rest.partition(".")
        try:
            return cls(written, int(begun), urlsafe_b64decode(path).decode())
        except ValueError:
            return None

    @property
    def state(self) -> str:
        return self._derived("state")

    @property
    def nonce(self) -> str:
        return self._derived("nonce")

    @property
    def verifier(self) -> str:
        return self._derived("verifier")

    @property
    def challenge(self) -> str:
        return _text_of(hashlib.sha256(self.verifier.encode()).digest())

    def _derived(self, purpose: str) -> str:
        """By all that the cookie says, the secret in it too: none of these values tells another."""
        return _text_of(hmac.digest(self.written.encode(), purpose.encode(), "sha256"))


class Begun(NamedTuple):
    """Where the browser is sent, and what it keeps until it comes back."""

    address: str
    flow: str


class BroughtBack(NamedTuple):
    """What a browser brings back from the issuer; anybody may have written it."""

    state: str | None
    issuer: str | None
    code: str | None
    error: str | None


class CameBack(NamedTuple):
    """What the issuer says of who has signed in, and where they go now: an address of the gateway."""

    claims: Claims
    address: str


class BrowserSignIn:
    """The client of the issuer that people see."""

    def __init__(
        self,
        settings: OidcSettings,
        issuer: Issuer,
        *,
        client_secret: str | None,
        public_url: str,
        now_ms: Callable[[], int],
    ) -> None:
        self.start_url = public_url + START
        self._settings = settings
        self._issuer = issuer
        self._client_secret = client_secret
        self._public_url = public_url
        self._callback_url = public_url + CALLBACK
        self._now_ms = now_ms

    async def begin(self, then: str) -> Begun:
        """Raises GatewayError `issuer_unavailable`."""
        endpoint = _needed((await self._issuer.metadata()).authorization_endpoint, "authorization_endpoint")
        flow = SignInFlow.begin(local_path(then, _HOME), self._now_ms())
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._callback_url,
            "scope": " ".join(self._settings.scopes),
            "state": flow.state,
            "nonce": flow.nonce,
            "code_challenge": flow.challenge,
            "code_challenge_method": "S256",
        }
        return Begun(f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}", flow.written)

    async def finish(self, kept: str | None, brought: BroughtBack) -> CameBack:
        """Raises GatewayError `sign_in_failed` for what is no good answer to this browser, `issuer_unavailable`."""
        flow = self._flow_of(kept, brought.state)
        metadata = await self._issuer.metadata()
        if brought.issuer != self._issuer.url and (metadata.says_issuer_in_answers or brought.issuer is not None):
            raise self._failed("This answer is not from the issuer that lets people in here.")
        if brought.error is not None:
            raise self._refused_with(brought.error)
        if brought.code is None:
            raise self._failed("The issuer's answer has no code.")
        claims = await self._claims_by(brought.code, flow, metadata)
        path = local_path(flow.then, _HOME)  # whoever can set cookies may have written it
        return CameBack(claims, self._public_url + quote(path, safe=_SAFE_IN_PATHS))

    def _flow_of(self, kept: str | None, state: str | None) -> SignInFlow:
        """The flow that an answer belongs to. Raises GatewayError `sign_in_failed`."""
        flow = None if kept is None else SignInFlow.read(kept)
        if flow is None or state is None or not hmac.compare_digest(flow.state.encode(), state.encode()):
            raise self._failed("This sign-in is not under way in this browser: it was begun elsewhere, or is over.")
        if not 0 <= self._now_ms() - flow.begun_ms < FLOW_MS:
            raise self._failed("This sign-in took too long.")
        return flow

    async def _claims_by(self, code: str, flow: SignInFlow, metadata: IssuerMetadata) -> Claims:
        told = await self._redeem(code, flow, metadata)
        id_token = told.get("id_token")
        if not isinstance(id_token, str):
            logger.error("the issuer's token endpoint gives no id_token; is openid among oidc.scopes?")
            raise issuer_unavailable()
        claims = await self._verified(id_token, flow)
        access_token, endpoint = told.get("access_token"), metadata.userinfo_endpoint
        if self._is_told_all(claims) or endpoint is None or not isinstance(access_token, str):
            return claims
        return _put_together(claims, await self._userinfo(endpoint, access_token, claims["sub"]))

    async def _redeem(self, code: str, flow: SignInFlow, metadata: IssuerMetadata) -> dict[str, object]:
        """What the token endpoint gives for a code. Raises GatewayError."""
        endpoint = _needed(metadata.token_endpoint, "token_endpoint")
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback_url,
            "code_verifier": flow.verifier,
        }
        shown_fields, headers = self._shown_at(metadata.token_auth_methods)
        try:
            status, told = await self._issuer.http.post_form(endpoint, fields | shown_fields, headers)
        except IssuerFault as fault:
            logger.warning("a code could not be redeemed: %s", fault)
            raise issuer_unavailable() from None
        if status == HTTPStatus.OK:
            return told
        error = _error_in(told.get("error"))
        if error == "invalid_grant":
            raise self._failed("The issuer takes its answer for used already, or for too old.")
        logger.error(
            "the issuer's token endpoint answers %d %s: are oidc.client_id and its secret right?", status, error
        )
        raise issuer_unavailable()

    def _shown_at(self, methods: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
        """The fields and headers by which the token endpoint knows the client (RFC 6749, 2.3.1)."""
        client_id, secret = self._settings.client_id, self._client_secret
        if secret is None:
            return {"client_id": client_id}, {}
        if "client_secret_post" in methods and "client_secret_basic" not in methods:
            return {"client_id": client_id, "client_secret": secret}, {}
        both = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
        return {}, {"authorization": f"Basic {b64encode(both.encode()).decode()}"}

    async def _verified(self, id_token: str, flow: SignInFlow) -> Claims:
        client_id = self._settings.client_id
        try:
            claims = (await self._issuer.verify(id_token, audiences=(client_id,), types=ID_TOKEN_TYPES)).claims
        except GatewayError as refusal:
            logger.warning("an ID token is refused: %s", refusal.message)
            raise self._failed("What the issuer says of you cannot be trusted.") from None
        is_for_us = claims.get("azp", client_id) == client_id and (
            claims["aud"] in (client_id, [client_id]) or "azp" in claims
        )
        if not is_for_us or not hmac.compare_digest(str(claims.get("nonce")).encode(), flow.nonce.encode()):
            raise self._failed("What the issuer says is meant for another sign-in.")
        return claims

    def _is_told_all(self, claims: Claims) -> bool:
        """Whether the ID token has what is looked for: many issuers tell e-mail addresses and roles elsewhere alone."""
        wanted = ("email", self._settings.account_claim, self._settings.role_claim)
        return all(name is None or name in claims or name.partition(".")[0] in claims for name in wanted)

    async def _userinfo(self, endpoint: str, access_token: str, subject: str) -> Claims:
        """What the issuer says of the same person elsewhere. Raises GatewayError."""
        try:
            told = await self._issuer.http.get_json(endpoint, {"authorization": f"Bearer {access_token}"})
        except IssuerFault as fault:
            logger.warning("an e-mail address could not be asked for: %s", fault)
            raise issuer_unavailable() from None
        if told.get("sub") != subject:
            raise self._failed("What the issuer says of you is about somebody else.")
        return told

    def _refused_with(self, error: str) -> GatewayError:
        if error == "access_denied":
            return self._failed("The issuer did not let you in, or you refused.")
        logger.warning("the issuer ends a sign-in with %s", _error_in(error))
        return self._failed("The issuer could not sign you in.")

    def _failed(self, why: str) -> GatewayError:
        return GatewayError("sign_in_failed", f"{why} Begin again at {self.start_url}.")


def _put_together(claims: Claims, userinfo: Claims) -> Claims:
    """The ID token first; whether an address is verified, only who tells the address says."""
    teller = claims if "email" in claims else userinfo
    return {**userinfo, **claims, "email_verified": teller.get("email_verified")}


def _needed(endpoint: str | None, name: str) -> str:
    """Raises GatewayError `issuer_unavailable`."""
    if endpoint is None:
        logger.error("the issuer names no %s: nobody can sign in with a browser", name)
        raise issuer_unavailable()
    return endpoint


def _error_in(told: object) -> str:
    """A word of RFC 6749, which alone goes into the log."""
    return told if isinstance(told, str) and _ERROR.fullmatch(told) else "an error"


def _text_of(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
