"""An answer in one piece: what of it is read, and the model's name, which is all that is changed.

A short one is parsed. A long one would hold the event loop meanwhile, so it is searched in slices for what is read, as
the frames of a stream are: a quote inside a JSON string is always escaped, so a key as raw bytes is never content.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import SLICE_BYTES, dump_json, parse_exactly, parse_in_turns
from mcp_gateway.core.surfaces.credible import failed_amid, not_understood, read_finish_reason
from mcp_gateway.core.surfaces.error_shapes import error_in
from mcp_gateway.core.surfaces.onward import FIRST_MODEL
from mcp_gateway.core.surfaces.surface import Ask, Body, Whole
from mcp_gateway.core.surfaces.usage import Usage, end_of_member, is_as_told, is_told, read_usage, told, usage_at

PARSED_BYTES = 256 * 1024
_OVERLAP_BYTES = 4096
"""Of two slices: more than what is looked for takes."""
_FINISH = re.compile(rb'"finish_reason":\s?(?:"([a-z_]{1,64})"|null)')
_LOGPROBS = re.compile(rb'"logprobs":\s?\{')
_NO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_DEEPER = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_STEPS_AT_ONCE, _BYTES_AT_ONCE = 2000, 4 * SLICE_BYTES
_USAGE_KEY = b'"usage":'
_TEXTS = ("content", "reasoning", "reasoning_content", "refusal")
_TEXT_KINDS = (str, list, type(None))
"""Content may come in parts."""
_BROKEN_OFF = ("abort", "error")
"""Reasons for an answer that ends since something failed."""
_NO_TEXT = frozenset({"role", "type", "id"})
_NO_TEXT_TWICE = _NO_TEXT | {"reasoning_content"}
"""Some servers tell the reasoning by both of its names."""


def reason_of_message(choice: Any) -> Any:
    """Why a chat's choice ended. Raises LookupError, TypeError or AttributeError for one whose message is none."""
    message = choice["message"]
    for name in _TEXTS:
        if not isinstance(message.get(name), _TEXT_KINDS):
            raise TypeError
    return choice["finish_reason"]


def reason_of_text(choice: Any) -> Any:
    """Why a completion's choice ended. Raises LookupError or TypeError for one that has no text."""
    if not isinstance(choice["text"], str):
        raise TypeError
    return choice["finish_reason"]


async def read_answer(body: Body, ask: Ask, reason_of: Callable[[Any], Any] = reason_of_message) -> Whole:
    """Read an answer with choices, which from now on bears the name that was asked for; not a byte else is changed.

    `reason_of` reads a choice. Raises GatewayError `backend_error` for what is none, or tells an error beside it: so
    it is refused before it is billed. Of several choices that broke off, the reason is that of the one which did.
    """
    is_short = len(body) <= PARSED_BYTES
    whole = _parse_answer(body, ask.model, reason_of) if is_short else await _search_answer(body, ask.model)
    if whole.finish_reason == "error":
        raise failed_amid()
    if ask.wanted_tools is not None:
        await parsed_answer(whole.body, reason_of)  # as whoever runs tools does, once it is billed
    return whole


async def parsed_answer(body: Body, reason_of: Callable[[Any], Any] = reason_of_message) -> dict[str, Any]:
    """An answer with choices, whole. Raises GatewayError `backend_error` for what is none, or is nested too deeply."""
    try:
        answer: dict[str, Any] = await parse_in_turns(body)
        reason_of(answer["choices"][0])
    except (GatewayError, ValueError, LookupError, TypeError, AttributeError):
        raise not_understood() from None
    return answer


def _parse_answer(body: Body, public_model: str, reason_of: Callable[[Any], Any]) -> Whole:
    try:
        answer = orjson.loads(body)
        reasons, value = [reason_of(choice) for choice in answer["choices"]], answer.get("usage")
        finish_reason = next((reason for reason in reasons if reason in _BROKEN_OFF), reasons[0])
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise not_understood() from None
    if body.find(b'"error"') >= 0 and error_in(answer) is not None:
        raise failed_amid()
    usage = read_usage(value)
    is_exact = usage is not None and is_as_told(value, usage)
    renamed = with_model(body, FIRST_MODEL.search(body), public_model)
    return Whole(renamed, read_finish_reason(finish_reason), usage, is_exact)


async def _search_answer(body: Body, public_model: str) -> Whole:
    finish = await first_match(_FINISH, body)
    if finish is None or not body.startswith(b"{"):
        raise not_understood()
    finish_reason = finish[1].decode() if finish[1] else None
    at = await usage_key_at(body)
    usage = usage_at(body, at) if at is not None else None
    is_exact = at is not None and usage is not None and is_told(body, usage, at)
    renamed = with_model(body, await first_match(FIRST_MODEL, body), public_model)  # at last: what was found moves
    return Whole(renamed, finish_reason, usage, is_exact)


async def first_match(pattern: re.Pattern[bytes], body: Body) -> re.Match[bytes] | None:
    """The first match, searched for in slices."""
    for start in range(0, len(body), SLICE_BYTES):
        found = pattern.search(body, start, start + SLICE_BYTES + _OVERLAP_BYTES)
        if found is not None:
            return found
        await asyncio.sleep(0)
    return None


async def usage_key_at(body: Body) -> int | None:
    """Where the key of the usage stands: in vLLM's answers behind the choices."""
    for end in range(len(body), 0, -SLICE_BYTES):
        at = body.rfind(_USAGE_KEY, max(0, end - SLICE_BYTES), end + _OVERLAP_BYTES)
        if at >= 0:
            return at
        await asyncio.sleep(0)
    return None


async def with_usage(body: Body, usage: Usage) -> Body:
    """The answer with this usage for whatever it tells of it. Raises GatewayError `backend_error`."""
    if len(body) <= PARSED_BYTES:
        return _parsed_with_usage(body, usage)
    at, said = await usage_key_at(body), _USAGE_KEY + orjson.dumps(usage.as_object())
    if at is not None:
        return _spliced(body, at, end_of_member(body, at), said)
    end = body.rfind(b"}")
    return _spliced(body, end, end, b"," + said)


def _parsed_with_usage(body: Body, usage: Usage) -> bytes:
    try:
        answer = parse_exactly(bytes(body))
    except GatewayError:  # its nesting
        raise not_understood() from None
    return dump_json(answer | {"usage": told(answer.get("usage"), usage)})


async def text_bytes(body: Body, member: str = "message") -> int:
    """How many bytes the texts have in that member of each choice; of a long one, all that is no log probability."""
    if len(body) > PARSED_BYTES:
        return len(await without_logprobs(body))
    texts = [choice.get(member) for choice in orjson.loads(body)["choices"] if isinstance(choice, dict)]
    size_bytes = 0
    while texts:
        one = texts.pop()
        if isinstance(one, str):
            size_bytes += len(one.encode())
        elif isinstance(one, list):
            texts.extend(one)
        elif isinstance(one, dict):
            no_text = _NO_TEXT_TWICE if one.get("reasoning") else _NO_TEXT
            texts.extend(value for name, value in one.items() if name not in no_text)
    return size_bytes


def with_model(body: Body, model: re.Match[bytes] | None, public_model: str) -> Body:
    """A long one is changed in its place."""
    return body if model is None else _spliced(body, *model.span(1), orjson.dumps(public_model))


def _spliced(body: Body, start: int, end: int, text: bytes) -> Body:
    if isinstance(body, bytearray):
        body[start:end] = text
        return body
    return body[:start] + text + body[end:]


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
            start = await end_of_brackets(body, begin)
            yield begin, start
        await asyncio.sleep(0)


async def end_of_brackets(body: Body, start: int) -> int:
    """Behind the bracket that closes the one there; nothing is parsed. Raises GatewayError `backend_error`."""
    depth, at, steps, turn_at = 0, start, 0, start
    while depth or at == start:
        skipped = _NO_BRACKET.match(body, at, at + SLICE_BYTES)
        before, at = at, skipped.end() if skipped is not None else at
        if at < len(body) and body[at] in _DEEPER:
            depth += _DEEPER[body[at]]
            at += 1
        elif at == before:
            raise not_understood()
        steps += 1
        if steps >= _STEPS_AT_ONCE or at - turn_at >= _BYTES_AT_ONCE:
            steps, turn_at = 0, at
            await asyncio.sleep(0)
    return at
