"""Embeddings to vLLM, which has them as OpenAI does."""

from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.flat_fields import FlatFields
from mcp_gateway.core.dialects.inputs_vllm import InputsToVllm
from mcp_gateway.core.dialects.vllm_bodies import TOKENIZE_PATH, counting_of, joined
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces.surface import Ask


class EmbeddingsToVllm(InputsToVllm):
    """What a request for embeddings becomes for vLLM, and its answer for the client."""

    def __init__(self, fields: FlatFields) -> None:
        super().__init__("/v1/embeddings", "data", fields)

    def counting(self, ask: Ask, backend_model: str) -> Counting | None:
        """Several texts are counted as one, which has about as many tokens; ids need no counting."""
        if messages := ask.body.get("messages"):
            return Counting(TOKENIZE_PATH, dump_json({"model": backend_model, "messages": messages}))
        return counting_of(joined(ask.body.get("input")), backend_model)
