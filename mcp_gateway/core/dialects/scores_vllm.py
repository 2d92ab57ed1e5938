"""Scores of texts to vLLM, as it has them."""

from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.inputs_vllm import InputsToVllm
from mcp_gateway.core.dialects.vllm_bodies import counting_of, joined
from mcp_gateway.core.surfaces.surface import Ask

_TEXTS = ("query", "documents", "text_1", "text_2")


class ScoresToVllm(InputsToVllm):
    """What a request for scores becomes for vLLM, and its answer for the client."""

    def counting(self, ask: Ask, backend_model: str) -> Counting | None:
        """All texts are counted as one, each once, which is the least that was read."""
        return counting_of("".join(joined(ask.body.get(name)) for name in _TEXTS), backend_model)
