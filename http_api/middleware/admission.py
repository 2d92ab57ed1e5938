"""May this caller ask for this operation, and what does it count? The operation's row tells."""

from collections.abc import Awaitable

from starlette.types import Scope

from http_api.operations import Access, AnyOperation, Counts
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.limiter import Limiter

_KNOWN = (Access.HOLDER, Access.LIVE_HOLDER, Access.ACCOUNT_HOLDER, Access.PERSON, Access.ADMINISTRATOR)
"""Where no guest may ask."""


class Admission:
    """Compares the caller with the operation's access and scope, and counts queries."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def __call__(self, scope: Scope, context: RequestContext, operation: AnyOperation) -> Awaitable[None] | None:
        """Raises GatewayError (401, 403, 429)."""
        caller = context.caller
        if caller is None:
            return None
        if operation.scope is not None:
            caller.check_scope(operation.scope)
        _check_access(caller, operation.access)
        if operation.counts is Counts.QUERY:
            return self._limiter.count_listing(caller)
        return None


def _check_access(caller: Caller, access: Access) -> None:
    if access is Access.ANYONE or access not in _KNOWN:
        return
    if access is Access.PERSON:
        _ = caller.user
        return
    if access is Access.ADMINISTRATOR:
        caller.check_is_administrator()
        return
    if caller.is_guest:
        raise GatewayError("missing_credentials", "Send an API key or a token: this is not for guests.")
    if access is Access.LIVE_HOLDER and caller.is_test:
        message = "A test key, which is never billed, is not shown the balance; a live key with `inference` is."
        raise GatewayError("insufficient_scope", message)
    if access is Access.ACCOUNT_HOLDER and caller.is_minted:
        message = "A key that a key has made with a budget sees itself alone: ask with another key of its account."
        raise GatewayError("insufficient_scope", message)
