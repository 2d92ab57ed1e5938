"""What is asked about tokens: of a backend that has the model, or of the next one; free of charge, and not recorded."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from math import ceil
from typing import NamedTuple, TypeVar

from mcp_gateway.core.blame import Blame, OperatorFault, blame_of
from mcp_gateway.core.bytes_in_flight import STEP_BYTES, Reservation
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model, Offer
from mcp_gateway.core.dialects.dialect import Counting, Dialect, Targets
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.inference.routing import check_images, judged, offers_to, ranked, takers, unavailable
from mcp_gateway.core.inference.terms import check_access, estimated_prompt_tokens
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.record import OK
from mcp_gateway.core.routing.rank import Candidate, Ranking
from mcp_gateway.core.surfaces.error_shapes import MAX_REFUSAL_BYTES
from mcp_gateway.core.surfaces.surface import Ask, Body
from mcp_gateway.core.surfaces.tokens import QuestionName, TokenQuestion
from mcp_gateway.core.upstream.backend import COUNT_S, Backend, BackendResponse, failure, read_beginning
from mcp_gateway.core.upstream.transport import BodyTooLarge, Keep, UpstreamError

A = TypeVar("A")
Read = Callable[[BackendResponse, Dialect], Awaitable[A]]
"""Reads an answer; raises GatewayError for what is none."""


class FreeAnswer(NamedTuple):
    """A backend's answer as it came, and the names in the question that were not sent on."""

    body: Body
    ignored: tuple[str, ...]


class _Asking(NamedTuple):
    """What is sent for an offer, and by whose words it is refused."""

    model: Model
    public_model: str
    prompt_field: str
    targets: Targets
    counting: Callable[[Offer], Counting | None]


class Count(NamedTuple):
    """A prompt's tokens, as they were counted or about."""

    tokens: int
    is_estimated: bool = False


async def count_prompt(parts: Parts, caller: Caller, ask: Ask, provider: str | None = None) -> Count:
    """The prompt's tokens by that provider, or whoever may answer; about how many, where none of them counts.

    Raises GatewayError for a refusal, or where a backend does not count, or not in time.
    """
    model = _asked_for(parts, caller, ask, provider)
    offers, targets, sight = offers_to(caller, model, parts), parts.targets, parts.pool.sight

    def counting(offer: Offer) -> Counting | None:
        return targets.at(offer, ask.surface, ask.model).translation.counting(ask, offer.name)

    if len(offers) > 1:
        offers = _of_one_source(await takers(offers, ask, targets), counting)
    await judged(parts, caller, ask, model, targets.at(offers[0], ask.surface, ask.model))
    if counting(offers[0]) is None:
        return Count(estimated_prompt_tokens(ask, model, parts.settings.wallet), is_estimated=True)

    async def read(response: BackendResponse, dialect: Dialect) -> Count:
        count = dialect.count_told(await read_beginning(response, MAX_REFUSAL_BYTES))
        if count is None:
            raise _uncounted(ask.model)
        return Count(count)

    asking = _Asking(model, ask.model, ask.surface.prompt_field, targets, counting)
    return await _asked(parts, ranked(offers, ask, model, caller, sight), asking, read)


def _asked_for(parts: Parts, caller: Caller, ask: Ask, provider: str | None) -> Model:
    """The model of the ask; of one that is chosen, the one that would be asked now."""
    if ask.routing is not None:
        ask.model = parts.auto_router.choose(ask, caller, provider).models[0].id
    return parts.published.found_at(provider, caller, ask.model)


def _of_one_source(offers: tuple[Offer, ...], counting: Callable[[Offer], Counting | None]) -> tuple[Offer, ...]:
    """Those of the first source that counts; of the first of all, where none does."""
    source = next((offer.source for offer in offers if counting(offer) is not None), offers[0].source)
    return tuple(offer for offer in offers if offer.source == source)


async def answered(parts: Parts, caller: Caller, question: TokenQuestion, reservation: Reservation) -> FreeAnswer:
    """A backend's answer, for which room is taken in the reservation. Raises GatewayError."""
    model = parts.published.seen_by(caller).find(question.model)
    targets = parts.targets
    offers = _counting_offers(offers_to(caller, model, parts), targets, question.name)
    ranking = parts.pool.spread_over(offers)
    ignored = targets.inquiry(offers[0], question.name).sift(question.body)
    check_access(model, caller)
    if question.images:
        await check_images(parts, caller, model, question.images, question.remote_images)

    def written(offer: Offer) -> Counting:
        inquiry = targets.inquiry(offer, question.name)
        return Counting(inquiry.path, dump_json(question.body | {"model": offer.name}))

    sent = {(offer.source, offer.name): written(offer) for offer in offers}
    question.body = {}  # it is kept as it is sent

    async def read(response: BackendResponse, dialect: Dialect) -> Body:
        answer = await response.read(_kept_in(reservation))
        await dialect.inquiries[question.name].check(answer)
        return answer

    asking = _Asking(
        model, question.model, question.prompt_field, targets, lambda offer: sent[offer.source, offer.name]
    )
    return FreeAnswer(await _asked(parts, ranking, asking, read), ignored)


def _counting_offers(offers: tuple[Offer, ...], targets: Targets, name: QuestionName) -> tuple[Offer, ...]:
    """Those where such a question is answered; all where it is nowhere, to be refused."""
    if len(offers) == 1:
        return offers
    return tuple(offer for offer in offers if name in targets.dialect_of(offer).inquiries) or offers


async def _asked(parts: Parts, ranking: Ranking[Backend], asking: _Asking, read: Read[A]) -> A:
    """What the first backend tells that can. Raises GatewayError."""
    failures: dict[Candidate[Backend], Blame] = {}
    candidate = parts.pool.next_of(ranking, failures)
    while candidate is not None:
        try:
            return await _asked_of(candidate, asking, read)
        except GatewayError as error:
            if error.code == "overloaded":
                raise  # what fails is the room here
            parts.failures.note(candidate.backend.name, error)
            failures[candidate] = blame_of(error)
            candidate = parts.pool.next_of(ranking, failures)
            if candidate is None:
                raise
    raise unavailable(asking.model)


async def _asked_of(candidate: Candidate[Backend], asking: _Asking, read: Read[A]) -> A:
    try:
        async with asyncio.timeout(COUNT_S):
            return await _told_by(candidate, asking, read)
    except TimeoutError:
        problem = f"The backend of {asking.public_model!r} did not count in time."
        raise GatewayError("first_token_timeout", problem) from None
    except BodyTooLarge:
        problem = f"The answer is too large to be held whole: shorten `{asking.prompt_field}`."
        raise GatewayError("invalid_value", problem, param=asking.prompt_field) from None
    except UpstreamError as error:
        raise failure(error) from error


async def _told_by(candidate: Candidate[Backend], asking: _Asking, read: Read[A]) -> A:
    dialect, sent = asking.targets.dialect_of(candidate.offer), asking.counting(candidate.offer)
    assert sent is not None
    response = await candidate.backend.infer(sent.path, sent.body, sent.headers, is_stream=False)
    try:
        if response.status == OK:
            return await read(response, dialect)
        told = dialect.failure(response.status, await read_beginning(response, MAX_REFUSAL_BYTES))
    finally:
        response.close()
    retry_after = response.header(b"retry-after")
    refusal = dialect.error(told, candidate.offer.name, asking.public_model, retry_after, asking.prompt_field)
    is_unknown = refusal.code == "backend_error" or isinstance(refusal, OperatorFault)
    if response.status == HTTPStatus.NOT_FOUND and is_unknown:
        raise _uncounted(asking.public_model)
    raise refusal


def _kept_in(reservation: Reservation) -> Keep:
    """Has room for an answer in steps, as it comes."""
    kept_bytes = 0

    async def keep(size_bytes: int) -> None:
        nonlocal kept_bytes
        wanted_bytes = ceil(size_bytes / STEP_BYTES) * STEP_BYTES
        if wanted_bytes > kept_bytes:
            await reservation.grow(wanted_bytes - kept_bytes)
            kept_bytes = wanted_bytes

    return keep


def _uncounted(public_model: str) -> GatewayError:
    return GatewayError("unsupported_endpoint", f"The backend of {public_model!r} does not count tokens.")
