"""A message in one piece: what is read of it, and what is put right for Anthropic's clients.

It is parsed whole, whatever its length: it has no log probabilities, so that even a long one takes a few milliseconds.
"""

from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json, parse_exactly
from mcp_gateway.core.surfaces.credible import FailureTold, not_understood, read_finish_reason
from mcp_gateway.core.surfaces.error_shapes import error_in, failure_in
from mcp_gateway.core.surfaces.message_usage import as_told, details_in, usage_in
from mcp_gateway.core.surfaces.surface import Body, Whole
from mcp_gateway.core.surfaces.usage import Usage

_OTHER_PREFIX, _PREFIX = "chatcmpl-", "msg_"
_TEXTS = ("text", "thinking")


def read_message(body: Body, public_model: str, answer_id: str | None = None) -> Whole:
    """Read a message, which from now on is as Anthropic writes it and bears the public name of its model.

    It bears `answer_id`, or else the backend's. One without a reason for its end broke off: vLLM has no word for that
    here. Raises FailureTold for an error, GatewayError `backend_error` for what else is no message.
    """
    message = _parsed(body)
    told = message.get("usage")
    usage = usage_in(told)
    message |= {"id": answer_id or message_id(message.get("id")), "model": public_model}
    message["stop_reason"] = reason = read_finish_reason(message.get("stop_reason"))
    message.setdefault("stop_sequence", None)
    message["usage"] = as_told(usage or Usage(0, 0)) | details_in(told)
    return Whole(dump_json(message), reason or "abort", usage, usage is not None)


async def with_usage(body: Body, usage: Usage) -> bytes:
    """The message with this usage. Raises GatewayError `backend_error`."""
    return dump_json(_parsed(body) | {"usage": as_told(usage)})


async def text_bytes(body: Body) -> int:
    """How many bytes its texts have, and the input of tools that it calls."""
    return sum(map(_text_bytes, _parsed(body)["content"]))


def message_id(backend_s: Any) -> str:
    """Anthropic's kind of id, of one that a backend gave."""
    given = backend_s if isinstance(backend_s, str) else ""
    return _PREFIX + given.removeprefix(_OTHER_PREFIX).removeprefix(_PREFIX)


def _text_bytes(block: dict[str, Any]) -> int:
    texts = (block.get(name) for name in _TEXTS)
    text_bytes = sum(len(text.encode()) for text in texts if isinstance(text, str))
    return text_bytes + (len(dump_json(block["input"])) if "input" in block else 0)


def _parsed(body: Body) -> dict[str, Any]:
    try:
        message = parse_exactly(bytes(body))
    except (orjson.JSONDecodeError, GatewayError):
        raise not_understood() from None
    if not isinstance(message, dict) or message.get("type") != "message":
        error = error_in(message)
        raise not_understood() if error is None else FailureTold(failure_in(error))
    content = message.get("content")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise not_understood()
    return message
