"""An empty wallet's way out: the client asks its person, where it can, and the error says what came of it.

A client that opens pages shows the one to top up at; one that has forms alone asks for an amount, and the error has a
link to pay at. Source: elicitation in MCP since 2025-06-18 (a request to the client; pages since 2025-11-25), and in
2026-07-28 (an input that the result requires).
"""

from dataclasses import dataclass
from typing import Any

from mcp import MCPError, types
from mcp.server import ServerRequestContext
from mcp.types.version import is_version_at_least

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import NANO_PER_USD, format_usd
from mcp_gateway.core.payments.checkout import WantedCheckout
from mcp_gateway.core.payments.payments import Payments
from mcp_gateway.core.payments.topup_terms import TopupTerms

ASKING = "Waiting for the person, who is asked to top up."
_ASK = "topup"
_PAGE_MESSAGE = "The wallet does not cover this request. Top it up on this page; then the request can be sent again."
_FORM_MESSAGE = "The wallet does not cover this request. How much do you want to top up? A link to pay at comes next."
_AGAIN = "send the same call again when they say that they have paid."
_AMOUNT = "amount_usd"
_FORMS_SINCE = "2025-06-18"
_PAGES_SINCE = "2025-11-25"
_INPUT_REQUIRED_SINCE = "2026-07-28"

Context = ServerRequestContext[Any, Any]
Question = types.ElicitRequestURLParams | types.ElicitRequestFormParams


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model is told came of it; `url`, where there is another one to pay at than the error's own."""

    advice: str
    url: str | None = None


_OF_PAGES = {
    "accept": f"The page to top up at was offered to the person, who agreed to open it: {_AGAIN}",
    "decline": "The page to top up at was offered to the person, who declined.",
    "cancel": "The page to top up at was offered to the person, who did not answer.",
}
_OF_FORMS = {
    "decline": "The person was asked how much to top up, and declined.",
    "cancel": "The person was asked how much to top up, and did not answer.",
}


class TopUp:
    """Knows the page for people, where there is one, and Stripe's sessions, where those are configured."""

    def __init__(self, page: str | None, terms: TopupTerms, payments: Payments | None) -> None:
        self._page = page
        self._terms = terms
        self._payments = payments

    async def offer(
        self, ctx: Context, inputs: types.InputResponses | None, caller: Caller, elicitation_id: str
    ) -> types.InputRequiredResult | Outcome | None:
        """What to send instead of a result, or what came of asking; None where the client cannot ask its person."""
        question = self._question(ctx, caller)
        if question is None:
            return None
        if is_version_at_least(ctx.protocol_version, _INPUT_REQUIRED_SINCE):
            answer = (inputs or {}).get(_ASK)
            if not isinstance(answer, types.ElicitResult):
                return types.InputRequiredResult(input_requests={_ASK: types.ElicitRequest(params=question)})
        else:
            answer = await _asked(ctx, question, elicitation_id)
        return None if answer is None else await self._outcome(question, answer, caller)

    def _question(self, ctx: Context, caller: Caller) -> Question | None:
        capabilities = ctx.session.client_capabilities
        elicitation = capabilities.elicitation if capabilities else None
        if elicitation is None or not is_version_at_least(ctx.protocol_version, _FORMS_SINCE):
            return None
        if elicitation.url is not None and is_version_at_least(ctx.protocol_version, _PAGES_SINCE):
            return types.ElicitRequestURLParams(message=_PAGE_MESSAGE, url=self._page) if self._page else None
        has_forms = elicitation.form is not None or elicitation.url is None  # an empty capability means forms
        if not has_forms or (self._page is None and not self._can_check_out(caller)):
            return None
        return types.ElicitRequestFormParams(message=_FORM_MESSAGE, requested_schema=self._form())

    def _form(self) -> dict[str, Any]:
        least, most = self._terms.minimum_nano, self._terms.maximum_nano
        amount = {
            "type": "number",
            "title": "Amount in USD",
            "description": f"From {format_usd(least)} to {format_usd(most)}, in whole cents.",
            "minimum": least / NANO_PER_USD,
            "maximum": most / NANO_PER_USD,
        }
        return {"type": "object", "properties": {_AMOUNT: amount}, "required": [_AMOUNT]}

    async def _outcome(self, question: Question, answer: types.ElicitResult, caller: Caller) -> Outcome:
        if isinstance(question, types.ElicitRequestURLParams):
            return Outcome(_OF_PAGES[answer.action])
        if answer.action != "accept":
            return Outcome(_OF_FORMS[answer.action])
        try:
            amount_nano = self._terms.payable_nano(str((answer.content or {}).get(_AMOUNT)))
            url = await self._link(caller, amount_nano)
        except GatewayError as error:
            return Outcome(f"The person was asked how much to top up, which came to nothing: {error.message}")
        amount = format_usd(amount_nano)
        return Outcome(
            f"The person wants to top up {amount} USD. Give them this link to pay at: {url} and then {_AGAIN}", url
        )

    def _can_check_out(self, caller: Caller) -> bool:
        return self._payments is not None and "billing" in caller.scopes

    async def _link(self, caller: Caller, amount_nano: int) -> str | None:
        """Where the amount is paid: a session of Stripe's for a key that may open one, else the page."""
        if self._payments is None or not self._can_check_out(caller):
            return self._page
        wanted = WantedCheckout(caller.account_id, amount_nano, self._terms.pages)
        checkout = await self._payments.start_checkout(wanted, idempotency_key=None)
        return checkout.url


async def _asked(ctx: Context, question: Question, elicitation_id: str) -> types.ElicitResult | None:
    """The person's answer; None where the client does not ask, or fails."""
    if not ctx.session.can_send_request:
        return None
    try:
        if isinstance(question, types.ElicitRequestFormParams):
            return await ctx.session.elicit_form(question.message, question.requested_schema, ctx.request_id)
        return await ctx.session.elicit_url(question.message, question.url, elicitation_id, ctx.request_id)
    except (MCPError, ValueError):
        return None
