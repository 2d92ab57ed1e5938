"""Embeddings of providers, which have them as OpenAI does, each with differences that its row names.

The vectors pass as they came, and are not parsed; of the rest of an answer only the usage is told on.
"""

import re
from typing import Any

import orjson

from mcp_gateway.core.dialects.flat_openai_fields import EMBEDDING_FIELDS, ProviderFlatFields
from mcp_gateway.core.dialects.one_piece import OnePiece
from mcp_gateway.core.dialects.openai_refusals import error_object, failure_told
from mcp_gateway.core.dialects.openai_usage import usage_told
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.provider_settings import Preset
from mcp_gateway.core.surfaces import whole_answer
from mcp_gateway.core.surfaces.credible import FailureTold, UsageBounds, not_understood
from mcp_gateway.core.surfaces.input_answer import no_text
from mcp_gateway.core.surfaces.surface import Ask, Body, Reader, Terms, Whole
from mcp_gateway.core.surfaces.usage import Usage, count_of

_LIST = re.compile(rb'"data"\s{0,8}:\s{0,8}(\[)\s{0,64}\{')
_MOST_BESIDE_BYTES = 64 * 1024
"""Of an answer, beside its vectors."""
_HEAD = b'{"object":"list","data":'


class EmbeddingsToOpenAi(OnePiece):
    """What a request for embeddings becomes for a provider, and its answer for the client."""

    with_usage = staticmethod(whole_answer.with_usage)
    text_bytes = staticmethod(no_text)

    def __init__(self, row: Preset) -> None:
        fields = ProviderFlatFields(EMBEDDING_FIELDS, "input", row.embeddings)
        self.path = row.embeddings_path
        self.sift = fields.sift
        self._written = fields.written

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        return dump_json(self._written(ask.body | {"model": backend_model}))

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> Reader:
        raise NotImplementedError  # no answer is a stream

    async def read(self, body: Body, ask: Ask) -> Whole:
        found = _LIST.search(body, 0, _MOST_BESIDE_BYTES)
        start = found.start(1) if found is not None else len(body)
        end = await whole_answer.end_of_brackets(body, start) if found is not None else start
        usage = _usage_in(body[:start], body[end:])
        told = {} if usage is None else {"usage": {"prompt_tokens": usage[0], "total_tokens": usage[0]}}
        tail = b"," + dump_json({"model": ask.model, **told})[1:]
        return Whole(_between(body, start, end, tail), None, usage, is_usage_exact=usage is not None)


def _usage_in(before: Body, behind: Body) -> Usage | None:
    """What an answer tells beside its vectors; all that it costs is its prompt. Raises GatewayError `backend_error`."""
    if len(before) + len(behind) > _MOST_BESIDE_BYTES:
        raise not_understood()
    try:
        told: Any = orjson.loads(b"".join((before, b"[]" if behind else b"", behind)))
    except orjson.JSONDecodeError:
        raise not_understood() from None
    is_answer = bool(behind) and isinstance(told, dict)
    if (error := error_object({"choices": [], **told} if is_answer else told)) is not None:
        raise FailureTold(failure_told(error))
    if not is_answer:
        raise not_understood()
    usage = usage_told(told)
    if usage is not None:
        return Usage(usage["total_tokens"], 0)
    said = told.get("usage")
    total = count_of(said.get("total_tokens")) if isinstance(said, dict) else None
    return Usage(total, 0) if total else None  # some tell the total alone


def _between(body: Body, start: int, end: int, tail: bytes) -> Body:
    """The vectors in an answer of ours; a long one is changed in its place."""
    if isinstance(body, bytearray):
        body[end:] = tail
        body[:start] = _HEAD
        return body
    return b"".join((_HEAD, body[start:end], tail))
