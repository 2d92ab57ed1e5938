"""What the claims of a token mean here: who somebody is, in which account, as what, and for which scopes."""

from collections.abc import Sequence
from typing import Any

from mcp_gateway.core.caller import SCOPES, KeyScope, Role
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.emails import canonical_email
from mcp_gateway.core.identity.oidc.identities import Identity, ToldOfUser
from mcp_gateway.core.identity.oidc.issuer import Claims
from mcp_gateway.core.oidc_settings import OidcSettings
from mcp_gateway.core.text import is_one_line

_MOST_SUBJECT_CHARS = 255
"""OpenID Connect Core 1.0, section 2."""
_MOST_VALUE_CHARS = 255


def told_of_user(claims: Claims, settings: OidcSettings) -> ToldOfUser:
    """Of verified claims. Raises GatewayError `invalid_api_key`, `insufficient_permissions`."""
    subject: str = claims["sub"]
    if len(subject) > _MOST_SUBJECT_CHARS or not is_one_line(subject):
        raise GatewayError("invalid_api_key", "This token is refused: `sub` is too long, or no line of text.")
    values = _texts(claims, settings.role_claim)
    return ToldOfUser(
        Identity(claims["iss"], subject),
        int(claims["iat"] * 1000),
        _email_in(claims, settings),
        _account_in(claims, settings),
        None if settings.role_claim is None else _role_of(values, settings),
        not values.isdisjoint(settings.administrators) if settings.administrators else None,
    )


def scopes_in(claims: Claims) -> frozenset[KeyScope] | None:
    """Ours that a token names, as RFC 9068 writes them or as Entra ID and Okta do; None where it names none."""
    named = set[str]()
    for name in ("scope", "scp"):
        value = claims.get(name)
        if isinstance(value, str):
            named.update(value.split())
        elif isinstance(value, list):
            named.update(one for one in value if isinstance(one, str))
    return frozenset(scope for scope in SCOPES if scope in named) or None


def _role_of(values: set[str], settings: OidcSettings) -> Role:
    """The one that may the most."""
    by_role: Sequence[tuple[Role, Sequence[str]]] = (
        ("owner", settings.owners), ("member", settings.members), ("viewer", settings.viewers),
    )  # fmt: skip
    for role, its_values in by_role:
        if not values.isdisjoint(its_values):
            return role
    message = f"Your sign-in has no value of `{settings.role_claim}` that lets anybody in here."
    raise GatewayError("insufficient_permissions", message)


def _email_in(claims: Claims, settings: OidcSettings) -> str | None:
    """One in ASCII: of others, two mailboxes may be written alike."""
    email = claims.get("email")
    if not isinstance(email, str) or not email.isascii():
        return None
    if claims.get("email_verified") is not True and not settings.verifies_emails:
        return None
    try:
        return canonical_email(email)
    except GatewayError:
        return None


def _account_in(claims: Claims, settings: OidcSettings) -> str | None:
    values = _texts(claims, settings.account_claim)
    value = values.pop() if len(values) == 1 else ""
    return value if 0 < len(value) <= _MOST_VALUE_CHARS and is_one_line(value) else None


def _texts(claims: Claims, path: str | None) -> set[str]:
    """What a claim says, one text or several; none where it is not there."""
    value: Any = None
    if path is not None:
        value = claims[path] if path in claims else _walk(claims, path)
    listed = value if isinstance(value, list) else [value]
    return {one for one in listed if isinstance(one, str)}


def _walk(claims: Any, path: str) -> Any:
    value = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
