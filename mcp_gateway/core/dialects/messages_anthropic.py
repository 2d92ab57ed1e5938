"""Messages to a provider that has Anthropic's API itself: they pass as they are, less what its table leaves out."""

from typing import Any

from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.message_fields import BETAS
from mcp_gateway.core.dialects.messages_anthropic_fields import messages_to
from mcp_gateway.core.dialects.one_piece import OnePiece
from mcp_gateway.core.dialects.translation.carried import without_thoughts_of_others
from mcp_gateway.core.dialects.vllm_bodies import counting_with
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.provider_settings import Preset
from mcp_gateway.core.surfaces import message_answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.message_answer import message_id
from mcp_gateway.core.surfaces.message_events import MessageRelay
from mcp_gateway.core.surfaces.surface import Ask, Body, Headers, Terms, Whole

BETA_HEADER = b"anthropic-beta"
COUNT_PATH = "/count_tokens"
COUNTED = ("messages", "system", "tools", "tool_choice", "thinking")
"""Fields that the prompt is made of."""


class HeldMessageRelay(MessageRelay):
    """Hands nothing out before the answer begins, so that what fails until then is asked elsewhere.

    A text begins with its first piece; a thought, whose words may be left out, and a call with their blocks.
    """

    _held = b""
    _has_begun = False

    @property
    def has_started(self) -> bool:
        return self._has_begun

    @property
    def held_bytes(self) -> int:
        return super().held_bytes + len(self._held)

    def feed(self, piece: bytes) -> bytes:
        return self._released(super().feed(piece))

    def feed_end(self) -> bytes:
        return self._released(super().feed_end())

    def _passed(self, kind: str, data: bytes, told: dict[str, Any]) -> bytes:
        """Of what comes before the answer pings are dropped: they mean nothing by then."""
        if kind == "content_block_start":
            block = told.get("content_block")
            self._has_begun |= isinstance(block, dict) and block.get("type") != "text"
        passed = super()._passed(kind, data, told)
        return passed if self._has_begun or kind != "ping" else b""

    def _released(self, events: bytes) -> bytes:
        if not self._has_begun and not self.has_told(events):
            self._held += events
            return b""
        self._has_begun, held, self._held = True, self._held, b""
        return held + events


class MessagesToAnthropic(OnePiece):
    """What a message becomes for such a provider, and its answers for the client.

    They bear an id of our own: the provider's is of the operator's account.
    """

    tells_running_usage = True
    with_usage = staticmethod(message_answer.with_usage)
    text_bytes = staticmethod(message_answer.text_bytes)

    def __init__(self, row: Preset) -> None:
        self.path = row.messages_path
        self.sift = messages_to(row).sift
        self._set = row.set

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        body = {name: value for name, value in ask.body.items() if name != BETAS}
        body["messages"] = without_thoughts_of_others(body["messages"])
        own = {"model": backend_model, "stream": is_stream, "max_tokens": terms.needed_limit}
        return dump_json(body | own | self._set)

    def counting(self, ask: Ask, backend_model: str) -> Counting:
        body = ask.body | {"messages": without_thoughts_of_others(ask.body["messages"])}
        counting = counting_with(body, COUNTED, backend_model, self.path + COUNT_PATH)
        return counting._replace(headers=beta_headers(ask))

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> HeldMessageRelay:
        return HeldMessageRelay(public_model, bounds, message_id(ask.request_id))

    async def read(self, body: Body, ask: Ask) -> Whole:
        return message_answer.read_message(body, ask.model, message_id(ask.request_id))


def beta_headers(ask: Ask) -> Headers:
    """What has the features switched on that were asked for and are taken."""
    betas = ask.body.get(BETAS)
    return ((BETA_HEADER, ",".join(betas).encode()),) if betas else ()
