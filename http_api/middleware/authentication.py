"""Who asks? Answered once for each request, for both doors, before anything else reads it."""

from collections.abc import Awaitable, Callable

from starlette.types import Scope

from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.authenticator import Authenticator


class Authentication:
    """Sets the context's caller. No credential is a guest; a wrong one is 401, never a guest.

    Paths that are open (health, metrics, what has its own check) are served to anybody, whatever they send.
    """

    def __init__(self, authenticator: Authenticator, is_open: Callable[[str], bool]) -> None:
        self._authenticator = authenticator
        self._is_open = is_open

    def __call__(self, scope: Scope, context: RequestContext) -> Awaitable[None] | None:
        """Raises GatewayError (401, 403). The look-up of a key that is shown for the first time is to be awaited."""
        if self._is_open(scope["path"]):
            return None
        credential = credential_of(context)
        context.caller = self._authenticator.identify(credential, context.address)
        return self._look_up(credential, context) if context.caller is None and credential is not None else None

    async def _look_up(self, credential: str, context: RequestContext) -> None:
        context.caller = await self._authenticator.look_up(credential)


def credential_of(context: RequestContext) -> str | None:
    """The key in `Authorization: Bearer` or `X-API-Key`; None without either. Raises GatewayError `invalid_api_key`."""
    if (authorization := context.sent.get(b"authorization")) is not None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not (token := token.strip()):
            raise GatewayError("invalid_api_key", "Send the key as `Authorization: Bearer gw_live_...`.")
        return token.decode("latin-1")
    key = context.sent.get(b"x-api-key")
    return None if key is None else key.strip().decode("latin-1")
