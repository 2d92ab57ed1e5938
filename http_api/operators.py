"""Who is the operator: whoever has a token of his, or calls from this very machine."""

import hmac
from ipaddress import ip_address

from pydantic import SecretStr
from starlette.types import Scope

from http_api.middleware.authentication import credential_of
from mcp_gateway.core.context import CONTEXT, RequestContext
from mcp_gateway.core.errors import GatewayError

_SPEAKING_FOR_OTHERS = frozenset({
    b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-server",
    b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip", b"origin",
})  # fmt: skip
"""Headers by which a proxy, trusted or not, or a browser says that it speaks for somebody else: a client, a page."""


class Operators:
    """Knows the tokens, none where all are None."""

    def __init__(self, *tokens: SecretStr | None) -> None:
        self._tokens = [token.get_secret_value().encode() for token in tokens if token is not None]

    def has_token(self, context: RequestContext) -> bool:
        """Whether the request carries one of the tokens as its credential."""
        try:
            credential = credential_of(context)
        except GatewayError:
            return False
        sent = (credential or "").encode("latin-1")
        return any(hmac.compare_digest(sent, token) for token in self._tokens)

    def is_here(self, scope: Scope) -> bool:
        """Whether the request comes from loopback, and not for somebody behind a proxy or a page in a browser there."""
        peer = scope["client"]
        return peer is not None and _is_loopback(peer[0]) and not _SPEAKING_FOR_OTHERS & scope[CONTEXT].sent.keys()


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
