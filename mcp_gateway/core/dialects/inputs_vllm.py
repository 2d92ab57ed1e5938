"""Texts that vLLM reads and answers with no text: bodies are renamed, answers read for their usage, never a stream."""

from mcp_gateway.core.dialects.cache_salt import cache_salt
from mcp_gateway.core.dialects.flat_fields import FlatFields
from mcp_gateway.core.dialects.one_piece import OnePiece
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces import whole_answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.input_answer import no_text, read_input_answer
from mcp_gateway.core.surfaces.surface import Ask, Body, Reader, Terms, Whole


class InputsToVllm(OnePiece):
    """What such a request becomes for vLLM at `path`, and its answer, whose list is `member`, for the client."""

    with_usage = staticmethod(whole_answer.with_usage)
    text_bytes = staticmethod(no_text)

    def __init__(self, path: str, member: str, fields: FlatFields) -> None:
        self.path = path
        self.sift = fields.sift
        self._member = member

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        """What was sifted of the caller's own, renamed."""
        return dump_json(ask.body | {"model": backend_model, "cache_salt": cache_salt(account_id)})

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> Reader:
        raise NotImplementedError  # no answer is a stream

    async def read(self, body: Body, ask: Ask) -> Whole:
        return await read_input_answer(body, ask.model, self._member)
