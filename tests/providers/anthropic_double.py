"""A double of Anthropic's own API: messages on the wire as recorded answers have them, and its chat layer beside."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.providers.doubles import ARGUMENTS, CACHED, KEY, OUTPUT, PROMPT, TEXT, Form, Generic, Refusal, Stream

WRITTEN = 7
FRESH = PROMPT - CACHED - WRITTEN
THOUGHTS = ("Hm", ", well.")
SIGNATURE = "ErUBCkYIBxgCIkDs1g=="
HIDDEN = "EmwKAhgBEgy3va3pzix"
CALL_ID = "toolu_01T1x1fJ34qAmk2tNTrN7Up6"
UPSTREAM_ID = "msg_01UpstreamOfTheOperator"
_KNOWN = frozenset({
    "cache_control", "max_tokens", "messages", "metadata", "model", "output_config", "service_tier", "stop_sequences",
    "stream", "system", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_p",
})  # fmt: skip
_PAIRED = {"context_management": "context-management-", "speed": "fast-mode-", "fallbacks": "server-side-fallback-"}
"""Fields that are known only with a feature in the header."""


def error(status: int, kind: str, message: str, *headers: tuple[str, str]) -> Refusal:
    """As Anthropic tells one."""
    told = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CaBcD"}
    return Refusal(status, orjson.dumps(told), headers)


OVERLOADED = error(529, "overloaded_error", "Overloaded")
NO_CREDIT = error(
    400,
    "invalid_request_error",
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
)


@dataclass
class Messages:
    """What answers at /messages. What a test says of it, it does in each answer."""

    stop_reason: str = "end_turn"
    blocks: list[dict[str, Any]] | None = None
    iterations: list[dict[str, Any]] = field(default_factory=list)
    fails_amid: bytes = b""
    """Told behind `message_start` and a ping in place of an answer."""
    most_bytes: int = 100_000

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if "max_tokens" not in body:
            return error(400, "invalid_request_error", "max_tokens: Field required")
        if len(orjson.dumps(body)) > self.most_bytes:
            return error(413, "request_too_large", "Request exceeds the maximum size")
        if body["model"] != "m-1":
            return error(404, "not_found_error", f"model: {body['model']}")
        if body.get("temperature", 0) > 1:
            return error(400, "invalid_request_error", "temperature: range: 0..1")
        return None

    def usage(self) -> dict[str, Any]:
        return {
            "input_tokens": FRESH,
            "cache_read_input_tokens": CACHED,
            "cache_creation_input_tokens": WRITTEN,
            "cache_creation": {"ephemeral_5m_input_tokens": WRITTEN, "ephemeral_1h_input_tokens": 0},
            "output_tokens": OUTPUT,
            "output_tokens_details": {"thinking_tokens": 3},
            "service_tier": "standard",
            "inference_geo": "global",
        } | ({"iterations": self.iterations} if self.iterations else {})

    def content(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        if self.blocks is not None:
            return self.blocks
        blocks: list[dict[str, Any]] = []
        if body.get("thinking", {}).get("type") in ("enabled", "adaptive"):
            blocks.append({"type": "thinking", "thinking": "".join(THOUGHTS), "signature": SIGNATURE})
            blocks.append({"type": "redacted_thinking", "data": HIDDEN})
        blocks.append({"type": "text", "text": "".join(TEXT), "citations": None})
        if body.get("tools"):
            given = orjson.loads("".join(ARGUMENTS))
            blocks.append({"type": "tool_use", "id": CALL_ID, "name": body["tools"][0]["name"], "input": given})
        return blocks

    def reason(self, body: dict[str, Any]) -> str:
        return "tool_use" if body.get("tools") and self.blocks is None else self.stop_reason

    def message(self, body: dict[str, Any]) -> dict[str, Any]:
        head = {"id": UPSTREAM_ID, "type": "message", "role": "assistant", "model": "m-1"}
        return head | {"content": [], "stop_reason": None, "stop_sequence": None}

    def unary(self, body: dict[str, Any]) -> bytes:
        end = {"content": self.content(body), "stop_reason": self.reason(body), "usage": self.usage()}
        return orjson.dumps(self.message(body) | end)

    def stream(self, body: dict[str, Any]) -> Stream:
        """The counts of the prompt grow until the end, and some events are padded with blanks."""
        first = {"input_tokens": 3, "cache_read_input_tokens": CACHED, "output_tokens": 1}
        begun = self.message(body) | {"usage": first | {"cache_creation_input_tokens": WRITTEN}}
        events = [_event({"type": "message_start", "message": begun}), _event({"type": "ping"})]
        if self.fails_amid:
            return [*events, self.fails_amid]
        for index, block in enumerate(self.content(body)):
            events += _events_of(block, index)
        delta: dict[str, Any] = {"stop_reason": self.reason(body), "stop_sequence": None}
        if self.stop_reason == "refusal":
            delta |= {"stop_details": {"type": "refusal", "category": "cyber", "explanation": "no"}}
        edited: dict[str, Any] = {"context_management": {"applied_edits": []}} if body.get("context_management") else {}
        events.append(_event({"type": "message_delta", "delta": delta, "usage": self.usage()} | edited))
        return [*events, _event({"type": "message_stop"})]


def _events_of(block: dict[str, Any], index: int) -> Stream:
    """A block as a stream tells it."""
    match block["type"]:
        case "thinking":
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            told = [{"type": "thinking_delta", "thinking": text} for text in THOUGHTS]
            told.append({"type": "signature_delta", "signature": SIGNATURE})
        case "tool_use":
            empty = block | {"input": {}}
            pieces = ("", *ARGUMENTS) if block["input"] else ("",)
            told = [{"type": "input_json_delta", "partial_json": text} for text in pieces]
        case "text":
            empty = {"type": "text", "text": ""}
            told = [{"type": "text_delta", "text": text} for text in TEXT]
        case _:
            empty, told = block, []
    events = [_event({"type": "content_block_start", "index": index, "content_block": empty})]
    events += [_event({"type": "content_block_delta", "index": index, "delta": delta}, padding=index) for delta in told]
    return [*events, _event({"type": "content_block_stop", "index": index}, padding=6)]


def _event(data: dict[str, Any], padding: int = 0) -> bytes:
    return b"event: %b\ndata: %b%b\n\n" % (data["type"].encode(), orjson.dumps(data), b" " * padding)


def error_event(kind: str, message: str) -> bytes:
    return _event({"type": "error", "error": {"type": kind, "message": message}})


class Count:
    """What answers at /messages/count_tokens."""

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if unknown := body.keys() - {"messages", "model", "system", "thinking", "tool_choice", "tools"}:
            return error(400, "invalid_request_error", f"{min(unknown)}: Extra inputs are not permitted")
        return None if body["model"] == "m-1" else error(404, "not_found_error", f"model: {body['model']}")

    def unary(self, body: dict[str, Any]) -> bytes:
        return orjson.dumps({"input_tokens": PROMPT})

    def stream(self, body: dict[str, Any]) -> Stream:
        raise NotImplementedError


class Anthropic(Generic):
    kind = "anthropic"
    path = "/v1"
    auth = "x-api-key"
    key_refusal = error(401, "authentication_error", "invalid x-api-key")
    money = error(402, "billing_error", "credit of org-9aXkQ2operator is too low")
    counts = True

    def __init__(self) -> None:
        self.messages = Messages()

    def takes_key(self, headers: dict[str, str]) -> bool:
        return headers.get("x-api-key") == KEY

    def form_at(self, path: str) -> Form | None:
        forms: dict[str, Form] = {"/messages": self.messages} | (
            {"/messages/count_tokens": Count()} if self.counts else {}
        )
        return forms.get(path.removeprefix(self.path))

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        return self.messages.refuse(body)

    def unary(self, body: dict[str, Any]) -> bytes:
        return self.messages.unary(body)

    def stream(self, body: dict[str, Any]) -> Stream:
        return self.messages.stream(body)

    def refuse_head(self, headers: dict[str, str], body: dict[str, Any]) -> Refusal | None:
        if headers.get("anthropic-version") != "2023-06-01":
            return error(400, "invalid_request_error", "anthropic-version: header is required")
        betas = headers.get("anthropic-beta", "").split(",")
        known = {name for name, beta in _PAIRED.items() if any(one.startswith(beta) for one in betas)}
        if unknown := body.keys() - _KNOWN - known:
            return error(400, "invalid_request_error", f"{min(unknown)}: Extra inputs are not permitted")
        return None

    def listing(self) -> Any:
        return self.page("/models")

    def page(self, path: str) -> Any:
        """Twenty at once; what is asked for stands on the second page."""
        rows = [
            {"type": "model", "id": name, "display_name": name}
            for name in (*(f"n-{number}" for number in range(30)), "m-1")
        ]
        names = [row["id"] for row in rows]
        start = names.index(path.partition("after_id=")[2]) + 1 if "after_id=" in path else 0
        shown = rows[start : start + 20]
        has_more = start + 20 < len(rows)
        return {"data": shown, "has_more": has_more, "first_id": shown[0]["id"], "last_id": shown[-1]["id"]}


class AnthropicChat(Generic):
    """Its chat layer, which some prefer."""

    kind = "anthropic"

    def row(self) -> dict[str, Any]:
        """As one has to say of it what its messages have and it has not."""
        return {
            "auth": "bearer", "chat_path": "/chat/completions", "messages_path": "", "schema_form": "none",
            "drop": ["user", "metadata", "tools.function.strict"], "pass_fields": ["thinking"], "replay": [],
            "efforts": [],
            "refuse": ["n=1", "logprobs", "top_logprobs", "logit_bias", "seed", "reasoning_effort"],
        }  # fmt: skip

    def listing(self) -> Any:
        return {"data": [{"type": "model", "id": "m-1", "display_name": "M 1"}], "has_more": False}

    money = Anthropic.money

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Calls of tools are numbered by content block: text came first."""
        deltas = super().deltas(body)
        for delta in deltas:
            for call in delta.get("tool_calls", ()):
                call["index"] = 1
        return deltas

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        assert body.get("temperature", 0) <= 1
        return None
