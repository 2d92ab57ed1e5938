"""A prompt counted for its caller: by a backend that has the model, free of charge, and without an answer."""

import asyncio
from http import HTTPStatus

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.dialects.dialect import Target
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.inference.routing import judged, offers_to, ranked, who_counts
from mcp_gateway.core.record import OK
from mcp_gateway.core.surfaces.error_shapes import MAX_REFUSAL_BYTES
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.upstream.backend import COUNT_S, Backend, failure, read_beginning
from mcp_gateway.core.upstream.transport import UpstreamError


async def count_prompt(parts: Parts, caller: Caller, ask: Ask) -> int:
    """The prompt's tokens. Raises GatewayError for a refusal, or where no backend counts, or not in time."""
    model = parts.published.current.find(ask.model)
    offers = offers_to(caller, model, parts)
    await judged(parts, caller, ask, model, parts.targets.at(offers[0], ask.surface, ask.model))
    candidate = who_counts(ranked(offers, ask, model, caller, parts), parts)
    target = parts.targets.at(candidate.offer, ask.surface, ask.model)
    try:
        async with asyncio.timeout(COUNT_S):
            count = await _asked(candidate.backend, target, ask)
    except TimeoutError:
        raise GatewayError("first_token_timeout", f"The backend of {ask.model!r} did not count in time.") from None
    if count is None:
        message = f"The backend of {ask.model!r} does not count prompts."
        raise GatewayError("unsupported_endpoint", message)
    return count


async def _asked(backend: Backend, target: Target, ask: Ask) -> int | None:
    """None from one that does not count. Raises GatewayError where it refuses to, or cannot be asked."""
    counting = target.translation.counting(ask, target.backend_model)
    if counting is None:
        return None
    response = await backend.infer(counting.path, counting.body, (), is_stream=False)
    try:
        told = await read_beginning(response, MAX_REFUSAL_BYTES)
    except UpstreamError as error:
        raise failure(error) from error
    finally:
        response.close()
    if response.status == OK:
        return target.dialect.count_told(told)
    refusal = target.error(target.dialect.failure(response.status, told), response.header(b"retry-after"))
    if response.status == HTTPStatus.NOT_FOUND and refusal.code == "backend_error":
        return None
    raise refusal
