"""What a refusal asks for in `WWW-Authenticate` (RFC 6750): a credential, a better one, or one with a further scope."""

from http import HTTPStatus

from http_api.protected_resources import ProtectedResources
from mcp_gateway.core.caller import SCOPES, Caller
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.wire.whole_answers import Headers

_WITHOUT_TOKEN = ("missing_credentials", "invalid_credentials")
"""Refused for want of a credential, or for a password: no token was wrong."""
_FIRST_SCOPE = "inference"
"""What every tool needs but those that make keys: a client that wants more is told when it does."""


class Challenges:
    """Tells clients where to sign in, at the addresses of the MCP door and only where somebody gives tokens for them.

    Without that no word leads to a place where no authorization server is.
    """

    def __init__(self, resources: ProtectedResources | None) -> None:
        self._resources = resources

    def of(self, error: GatewayError, path: str, caller: Caller | None) -> Headers:
        """The header for a refusal of what was asked at `path`; none where no credential would change it."""
        if error.code == "insufficient_scope":
            needed = error.details.get("scope")
            told = {"error": "insufficient_scope"} | ({} if needed is None else {"scope": _asked_for(needed, caller)})
        elif error.status == HTTPStatus.UNAUTHORIZED:
            told = {} if error.code in _WITHOUT_TOKEN else {"error": "invalid_token"}
        else:
            return []
        url = None if self._resources is None else self._resources.metadata_url_of(path)
        if url is not None:
            if self._resources is not None and _FIRST_SCOPE in self._resources.scopes:
                told.setdefault("scope", _FIRST_SCOPE)
            told["resource_metadata"] = url
        parameters = ", ".join(f'{name}="{value}"' for name, value in ({"realm": "mcp-gateway"} | told).items())
        return [(b"www-authenticate", f"Bearer {parameters}".encode())]


def _asked_for(needed: str, caller: Caller | None) -> str:
    """The scope that is missing, beside those that a token has: a client asks for what it is told, and nothing else."""
    held = caller.scopes if caller is not None and caller.scopes_to_ask_for else ()
    return " ".join(scope for scope in SCOPES if scope == needed or scope in held)
