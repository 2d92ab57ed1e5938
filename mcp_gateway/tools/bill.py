"""What a tool tells of an exchange beside its answer: what was used, what it cost, and what became of the request."""

from typing import Any

from mcp_gateway.core.dialects.sifting import first_names
from mcp_gateway.core.inference.exchange import AnswerFacts
from mcp_gateway.core.money import format_usd

BILL_PROPERTIES: dict[str, Any] = {
    "usage": {
        "type": "object",
        "properties": {
            "prompt_tokens": {"type": "integer"},
            "completion_tokens": {"type": "integer"},
            "total_tokens": {"type": "integer"},
            "cached_tokens": {"type": "integer"},
        },
    },
    "cost_usd": {"type": "string", "description": "What this call cost."},
    "model": {"type": "string"},
    "note": {"type": "string", "description": "What is missing, where the answer was too long for one message."},
    "ignored_parameters": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Names in the call that the model was not told of.",
    },
}
UNTOLD = "The answer came and is billed, but no MCP message can tell it. Ask over the HTTP API for such answers."


def bill_of(facts: AnswerFacts, request_id: str) -> dict[str, Any]:
    """What is told beside an answer."""
    bill: dict[str, Any] = {"cost_usd": format_usd(facts.cost_nano), "model": facts.model, "request_id": request_id}
    if (usage := facts.usage) is not None:
        bill["usage"] = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }
        if usage.cached_tokens is not None:
            bill["usage"]["cached_tokens"] = usage.cached_tokens
    if facts.clamped_to is not None:
        bill["max_tokens_clamped"] = facts.clamped_to
    if facts.ended_by is not None:
        bill["ended_by"] = facts.ended_by
    if facts.ignored:
        bill["ignored_parameters"] = first_names(facts.ignored)
    if (routing := facts.routing) is not None:
        bill["routing"] = {
            "model": routing.model,
            "task": routing.task,
            "complexity": routing.complexity,
            "confidence": routing.confidence,
            "alternatives": list(routing.alternatives),
        }
    return bill
