"""What a client asks a person for, as a browser brings it: read as a value, or refused where it may be told."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from mcp_gateway.core.caller import KeyScope
from mcp_gateway.core.identity.oauth.clients import OAuthClient
from mcp_gateway.core.identity.oauth.grants import is_challenge
from mcp_gateway.core.identity.oauth.redirects import host_of, is_on_this_computer, with_answer
from mcp_gateway.core.identity.oauth.refusals import OAuthError, OAuthRefusal

GRANTED_SCOPE: KeyScope = "inference"
"""All that a client is ever let in for."""


class AuthorizationParameters(NamedTuple):
    """As they were sent; a client's id and its address are read before any of these."""

    response_type: str | None
    state: str | None
    scope: str | None
    resource: str | None
    code_challenge: str | None
    code_challenge_method: str | None
    request: str | None = None
    request_uri: str | None = None


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A client that is who it says, as far as anybody knows, and what it asks for."""

    client: OAuthClient
    redirect_uri: str
    state: str | None
    resource: str
    challenge: str
    issuer: str

    @property
    def host(self) -> str:
        return host_of(self.redirect_uri)

    @property
    def is_on_this_computer(self) -> bool:
        return is_on_this_computer(self.redirect_uri)

    def answered(self, code: str) -> str:
        """Where a browser goes on with a code."""
        return with_answer(self.redirect_uri, {"code": code, "state": self.state, "iss": self.issuer})

    def refused(self, error: OAuthError, message: str) -> str:
        return refusal_address(self.redirect_uri, self.state, self.issuer, OAuthRefusal(error, message))


def refusal_address(redirect_uri: str, state: str | None, issuer: str, refusal: OAuthRefusal) -> str:
    """Where a browser goes on with a refusal (RFC 9207: with who refuses)."""
    answer = {"error": refusal.error, "error_description": refusal.message, "state": state, "iss": issuer}
    return with_answer(redirect_uri, answer)


def check_parameters(told: AuthorizationParameters, resources: Collection[str]) -> None:
    """Raises OAuthRefusal, which the client is told."""
    if told.request is not None or told.request_uri is not None:
        raise OAuthRefusal("invalid_request", "Requests are sent as parameters here, and no other way.")
    if told.response_type != "code":
        raise OAuthRefusal("unsupported_response_type", "`response_type` must be `code`.")
    if told.code_challenge is None or told.code_challenge_method != "S256":
        raise OAuthRefusal("invalid_request", "Send `code_challenge`, with `code_challenge_method` S256 (PKCE).")
    if not is_challenge(told.code_challenge):
        raise OAuthRefusal("invalid_request", "`code_challenge` must be 43 characters of base64url.")
    check_scope(told.scope)
    if told.resource is not None and told.resource not in resources:
        raise OAuthRefusal("invalid_target", "`resource` must be an address of the MCP door, to the last character.")


def check_scope(scope: str | None) -> None:
    """Raises OAuthRefusal `invalid_scope` for some that lack the one there is; of others nothing is given."""
    if scope is not None and GRANTED_SCOPE not in scope.split(" "):
        raise OAuthRefusal("invalid_scope", f"There is the scope `{GRANTED_SCOPE}`.")
