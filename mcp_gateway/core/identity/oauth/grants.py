"""Grants: what a person has let a client do. Each is a row of keys, with a code, and tokens of which digests are kept.

A code is good once and a refresh token once; whichever comes a second time ends the grant, since two have it. So that
this is known for as long as a grant lasts, its refresh tokens begin alike, and nothing is kept of those before.
"""

import re
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from mcp_gateway.core.clock import HOUR_MS, MINUTE_MS
from mcp_gateway.core.engine import Read, Write
from mcp_gateway.core.identity.keys import ACCESS_PREFIX, Key, digest_of
from mcp_gateway.core.identity.oauth.refusals import OAuthRefusal

CODE_MS = 2 * MINUTE_MS
ACCESS_MS = HOUR_MS
_CODE_PREFIX = "gwc_"
_REFRESH_PREFIX = "gwr_"
_FAMILY_CHARS = len(_REFRESH_PREFIX) + 22
_REFRESH = re.compile(rf"{_REFRESH_PREFIX}[A-Za-z0-9_-]{{65}}")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


@dataclass(frozen=True, slots=True)
class OAuthGrant:
    """`ends_at_ms` is what the person chose; its key ends with the code until that is redeemed."""

    key_id: str
    client_id: str
    client_name: str
    redirect_uri: str
    resource: str
    challenge: str
    ends_at_ms: int
    is_redeemed: bool = False
    refresh_sha256: bytes | None = None


@dataclass(frozen=True, slots=True)
class MakeGrant(Write[None]):
    """Of a key that was made in the same transaction."""

    grant: OAuthGrant
    code_sha256: bytes


class NewTokens(NamedTuple):
    """What a client is given at once, as it is kept."""

    access_sha256: bytes
    access_ends_at_ms: int
    family_sha256: bytes
    refresh_sha256: bytes


class GrantExchange(NamedTuple):
    """What comes of a code or a refresh token: the grant that goes on, or the one that ended since it came twice."""

    grant: OAuthGrant
    is_replayed: bool = False


@dataclass(frozen=True, slots=True)
class RedeemCode(Write[GrantExchange]):
    """Raises OAuthRefusal for what is not this client's, or not any more."""

    code_sha256: bytes
    client_id: str
    redirect_uri: str
    verifier: str
    resource: str | None
    at_ms: int
    access_sha256: bytes
    family_sha256: bytes
    refresh_sha256: bytes

    def check(self, grant: OAuthGrant, key: Key | None) -> None:
        """Of a code that comes for the first time."""
        _check_standing(grant, key, self.client_id, self.at_ms)
        if grant.redirect_uri != self.redirect_uri:
            raise OAuthRefusal("invalid_grant", "`redirect_uri` is not the one that the code was sent to.")
        if not is_verifier_of(grant.challenge, self.verifier):
            raise OAuthRefusal("invalid_grant", "`code_verifier` is not the one of the code's challenge.")
        _check_resource(grant, self.resource)


@dataclass(frozen=True, slots=True)
class RefreshGrant(Write[GrantExchange]):
    """Raises OAuthRefusal for what is not this client's, or not any more."""

    family_sha256: bytes
    refresh_sha256: bytes
    client_id: str
    resource: str | None
    at_ms: int
    access_sha256: bytes
    next_refresh_sha256: bytes

    def check(self, grant: OAuthGrant, key: Key | None) -> None:
        """Of a refresh token of the grant's, whichever."""
        _check_standing(grant, key, self.client_id, self.at_ms)
        _check_resource(grant, self.resource)


@dataclass(frozen=True, slots=True)
class GrantByToken(Read[OAuthGrant | None]):
    """By the digest of its code, of an access token, or of what its refresh tokens begin with."""

    sha256: bytes


def new_code() -> str:
    return _CODE_PREFIX + secrets.token_urlsafe(32)


def new_access_token() -> str:
    return ACCESS_PREFIX + secrets.token_urlsafe(32)


def first_refresh_token() -> str:
    return next_refresh_token(_REFRESH_PREFIX + secrets.token_urlsafe(16))


def next_refresh_token(before: str) -> str:
    """Another one of the same grant."""
    return before[:_FAMILY_CHARS] + secrets.token_urlsafe(32)


def is_refresh_token(text: str) -> bool:
    return _REFRESH.fullmatch(text) is not None


def family_digest_of(refresh_token: str) -> bytes:
    return digest_of(refresh_token[:_FAMILY_CHARS])


def is_challenge(text: str) -> bool:
    return _CHALLENGE.fullmatch(text) is not None


def is_verifier_of(challenge: str, verifier: str) -> bool:
    """By S256, the one method that is taken (RFC 7636)."""
    if _VERIFIER.fullmatch(verifier) is None:
        return False
    hashed = urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("=")
    return secrets.compare_digest(hashed, challenge)


def access_ends_at_ms(grant: OAuthGrant, at_ms: int) -> int:
    """When a token ends that is made now: no later than its grant."""
    return min(at_ms + ACCESS_MS, grant.ends_at_ms)


def useless() -> OAuthRefusal:
    """Of a code or a token that is none, or not any more."""
    return OAuthRefusal("invalid_grant", "This code or token is not good, or not any more: have the person sign in.")


def _check_standing(grant: OAuthGrant, key: Key | None, client_id: str, at_ms: int) -> None:
    if grant.client_id != client_id or key is None or key.fault_at(at_ms) is not None:
        raise useless()


def _check_resource(grant: OAuthGrant, resource: str | None) -> None:
    if resource is not None and resource != grant.resource:
        raise OAuthRefusal("invalid_target", f"This grant is for {grant.resource} alone.")
