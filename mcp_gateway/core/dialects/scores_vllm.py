"""Scores of texts to vLLM, as it has them: bodies are sifted and renamed, answers read for their usage."""

from typing import Any

from mcp_gateway.core.dialects.cache_salt import cache_salt
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.flat_fields import FlatFields
from mcp_gateway.core.dialects.vllm_bodies import TOKENIZE_PATH, joined
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces import answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.input_answer import no_text, read_input_answer
from mcp_gateway.core.surfaces.surface import Ask, Body, Collecting, Reader, Terms, Whole

_TEXTS = ("query", "documents", "text_1", "text_2")


class ScoresToVllm:
    """What a request for scores becomes for vLLM, and its answer, whose list is `member`, for the client."""

    tells_running_usage = False
    with_usage = staticmethod(answer.with_usage)
    text_bytes = staticmethod(no_text)

    def __init__(self, path: str, member: str, fields: FlatFields) -> None:
        self.path = path
        self.sift = fields.sift
        self._member = member

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        """What was sifted of the caller's own, renamed."""
        return dump_json(ask.body | {"model": backend_model, "cache_salt": cache_salt(account_id)})

    def counting(self, ask: Ask, backend_model: str) -> Counting | None:
        """All texts are counted as one, each once, which is the least that was read."""
        body: dict[str, Any] = ask.body
        text = "".join(joined(body.get(name)) for name in _TEXTS)
        return Counting(TOKENIZE_PATH, dump_json({"model": backend_model, "prompt": text})) if text else None

    def can_collect(self, _ask: Ask) -> bool:
        return False

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> Reader:
        raise NotImplementedError  # no answer is a stream

    def collecting(self, ask: Ask, public_model: str, max_bytes: int) -> Collecting:
        raise NotImplementedError  # see `can_collect`

    async def read(self, body: Body, public_model: str) -> Whole:
        return await read_input_answer(body, public_model, self._member)
