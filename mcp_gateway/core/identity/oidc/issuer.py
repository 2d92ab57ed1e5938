"""One issuer: what it says of itself, the keys that it signs by, and whether a token is one of its own.

Both are read every few minutes, whether anybody asks or not. What is known stays while it cannot be reached.
Sources: OpenID Connect Core 1.0 and Discovery 1.0, RFC 7519, RFC 8725, RFC 9068.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

from mcp_gateway.core.clock import MINUTE_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.oidc.issuer_http import IssuerFault, IssuerHttp, Json
from mcp_gateway.core.identity.oidc.issuer_keys import IssuerKey, keys_in
from mcp_gateway.core.text import shown
from mcp_gateway.core.web_address import is_private, is_web_address

logger = logging.getLogger(__name__)

Claims = Mapping[str, Any]

_DISCOVERY = "/.well-known/openid-configuration"
_READ_EVERY_S = 300.0
_RETRY_EVERY_S = 15.0
_UNKNOWN_EVERY_MS = 10_000
"""So often at most are keys read because a token names one that is not known; other readings do not count."""
_LEEWAY_MS = MINUTE_MS
"""How far the clocks of both sides may differ."""
_MOST_CHARS = 16 * 1024
ACCESS_TOKEN_TYPES = frozenset({"", "jwt", "at+jwt"})
"""What a token for access may call itself in its head; most issuers say no more than that it is a token."""
AT_JWT_ONLY = frozenset({"at+jwt"})
ID_TOKEN_TYPES = frozenset({"", "jwt"})
_CHECKED: Any = {
    "require": ["exp", "iat", "sub", "aud", "iss"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}
"""By PyJWT, which has a clock of its own; times are compared with ours."""


class IssuerMetadata(NamedTuple):
    """What an issuer says of itself, as far as it is used here."""

    jwks_uri: str
    authorization_endpoint: str | None
    token_endpoint: str | None
    userinfo_endpoint: str | None
    token_auth_methods: tuple[str, ...]
    """How a client may show who it is at the token endpoint."""
    says_issuer_in_answers: bool
    """Whether what a browser brings back names the issuer (RFC 9207)."""


class Verified(NamedTuple):
    """What a good token says, the key that it was signed by, and when it is good no more."""

    claims: Claims
    key: IssuerKey
    expires_at_ms: int


class Issuer:
    """Asked by whoever is shown a token; `watch` keeps up with it."""

    def __init__(self, url: str, http: IssuerHttp, *, now_ms: Callable[[], int]) -> None:
        self.url = url
        self.http = http
        self._now_ms = now_ms
        self._metadata: IssuerMetadata | None = None
        self._keys: Mapping[str | None, IssuerKey] = {}
        self._is_reached: bool | None = None
        """Whether the last reading went well; None before the first."""
        self._asked_at_ms = -_UNKNOWN_EVERY_MS
        """When keys were read last because one was not known."""
        self._reading: asyncio.Task[bool] | None = None
        self._on_withdrawn: list[Callable[[], None]] = []

    def on_withdrawn(self, listener: Callable[[], None]) -> None:
        """Call `listener` each time that keys are good no more."""
        self._on_withdrawn.append(listener)

    def stands_by(self, key: IssuerKey) -> bool:
        """Whether a key is still one of its own."""
        return self._keys.get(key.id) is key

    async def metadata(self) -> IssuerMetadata:
        """What it says of itself. Raises GatewayError `issuer_unavailable` where that was never read."""
        if self._metadata is None:
            await self._read_for_unknown()
        if self._metadata is None:
            raise issuer_unavailable()
        return self._metadata

    async def verify(self, token: str, *, audiences: Collection[str], types: Collection[str]) -> Verified:
        """What a token says that is signed by this issuer, for one of `audiences`, of one of `types`, and good now.

        Raises GatewayError `invalid_api_key`, `expired_session`, `issuer_unavailable`.
        """
        import jwt  # noqa: PLC0415 - takes 0.1 s to import

        key = await self._key_of(token, types)
        try:
            claims = jwt.decode(
                token,
                key.public_key,
                algorithms=list(key.algorithms),
                audience=list(audiences),
                issuer=self.url,
                options=_CHECKED,
            )
        except jwt.InvalidAudienceError:
            raise _refused("it is not for this gateway: `aud` names somebody else") from None
        except jwt.InvalidIssuerError:
            raise _refused(f"`iss` is not {self.url}") from None
        except jwt.MissingRequiredClaimError as error:
            raise _refused(f"it has no `{error.claim}`") from None
        except (jwt.PyJWTError, ValueError):
            raise _refused("its signature or what it says is wrong") from None
        return Verified(claims, key, self._end_of(claims))

    async def read(self) -> bool:
        """Read all that it says anew; whether that went well."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._is_read())
            self._reading.add_done_callback(self._end_reading)
        return await asyncio.shield(self._reading)

    async def watch(self) -> None:
        """Keep up with it, until cancelled."""
        while True:
            is_read = await self.read()
            await asyncio.sleep(_READ_EVERY_S if is_read else _RETRY_EVERY_S)

    def _end_of(self, claims: Claims) -> int:
        """When it is good no more. Raises GatewayError."""
        now_ms = self._now_ms()
        ends_ms, issued_ms = _time_ms(claims, "exp"), _time_ms(claims, "iat")
        begins_ms = max(issued_ms, _time_ms(claims, "nbf") if "nbf" in claims else 0)
        if begins_ms - _LEEWAY_MS > now_ms:
            raise _refused("it is not good yet")
        if ends_ms + _LEEWAY_MS <= now_ms:
            raise GatewayError("expired_session", "This token has expired; get another where this one is from.")
        if not claims["sub"]:
            raise _refused("`sub` is empty")
        return ends_ms + _LEEWAY_MS

    async def _key_of(self, token: str, types: Collection[str]) -> IssuerKey:
        """By the id in the token's head, of which nothing else is believed. Raises GatewayError."""
        import jwt  # noqa: PLC0415 - takes 0.1 s to import

        if len(token) > _MOST_CHARS:
            raise _refused("it is too long")
        try:
            head = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError):
            raise _refused("it cannot be read") from None
        kind, key_id = head.get("typ", ""), head.get("kid")
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in types:
            raise _refused("its `typ` is not one for this")
        if (key := self._known(key_id)) is None:
            if self._reading is not None:
                await self.read()
            if (key := self._known(key_id)) is None:
                await self._read_for_unknown()
                key = self._known(key_id)
        if key is None:
            raise issuer_unavailable() if self._metadata is None else _refused("its key is not one of the issuer's")
        return key

    def _known(self, key_id: str | None) -> IssuerKey | None:
        """A token that names no key is signed by the only one."""
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _read_for_unknown(self) -> None:
        """Unless that was done lately; who comes while it is done waits for it. The first that goes well is none."""
        if self._reading is not None:
            await self.read()
        elif self._now_ms() - self._asked_at_ms >= _UNKNOWN_EVERY_MS:
            is_first, before_ms, self._asked_at_ms = self._metadata is None, self._asked_at_ms, self._now_ms()
            if await self.read() and is_first:
                self._asked_at_ms = before_ms

    def _end_reading(self, _: asyncio.Task[bool]) -> None:
        self._reading = None

    async def _is_read(self) -> bool:
        try:
            metadata = _metadata_in(await self.http.get_json(self.url.rstrip("/") + _DISCOVERY), self.url)
            keys = keys_in(await self.http.get_json(metadata.jwks_uri), self._keys)
        except (IssuerFault, ValueError) as fault:
            if self._is_reached is not False:
                logger.warning("the issuer %s: %s; what is known of it goes on", shown(self.url), fault)
            self._is_reached = False
            return False
        if self._is_reached is False:
            logger.info("the issuer %s answers again", shown(self.url))
        if not keys:
            logger.warning("the issuer %s has no key that can be used: no token of its is good", shown(self.url))
        before, self._metadata, self._keys, self._is_reached = self._keys, metadata, keys, True
        if any(keys.get(key_id) is not key for key_id, key in before.items()):
            for listener in self._on_withdrawn:
                listener()
        return True


def issuer_unavailable() -> GatewayError:
    return GatewayError(
        "issuer_unavailable", "The issuer that lets people in here cannot be reached; try again shortly."
    )


def _metadata_in(told: Json, url: str) -> IssuerMetadata:
    """Raises ValueError for what is none, or that of another issuer."""
    if told.get("issuer") != url:
        raise ValueError(f"calls itself {shown(str(told.get('issuer')))}, which must be what oidc.issuer says")
    read = partial(_address_in, told, needs_https=url.startswith("https:"))
    jwks_uri = read("jwks_uri")
    if jwks_uri is None:
        raise ValueError("names no jwks_uri")
    methods = told.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return IssuerMetadata(
        jwks_uri,
        read("authorization_endpoint"),
        read("token_endpoint"),
        read("userinfo_endpoint"),
        tuple(str(one) for one in methods) if isinstance(methods, list) else (),
        told.get("authorization_response_iss_parameter_supported") is True,
    )


def _address_in(told: Json, name: str, *, needs_https: bool) -> str | None:
    """Raises ValueError for one that can be read on the way, or that an issuer elsewhere names on this machine."""
    address = told.get(name)
    if address is None:
        return None
    if (
        isinstance(address, str)
        and is_web_address(address)
        and is_private(address)
        and (address.startswith("https:") or not needs_https)
    ):
        return address
    raise ValueError(f"its {name} is no https address")


def _time_ms(claims: Claims, name: str) -> int:
    """Raises GatewayError for what is no time."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:  # noqa: PLR2004 - far off
        raise _refused(f"`{name}` is no time")
    return int(value * 1000)


def _refused(reason: str) -> GatewayError:
    return GatewayError("invalid_api_key", f"This token is refused: {reason}.")
