"""Who is the operator: whoever has a token of his, or calls from this very machine."""

import hmac
from ipaddress import ip_address

from pydantic import SecretStr
from starlette.types import Scope

from http_api.middleware.credentials import credentials_of
from mcp_gateway.core.context import CONTEXT
from mcp_gateway.core.identity.address import AddressReader

_OF_PROXIES = frozenset({
    b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-server",
    b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip",
})  # fmt: skip
"""Headers by which a proxy, trusted or not, says that it speaks for somebody else."""


class Operators:
    """Knows the tokens, none where all are None."""

    def __init__(self, addresses: AddressReader, *tokens: SecretStr | None) -> None:
        self._addresses = addresses
        self._tokens = [token.get_secret_value().encode() for token in tokens if token is not None]

    def has_token(self, scope: Scope) -> bool:
        """Whether the request carries one of the tokens as a credential."""
        shown = [credential.encode("latin-1") for credential in credentials_of(scope)]
        return any(hmac.compare_digest(credential, token) for credential in shown for token in self._tokens)

    def is_here(self, scope: Scope) -> bool:
        """Whether the request comes from loopback, and not for somebody behind a proxy or a page in a browser there."""
        peer, sent = scope["client"], scope[CONTEXT].sent
        if peer is None or not _is_loopback(peer[0]):
            return False
        if not _OF_PROXIES.isdisjoint(sent):
            self._addresses.tell_of_stranger(peer[0])
            return False
        return b"origin" not in sent


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
