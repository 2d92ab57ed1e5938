"""Where a person decides whether a program may use their account: who asks, for how long, and for how much money."""

from typing import Any

from http_api.console.forms import Form
from http_api.console.serving import AskedPage, Console, SeeOther, Shown, again, asking
from http_api.oauth import AUTHORIZE_PATH, AuthorizeQuery, ConsentBody, OAuthDoor
from http_api.operations import Access, AnyOperation, Asked
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.oauth.authorization import AuthorizationRequest
from mcp_gateway.core.identity.oauth.server import LedBack
from mcp_gateway.core.ledger.budgets import BUDGET_WINDOWS

CONSENT_PATH = "/console/authorize"
_DAYS = (1, 7, 30, 90, 365)
_DAYS_AT_FIRST = 30
_USD_AT_FIRST = "10"
_WINDOWS = {"5h": "five hours", "day": "day", "week": "week", "month": "month", "total": "all its time"}
_CHOICES = tuple(ConsentBody.model_fields)


class AuthorizePages:
    """What is asked for is read anew at each step, from what the browser brings: nothing is kept in between."""

    def __init__(self, oauth: OAuthDoor) -> None:
        self._oauth = oauth

    def rows(self, console: Console) -> list[AnyOperation]:
        return [
            console.page(AUTHORIZE_PATH, self.begin, access=Access.OPEN, query=AuthorizeQuery),
            console.page(CONSENT_PATH, self.show, query=AuthorizeQuery, scope="manage"),
            console.page(CONSENT_PATH, self.decide, method="POST", scope="manage"),
        ]

    async def begin(self, asked: Asked[AuthorizeQuery, Form]) -> SeeOther:
        """A client is told what is wrong with its request before anybody signs in for it."""
        request = await self._oauth.read(asked, asked.query)
        if isinstance(request, LedBack):
            return SeeOther(request.address)
        return SeeOther(f"{CONSENT_PATH}?{asked.scope['query_string'].decode('latin-1')}")

    async def show(self, asked: Asked[AuthorizeQuery, Form]) -> Shown | SeeOther:
        request = await self._oauth.read(asked, asked.query)
        if isinstance(request, LedBack):
            return SeeOther(request.address)
        return Shown("authorize.html", {**self._values(request, asked.query, Form()), "error": None})

    async def decide(self, asked: AskedPage) -> Shown | SeeOther:
        """The program's address is led to by a page of ours: a browser holds all that follows a form against it."""
        query = asked.body.as_body(AuthorizeQuery)
        request = await self._oauth.read(asked, query)
        if isinstance(request, LedBack):
            return _going_on(request.address)
        if asked.body.get("decision") != "allow":
            return _going_on(self._oauth.deny(request))
        try:
            return _going_on(await self._oauth.allow(asking(asked, asked.body.as_body(ConsentBody)), request))
        except GatewayError as error:
            return again("authorize.html", self._values(request, query, asked.body), error)

    def _values(self, request: AuthorizationRequest, query: AuthorizeQuery, typed: Form) -> dict[str, Any]:
        days = sorted({*(one for one in _DAYS if one <= self._oauth.max_grant_days), self._oauth.max_grant_days})
        return {
            "asks": request,
            "sent": query.model_dump(exclude_none=True),
            "typed": typed,
            "fields": _CHOICES,
            "days": [(str(one), "a day" if one == 1 else f"{one} days") for one in days],
            "days_now": str(min(_DAYS_AT_FIRST, self._oauth.max_grant_days)),
            "usd_now": _USD_AT_FIRST,
            "windows": [(window, _WINDOWS[window]) for window in BUDGET_WINDOWS],
        }


def _going_on(address: str) -> Shown:
    """A page that leads on by itself, and has the address as a link."""
    return Shown("authorized.html", {"address": address}, headers=((b"refresh", f"0; url={address}".encode()),))
