"""The limit of an answer as far as it rests on the prompt's tokens: what the window has room for beside them."""

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model
from mcp_gateway.core.config import Settings, WalletSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.meter import Meter
from mcp_gateway.core.inference.terms import ROOM_ENOUGH_TOKENS, asked_terms, bounded_in_size, lowered
from mcp_gateway.core.routing.rank import Candidate
from mcp_gateway.core.surfaces.surface import Ask, Terms
from mcp_gateway.core.upstream.backend import Backend


async def first_terms(
    ask: Ask, model: Model, first: Candidate[Backend], caller: Caller, settings: Settings, meter: Meter
) -> Terms:
    """By the caller's, the guests' and the model's limit; none is named where no limit needs it.

    Raises GatewayError `invalid_value` for an answer in one piece that would be too large.
    """
    if not ask.choices:
        return Terms(None, 0)
    limit = model.max_output_tokens
    if (window := first.backend.models.window_of(first.offer.name)) is not None:
        limit = min(limit, window)  # the demo's, for a test key
    if caller.is_guest:
        limit = min(limit, settings.guests.max_tokens)
    terms = asked_terms(ask, limit)
    if ask.output_limit is None and (caller.is_guest or model.is_output_capped):
        terms = terms._replace(output_limit=await _room(limit, model, meter))
    return terms if ask.is_stream else bounded_in_size(terms, ask, model, settings.upstream.max_response_bytes)


async def likely_prompt_tokens(ask: Ask, model: Model, wallet: WalletSettings, meter: Meter) -> int:
    """As a backend counts them, to which an image is at most what one can become; else the most by its bytes."""
    count = await meter.count_prompt()
    if count is None:
        return meter.quoted_prompt_tokens
    return min(count + wallet.max_image_tokens * len(ask.prompt.images), model.widest_window * ask.prompt.number)


async def terms_within(terms: Terms, affordable_tokens: int, model: Model, meter: Meter) -> Terms:
    """The terms where the wallet covers no more than so many tokens of each choice."""
    if terms.output_limit is None:
        affordable_tokens = await _room(min(affordable_tokens, model.max_output_tokens), model, meter)
    return lowered(terms, affordable_tokens)


async def terms_after(
    refusal: GatewayError, ask: Ask, model: Model, asked: Candidate[Backend], meter: Meter
) -> Terms | None:
    """Terms with which a request fits that was refused by who was asked, since prompt and limit exceed its window.

    A limit that only stood for the window is left out; one that caps is lowered to what the window leaves. None where
    it does not fit.
    """
    terms, dialect = meter.terms, meter.target.dialect
    limit = terms.output_limit
    window = dialect.window_told(refusal) if refusal.code == "context_length_exceeded" else None
    if limit is None or window is None:
        return None
    ask.take_out()
    if limit >= model.context_window and not (model.is_output_capped or ask.surface.needs_limit):
        return terms._replace(output_limit=None)
    prompt = dialect.prompt_told(refusal)
    if prompt is None:
        prompt = await meter.count_at(asked)
    if prompt is None or not 0 < window - prompt < limit:
        return None
    return lowered(terms, window - prompt)


async def _room(limit: int, model: Model, meter: Meter) -> int:
    """As much of a limit that the caller did not name as the window has room for beside the prompt.

    The prompt is its bytes where those leave enough, and else counted: vLLM before 0.32 refuses what does not fit.
    """
    if not model.is_window_known:
        return limit
    room = model.context_window - meter.most_prompt_tokens
    if room < min(limit, ROOM_ENOUGH_TOKENS):
        count = await meter.count_prompt()
        room = limit if count is None else model.context_window - count
    return max(1, min(limit, room))
