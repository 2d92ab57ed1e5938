"""What OpenAI's surfaces have in common: how a stream is asked for and breaks off, and how large an answer may be."""

from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_fields import optional, unserved
from mcp_gateway.core.record import EndedBy
from mcp_gateway.core.surfaces.splice import DONE
from mcp_gateway.core.surfaces.surface import NO_USAGE_WISHES, Body, UsageWishes
from mcp_gateway.core.text import shown

COMMENT = b": waiting for the model\n\n"
MOST_LOGPROBS = 20
"""Beside each token's own; of vLLM, unless it was started otherwise."""
_TOKEN_BYTES, _ROW_BYTES = 16, 128
"""What a token of an answer takes, and one of its log probabilities: more than on the average."""


def stream_options_in(body: dict[str, Any], *, is_stream: bool) -> dict[str, Any] | None:
    """Raises GatewayError `invalid_value` where there are any and no stream."""
    options: dict[str, Any] | None = optional(body, "stream_options", dict)
    if options is not None and not is_stream:
        raise GatewayError("invalid_value", "stream_options needs stream: true.", param="stream_options")
    return options


def usage_wishes(body: dict[str, Any], options: dict[str, Any] | None) -> UsageWishes:
    """Raises GatewayError `invalid_type`, or `unsupported_parameter`."""
    wishes = NO_USAGE_WISHES
    if options:
        wishes = UsageWishes(
            bool(optional(options, "include_usage", bool, "stream_options.")),
            bool(optional(options, "continuous_usage_stats", bool, "stream_options.")),
        )
    if "usage" in body and _cost_wish_taken_out(body):
        wishes = UsageWishes(at_end=True, in_each=wishes.in_each, with_cost=True)
    return wishes


def _cost_wish_taken_out(body: dict[str, Any]) -> bool:
    """Whether `usage.include` asks for the cost as a number, as at OpenRouter; the body has it no more."""
    wanted = optional(body, "usage", dict) or {}
    del body["usage"]
    for name in wanted.keys() - {"include"}:
        raise unserved(f"usage.{shown(name)}")
    return bool(optional(wanted, "include", bool, "usage."))


def top_logprobs_in(body: dict[str, Any]) -> int:
    """How many log probabilities are asked for beside each token's own; what is no such number counts as the most."""
    top = body.get("top_logprobs") or 0
    return top if isinstance(top, int) and 0 <= top <= MOST_LOGPROBS else MOST_LOGPROBS


def bytes_per_token(rows: int = 0, choices: int = 1) -> int:
    """What a token of all choices may take in an answer in one piece, with so many log probabilities told of each."""
    return choices * (_TOKEN_BYTES + rows * _ROW_BYTES)


def broken_off(error: GatewayError, answer_id: str, kind: str, model: str, choice: dict[str, Any]) -> bytes:
    """The end of a stream by a failure: OpenAI's SDK raises for `error`, a loop reader sees a finish reason."""
    chunk: dict[str, Any] = {
        "id": answer_id,
        "object": kind,
        "created": 0,
        "model": model,
        "choices": [{"index": 0, **choice, "logprobs": None, "finish_reason": "error"}],
        "error": error.as_object() | error.wait_told,
    }
    return b"data: %b\n\n%b" % (orjson.dumps(chunk), DONE)


def cut_by(ended_by: EndedBy) -> dict[str, Any]:
    """Told in an answer that was cut since there was no more money, beside a `finish_reason` of `length`."""
    return {"gateway": {"ended_by": ended_by}}


def telling_its_cut(body: Body, ended_by: EndedBy) -> bytes:
    """An answer in one piece that tells why it was cut."""
    end = body.rfind(b"}")
    return b"".join((body[:end], b",", orjson.dumps(cut_by(ended_by))[1:-1], body[end:]))
