"""OpenAI's Responses API without its state: the few fields that the gateway reads, strictly typed; the rest stays."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from mcp_gateway.core.config import Task
from mcp_gateway.core.data_uri import canonical_image
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import LONG_BYTES
from mcp_gateway.core.json_fields import at_least, at_most, kind_of, make_whole, optional, required
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.sent_images import SentImage, is_address, taken_out
from mcp_gateway.core.surfaces.openai import COMMENT, bytes_per_token, top_logprobs_in
from mcp_gateway.core.surfaces.openings import READ_TEXTS, opening_bytes, opening_of_content
from mcp_gateway.core.surfaces.response_object import skeleton
from mcp_gateway.core.surfaces.surface import AnswerSize, Ask, PromptSize

MAX_ITEMS = 10_000
MAX_PARTS = 10_000
"""Of all items together."""
MAX_TOOLS = 1024
_INTEGERS = frozenset({"max_output_tokens", "max_tool_calls", "seed", "top_k", "top_logprobs"})
_LOGPROBS = "message.output_text.logprobs"
_PART_LISTS = ("content", "output", "summary")
"""Where an item has parts: a message its content, a call's answer its output, reasoning its summary."""
_PAY = frozenset({"insufficient_balance", "below_minimum_balance", "budget_exhausted"})
_CODES = dict.fromkeys(_PAY, "insufficient_quota") | {"context_length_exceeded": "context_length_exceeded"}
"""What no further try changes, in OpenAI's words."""
_PARAMS = {"max_tokens": "max_output_tokens"}
"""What every surface's checks call by a chat's name."""
_RATE_LIMITED = 429


def in_openais_words(error: GatewayError) -> dict[str, Any]:
    """A refusal's error object; for money it has the code by which clients of this API know that trying is no use."""
    told = error.as_object()
    told["code"] = _CODES.get(error.code, error.code)
    told["param"] = _PARAMS.get(error.param or "", error.param)
    return told


def is_final(error: GatewayError) -> bool:
    """Whether the same request would be refused for ever, or until somebody pays."""
    return error.code in _CODES


@dataclass(slots=True, kw_only=True)
class ResponsesAsk(Ask):
    """A request with what its caller has been told of the answer so far: `number` is the next event's."""

    created_at_s: int
    number: int = 0
    has_ended: bool = False
    usage_told: dict[str, Any] | None = None

    def waiting_frames(self) -> bytes:
        """An event, since a comment does not keep Codex from giving up; before any, also the one that begins all."""
        if self.has_ended:
            return self.surface.comment
        response = skeleton(self.request_id, self.model, "in_progress", self.created_at_s)
        kinds = ("response.in_progress",) if self.number else ("response.created", "response.in_progress")
        return b"".join([self.event({"type": kind, "response": response}) for kind in kinds])

    def last_frames(self, error: GatewayError) -> bytes:
        response = _failed(error, self.request_id, self.model, self.created_at_s) | {"usage": self.usage_told}
        return self.event({"type": "response.failed", "response": response})

    def event(self, value: dict[str, Any]) -> bytes:
        """An event with the next number."""
        number, self.number = self.number, self.number + 1
        return written({**value, "sequence_number": number})


class ResponsesSurface:
    """POST /v1/responses. Its streams end with their last event."""

    name: SurfaceName = "responses"
    tasks: tuple[Task, ...] = ("generate",)
    prompt_field = "input"
    needs_limit = False
    is_conversation = True
    done = b""
    comment = COMMENT

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s

    def read(self, body: dict[str, Any], size_bytes: int) -> ResponsesAsk:
        """Read a parsed body of `size_bytes`. Raises GatewayError (400) with a message that says what to change."""
        make_whole(body, _INTEGERS)
        model = required(body, "model", str, "a model's id")
        items = _items_of(body)
        optional(body, "instructions", str)
        at_most(optional(body, "tools", list) or (), MAX_TOOLS, "tools")
        optional(body, "store", bool)
        optional(body, "background", bool)
        prompt = PromptSize.beside(_images(items), size_bytes, len(items) + 1)
        rows = _logprob_rows(body)
        return ResponsesAsk(
            surface=self,
            body=body,
            model=model,
            prompt=prompt,
            is_stream=bool(optional(body, "stream", bool)),
            output_limit=at_least(body, "max_output_tokens", 1),
            answer_size=AnswerSize(bytes_per_token(rows), "top_logprobs" if rows > 1 else "max_tokens"),
            is_long=size_bytes > LONG_BYTES,
            created_at_s=int(self._now_s()),
        )

    def opening(self, body: dict[str, Any]) -> Iterable[bytes]:
        """The instructions, and the items up to the first that is no system's."""
        yield opening_bytes(body.get("instructions"))
        items = body["input"]
        for item in items[:READ_TEXTS] if isinstance(items, list) else [{"content": items}]:
            yield opening_of_content(item.get("content"))
            if item.get("role") not in ("system", "developer"):
                break

    def last_frames(self, error: GatewayError, request_id: str, model: str) -> bytes:
        raise NotImplementedError  # see ResponsesAsk, which knows the number of the next event


RESPONSES = ResponsesSurface()


def written(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


def _failed(error: GatewayError, request_id: str, model: str, created_at_s: int) -> dict[str, Any]:
    """Codex waits as long as the message of `rate_limit_exceeded` says; every code that it does not know it tries."""
    message, code = error.message, _CODES.get(error.code, "server_error")
    if error.status == _RATE_LIMITED:
        code = "rate_limit_exceeded"
        if error.retry_after_s is not None:
            message = f"{message} Please try again in {error.retry_after_s}s."
    told = {"code": code, "message": message} | error.wait_told
    return skeleton(request_id, model, "failed", created_at_s) | {"error": told}


def _items_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The items of the input; of a text, none, since it has no parts to look at."""
    given = body.get("input")
    if isinstance(given, str) and given:
        return []
    items: list[dict[str, Any]] = required(body, "input", list, "a text or a list of items")
    at_most(items, MAX_ITEMS, "input")
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            where = f"input[{number}]"
            raise GatewayError("invalid_type", f"`{where}` must be an object, not {kind_of(item)}.", param=where)
    return items


def _logprob_rows(body: dict[str, Any]) -> int:
    """How many log probabilities come with each token."""
    included = optional(body, "include", list) or ()
    if not body.get("top_logprobs") and _LOGPROBS not in included:
        return 0
    return 1 + top_logprobs_in(body)


def _images(items: list[dict[str, Any]]) -> Iterator[SentImage]:
    """Each image part's. Refuses too many parts."""
    count = 0
    for number, item in enumerate(items):
        for name in _PART_LISTS:
            parts = item.get(name)
            if parts is None or isinstance(parts, str):
                continue
            where = f"input[{number}].{name}"
            if not isinstance(parts, list):
                problem = f"`{where}` must be a string or a list of parts, not {kind_of(parts)}."
                raise GatewayError("invalid_type", problem, param=where)
            count += len(parts)
            if count > MAX_PARTS:
                raise GatewayError("invalid_value", f"All items may have at most {MAX_PARTS} parts.", param=where)
            for index, part in enumerate(parts):
                if isinstance(part, dict) and part.get("type") == "input_image" and not _is_file(part):
                    yield _read_image(part, f"{where}[{index}]")


def _is_file(part: dict[str, Any]) -> bool:
    """Whether a part names what is kept elsewhere and nothing else, which is refused where the body is sifted."""
    return part.get("file_id") is not None and part.get("image_url") is None


def _read_image(part: dict[str, Any], where: str) -> SentImage:
    """An image part's data: URI, which from now on has one form, or its address, which is taken out."""
    url = part.get("image_url")
    if not isinstance(url, str):
        raise GatewayError("missing_parameter", f"`{where}.image_url` is missing: give a data: URI.", param=where)
    if is_address(url):
        return taken_out(url, where, part, _put_image)
    _put_image(part, canonical_image(url))
    return SentImage(part["image_url"], len(url))


def _put_image(part: dict[str, Any], uri: str) -> None:
    part["image_url"] = uri
