"""What clients of the authorization server are refused with, in the words of its standards (RFC 6749, 7591, 8707)."""

from typing import Literal

from mcp_gateway.core.errors import Code, GatewayError

OAuthError = Literal[
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unsupported_grant_type",
    "unsupported_response_type",
    "invalid_scope",
    "invalid_target",
    "access_denied",
    "invalid_redirect_uri",
    "invalid_client_metadata",
    "temporarily_unavailable",
    "server_error",
]
_CODES: dict[OAuthError, Code] = {"invalid_client": "invalid_credentials", "temporarily_unavailable": "overloaded"}
"""All others are `invalid_value`."""


class OAuthRefusal(GatewayError):
    """`error` is the standards' word for it."""

    def __init__(self, error: OAuthError, message: str) -> None:
        super().__init__(_CODES.get(error, "invalid_value"), message)
        self.error = error


def oauth_error_of(refusal: GatewayError, otherwise: OAuthError) -> OAuthError:
    """The word for a refusal; `otherwise` for what is wrong with the request itself."""
    if isinstance(refusal, OAuthRefusal):
        return refusal.error
    if refusal.status in (429, 503):
        return "temporarily_unavailable"
    return otherwise if refusal.status < 500 else "server_error"  # noqa: PLR2004 - of HTTP
