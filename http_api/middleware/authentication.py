"""Who asks? Answered once for each request, for both doors, before anything else reads it."""

from collections.abc import Awaitable

from starlette.types import Scope

from http_api.middleware.credentials import credential_of, credentials_of
from http_api.operations import Access, AnyOperation
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.authenticator import Authenticator


class Authentication:
    """Sets the context's caller. No credential is a guest; a wrong one is 401, never a guest, unless a good one is
    beside it; one that counts is 403 from an address that is not of its networks.

    Operations that are open, or have a check of their own, are for anybody, whatever they send. Public ones are for
    guests also where those are switched off.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def __call__(self, scope: Scope, context: RequestContext, operation: AnyOperation) -> Awaitable[None] | None:
        """Raises GatewayError (401, 403). To be awaited where a key is shown for the first time, or one of several."""
        access = operation.access
        if access is Access.OPEN or access is Access.SIGNED:
            return None
        credential = credential_of(context.sent)
        if credential is None:
            guest = self._authenticator.guest if access is Access.PUBLIC else self._authenticator.without_key
            context.caller = guest(context.address)
            return None
        caller = None
        try:
            caller = self._authenticator.recall(credential)
        except GatewayError:
            if not credentials_of(scope)[1:]:
                raise
        if caller is None:
            return self._try_all(credentials_of(scope), context)
        if caller.networks:
            caller.check_address(context.address)
        context.caller = caller
        return None

    async def _try_all(self, credentials: list[str], context: RequestContext) -> None:
        refusals: list[GatewayError] = []
        try:
            caller = await self._first_good(credentials, refusals)
        finally:
            refusals.clear()  # of which each holds these frames: else they stay until the garbage is collected
        caller.check_address(context.address)
        context.caller = caller

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
