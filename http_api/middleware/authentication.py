"""Who asks? Answered once for each request, for both doors, before anything else reads it."""

from collections.abc import Awaitable, Callable

from starlette.types import Scope

from http_api.middleware.credentials import credential_of, credentials_of
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.authenticator import Authenticator


class Authentication:
    """Sets the context's caller. No credential is a guest; a wrong one is 401, never a guest, unless a good one is
    beside it.

    Paths that are open (health, metrics, what has its own check) are served to anybody, whatever they send. Where
    guests are switched off, those that need no key are served to guests all the same.
    """

    def __init__(
        self, authenticator: Authenticator, is_open: Callable[[str], bool], needs_no_key: Callable[[str], bool]
    ) -> None:
        self._authenticator = authenticator
        self._is_open = is_open
        self._needs_no_key = needs_no_key

    def __call__(self, scope: Scope, context: RequestContext) -> Awaitable[None] | None:
        """Raises GatewayError (401, 403). To be awaited where a key is shown for the first time, or one of several."""
        if self._is_open(scope["path"]):
            return None
        credential = credential_of(context.sent)
        if credential is None:
            guest = self._authenticator.guest if self._needs_no_key(scope["path"]) else self._authenticator.without_key
            context.caller = guest(context.address)
            return None
        try:
            context.caller = self._authenticator.recall(credential)
        except GatewayError:
            if not credentials_of(scope)[1:]:
                raise
        return None if context.caller is not None else self._try_all(credentials_of(scope), context)

    async def _try_all(self, credentials: list[str], context: RequestContext) -> None:
        refusals: list[GatewayError] = []
        try:
            context.caller = await self._first_good(credentials, refusals)
        finally:
            refusals.clear()  # of which each holds these frames: else they stay until the garbage is collected

    async def _first_good(self, credentials: list[str], refusals: list[GatewayError]) -> Caller:
        """Without a good one, a refusal that tells more than "not known here" is told first."""
        for credential in credentials:
            try:
                return await self._authenticator.identify(credential)
            except GatewayError as refusal:
                refusals.append(refusal)
        if not refusals:
            raise GatewayError("invalid_api_key", "Send the key as `Authorization: Bearer gw_live_...`.")
        raise next((refusal for refusal in refusals if refusal.code != "invalid_api_key"), refusals[0])
