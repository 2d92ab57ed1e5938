"""Messages to providers that have chats in their place: each is asked as a chat, and its answer told as a message."""

from dataclasses import replace
from typing import Any

import orjson

from mcp_gateway.core.dialects.chat_openai import ChatToOpenAi
from mcp_gateway.core.dialects.messages_openai_fields import messages_to_openai
from mcp_gateway.core.dialects.one_piece import OnePiece
from mcp_gateway.core.dialects.sifting import unsupported
from mcp_gateway.core.dialects.translation.chat_as_message import REASONING, message_of
from mcp_gateway.core.dialects.translation.chunks_as_events import MessageFromChat
from mcp_gateway.core.dialects.translation.messages_as_chat import MessagesAsChat
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.provider_settings import Preset
from mcp_gateway.core.surfaces import message_answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.message_answer import message_id
from mcp_gateway.core.surfaces.message_usage import as_told
from mcp_gateway.core.surfaces.surface import Ask, Body, Terms, Whole
from mcp_gateway.core.surfaces.usage import Usage

_EFFORT = "reasoning_effort"
_FIELDS = {
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    _EFFORT: "thinking",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
}
"""A message's fields by what they are called in the chat that it becomes."""
_NO_MESSAGES: dict[str, Any] = {"messages": []}
"""Those of a chat that was made here have nothing that is left out."""


class MessagesToOpenAi(OnePiece):
    """What a message becomes for a provider, by the chat that it is there, and its answers for the client."""

    with_usage = staticmethod(message_answer.with_usage)
    text_bytes = staticmethod(message_answer.text_bytes)

    def __init__(self, row: Preset) -> None:
        self._chat = ChatToOpenAi(row, (REASONING,))
        self.path = self._chat.path
        self._fields = messages_to_openai(row)
        self._translated = MessagesAsChat(row)
        self._without_effort: set[str] = set()
        """Models there that refused to be told how much to think."""

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """What is left is still a message; whether the provider takes it as a chat is known from then on."""
        ignored = self._fields.sift(body)
        try:
            more = self._chat.sift(self._translated.chat_of(body) | _NO_MESSAGES)
        except GatewayError as refusal:
            field = _FIELDS.get(refusal.param or "")
            if field is None:
                raise
        else:
            return (*ignored, *(name for name in map(_field_named, more) if name not in ignored))
        raise unsupported(field)

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        chat = self._translated.chat_of(ask.body, has_effort=backend_model not in self._without_effort)
        self._chat.sift(chat)
        return self._chat.body(replace(ask, body=chat), terms, backend_model, account_id, is_stream=is_stream)

    def adapts_to(self, refusal: GatewayError, backend_model: str, sent: bytes) -> bool:
        """A model that refuses to be told how much to think is told no more: clients tell every model.

        One that refuses in these words without being told was asked for them by a caller: then it is told again.
        """
        if self._chat.adapts_to(refusal, sent):
            return True
        if refusal.param != _EFFORT and _EFFORT not in refusal.message:
            return False
        self._without_effort ^= {backend_model}
        return backend_model in self._without_effort

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> MessageFromChat:
        prompt = Usage(max(1, ask.prompt.estimated_text_tokens), 0)
        chat = self._chat.reader(ask, public_model, bounds)
        return MessageFromChat(chat, prompt, public_model, message_id(ask.request_id))

    async def read(self, body: Body, ask: Ask) -> Whole:
        whole = await self._chat.read(body, ask)
        message = message_of(orjson.loads(whole.body))
        message["usage"] = as_told(whole.usage or Usage(0, 0))
        return whole._replace(body=dump_json(message), finish_reason=message["stop_reason"])


def _field_named(name: str) -> str:
    return _FIELDS.get(name, name)
