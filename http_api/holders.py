"""Who may read an account: the holder of one of its keys, counted as one listing request."""

from starlette.requests import Request

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import CONTEXT
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.limiter import Limiter


def key_holder(request: Request, limiter: Limiter) -> Caller:
    """The caller. Raises GatewayError 401 for a guest, since guests share an account, and 429 beyond the limit."""
    caller: Caller = request.scope[CONTEXT].caller
    if caller.is_guest:
        raise GatewayError("missing_credentials", "Send an API key: this belongs to an account.")
    limiter.count_listing(caller)
    return caller


def balance_reader(request: Request, limiter: Limiter) -> Caller:
    """As `key_holder`. Raises GatewayError `insufficient_scope` for a test key: it is made for others to try with."""
    caller = key_holder(request, limiter)
    if caller.is_test:
        message = "A test key, which is never billed, is not shown the balance; a live key with `inference` is."
        raise GatewayError("insufficient_scope", message)
    return caller
