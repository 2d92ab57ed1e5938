"""The shape of a chat request: the few fields that the gateway reads, strictly typed; the rest is kept as it came.

Strict because vLLM is not: it takes "yes" for true, prefers `max_completion_tokens`, and falls back to a default model.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mcp_gateway.core.data_uri import canonical_image
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import LONG_BYTES, half_character, parse_exactly, told_of_half

MAX_MESSAGES = 10_000
MAX_PARTS = 10_000
"""Of all messages together."""
MAX_TOOLS = 1024
_BOM = b"\xef\xbb\xbf"
_OUTPUT_CAPS = ("max_completion_tokens", "max_tokens")
"""In the order in which vLLM prefers them."""
_INTEGERS = frozenset({
    *_OUTPUT_CAPS, "min_tokens", "n", "seed", "thinking_token_budget", "top_k", "top_logprobs",
    "truncate_prompt_tokens",
})  # fmt: skip
_WHOLE_TEXT = re.compile(r"-?[0-9]{1,18}")
_TOKEN_BYTES, _ROW_BYTES = 16, 128
"""What a token of an answer takes, and one of its log probabilities: more than on the average."""
_MOST_TOP_LOGPROBS = 20
"""Of vLLM, unless it was started otherwise."""
_WANTED = {str: "a string", list: "a list", dict: "an object", bool: "true or false", int: "a whole number"}


@dataclass(slots=True)
class ChatRequest:
    """A chat request as its caller sent it, with what the gateway read out of it.

    `body` is forwarded, and put away once it is sent; `text_bytes` is its size less the images, an upper bound of the
    prompt in tokens; `max_tokens` is what the caller asked for by whichever field, None where it named none; a long one
    (`is_long`) is worked on in several turns of the event loop.
    """

    body: dict[str, Any]
    text_bytes: int
    model: str
    message_count: int
    images: tuple[str, ...]
    is_stream: bool
    wants_usage: bool
    wants_continuous_usage: bool
    max_tokens: int | None
    choices: int
    is_long: bool = False
    ignored: tuple[str, ...] = ()
    """Names in it that were not sent on."""
    counted_tokens: int | None = None
    """Its prompt by a backend's own count, where one was asked."""
    _sent: bytes = b""

    @property
    def top_logprobs(self) -> int:
        """How many log probabilities are asked for beside each token's own."""
        top = self.body.get("top_logprobs") or 0
        return top if isinstance(top, int) and 0 <= top <= _MOST_TOP_LOGPROBS else _MOST_TOP_LOGPROBS

    @property
    def bytes_per_token(self) -> int:
        """What a token of each choice may take in an answer in one piece."""
        rows = 1 + self.top_logprobs if self.body.get("logprobs") else 0
        return self.choices * (_TOKEN_BYTES + rows * _ROW_BYTES)

    def put_away(self, sent: bytes) -> None:
        """Keep of the body only what was sent: parsed, it takes several times as much; images are still counted."""
        self.body, self.images, self._sent = {}, ("",) * len(self.images), sent

    def take_out(self) -> None:
        """Have the body again that was put away."""
        if self._sent:
            self.body, self._sent = parse_exactly(self._sent), b""

    def forget_body(self) -> None:
        """Keep nothing of what was sent on, which may be large, while the answer is told."""
        self.put_away(b"")

    def cap_output(self, limit: int, *, is_added: bool = True) -> bool:
        """Lower every field that governs the answer's length to `limit` tokens; True if one changed or was set.

        Where the caller named none, one `is_added`.
        """
        is_changed = is_added if self.max_tokens is None else self.max_tokens > limit
        if self.max_tokens is None and is_added:
            self.body["max_tokens"] = limit
        for field in (*_OUTPUT_CAPS, "min_tokens"):
            if (asked := self.body.get(field)) is not None and asked > limit:
                self.body[field] = limit
        if self.max_tokens is not None or is_added:
            self.max_tokens = limit if self.max_tokens is None else min(self.max_tokens, limit)
        return is_changed

    def uncap_output(self) -> None:
        """Leave the answer's length to the backend."""
        for field in _OUTPUT_CAPS:
            self.body.pop(field, None)
        self.max_tokens = None


def parse_chat_request(raw: bytes) -> ChatRequest:
    """Read a request body. Raises GatewayError (400) with a message that says what to change."""
    return read_chat_request(_parsed(raw), len(raw))


def read_chat_request(body: dict[str, Any], size_bytes: int) -> ChatRequest:
    """Read an already parsed body of `size_bytes`. Raises as parse_chat_request."""
    for name in body.keys() & _INTEGERS:
        body[name] = whole_number(body[name])
    model = _required(body, "model", str, "a model's id")
    messages = _required(body, "messages", list, "a list of messages")
    _at_most(messages, MAX_MESSAGES, "messages")
    _at_most(_optional(body, "tools", list) or (), MAX_TOOLS, "tools")
    images = tuple(_images(messages))
    is_stream = bool(_optional(body, "stream", bool))
    options = _optional(body, "stream_options", dict)
    if options is not None and not is_stream:
        raise GatewayError("invalid_value", "stream_options needs stream: true.", param="stream_options")
    _at_least(body, "min_tokens", 0)
    preferred, other = [_at_least(body, name, 1) for name in _OUTPUT_CAPS]
    return ChatRequest(
        body=body,
        text_bytes=size_bytes - sum(sent_chars for _, sent_chars in images),
        model=model,
        message_count=len(messages),
        images=tuple(image for image, _ in images),
        is_stream=is_stream,
        wants_usage=bool(options and _optional(options, "include_usage", bool, "stream_options.")),
        wants_continuous_usage=bool(options and _optional(options, "continuous_usage_stats", bool, "stream_options.")),
        max_tokens=other if preferred is None else preferred,
        choices=_at_least(body, "n", 1) or 1,
        is_long=size_bytes > LONG_BYTES,
    )


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """A request body that must be a JSON object. Raises GatewayError `invalid_json` or `invalid_type`."""
    return _parsed(raw)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        body = parse_exactly(raw.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        if (place := half_character(raw, error)) is not None:
            raise GatewayError("invalid_json", told_of_half(place)) from None
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        problem = "The request body is empty; send a JSON object." if not raw else f"The body is not JSON ({where})."
        raise GatewayError("invalid_json", problem) from None
    if not isinstance(body, dict):
        raise GatewayError("invalid_type", f"The body must be a JSON object, not {_kind(body)}.")
    return body


def whole_number(value: Any) -> Any:
    """A whole number that was written as a decimal or as text, as an integer; any other value as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE_TEXT.fullmatch(value):
        return int(value)
    return value


def _required(body: dict[str, Any], name: str, kind: type, description: str) -> Any:
    value = body.get(name)
    if value is None or value == "" or value == []:
        raise GatewayError("missing_parameter", f"`{name}` is missing or empty: give {description}.", param=name)
    return _checked(value, kind, name)


def _optional(body: dict[str, Any], name: str, kind: type, prefix: str = "") -> Any:
    value = body.get(name)
    return None if value is None else _checked(value, kind, prefix + name)


def _at_least(body: dict[str, Any], name: str, least: int) -> int | None:
    value: int | None = body.get(name)
    if value is not None and _checked(value, int, name) < least:
        raise GatewayError("invalid_value", f"`{name}` must be at least {least}, not {value}.", param=name)
    return value


def _at_most(values: Sequence[Any], most: int, name: str) -> None:
    if len(values) > most:
        raise GatewayError("invalid_value", f"`{name}` may have at most {most} entries, not {len(values)}.", param=name)


def _checked(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise GatewayError("invalid_type", f"`{name}` must be {_WANTED[kind]}, not {_kind(value)}.", param=name)
    return value


def _kind(value: Any) -> str:
    names = {str: "a string", list: "a list", dict: "an object", bool: "a boolean", int: "a number", float: "a decimal"}
    return names.get(type(value), "null")


def _images(messages: list[Any]) -> Iterator[tuple[str, int]]:
    """The address of each image part, and how many characters it came in.

    Refuses messages of an unknown shape, and too many parts.
    """
    parts = 0
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise GatewayError("invalid_type", f"`{where}` must be an object, not {_kind(message)}.", param=where)
        if not isinstance(message.get("role"), str):
            raise GatewayError("missing_parameter", f"`{where}.role` is missing: give a string.", param=f"{where}.role")
        content = message.get("content")
        if isinstance(content, list):
            parts += len(content)
            if parts > MAX_PARTS:
                raise GatewayError("invalid_value", f"All `content` may have at most {MAX_PARTS} parts.", param=where)
            for index, part in enumerate(content):
                if isinstance(part, dict) and part.get("type") == "image_url":
                    yield _read_image(part, f"{where}.content[{index}]")
        elif content is not None and not isinstance(content, str):
            problem = f"`{where}.content` must be a string or a list of parts, not {_kind(content)}."
            raise GatewayError("invalid_type", problem, param=f"{where}.content")


def _read_image(part: dict[str, Any], where: str) -> tuple[str, int]:
    """An image part's address, which from now on has one form."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise GatewayError("missing_parameter", f"`{where}.image_url.url` is missing: give a data: URI.", param=where)
    canonical = canonical_image(url)
    if canonical is not url:
        part["image_url"] = {**image, "url": canonical} if isinstance(image, dict) else canonical
    return canonical, len(url)
