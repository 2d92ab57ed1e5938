"""A response in one piece: what is read of it, and what a client is told. Knows the response object's form alone."""

from collections.abc import Callable
from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json, parse_in_turns
from mcp_gateway.core.surfaces.credible import failed_amid, not_understood
from mcp_gateway.core.surfaces.error_shapes import error_in
from mcp_gateway.core.surfaces.response_object import (
    checked,
    failure_of_response,
    finish_reason_of,
    text_bytes_of,
    told_usage,
    usage_of,
)
from mcp_gateway.core.surfaces.surface import Body, Whole
from mcp_gateway.core.surfaces.usage import Usage


async def read_response(body: Body, form: Callable[[dict[str, Any]], dict[str, Any]]) -> Whole:
    """Read one, which is told in that form. Raises GatewayError `backend_error` for what is none, or has failed."""
    response = await _parsed(body)
    if failure_of_response(response) is not None:
        raise failed_amid()
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
