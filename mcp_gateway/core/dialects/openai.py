"""The dialect of providers with OpenAI's API, one object for each: what its row says, and how its refusals are meant.

Knows nothing of connections or callers.
"""

from collections.abc import Callable, Mapping

from mcp_gateway.core.dialects import openai_refusals
from mcp_gateway.core.dialects.chat_anthropic import ChatToAnthropic
from mcp_gateway.core.dialects.chat_openai import ChatToOpenAi
from mcp_gateway.core.dialects.completions_openai import CompletionsToOpenAi
from mcp_gateway.core.dialects.dialect import Inquiry, Target, Translation
from mcp_gateway.core.dialects.embeddings_openai import EmbeddingsToOpenAi
from mcp_gateway.core.dialects.messages_anthropic import MessagesToAnthropic, beta_headers
from mcp_gateway.core.dialects.messages_openai import MessagesToOpenAi
from mcp_gateway.core.dialects.responses_openai import ResponsesToOpenAi
from mcp_gateway.core.dialects.tokens_vllm import read_count
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import Preset
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.surfaces.surface import Ask, Body, Failure, Headers
from mcp_gateway.core.surfaces.tokens import QuestionName


class OpenAi:
    """What the provider of such a row speaks."""

    name = "openai"
    rewrites = True
    headers_of: Callable[[Ask], Headers] | None = staticmethod(beta_headers)

    def __init__(self, row: Preset, reasoning_names: tuple[str, ...] = ()) -> None:
        self._row = row
        self._translated = MessagesToOpenAi(row)
        chats, completions = ChatToOpenAi(row, reasoning_names), CompletionsToOpenAi(row)
        self._adapting = {one.path: one.adapts_to for one in (chats, completions)}
        served: dict[SurfaceName, Translation] = {
            "chat": chats if row.chat_path else ChatToAnthropic(row, reasoning_names),
            "completions": completions,
            "embeddings": EmbeddingsToOpenAi(row),
            "responses": ResponsesToOpenAi(row),
            "messages": MessagesToAnthropic(row) if row.messages_path else self._translated,
        }
        self.translations: Mapping[SurfaceName, Translation] = {name: one for name, one in served.items() if one.path}
        self.inquiries: Mapping[QuestionName, Inquiry] = {}

    def failure(self, status: int, body: bytes) -> Failure:
        return openai_refusals.read_failure(status, body)

    def error(
        self,
        failure: Failure,
        backend_model: str,
        public_model: str,
        retry_after: bytes | None = None,
        prompt_field: str = "messages",
    ) -> GatewayError:
        return openai_refusals.error_of(failure, self._row, backend_model, public_model, retry_after, prompt_field)

    def window_told(self, refusal: GatewayError) -> int | None:
        return openai_refusals.window_told(refusal)

    def prompt_told(self, refusal: GatewayError) -> int | None:
        return openai_refusals.prompt_told(refusal)

    def adapts_to(self, refusal: GatewayError, target: Target, sent: bytes) -> bool:
        if target.translation is self._translated:
            return self._translated.adapts_to(refusal, target.backend_model, sent)
        adapts_to = self._adapting.get(target.translation.path)
        return adapts_to is not None and adapts_to(refusal, sent)

    def count_told(self, answer: Body) -> int | None:
        return read_count(answer)

    def request_named(self, beginning: Body) -> bytes | None:
        """None names its answers by our ids."""
        return None
