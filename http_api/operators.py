"""Who is the operator: whoever has a token of his, or calls from this very machine."""

import hmac
from ipaddress import ip_address

from pydantic import SecretStr
from starlette.types import Scope

from http_api.middleware.credentials import credentials_of
from mcp_gateway.core.context import CONTEXT

_SPEAKING_FOR_OTHERS = frozenset({
    b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-server",
    b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip", b"origin",
})  # fmt: skip
"""Headers by which a proxy, trusted or not, or a browser says that it speaks for somebody else: a client, a page."""


class Operators:
    """Knows the tokens, none where all are None."""

    def __init__(self, *tokens: SecretStr | None) -> None:
        self._tokens = [token.get_secret_value().encode() for token in tokens if token is not None]

    def has_token(self, scope: Scope) -> bool:
        """Whether the request carries one of the tokens as a credential."""
        shown = [credential.encode("latin-1") for credential in credentials_of(scope)]
        return any(hmac.compare_digest(credential, token) for credential in shown for token in self._tokens)

    def is_here(self, scope: Scope) -> bool:
        """Whether the request comes from loopback, and not for somebody behind a proxy or a page in a browser there."""
        peer = scope["client"]
        return peer is not None and _is_loopback(peer[0]) and not _SPEAKING_FOR_OTHERS & scope[CONTEXT].sent.keys()


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
