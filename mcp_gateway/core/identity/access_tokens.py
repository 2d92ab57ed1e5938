"""The tokens (JWT, RFC 9068) that people's programs show: signed here by keys that rotate, good for minutes.

Knows no session: whether the one that a token names still stands is looked up by whoever reads it.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import Announcement, DatabaseError, Engine, Read, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.shared_reads import SharedReads

TOKEN_PREFIX = "eyJ"  # noqa: S105 - what a JSON object in base64url begins with
_ALGORITHM = "HS256"
_TYPE = "at+jwt"
_MOST_CHARS = 4096
_SIGNS_FOR_MS = 7 * DAY_MS
_MADE_AHEAD_MS = DAY_MS
"""So that every server knows a key long before it signs."""
_READ_AGAIN_MS = 10_000
"""Tokens with keys that nobody knows have the keys read again so often at most, unless another server has made one."""
_SECRET_BYTES = 32
_CHECKED: Any = {"require": ["exp", "sub", "sid"], "verify_exp": False, "verify_iat": False, "verify_nbf": False}
"""By PyJWT, which has a clock of its own; times are compared with ours."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    id: str
    secret: bytes
    active_from_ms: int
    retired_at_ms: int


@dataclass(frozen=True, slots=True)
class MakeSigningKey(Write[None]):
    """Unless there is one already that signs from then on or later; those that retired before a time go."""

    key: SigningKey
    forgotten_before_ms: int


@dataclass(frozen=True, slots=True)
class AllSigningKeys(Read[list[SigningKey]]):
    """The one that signs last, last."""


@dataclass(frozen=True, slots=True)
class SigningKeyMade(Announcement):
    """Another server signs with a key that may not be known here: the first of all, where none was made ahead."""

    word: ClassVar[str] = "signing_key"


class TokenClaims(NamedTuple):
    """What a good token says."""

    user_id: str
    session_id: str
    expires_at_ms: int


class AccessTokens:
    """Makes tokens and reads them."""

    def __init__(
        self,
        store: Engine,
        *,
        issuer: str,
        lifetime_ms: int,
        new_id: Callable[[str], str],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._issuer = issuer
        self.lifetime_ms = lifetime_ms
        self._new_id = new_id
        self._now_ms = now_ms
        self._keys: Mapping[str, SigningKey] = {}
        self._read_at_ms = -_READ_AGAIN_MS
        """When they were read last; what fails is none."""
        self._reads = SharedReads[bool]()
        store.listen(SigningKeyMade, lambda _: self._expect_another())
        store.on_unheard(self._expect_another)

    async def make(self, user_id: str, session_id: str, scopes: str) -> str:
        """A token that names a session."""
        import jwt  # noqa: PLC0415 - takes 0.1 s to import

        now_ms = self._now_ms()
        key = await self._signing_key(now_ms)
        claims = {
            "iss": self._issuer, "aud": self._issuer, "sub": user_id, "sid": session_id, "scope": scopes,
            "iat": now_ms // 1000, "exp": (now_ms + self.lifetime_ms) // 1000,
        }  # fmt: skip
        return jwt.encode(claims, key.secret, algorithm=_ALGORITHM, headers={"kid": key.id, "typ": _TYPE})

    async def read(self, token: str) -> TokenClaims:
        """Raises GatewayError `invalid_api_key` for one that is not ours, `expired_session` for one that is over."""
        import jwt  # noqa: PLC0415 - takes 0.1 s to import

        key = await self._key_of(token)
        try:
            claims = jwt.decode(
                token,
                key.secret,
                algorithms=[_ALGORITHM],
                audience=self._issuer,
                issuer=self._issuer,
                options=_CHECKED,
            )
        except (jwt.PyJWTError, ValueError):
            raise _not_ours() from None
        return self._told(claims)

    def _expect_another(self) -> None:
        """Have the keys read again as soon as a token has one that is not known."""
        self._read_at_ms = -_READ_AGAIN_MS

    def _told(self, claims: Mapping[str, Any]) -> TokenClaims:
        """What only our key can have signed is as we wrote it."""
        expires_at_ms = claims["exp"] * 1000
        if expires_at_ms <= self._now_ms():
            raise GatewayError("expired_session", "This token has expired: have another made, or sign in again.")
        return TokenClaims(claims["sub"], claims["sid"], expires_at_ms)

    async def _key_of(self, token: str) -> SigningKey:
        """By the id in the token's head, of which nothing else is believed."""
        import jwt  # noqa: PLC0415 - takes 0.1 s to import

        if len(token) > _MOST_CHARS:
            raise _not_ours()
        try:
            head = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError):
            raise _not_ours() from None
        key_id = head.get("kid")
        if head.get("typ") != _TYPE or head.get("alg") != _ALGORITHM or not isinstance(key_id, str):
            raise _not_ours()
        now_ms = self._now_ms()
        if key_id not in self._keys:
            await self._read_again(now_ms)
        key = self._keys.get(key_id)
        if key is None or key.retired_at_ms + self.lifetime_ms <= now_ms:
            raise _not_ours()
        return key

    async def _signing_key(self, now_ms: int) -> SigningKey:
        """The one that signs now; the next is made a day before it retires."""
        if not any(key.retired_at_ms > now_ms + _MADE_AHEAD_MS for key in self._keys.values()):
            await self._read(now_ms)
            await self._make_missing(now_ms)
        signing = [key for key in self._keys.values() if key.active_from_ms <= now_ms < key.retired_at_ms]
        return max(signing or self._keys.values(), key=lambda key: key.active_from_ms)  # a clock may be set back

    async def _make_missing(self, now_ms: int) -> None:
        """One that signs from now on where none does, and one that does so when that retires soon."""
        last_end_ms = max((key.retired_at_ms for key in self._keys.values()), default=0)
        if last_end_ms > now_ms + _MADE_AHEAD_MS:
            return
        starts_at_ms = max(last_end_ms, now_ms)
        secret = secrets.token_bytes(_SECRET_BYTES)
        key = SigningKey(self._new_id("sgn"), secret, starts_at_ms, starts_at_ms + _SIGNS_FOR_MS)
        await self._store.write(MakeSigningKey(key, now_ms - self.lifetime_ms))
        await self._read(now_ms)

    async def _read_again(self, now_ms: int) -> None:
        """Unless they were lately. Who comes while they are read waits for that, whoever began it and may have left.

        Raises GatewayError `ledger_unavailable`.
        """
        if now_ms - self._read_at_ms < _READ_AGAIN_MS:
            return
        if not await self._reads.of("keys", lambda: self._is_read(now_ms)):
            raise _unreadable()

    async def _read(self, now_ms: int) -> None:
        """What is written by now is among them. Raises GatewayError `ledger_unavailable`."""
        if not await self._is_read(now_ms):
            raise _unreadable()

    async def _is_read(self, now_ms: int) -> bool:
        """False where they cannot be. None that is known goes before its time: an older read may come after a newer."""
        try:
            found = await self._store.read(AllSigningKeys())
        except DatabaseError:
            return False
        known = (*self._keys.values(), *found)
        self._keys = {key.id: key for key in known if key.retired_at_ms + self.lifetime_ms > now_ms}
        self._read_at_ms = now_ms
        return True


def _unreadable() -> GatewayError:
    message = "The gateway cannot read what it signs tokens with; try again shortly."
    return GatewayError("ledger_unavailable", message)


def _not_ours() -> GatewayError:
    return GatewayError("invalid_api_key", "This token is not of this gateway.")
