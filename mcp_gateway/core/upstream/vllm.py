"""vLLM's dialect: what a request to it may carry, what its errors mean to a caller, and its gauges.

Facts were taken from vLLM 0.32 on the wire and 0.33 in source. Knows nothing of connections or callers.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from http import HTTPStatus
from itertools import islice
from typing import Any

import orjson

from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.request import ChatRequest
from mcp_gateway.core.text import shown
from mcp_gateway.core.upstream.error_shapes import error_in
from mcp_gateway.core.upstream.places import without_places

CHAT_PATH = "/v1/chat/completions"
MODELS_PATH = "/v1/models"
TOKENIZE_PATH = "/tokenize"
HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"
ALLOWED_PATHS = frozenset({CHAT_PATH, MODELS_PATH, TOKENIZE_PATH, HEALTH_PATH, METRICS_PATH})
"""All that is ever asked of a vLLM server: its other routes start work or tell secrets without a key."""

MAX_REFUSAL_BYTES = 64 * 1024
"""Of a body whose status is not 200: what follows is not read. The status tells the rest."""
_FAULT_TYPE = re.compile(r"'type': '(\w+)'")
_FAULT_TEXT = re.compile(r"""'msg': (?:'([^'\\]*(?:\\.[^'\\]*){0,64})'|"([^"\\]*(?:\\.[^"\\]*){0,64})")""")
"""Kind and text of a fault that schema validation lists, each fault written as a Python dict."""
_NOTE_BEFORE = re.compile(r"\d{1,9} validation errors?:\s*")
_NOTE_AFTER = re.compile(r" \(parameter=[\w.]+(?:, value=|\)$)")
"""What vLLM adds before and after what it has to say; after it may come the caller's own value, however long."""
_CUT_MESSAGE = re.compile(rb'"message":\s?"([^"\\]*(?:\\.[^"\\]*){0,256})')
"""The beginning of a message in a body that was cut."""
_SEARCHED_CHARS = 2000
"""Of a refusal's text, which can quote all that the caller sent."""
_MESSAGE_LIMIT = 500
_WINDOW = re.compile(r"maximum context length is (\d{1,9})|max_model_len=(\d{1,9})")
_PROMPT = re.compile(
    r"(?:your request has|contains) (\d{1,9}) (?:input )?tokens|\((\d{1,9}) in the (?:messages|prompt)"
)
"""How vLLM since 0.6 says a prompt's length; "at least so many" is none."""
_LAST_WORDS = ("cannot schedule new futures", "EngineCore encountered an issue", "aborted")
"""Of a server that shuts down, or whose engine is dead; its /health can say 200 for a long while yet."""
_RUNNING = re.compile(rb"\nvllm:num_requests_running\{([^\n]+)")
_WAITING = re.compile(rb"\nvllm:num_requests_waiting\{([^\n]+)")
_TOKENS = re.compile(rb"\nvllm:(?:generation|prompt)_tokens_total\{([^\n]+)")
_COUNT = re.compile(rb'"count":\s?(\d{1,15})[,}\s]')
_GAUGE_VALUE = re.compile(rb"\d{1,15}(?:\.\d{1,15})?(?:[eE]\+?\d{1,2})?")
_MAX_LINES, _MAX_COUNT = 4096, 1e15
"""Read of one metric: one for each engine and model; and of each at most this."""
_MAX_RETRY_AFTER_DIGITS, _MAX_RETRY_AFTER_S = 9, 3600


Told = tuple[str, str, str | None]
"""Message, type and param of an error, as far as it tells them."""


class GoingDown(GatewayError):
    """The backend said that it is about to end: nothing more may be sent to it."""

    def __init__(self) -> None:
        super().__init__("backend_died", "The backend shut down before the answer was whole.")


class AnswerTooLarge(GatewayError):
    """An answer that is not held whole: no fault of its backend, and the same on any other."""

    def __init__(self) -> None:
        super().__init__("backend_error", "The answer is too large to be held whole. Lower `max_tokens`, or stream it.")


@dataclass(frozen=True, slots=True)
class Gauges:
    """Requests in a server's engines: those that run, and those that wait for a place.

    `tokens` counts all prompt and output tokens since it began; None where it tells none.
    """

    running: int
    waiting: int
    tokens: float | None = None


def chat_body(request: ChatRequest, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
    """The body to send: what was sifted of the caller's own, renamed, with usage asked for in every frame of a stream.

    `cache_salt` keeps one account from telling by timing what another has in the prefix cache.
    """
    body = request.body | {"model": backend_model, "cache_salt": _cache_salt(account_id)}
    if is_stream:
        body["stream"] = True
        body["stream_options"] = {
            **(body.get("stream_options") or {}),
            "include_usage": True,
            "continuous_usage_stats": True,
        }
    return dump_json(body)


@lru_cache(maxsize=1024)
def _cache_salt(account_id: str) -> str:
    return sha256(account_id.encode()).hexdigest()[:32]


def tokenize_body(request: ChatRequest, backend_model: str) -> bytes:
    """What /tokenize needs to count the prompt of a chat."""
    kept = {name: request.body[name] for name in ("messages", "tools", "chat_template_kwargs") if name in request.body}
    return dump_json({"model": backend_model, **kept})


def shortest_chat(backend_model: str) -> bytes:
    """The same for a chat whose prompt is little more than what its template adds."""
    return dump_json({"model": backend_model, "messages": [{"role": "user", "content": "a"}]})


def error_of(
    status: int, body: bytes, backend_model: str, public_model: str, retry_after: bytes | None = None
) -> GatewayError:
    """The gateway's error for a backend's refusal, in whatever shape it tells it."""
    return error_told(status, _read(body), backend_model, public_model, retry_after)


def error_told(
    status: int, told: Told, backend_model: str, public_model: str, retry_after: bytes | None = None
) -> GatewayError:
    """The same for what was read already."""
    message, kind, param = told
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and message.startswith(_LAST_WORDS):
        return GoingDown()
    if status in (400, 413, 422):
        return _refusal(status, _renamed(message, backend_model, public_model), kind, param)
    if status == HTTPStatus.NOT_FOUND and param == "model":
        return GatewayError("model_unavailable", f"The model {public_model!r} is not loaded at the moment.")
    if status in (429, 503):
        message = f"Every place for {public_model!r} is taken; try again soon."
        return GatewayError("backend_busy", message, retry_after_s=_wait_s(retry_after))
    return GatewayError("backend_error", f"The backend of {public_model!r} failed (status {status}).")


def window_told(refusal: GatewayError) -> int | None:
    """The window that a refusal names."""
    return _number(_WINDOW, refusal.message)


def prompt_told(refusal: GatewayError) -> int | None:
    """The prompt's tokens that a refusal names."""
    return _number(_PROMPT, refusal.message)


def _number(pattern: re.Pattern[str], message: str) -> int | None:
    found = pattern.search(message)
    return int(found[found.lastindex or 0]) if found is not None else None


def _wait_s(retry_after: bytes | None) -> int | None:
    """The seconds that a backend asks for, within bounds; None where it names none, or a date."""
    if retry_after is None or not retry_after.isdigit() or len(retry_after) > _MAX_RETRY_AFTER_DIGITS:
        return None
    return min(max(int(retry_after), 1), _MAX_RETRY_AFTER_S)


def read_gauges(exposition: bytes) -> Gauges | None:
    """The queue gauges of a /metrics page, None where it has none; summed over models, which share the GPUs."""
    page = b"\n" + exposition
    running, waiting = (_total(gauge, page) for gauge in (_RUNNING, _WAITING))
    if running is None and waiting is None:
        return None
    return Gauges(int(running or 0), int(waiting or 0), _total(_TOKENS, page))


def _total(line: re.Pattern[bytes], page: bytes) -> float | None:
    """The sum of a metric's lines; None where none has a number."""
    values = [
        _GAUGE_VALUE.match(labels.rpartition(b"} ")[2])  # a model's name may hold a brace
        for (labels,) in islice(map(re.Match.groups, line.finditer(page)), _MAX_LINES)
    ]
    numbers = [min(float(value[0]), _MAX_COUNT) for value in values if value is not None]
    return sum(numbers) if numbers else None


def read_count(body: bytes) -> int | None:
    """The tokens that /tokenize counted, which it tells before it lists them; None where it told none."""
    found = _COUNT.search(body)
    return int(found[1]) if found is not None else None


def _read(body: bytes) -> Told:
    """Message, type and param of an error body of any shape; the message as it is searched.

    It is cut first: an expression that takes its time over a caller's own words would let that caller stop everything.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _read_beginning(body)
    error = error_in(parsed) if isinstance(parsed, dict) else {"message": parsed if isinstance(parsed, str) else ""}
    return told_by(error or {})


def told_by(error: dict[str, Any]) -> Told:
    """Message, type and param of an error object."""
    param = error.get("param")
    return (
        _text_of(error.get("message")),
        _text_of(error.get("type")),
        _text_of(param) if isinstance(param, str) else None,
    )


def _text_of(value: Any) -> str:
    try:
        return str(value or "")[:_SEARCHED_CHARS]
    except RecursionError:  # lists in lists
        return ""


def _read_beginning(body: bytes) -> Told:
    """What a body that was cut still tells: a type and a param come after the message, which has used it up.

    One that is neither JSON nor a page is the message itself.
    """
    found = _CUT_MESSAGE.search(body) if len(body) >= MAX_REFUSAL_BYTES else None
    if found is None:
        is_text = not body.lstrip().startswith((b"<", b"{", b"["))
        return (
            shown(body[:_SEARCHED_CHARS].decode(errors="replace").strip(), _SEARCHED_CHARS) if is_text else "",
            "",
            None,
        )
    message = _unescaped(found[1])[:_SEARCHED_CHARS]
    return message, "Bad Request" if _NOTE_BEFORE.match(message) else "", None


def _unescaped(text: bytes) -> str:
    """What JSON text says, as far as it is JSON: it may have been cut within a character."""
    try:
        return str(orjson.loads(b'"%b"' % text))
    except orjson.JSONDecodeError:
        return text.decode(errors="replace")


def _refusal(status: int, message: str, kind: str, param: str | None) -> GatewayError:
    param = _own_param(param)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return GatewayError("body_too_large", "The backend takes no request of this size.")
    if param in ("input_tokens", "input_text") or "maximum context length" in message:
        return GatewayError("context_length_exceeded", _short(message), param="messages")
    if "cannot be greater than max_model_len" in message:
        return GatewayError("context_length_exceeded", _short(message), param="max_tokens")
    if "is not a multimodal model" in message:
        return GatewayError("vision_disabled", "This model takes text only.", param="messages")
    if kind == "Bad Request" and (fault := _first_fault(message)) is not None:
        code: Code = "missing_parameter" if fault[0] == "missing" else "invalid_type"
        return GatewayError(code, _short(f"`{param}`: {fault[1]}." if param else fault[1]), param=param)
    if "errors.pydantic.dev" in message:
        message = "A part of the request does not have the shape that its kind needs."
    return GatewayError("invalid_type" if kind == "Bad Request" else "invalid_value", _short(message), param=param)


def _first_fault(message: str) -> tuple[str, str] | None:
    """Kind and text of the first of the faults that schema validation lists."""
    kind = _FAULT_TYPE.search(message)
    text = _FAULT_TEXT.search(message, kind.end()) if kind is not None else None
    return (kind[1], text[1] or text[2] or "") if kind is not None and text is not None else None


def _renamed(message: str, backend_model: str, public_model: str) -> str:
    return re.sub(rf"(?<![\w/.-]){re.escape(backend_model)}(?![\w/-])", lambda _: public_model, message)


def _own_param(param: str | None) -> str | None:
    """vLLM's `body.messages.0.ChatCompletion...Param.role` in the words of a caller: `messages.0.role`."""
    if param is None or param == "body":
        return None
    parts = param.removeprefix("body.").split(".")
    return shown(".".join(part for part in parts if not part.startswith("ChatCompletion"))) or None


def _short(message: str) -> str:
    begin = found.end() if (found := _NOTE_BEFORE.match(message)) else 0
    found = _NOTE_AFTER.search(message, begin)
    is_note = found is not None and (message.endswith(")") or len(message) >= _SEARCHED_CHARS)
    said = message[begin : found.start() if found is not None and is_note else None].strip()
    said = without_places(said).strip() or "The backend refused the request."
    return said if len(said) <= _MESSAGE_LIMIT else said[:_MESSAGE_LIMIT] + "…"
