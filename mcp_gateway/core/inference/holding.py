"""What one request holds of its account's money: its worst case, or what the answer may cost so far."""

from collections.abc import Sequence
from contextlib import suppress

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.auto_router import MOST_ALTERNATIVES
from mcp_gateway.core.inference.fitting import likely_prompt_tokens, terms_within
from mcp_gateway.core.inference.meter import Meter
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.inference.routing import offers_to, without_dearest
from mcp_gateway.core.inference.running_hold import RunningHold
from mcp_gateway.core.inference.terms import Quote, affordable_tokens, most_output_tokens, quote, worst_case
from mcp_gateway.core.ledger.ledger import Spendable
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.prices import FREE, Price, dearest
from mcp_gateway.core.routing.preferences import RoutedModel
from mcp_gateway.core.surfaces.surface import Ask, Terms

_TOO_DEAR = ("insufficient_balance", "budget_exhausted", "balance_held")
"""Codes of a hold that is refused for what it is for."""


def too_dear(most_nano: int) -> GatewayError:
    """What a caller is told whose own cap covers no useful answer."""
    problem = f"`gateway.max_cost_usd` ({format_usd(most_nano)} USD) covers no useful answer: raise it."
    return GatewayError("invalid_value", problem, param="gateway.max_cost_usd")


class Holding:
    """`hold` is None where nothing is held; `running` is what raises it as the answer comes, where that is done."""

    price: Price = FREE
    """By which it is made."""
    hold: Hold | None = None
    running: RunningHold | None = None
    _beside_nano = 0
    """What the account can pay for the dearest of the models that are asked where this one fails."""
    _waited_s = 0.0
    """For money, in vain: what comes free for one model does for the others."""

    def __init__(self, parts: Parts, caller: Caller, request_id: str) -> None:
        self._parts = parts
        self._caller = caller
        self._request_id = request_id

    async def open_affordable(self, ask: Ask, model: Model, meter: Meter, *, can_be_cut: bool) -> Terms:
        """Hold for the dearest of who may be asked; those that the money is not enough for leave, the dearest first.

        The terms that are held. Raises GatewayError where it is not enough for any.
        """
        while True:
            self.price = dearest([*{one.offer.price for one in meter.ranking}])
            try:
                return await self.open(meter.terms, ask, model, meter, can_be_cut=can_be_cut)
            except GatewayError as error:
                is_too_dear = error.code in _TOO_DEAR and len(meter.ranking) > 1
                cheaper = without_dearest(meter.ranking, meter.quoted_prompt_tokens) if is_too_dear else ()
                if not cheaper:
                    raise
                meter.ranking = cheaper

    async def open(self, terms: Terms, ask: Ask, model: Model, meter: Meter, *, can_be_cut: bool) -> Terms:
        """Hold the worst case of the terms, or as much as the wallet has; the terms that are held.

        Where money is tight and an answer `can_be_cut`, only its prompt and a first slice are held, within the same
        terms. Raises GatewayError `insufficient_balance`, or what else the ledger refuses a hold with.
        """
        wallet = self._parts.settings.wallet
        worst = quote(terms, ask, model, self.price, meter.quoted_prompt_tokens, wallet)
        if self.hold is not None and self._keeps(self.hold, worst, ask, meter):
            return terms
        if not worst.maximum_nano:
            await self._hold_beside(meter)
            return terms
        if ask.wanted_tools is not None and ask.wanted_tools.caps(worst.maximum_nano):
            return await self._open_capped(ask.wanted_tools.left_nano, terms, worst, ask, model, meter)
        most_nano = max(worst.maximum_nano, self._beside_nano)
        if can_be_cut and wallet.ample_holds:
            if not await self._is_held_amply(most_nano, worst.maximum_nano * wallet.ample_holds, meter):
                await self._open_first(most_output_tokens(terms, ask, model), ask, model, meter)
            return terms
        hold = await self._held(worst.minimum_nano, most_nano, meter)
        if hold.amount_nano >= worst.maximum_nano:
            return terms
        most = affordable_tokens(hold.amount_nano, worst, ask.choices)
        return await terms_within(terms, most, model, meter)

    async def _hold_beside(self, meter: Meter) -> None:
        """Hold for the models behind one that costs nothing, which is asked whether that can be or not."""
        if self._beside_nano:
            with suppress(GatewayError):
                await self._held(0, self._beside_nano, meter)

    async def _open_capped(
        self, most_nano: int, terms: Terms, worst: Quote, ask: Ask, model: Model, meter: Meter
    ) -> Terms:
        """Hold no more than the caller lets the request cost."""
        if most_nano < worst.minimum_nano:
            raise too_dear(most_nano)
        hold = await self._held(worst.minimum_nano, most_nano, meter)
        return await terms_within(terms, affordable_tokens(hold.amount_nano, worst, ask.choices), model, meter)

    async def _is_ample(self, amount_nano: int) -> bool:
        """Whether the account has so much, with what it holds for this request."""
        return amount_nano <= self._held_nano or amount_nano <= await self._spendable_nano()

    async def _spendable_nano(self) -> int:
        free_nano = await self._parts.ledger.spendable_nano(self._caller.account_id, self._caller.spent_by)
        return free_nano + self._held_nano

    @property
    def _held_nano(self) -> int:
        return 0 if self.hold is None else self.hold.amount_nano

    async def _is_held_amply(self, most_nano: int, ample_nano: int, meter: Meter) -> bool:
        """Whether so much is held from now on, since the account has an ample amount."""
        ledger, caller = self._parts.ledger, self._caller
        hold = self.hold = await ledger.hold_if_ample(
            self._request_id, caller.account_id, most_nano, ample_nano, caller.spent_by
        )
        meter.is_held = hold is not None
        return meter.is_held

    async def _open_first(self, most_tokens: int, ask: Ask, model: Model, meter: Meter) -> None:
        """Hold what a request may cost at first; what follows is held as it comes.

        A prompt is not counted for an account that has no money for a word of it.
        """
        wallet, ledger, images = self._parts.settings.wallet, self._parts.ledger, len(ask.prompt.images)
        least_nano = self.price.most_nano(1, min(wallet.min_useful_tokens, most_tokens), images)
        await ledger.check_balance(self._caller.account_id, least_nano, self._caller.spent_by)
        prompt_tokens = await likely_prompt_tokens(ask, model, wallet, meter)
        running_hold = RunningHold(ledger, self.price, images, prompt_tokens, most_tokens)
        least_nano = running_hold.least_nano(wallet.min_useful_tokens)
        running_hold.begin(await self._held(least_nano, running_hold.first_nano, meter))
        meter.running_hold = self.running = running_hold

    async def _held(self, minimum_nano: int, maximum_nano: int, meter: Meter) -> Hold:
        parts, request_id, caller = self._parts, self._request_id, self._caller
        began_s, account_id, by = parts.monotonic_s(), caller.account_id, caller.spent_by
        try:
            hold = self.hold = await parts.ledger.hold(
                request_id, account_id, minimum_nano, maximum_nano, by, waited_s=self._waited_s
            )
        except GatewayError:
            self._waited_s += parts.monotonic_s() - began_s
            raise
        meter.is_held = True
        return hold

    async def cover(self, models: Sequence[RoutedModel], ask: Ask) -> list[RoutedModel]:
        """Those of the models that the account can pay for; the dearest that follows the first is held for with it.

        So a model that fails is followed by another on the same hold, whatever else is spent in between. One that was
        chosen leaves where its money is held by running requests and another's is free; who is named waits for it. The
        first is left where there is none, for its refusal.
        """
        self._beside_nano = 0
        if len(models) == 1:
            return list(models)
        quotes = self._quotes(models, ask)
        free_nano = max([worst.maximum_nano for _, worst in quotes])
        if not await self._is_ample(free_nano):
            reach = await self._parts.ledger.reach(self._caller.account_id, self._caller.spent_by)
            free_nano, most_nano = reach.free_nano + self._held_nano, reach.most_nano
            within = self._quotes(models, ask, Spendable(free_nano, most_nano))
            quotes = within or self._quotes(models, ask, Spendable(most_nano, most_nano)) or quotes[:1]
        amounts = [worst.maximum_nano for _, worst in quotes[1:]]
        self._beside_nano = max([amount for amount in amounts if amount <= free_nano], default=0)
        return [routed for routed, _ in quotes]

    def _quotes(
        self, models: Sequence[RoutedModel], ask: Ask, reach: Spendable | None = None
    ) -> list[tuple[RoutedModel, Quote]]:
        """Of those that are within reach: whoever the request names, and a few of those that were chosen.

        So few are asked, however many there are: what one of them refuses, thousands may.
        """
        named = {one.name for one in ask.route.models} if ask.route is not None else set()
        found, room = [], 1 + MOST_ALTERNATIVES
        for routed in models:
            is_named = routed.name in named
            if not is_named and not room:
                continue
            worst = self._worst_of(routed.model, ask)
            if reach is None or worst.minimum_nano <= (reach.most_nano if is_named else reach.free_nano):
                found.append((routed, worst))
                room -= not is_named
        return found

    def _worst_of(self, model: Model, ask: Ask) -> Quote:
        price = dearest([offer.price for offer in offers_to(self._caller, model, self._parts)])
        return worst_case(ask, model, price, self._parts.settings.wallet)

    def _keeps(self, hold: Hold, worst: Quote, ask: Ask, meter: Meter) -> bool:
        """Whether a hold that was made for the models before covers this one, too; else it is released."""
        is_capped = ask.wanted_tools is not None and ask.wanted_tools.caps(worst.maximum_nano)
        if hold.amount_nano >= worst.maximum_nano and not is_capped:
            meter.is_held = True
            return True
        self._let_go(hold)
        return False

    def _let_go(self, hold: Hold) -> None:
        self._parts.ledger.release(hold.request_id)
        self.hold = None

    def start_over(self) -> None:
        """Have another model asked, on the same hold where that covers it; one that grew is its own model's."""
        if self.hold is not None and self.running is not None:
            self._let_go(self.hold)
        self.running, self.price = None, FREE
