"""What every tool is: a definition, and a call that returns a result on the wire's terms. Knows no transport."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mcp import types

from mcp_gateway.core.caller import Caller, KeyScope
from mcp_gateway.core.config import Task
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError

Report = Callable[[str], Awaitable[None]]
"""Tells the caller that a call goes on, with a line to show."""

Result = dict[str, Any]
"""A `CallToolResult` as it goes over the wire; what a revision lacks is left out there."""
MAX_RESULT_BYTES = 1024 * 1024 - 32 * 1024
"""Clients drop an event of more than 1 MiB, and their connection with it; the rest is for the envelope."""
_MAX_MESSAGE_CHARS = 8000
"""Hosts cut the text of an error near 11,000 characters."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """Who calls, under which id it is recorded and billed, and how to report; `report` is None where nobody listens."""

    caller: Caller
    request_id: str
    client_request_id: str | None
    report: Report | None
    context: RequestContext


class Tool(Protocol):
    """A tool for keys with its `scope`; calling it raises GatewayError for whatever its caller is to be told.

    It is listed where some model is for the task that it `needs`; one `is_for_minters` is, and works, for callers that
    may mint over MCP. Where the text of its results is not the whole,
    revisions without structured results are told these as a text of JSON.
    """

    scope: KeyScope
    needs: Task | None
    is_for_minters: bool
    is_regional: bool
    """Whether it is refused to the countries that the settings name."""
    is_text_whole: bool
    definition: types.Tool

    async def __call__(self, arguments: dict[str, Any], invocation: Invocation) -> Result: ...


ERROR_PROPERTIES: dict[str, Any] = {
    "type": {"type": "string", "description": "On failure: the kind of error."},
    "code": {"type": "string", "description": "On failure: the exact error."},
    "message": {"type": "string", "description": "On failure: what went wrong and what to do."},
    "retry_after_s": {"type": "integer", "description": "On failure, if waiting helps: seconds before another try."},
    "topup_url": {"type": "string", "description": "On failure for lack of money: where the account is topped up."},
    "balance_usd": {"type": "string", "description": "On failure for lack of money: what can be spent."},
    "held_usd": {"type": "string", "description": "On failure for lack of money: what your running requests hold."},
    "holding_requests": {"type": "integer", "description": "On failure for lack of money: how many requests hold it."},
    "starts_anew_at": {
        "type": "integer",
        "description": "On failure by a budget: when it has money again, Unix seconds.",
    },
    "budget": {
        "type": "object",
        "description": "On failure by a budget: which one.",
        "properties": {
            name: {"type": "string"} for name in ("id", "amount_usd", "window", "spent_usd", "held_usd", "left_usd")
        },
    },
    "request_id": {"type": "string", "description": "Of this call, which is recorded and billed under it."},
}


def output_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of a tool's results, failures included: TypeScript clients check those against it too.

    So nothing is required; what there is not is left out, as a node has one type, which null is not.
    """
    return {"type": "object", "properties": ERROR_PROPERTIES | properties}


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def result(text: str, structured: dict[str, Any], *, is_error: bool = False) -> Result:
    """A result that says the same as text for a reader and as data."""
    content = [text_block(text)]
    return {"content": content, "structuredContent": structured, "isError": is_error, "resultType": "complete"}


def error_result(error: GatewayError, *, further_advice: str = "") -> Result:
    """A failure that a model can act on: what happened, and what to do next, which is never cut."""
    advice, happened = error.row.advice, error.message
    if len(happened) > _MAX_MESSAGE_CHARS:
        happened = f"{happened[:_MAX_MESSAGE_CHARS]}…"
    if error.retry_after_s is not None:
        advice = advice.replace("retry_after_s seconds", f"{error.retry_after_s} seconds")
    message = f"{happened} {advice} {further_advice}".rstrip()
    told: dict[str, Any] = {"type": error.row.type, "code": error.code, "message": message} | error.wait_told
    told |= {name: value for name, value in without_nulls(error.details).items() if name in ERROR_PROPERTIES}
    return result(message, told, is_error=True)


def without_nulls(facts: dict[str, Any]) -> dict[str, Any]:
    """What there is: no schema of a tool has null."""
    there = {name: value for name, value in facts.items() if value is not None}
    return {name: without_nulls(value) if isinstance(value, dict) else value for name, value in there.items()}
