"""Who asks? Answered once for each request, for both doors, before anything else reads it."""

from collections.abc import Awaitable, Callable

from starlette.types import Scope

from http_api.middleware.cookies import Cookie, check_page, is_no_page_of_others, is_opened_by_link, is_own_page
from http_api.middleware.credentials import credential_of, credentials_of, may_be_several
from http_api.operations import Access, AnyOperation
from mcp_gateway.core.caller import Administrator, Caller
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.authenticator import Authenticator


class Authentication:
    """Sets the context's caller. No credential is a guest; a wrong one is 401, never a guest, unless a good one is
    beside it. Good ones of different accounts are 401, too: nobody knows who is meant. One that counts is 403 from an
    address that is not of its networks.

    Operations that are open, or have a check of their own, are for anybody, whatever they send. Public ones are for
    guests also where those are switched off.
    """

    def __init__(self, authenticator: Authenticator, cookie: Cookie, resource_at: Callable[[str], str | None]) -> None:
        """`resource_at` tells the address by which tokens name what is served at a path, if they may."""
        self._authenticator = authenticator
        self._resource_at = resource_at
        self._cookie = cookie

    def __call__(self, scope: Scope, context: RequestContext, operation: AnyOperation) -> Awaitable[None] | None:
        """Raises GatewayError (401, 403). To be awaited where a key is shown for the first time, or one of several."""
        access, sent = operation.access, context.sent
        credential = credential_of(sent)
        if operation.is_for_people and credential is None:
            check_page(scope["method"], sent)
        if access is Access.OPEN or access is Access.SIGNED:
            return None
        if credential is None:
            return self._without_key(scope, context, operation)
        if may_be_several(scope, sent) and len(several := credentials_of(scope)) > 1:
            return self._try_all(several, scope, context, operation)
        caller = self._authenticator.recall(credential)
        if caller is None:
            return self._try_all(credentials_of(scope), scope, context, operation)
        if caller.is_bound:
            self._check_bounds(caller, scope, context)
        context.caller = caller
        return None

    def _without_key(self, scope: Scope, context: RequestContext, operation: AnyOperation) -> Awaitable[None] | None:
        """Whoever a browser's cookie names, where it is taken; else a guest."""
        is_public = operation.access is Access.PUBLIC
        if b"cookie" in context.sent and (cookie := self._cookie_in(context, operation)) is not None:
            return self._try_cookie(cookie, context, is_public=is_public)
        guest = self._authenticator.guest if is_public else self._authenticator.without_key
        context.caller = guest(context.address)
        return None

    def _cookie_in(self, context: RequestContext, operation: AnyOperation) -> str | None:
        """What is only read for people is also shown to whoever follows a link: an issuer sends them back by one."""
        sent = context.sent
        if operation.is_for_people:
            is_taken = is_no_page_of_others(sent) or (operation.method == "GET" and is_opened_by_link(sent))
        else:
            is_taken = is_own_page(sent)
        return self._cookie.value_in(sent) if is_taken else None

    async def _try_cookie(self, cookie: str, context: RequestContext, *, is_public: bool) -> None:
        """A browser goes on sending what is over: where everybody may ask, its person is a guest then."""
        try:
            context.caller = await self._authenticator.with_cookie(cookie)
        except GatewayError:
            if not is_public:
                raise
            context.caller = self._authenticator.guest(context.address)

    async def _try_all(
        self, credentials: list[str], scope: Scope, context: RequestContext, operation: AnyOperation
    ) -> None:
        refusals: list[GatewayError] = []
        try:
            caller = await self._the_good_one(credentials, context, refusals)
        finally:
            refusals.clear()  # of which each holds these frames: else they stay until the garbage is collected
        _check_place(caller, operation)
        if caller.is_bound:
            self._check_bounds(caller, scope, context)
        context.caller = caller

    def _check_bounds(self, caller: Caller, scope: Scope, context: RequestContext) -> None:
        """Raises GatewayError for an address that it may not ask from, or not ask at."""
        caller.check_address(context.address)
        caller.check_asks_at(self._resource_at(scope["path"]))

    async def _the_good_one(
        self, credentials: list[str], context: RequestContext, refusals: list[GatewayError]
    ) -> Caller:
        """A key before a person; without a good one, a refusal that tells more than "not known here" is told first."""
        good: list[Caller] = []
        for credential in credentials:
            try:
                good.append(await self._authenticator.identify(credential, context.region_refusal))
            except GatewayError as refusal:
                refusals.append(refusal)
        if len({caller.account_id for caller in good}) > 1:
            raise GatewayError("invalid_api_key", "Two credentials of different accounts were sent; send one of them.")
        if good:
            return next((caller for caller in good if caller.key_id is not None), good[0])
        if not refusals:
            raise GatewayError("invalid_api_key", "Send the key as `Authorization: Bearer gw_live_...`.")
        raise next((refusal for refusal in refusals if refusal.code != "invalid_api_key"), refusals[0])


def _check_place(caller: Caller, operation: AnyOperation) -> None:
    """An administrator's key, which belongs to no account, is for the operator's operations and what everybody may ask.

    It is never among the keys that are recalled, so that the others do not pay for this. Raises GatewayError
    `insufficient_permissions`.
    """
    is_at_home = operation.access in (Access.ADMINISTRATOR, Access.PUBLIC) or not operation.is_served
    if isinstance(caller.principal, Administrator) and not is_at_home:
        message = "An administrator's key is for /v1/admin alone; send a key of an account here."
        raise GatewayError("insufficient_permissions", message)
