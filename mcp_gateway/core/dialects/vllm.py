"""vLLM's dialect: the few paths that are ever asked of a server, and its counts.

Facts were taken from vLLM 0.32 on the wire and 0.33 in source. Knows nothing of connections or callers.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from mcp_gateway.core.dialects import vllm_refusals
from mcp_gateway.core.dialects.chat_vllm import ChatToVllm
from mcp_gateway.core.dialects.completions_vllm import CompletionsToVllm
from mcp_gateway.core.dialects.dialect import Counting, Inquiry, Target, Translation
from mcp_gateway.core.dialects.embeddings_vllm import EmbeddingsToVllm
from mcp_gateway.core.dialects.flat_fields import (
    COMPLETION_FIELDS,
    EMBEDDING_FIELDS,
    RERANK_FIELDS,
    SCORE_FIELDS,
    FlatFields,
)
from mcp_gateway.core.dialects.messages_vllm import MessagesToVllm
from mcp_gateway.core.dialects.messages_vllm_fields import messages_to_vllm
from mcp_gateway.core.dialects.responses_fields import ResponsesFields
from mcp_gateway.core.dialects.responses_vllm import ResponsesToVllm
from mcp_gateway.core.dialects.scores_vllm import ScoresToVllm
from mcp_gateway.core.dialects.tokens_vllm import DETOKENIZE_PATH, DetokenizeToVllm, TokenizeToVllm, read_count
from mcp_gateway.core.dialects.vllm_bodies import TOKENIZE_PATH
from mcp_gateway.core.dialects.vllm_fields import ChatFields
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.surfaces.surface import Ask, Body, Failure, Headers
from mcp_gateway.core.surfaces.tokens import QuestionName

MODELS_PATH = "/v1/models"
HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"
ALLOWED_PATHS = frozenset({
    MODELS_PATH, HEALTH_PATH, METRICS_PATH, TOKENIZE_PATH, DETOKENIZE_PATH,
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings",
    "/v1/messages", "/v1/messages/count_tokens", "/v1/rerank", "/v1/responses", "/score",
})  # fmt: skip
"""All that is ever asked of a vLLM server: its other routes start work or tell secrets without a key."""
_ID_BYTES = 4096
"""Of an answer, at whose start its id stands."""
_OUR_ID = re.compile(rb'"id":\s?"(?:chatcmpl|cmpl|embd|msg|resp|score)[-_](req_[0-9a-zA-Z_-]{1,64})"')


class Vllm:
    """What vLLM speaks, with the fields that the operator passes besides those of the table."""

    name = "vllm"
    rewrites = False
    headers_of: Callable[[Ask], Headers] | None = None

    def __init__(self, pass_fields: Iterable[str] = (), pass_template_kwargs: Iterable[str] = ()) -> None:
        self.translations: Mapping[SurfaceName, Translation] = {
            "chat": ChatToVllm(ChatFields(pass_fields, pass_template_kwargs)),
            "completions": CompletionsToVllm(FlatFields(COMPLETION_FIELDS, pass_fields)),
            "embeddings": EmbeddingsToVllm(FlatFields(EMBEDDING_FIELDS, pass_fields)),
            "rerank": ScoresToVllm("/v1/rerank", "results", FlatFields(RERANK_FIELDS, pass_fields)),
            "score": ScoresToVllm("/score", "data", FlatFields(SCORE_FIELDS, pass_fields)),
            "messages": MessagesToVllm(messages_to_vllm(pass_fields, pass_template_kwargs)),
            "responses": ResponsesToVllm(ResponsesFields(pass_template_kwargs)),
        }
        self.inquiries: Mapping[QuestionName, Inquiry] = {
            "tokenize": TokenizeToVllm(pass_template_kwargs),
            "detokenize": DetokenizeToVllm(),
        }

    def failure(self, status: int, body: bytes) -> Failure:
        return vllm_refusals.read_failure(status, body)

    def error(
        self,
        failure: Failure,
        backend_model: str,
        public_model: str,
        retry_after: bytes | None = None,
        prompt_field: str = "messages",
    ) -> GatewayError:
        return vllm_refusals.error_of(failure, backend_model, public_model, retry_after, prompt_field)

    def window_told(self, refusal: GatewayError) -> int | None:
        return vllm_refusals.window_told(refusal)

    def prompt_told(self, refusal: GatewayError) -> int | None:
        return vllm_refusals.prompt_told(refusal)

    def adapts_to(self, refusal: GatewayError, target: Target, sent: bytes) -> bool:
        return False

    def count_told(self, answer: Body) -> int | None:
        return read_count(answer)

    def request_named(self, beginning: Body) -> bytes | None:
        """vLLM names an answer by the id that its request was sent with."""
        found = _OUR_ID.search(beginning, 0, _ID_BYTES)
        return found[1] if found is not None else None


def shortest_chat(backend_model: str) -> Counting:
    """Asks to count a chat whose prompt is little more than what its template adds."""
    shortest = {"model": backend_model, "messages": [{"role": "user", "content": "a"}]}
    return Counting(TOKENIZE_PATH, dump_json(shortest))
