"""Embeddings to vLLM, which has them as OpenAI does: bodies are sifted and renamed, answers read for their usage."""

from mcp_gateway.core.dialects.cache_salt import cache_salt
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.flat_fields import FlatFields
from mcp_gateway.core.dialects.vllm_bodies import TOKENIZE_PATH, joined
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces import answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.input_answer import no_text, read_input_answer
from mcp_gateway.core.surfaces.surface import Ask, Body, Collecting, Reader, Terms, Whole


class EmbeddingsToVllm:
    """What a request for embeddings becomes for vLLM, and its answer for the client."""

    path = "/v1/embeddings"
    tells_running_usage = False
    with_usage = staticmethod(answer.with_usage)
    text_bytes = staticmethod(no_text)

    def __init__(self, fields: FlatFields) -> None:
        self.sift = fields.sift

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        """What was sifted of the caller's own, renamed."""
        return dump_json(ask.body | {"model": backend_model, "cache_salt": cache_salt(account_id)})

    def counting(self, ask: Ask, backend_model: str) -> Counting | None:
        """Several texts are counted as one, which has about as many tokens; ids need no counting."""
        if messages := ask.body.get("messages"):
            return Counting(TOKENIZE_PATH, dump_json({"model": backend_model, "messages": messages}))
        text = joined(ask.body.get("input"))
        return Counting(TOKENIZE_PATH, dump_json({"model": backend_model, "prompt": text})) if text else None

    def can_collect(self, _ask: Ask) -> bool:
        return False

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> Reader:
        raise NotImplementedError  # no answer is a stream

    def collecting(self, ask: Ask, public_model: str, max_bytes: int) -> Collecting:
        raise NotImplementedError  # see `can_collect`

    async def read(self, body: Body, public_model: str) -> Whole:
        return await read_input_answer(body, public_model, "data")
