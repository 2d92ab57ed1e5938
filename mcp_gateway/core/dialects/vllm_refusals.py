"""What vLLM says when it refuses: read in whatever shape, and worded for a caller.

Facts were taken from vLLM 0.32 on the wire and 0.33 in source.
"""

import re
from http import HTTPStatus

import orjson

from mcp_gateway.core.blame import GoingDown
from mcp_gateway.core.dialects.redaction import without_places
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.surfaces.error_shapes import MAX_REFUSAL_BYTES, SEARCHED_CHARS, error_in, failure_of
from mcp_gateway.core.surfaces.surface import Failure
from mcp_gateway.core.text import shown

_FAULT_TYPE = re.compile(r"'type': '(\w+)'")
_FAULT_TEXT = re.compile(r"""'msg': (?:'([^'\\]*(?:\\.[^'\\]*){0,64})'|"([^"\\]*(?:\\.[^"\\]*){0,64})")""")
"""Kind and text of a fault that schema validation lists, each fault written as a Python dict."""
_NOTE_BEFORE = re.compile(r"\d{1,9} validation errors?:\s*")
_NOTE_AFTER = re.compile(r" \(parameter=[\w.]+(?:, value=|\)$)")
"""What vLLM adds before and after what it has to say; after it may come the caller's own value, however long."""
_CUT_MESSAGE = re.compile(rb'"message":\s?"([^"\\]*(?:\\.[^"\\]*){0,256})')
"""The beginning of a message in a body that was cut."""
_MESSAGE_LIMIT = 500
_WINDOW = re.compile(r"maximum context length is (\d{1,9})|max_model_len=(\d{1,9})")
_PROMPT = re.compile(
    r"(?:your request has|contains) (\d{1,9}) (?:input )?tokens|\((\d{1,9}) in the (?:messages|prompt)"
)
"""How vLLM since 0.6 says a prompt's length; "at least so many" is none."""
_LAST_WORDS = ("cannot schedule new futures", "EngineCore encountered an issue", "aborted")
"""Of a server that shuts down, or whose engine is dead; its /health can say 200 for a long while yet."""
_UNREADABLE_IMAGE = (
    "cannot identify image file", "image file is truncated", "broken data stream when reading image", "broken PNG file",
    "unrecognized data stream contents when reading image",
)  # fmt: skip
"""Of Pillow, by which versions before 0.20 answer 500: a caller's fault that would have looked like the server's."""
_NO_MODEL = "NotFoundError"
"""The type of an error that may tell no param."""
_MAX_RETRY_AFTER_DIGITS, _MAX_RETRY_AFTER_S = 9, 3600


def read_failure(status: int, body: bytes) -> Failure:
    """What an error body of any shape tells; the message as it is searched.

    It is cut first: an expression that takes its time over a caller's own words would let that caller stop everything.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _failure_at_beginning(status, body)
    error = error_in(parsed) if isinstance(parsed, dict) else {"message": parsed if isinstance(parsed, str) else ""}
    return failure_of(status, error or {})


def error_of(
    failure: Failure,
    backend_model: str,
    public_model: str,
    retry_after: bytes | None = None,
    prompt_field: str = "messages",
) -> GatewayError:
    """The gateway's error for what a backend told."""
    status, message, kind, param = failure
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and message.startswith(_LAST_WORDS):
        return GoingDown()
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and any(words in message for words in _UNREADABLE_IMAGE):
        return GatewayError("invalid_value", "An image of the request cannot be read.", param=prompt_field)
    if status in (400, 413, 422):
        return _refusal(status, _renamed(message, backend_model, public_model), kind, param, prompt_field)
    if status == HTTPStatus.NOT_FOUND and (param == "model" or kind == _NO_MODEL):
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


def _failure_at_beginning(status: int, body: bytes) -> Failure:
    """What a body that was cut still tells: a type and a param come after the message, which has used it up.

    One that is neither JSON nor a page is the message itself.
    """
    found = _CUT_MESSAGE.search(body) if len(body) >= MAX_REFUSAL_BYTES else None
    if found is None:
        is_text = not body.lstrip().startswith((b"<", b"{", b"["))
        text = body[:SEARCHED_CHARS].decode(errors="replace").strip() if is_text else ""
        return Failure(status, shown(text, SEARCHED_CHARS))
    message = _unescaped(found[1])[:SEARCHED_CHARS]
    return Failure(status, message, "Bad Request" if _NOTE_BEFORE.match(message) else "")


def _unescaped(text: bytes) -> str:
    """What JSON text says, as far as it is JSON: it may have been cut within a character."""
    try:
        return str(orjson.loads(b'"%b"' % text))
    except orjson.JSONDecodeError:
        return text.decode(errors="replace")


def _refusal(status: int, message: str, kind: str, param: str | None, prompt_field: str) -> GatewayError:
    param = _own_param(param)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return GatewayError("body_too_large", "The backend takes no request of this size.")
    if param in ("input_tokens", "input_text") or "maximum context length" in message:
        return GatewayError("context_length_exceeded", _short(message), param=prompt_field)
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
    is_note = found is not None and (message.endswith(")") or len(message) >= SEARCHED_CHARS)
    said = message[begin : found.start() if found is not None and is_note else None].strip()
    said = without_places(said).strip() or "The backend refused the request."
    return said if len(said) <= _MESSAGE_LIMIT else said[:_MESSAGE_LIMIT] + "…"
