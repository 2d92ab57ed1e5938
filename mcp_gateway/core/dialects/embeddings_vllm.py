"""Embeddings to vLLM, which has them as OpenAI does."""

from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.flat_fields import FlatFields
from mcp_gateway.core.dialects.inputs_vllm import InputsToVllm
from mcp_gateway.core.dialects.vllm_bodies import counting_of, counting_with, joined
from mcp_gateway.core.surfaces.surface import Ask


class EmbeddingsToVllm(InputsToVllm):
    """What a request for embeddings becomes for vLLM, and its answer for the client."""

    def __init__(self, fields: FlatFields) -> None:
        super().__init__("/v1/embeddings", "data", fields)

    def counting(self, ask: Ask, backend_model: str) -> Counting | None:
        """Several texts are counted as one, which has about as many tokens; ids need no counting."""
        if ask.body.get("messages"):
            return counting_with(ask.body, ("messages",), backend_model)
        return counting_of(joined(ask.body.get("input")), backend_model)
