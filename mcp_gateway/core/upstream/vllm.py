"""vLLM's dialect: what a request to it may carry, and what its three shapes of error mean to a caller.

Facts were taken from vLLM 0.32 on the wire and 0.33 in source. Knows nothing of connections or callers.
"""

import re
from hashlib import sha256
from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.request import ChatRequest

CHAT_PATH = "/v1/chat/completions"
MODELS_PATH = "/v1/models"
TOKENIZE_PATH = "/tokenize"
ALLOWED_PATHS = frozenset({CHAT_PATH, MODELS_PATH, TOKENIZE_PATH})
"""All that is ever asked of a vLLM server: its other routes start work or tell secrets without a key."""

TENANT_FIELDS = frozenset({
    "cache_salt", "chat_template", "data_parallel_rank", "ec_transfer_params", "echo", "kv_transfer_params",
    "logits_processors", "media_io_kwargs", "mm_processor_kwargs", "priority", "prompt_logprobs", "request_id",
    "return_token_ids", "routing", "session_id", "use_beam_search", "vllm_xargs",
})  # fmt: skip
"""Fields that reach past one tenant's own answer, or cost without being counted; removed."""

_GUIDED = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}
"""Names that vLLM dropped and would now ignore without a word, by what `structured_outputs` calls them."""

_PYDANTIC_MESSAGE = re.compile(r"'msg': (['\"])(.*?)\1(?:, '|\})")
_MESSAGE_LIMIT = 500


def chat_body(request: ChatRequest, backend_model: str, account_id: str) -> bytes:
    """The body to send: the caller's own, renamed, without the tenant fields, with usage asked for in every frame.

    `cache_salt` keeps one account from telling by timing what another has in the prefix cache.
    """
    body = {name: value for name, value in request.body.items() if name not in TENANT_FIELDS}
    guided = {new: body.pop(old) for old, new in _GUIDED.items() if old in body}
    if guided and "structured_outputs" not in body:
        body["structured_outputs"] = guided
    body["model"] = backend_model
    body["cache_salt"] = sha256(account_id.encode()).hexdigest()[:32]
    if request.is_stream:
        body["stream_options"] = {
            **(body.get("stream_options") or {}),
            "include_usage": True,
            "continuous_usage_stats": True,
        }
    return orjson.dumps(body)


def tokenize_body(request: ChatRequest, backend_model: str) -> bytes:
    """What /tokenize needs to count the prompt of a chat."""
    kept = {name: request.body[name] for name in ("messages", "tools", "chat_template_kwargs") if name in request.body}
    return orjson.dumps({"model": backend_model, **kept})


def error_of(status: int, body: bytes, backend_model: str, public_model: str) -> GatewayError:
    """The gateway's error for a backend's refusal: `{"error": {...}}`, `{"error": "text"}` or `{"detail": "text"}`."""
    message, kind, param = _read(body)
    if status in (400, 413, 422):
        return _refusal(status, _renamed(message, backend_model, public_model), kind, param)
    if status == 404 and param == "model":
        return GatewayError("model_unavailable", f"The model {public_model!r} is not loaded at the moment.")
    if status in (429, 503):
        return GatewayError("backend_busy", f"Every place for {public_model!r} is taken; try again soon.")
    return GatewayError("backend_error", f"The backend of {public_model!r} failed (status {status}).")


def _read(body: bytes) -> tuple[str, str, str | None]:
    """Message, type and param of an error body of any of the three shapes, or of none."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", "", None
    error: Any = parsed.get("error", parsed.get("detail")) if isinstance(parsed, dict) else None
    if not isinstance(error, dict):
        return str(error or ""), "", None
    param = error.get("param")
    return str(error.get("message") or ""), str(error.get("type") or ""), param if isinstance(param, str) else None


def _refusal(status: int, message: str, kind: str, param: str | None) -> GatewayError:
    param = _own_param(param)
    if status == 413:
        return GatewayError("body_too_large", "The backend takes no request of this size.")
    if param in ("input_tokens", "input_text") or "maximum context length" in message:
        return GatewayError("context_length_exceeded", _short(message), param="messages")
    if "cannot be greater than max_model_len" in message:
        return GatewayError("context_length_exceeded", _short(message), param="max_tokens")
    if "is not a multimodal model" in message:
        return GatewayError("vision_disabled", "This model takes text only.", param="messages")
    if kind == "Bad Request":
        found = _PYDANTIC_MESSAGE.search(message)
        return GatewayError("invalid_type", _short(found[2] if found else message), param=param)
    return GatewayError("invalid_value", _short(message), param=param)


def _renamed(message: str, backend_model: str, public_model: str) -> str:
    name = rf"(?<![\w/.-]){re.escape(backend_model)}(?![\w/-])"
    return re.sub(name, lambda _: public_model, message)


def _own_param(param: str | None) -> str | None:
    """vLLM's `body.messages.0.ChatCompletion...Param.role` in the words of a caller: `messages.0.role`."""
    if param is None:
        return None
    parts = param.removeprefix("body.").split(".")
    return ".".join(part for part in parts if not part.startswith("ChatCompletion")) or None


def _short(message: str) -> str:
    first = message.strip() or "The backend refused the request."
    return first if len(first) <= _MESSAGE_LIMIT else first[:_MESSAGE_LIMIT] + "…"
