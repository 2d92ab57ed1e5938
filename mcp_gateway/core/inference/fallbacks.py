"""The models that a request has asked in turn, each with those who may answer for it, and what leads to the next."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from mcp_gateway.core.blame import AnswerTooLarge, Blame, blame_of
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.dialects.sifting import first_names
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.inference.attempts import Attempts
from mcp_gateway.core.inference.auto_router import Choice
from mcp_gateway.core.inference.parts import Call, Parts
from mcp_gateway.core.inference.routing import Lacking, left_out
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.optimization import AUTO
from mcp_gateway.core.routing.preferences import (
    RoutedModel,
    RoutedOffer,
    in_turn,
    left_of,
    named_first,
    refusal,
)
from mcp_gateway.core.routing.rank import Candidate
from mcp_gateway.core.sent_images import PLACEHOLDER
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.surfaces.wanted_route import WantedRoute
from mcp_gateway.core.upstream.backend import Backend

Failures = dict[Candidate[Backend], Blame]
_ANOTHER_MAY_ANSWER: frozenset[Code] = frozenset({
    "invalid_type", "missing_parameter", "unsupported_parameter", "invalid_value", "context_length_exceeded",
    "vision_disabled", "insufficient_balance", "below_minimum_balance", "budget_exhausted", "balance_held",
    "content_policy", "guests_not_allowed", "unsupported_endpoint", "backend_busy", "connect_failed",
    "first_token_timeout", "backend_error", "backend_died", "model_unavailable",
})  # fmt: skip
"""Refusals and failures of one model that another need not have; no other model changes the rest."""


class ModelsInTurn(NamedTuple):
    """The first to be asked, and who follows; which fields changed nothing; what was chosen for `auto`."""

    models: list[RoutedModel]
    unused: tuple[str, ...]
    choice: Choice | None


async def models_in_turn(ask: Ask, wanted: WantedRoute, caller: Caller, call: Call, parts: Parts) -> ModelsInTurn:
    """Raises GatewayError for an unknown model, or where nobody is left."""
    choice = None if ask.routing is None else parts.auto_router.choose(ask, caller, call.provider)
    found = _all_found(wanted, choice, caller, call, parts)
    left = [left_of(routed, wanted, ask) for routed in found]
    lacking: dict[str, Lacking] = {}
    if wanted.takes_all:
        lacking = await left_out([one.offer for of_one, _ in left for one in of_one], ask, parts.targets)
    offers: list[RoutedOffer] = []
    for routed, (of_one, _) in zip(found, left, strict=True):
        taking = [one for one in of_one if not lacking.get(one.offer.source)]
        offers += _arranged(taking, routed.model, wanted, ask, parts)
    if not offers:
        first, field = left[0]
        raise refusal(found[0], field) if field else _untaken(lacking.pop(first[0].offer.source))
    if wanted.sorts_across and wanted.sort is not None:
        offers = named_first(parts.pool.choosing.sorted_by(wanted.sort, offers, ask), wanted.order)
    return ModelsInTurn(in_turn(offers), (*wanted.unused, *wanted.unknown(parts.published.sources)), choice)


class AskAsItCame(NamedTuple):
    """An ask as it came, and how large its body is."""

    ask: Ask
    size_bytes: int

    def restore(self, ask: Ask) -> None:
        """Have its body and prompt again in the one that was asked with, of which the body was sifted and put away."""
        kept = replace(self.ask)
        kept.take_out()
        again = ask.surface.read(kept.body, self.size_bytes)
        ask.forget_body()
        ask.body, ask.prompt = again.body, again.prompt


async def kept(ask: Ask, context: RequestContext | None) -> AskAsItCame:
    """As it came, with the addresses of its images. Raises GatewayError `overloaded` where there is no room for it."""
    for image in ask.prompt.remote_images:
        image.put(image.part, image.url)
    raw = dump_json(ask.body)
    for image in ask.prompt.remote_images:
        image.put(image.part, PLACEHOLDER)
    if context is not None:
        await context.reservation.grow(len(raw))
    put_away = replace(ask)
    put_away.put_away(raw)
    return AskAsItCame(put_away, len(raw))


def leads_on(
    error: GatewayError, attempts: Attempts | None, failures: Failures, may_go_on: Callable[[Failures], bool]
) -> bool:
    """Whether another model may be asked after an error; who failed is added to the `failures` so far.

    As among the backends of one model, which `may_go_on` decides: not again and again after what may have been
    computed.
    """
    if attempts is not None:
        failures |= {candidate: blame for candidate, blame in attempts.failures.items() if blame.whose != "request"}
    if error.code not in _ANOTHER_MAY_ANSWER or isinstance(error, AnswerTooLarge):
        return False
    return not failures or blame_of(error).whose == "request" or may_go_on(failures)


def _all_found(
    wanted: WantedRoute, choice: Choice | None, caller: Caller, call: Call, parts: Parts
) -> list[RoutedModel]:
    """Each model once; those of the choice stand in the place of `auto`."""
    found: dict[str, RoutedModel] = {}
    for one in wanted.models:
        if one.name == AUTO and choice is not None:
            named = [RoutedModel(model.id, model) for model in choice.models]
        else:
            named = [RoutedModel(one.name, _found(one.name, one.param, caller, call, parts))]
        for routed in named:
            found.setdefault(routed.model.id, routed)
    return list(found.values())


def _found(name: str, param: str, caller: Caller, call: Call, parts: Parts) -> Model:
    try:
        return parts.published.found_at(call.provider, caller, name)
    except GatewayError as error:
        if error.code != "model_not_found":
            raise
        raise GatewayError(error.code, error.message, param=param) from None


def _arranged(
    offers: list[RoutedOffer], model: Model, wanted: WantedRoute, ask: Ask, parts: Parts
) -> list[RoutedOffer]:
    """One model's: sorted as is wanted, else as the settings choose, and those first who are named."""
    choosing = parts.pool.choosing
    if wanted.sort is not None:
        offers = choosing.sorted_by(wanted.sort, offers, ask)
    elif len(offers) > 1:
        arranged = choosing.arranged(tuple(routed.offer for routed in offers), model, ask)
        offers = [offers[0]._replace(offer=offer) for offer in arranged]
    offers = named_first(offers, wanted.order)
    return offers if wanted.falls_back or wanted.order else offers[:1]


def _untaken(lacking: Lacking) -> GatewayError:
    """What a caller is told who lets only those answer who take all, by one who does not."""
    if isinstance(lacking, GatewayError):
        return lacking
    names = first_names(lacking)
    told = ", ".join(f"`{name}`" for name in names)
    message = f"Nobody who may answer takes all of the request: leave out {told}, or `provider.require_parameters`."
    return GatewayError("unsupported_parameter", message, param=names[0])
