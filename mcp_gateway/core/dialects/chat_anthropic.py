"""Chats to a provider that has Anthropic's API: each is asked as a message, whose answer is told as a chat's."""

from typing import Any

from mcp_gateway.core.dialects.chat_openai_fields import ProviderFields
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.messages_anthropic import COUNT_PATH, COUNTED
from mcp_gateway.core.dialects.messages_anthropic_fields import messages_to
from mcp_gateway.core.dialects.one_piece import OnePiece
from mcp_gateway.core.dialects.openai_answer import parsed_at_once
from mcp_gateway.core.dialects.openai_chunks import ProviderRelay
from mcp_gateway.core.dialects.openai_refusals import error_object, failure_told
from mcp_gateway.core.dialects.row_rules import RowRules
from mcp_gateway.core.dialects.translation.chat_as_messages import ChatAsMessages
from mcp_gateway.core.dialects.translation.events_as_chunks import EventsAsChunks
from mcp_gateway.core.dialects.translation.message_as_chat import chat_of, chat_usage_of
from mcp_gateway.core.dialects.vllm_bodies import counting_with
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.provider_settings import Preset
from mcp_gateway.core.surfaces import whole_answer
from mcp_gateway.core.surfaces.credible import FailureTold, UsageBounds, not_understood
from mcp_gateway.core.surfaces.message_usage import details_in, usage_in
from mcp_gateway.core.surfaces.surface import Ask, Body, Terms, Whole

_REASONING = ("reasoning",)


class ChatToAnthropic(OnePiece):
    """What a chat becomes for such a provider, and its answers for the client."""

    tells_running_usage = True
    with_usage = staticmethod(whole_answer.with_usage)
    text_bytes = staticmethod(whole_answer.text_bytes)

    def __init__(self, row: Preset, reasoning_names: tuple[str, ...] = ()) -> None:
        self.path = row.messages_path
        self._chats = ProviderFields(row, keeps_cache_control=True)
        self._messages = messages_to(row)
        self._as_messages = ChatAsMessages(row)
        self._reasoning_names = reasoning_names or _REASONING
        self._rules = RowRules(clamp=row.clamp)
        self._set = row.set

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """By both tables: what can be said only as a chat is refused before money moves, as what a message may not."""
        ignored = self._chats.sift(body)
        _, not_sent = self._message(body)
        return (*ignored, *(name for name in not_sent if name not in ignored))

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        message, _ = self._message(ask.body)
        own = {"model": backend_model, "stream": is_stream, "max_tokens": terms.needed_limit}
        return dump_json(message | own | self._set)

    def counting(self, ask: Ask, backend_model: str) -> Counting:
        message, _ = self._message(ask.body)
        return counting_with(message, COUNTED, backend_model, self.path + COUNT_PATH)

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> ProviderRelay:
        head = _head(ask) | {"object": "chat.completion.chunk", "model": public_model}
        return ProviderRelay(EventsAsChunks(head, self._reasoning_names), ask, choices=1, bounds=bounds)

    async def read(self, body: Body, ask: Ask) -> Whole:
        message = parsed_at_once(body)
        if not isinstance(message, dict) or message.get("type") != "message":
            error = error_object(message)
            raise not_understood() if error is None else FailureTold(failure_told(error))
        try:
            chat = chat_of(message, self._reasoning_names)
            told = message.get("usage")
        except (LookupError, TypeError, AttributeError):
            raise not_understood() from None
        usage = usage_in(told)
        answer = _head(ask) | {"object": "chat.completion", "model": ask.model} | chat
        if usage is not None:
            answer["usage"] = chat_usage_of(usage, details_in(told))
        return Whole(dump_json(answer), chat["choices"][0]["finish_reason"], usage, is_usage_exact=usage is not None)

    def _message(self, chat: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The message that a sifted chat makes, and the names of what of it may not be sent. Raises GatewayError."""
        message = self._as_messages.message_of(self._rules.written(chat))
        return message, self._messages.sift(message)


def _head(ask: Ask) -> dict[str, Any]:
    """Not the provider's id, which is of the operator's account."""
    return {"id": f"chatcmpl-{ask.request_id}", "created": now_ms() // 1000}
