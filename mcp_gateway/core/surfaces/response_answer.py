"""A response in one piece: what is read of it, and what a client is told. Knows the response object's form alone."""

from collections.abc import Callable
from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json, parse_in_turns
from mcp_gateway.core.surfaces.credible import FailureTold, failed_amid, not_understood
from mcp_gateway.core.surfaces.error_shapes import error_in, failure_in
from mcp_gateway.core.surfaces.response_object import (
    checked,
    failure_of_response,
    finish_reason_of,
    text_bytes_of,
    told_usage,
    usage_of,
)
from mcp_gateway.core.surfaces.surface import Body, Failure, Whole
from mcp_gateway.core.surfaces.usage import Usage


async def read_response(
    body: Body, form: Callable[[dict[str, Any]], dict[str, Any]], read: Callable[[dict[str, Any]], Failure] = failure_in
) -> Whole:
    """Read one, which is told in that form, and its error in that. Raises GatewayError for what is none, or failed."""
    response = await _parsed(body)
    if (failure := failure_of_response(response, read)) is not None:
        raise FailureTold(failure)
    usage = usage_of(response)
    told = None if usage is None else told_usage(response, usage)
    written = dump_json(form(response) | {"usage": told})
    return Whole(written, finish_reason_of(response), usage, is_usage_exact=usage is not None)


async def with_usage(body: Body, usage: Usage) -> Body:
    """The response with this usage for whatever it tells of it."""
    response = await _parsed(body)
    return dump_json(response | {"usage": told_usage(response, usage)})


async def text_bytes(body: Body) -> int:
    """How many bytes its texts have."""
    return text_bytes_of(await _parsed(body))


async def _parsed(body: Body) -> dict[str, Any]:
    """Raises GatewayError `backend_error`."""
    try:
        response = await parse_in_turns(body)
    except (orjson.JSONDecodeError, GatewayError):
        raise not_understood() from None
    if isinstance(response, dict) and "output" not in response and error_in(response) is not None:
        raise failed_amid()
    return checked(response)
