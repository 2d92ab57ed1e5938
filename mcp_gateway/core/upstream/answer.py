"""An answer in one piece: what of it is read, and the model's name, which is all that is changed.

A short one is parsed. A long one would hold the event loop meanwhile, so it is searched in slices for what is read, as
the frames of a stream are: a quote inside a JSON string is always escaped, so a key as raw bytes is never content.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import SLICE_BYTES
from mcp_gateway.core.upstream.credible import read_finish_reason
from mcp_gateway.core.upstream.frames import FIRST_MODEL
from mcp_gateway.core.upstream.usage import Usage, read_usage, usage_at

PARSED_BYTES = 256 * 1024
_OVERLAP_BYTES = 4096
"""Of two slices: more than what is looked for takes."""
_FINISH = re.compile(rb'"finish_reason":\s?(?:"([a-z_]{1,64})"|null)')
_LOGPROBS = re.compile(rb'"logprobs":\s?\{')
_VLLM_ID = re.compile(rb'"id":\s?"chatcmpl-(req_[0-9a-zA-Z_-]{1,64})"')
_NO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_DEEPER = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_STEPS_AT_ONCE = 2000
_USAGE_KEY = b'"usage":'
Body = bytes | bytearray


class Told(NamedTuple):
    """What an answer tells beside its text; `model_at` is where the model's name stands in it, with its quotes."""

    finish_reason: str | None
    usage: Usage | None
    model_at: tuple[int, int] | None


async def read_answer(body: Body) -> Told:
    """Raises GatewayError `backend_error` for what is no chat completion."""
    return _parse_answer(body) if len(body) <= PARSED_BYTES else await _search_answer(body)


def _parse_answer(body: Body) -> Told:
    try:
        answer = orjson.loads(body)
        finish_reason, usage = answer["choices"][0]["finish_reason"], answer.get("usage")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise _not_understood() from None
    found = FIRST_MODEL.search(body)
    model_at = found.span(1) if found is not None else None
    return Told(read_finish_reason(finish_reason), read_usage(usage), model_at)


async def _search_answer(body: Body) -> Told:
    finish = await _first(_FINISH, body)
    if finish is None or not body.startswith(b"{"):
        raise _not_understood()
    model = await _first(FIRST_MODEL, body)
    return Told(
        finish_reason=finish[1].decode() if finish[1] else None,
        usage=await _last_usage(body),
        model_at=model.span(1) if model is not None else None,
    )


def is_for_another(beginning: Body, request_id: str, server_id: bytes | None) -> bool:
    """Whether it answers another request of ours: vLLM names an answer by the id that its request was sent with.

    `server_id` is the id that the server gave the request itself, in a header: another gateway's, which passes.
    """
    found = _VLLM_ID.search(beginning, 0, _OVERLAP_BYTES)
    return found is not None and found[1] not in (request_id.encode(), server_id)


async def _first(pattern: re.Pattern[bytes], body: Body) -> re.Match[bytes] | None:
    for start in range(0, len(body), SLICE_BYTES):
        found = pattern.search(body, start, start + SLICE_BYTES + _OVERLAP_BYTES)
        if found is not None:
            return found
        await asyncio.sleep(0)
    return None


async def _last_usage(body: Body) -> Usage | None:
    """vLLM's stands behind the choices."""
    for end in range(len(body), 0, -SLICE_BYTES):
        at = body.rfind(_USAGE_KEY, max(0, end - SLICE_BYTES), end + _OVERLAP_BYTES)
        if at >= 0:
            return usage_at(body, at)
        await asyncio.sleep(0)
    return None


def with_model(body: Body, model_at: tuple[int, int], public_model: str) -> Body:
    """The answer with its `model` replaced, and not a byte else; a long one is changed in its place."""
    start, end = model_at
    name = orjson.dumps(public_model)
    if isinstance(body, bytearray):
        body[start:end] = name
        return body
    return body[:start] + name + body[end:]


async def without_logprobs(body: Body) -> Body:
    """The answer with `null` for all log probabilities. Raises GatewayError `backend_error`."""
    kept, at, whole = bytearray(), 0, memoryview(body)
    async for start, end in _logprobs_of(body):
        kept += whole[at:start]
        kept += b"null"
        at = end
    return kept + whole[at:] if at else body


async def _logprobs_of(body: Body) -> AsyncIterator[tuple[int, int]]:
    """Where each choice's stand."""
    start = 0
    while start < len(body):
        found = _LOGPROBS.search(body, start, start + SLICE_BYTES + _OVERLAP_BYTES)
        start = min(start + SLICE_BYTES, len(body))
        if found is not None:
            begin = found.end() - 1
            start = await _end_of_object(body, begin)
            yield begin, start
        await asyncio.sleep(0)


async def _end_of_object(body: Body, start: int) -> int:
    """Behind the bracket that closes the one there; nothing is parsed."""
    depth, at, steps = 0, start, 0
    while depth or at == start:
        skipped = _NO_BRACKET.match(body, at, at + SLICE_BYTES)
        at = skipped.end() if skipped is not None else at
        if at == len(body) or body[at] not in _DEEPER:
            raise _not_understood()
        depth += _DEEPER[body[at]]
        at += 1
        steps += 1
        if not steps % _STEPS_AT_ONCE:
            await asyncio.sleep(0)
    return at


def _not_understood() -> GatewayError:
    return GatewayError("backend_error", "The backend's answer could not be understood.")
