"""What ends vLLM's streams of chunks where they are cut: the words of its own end at a limit, and why it is one."""

from typing import Any

import orjson

from mcp_gateway.core.record import EndedBy
from mcp_gateway.core.surfaces.chunks import chunk_of
from mcp_gateway.core.surfaces.openai import cut_by
from mcp_gateway.core.surfaces.splice import DONE
from mcp_gateway.core.surfaces.usage import Usage

_HEAD = ("id", "object", "created", "model")


def cut_frames(first_frame: bytes, usage: Usage | None, ended_by: EndedBy, choice: dict[str, Any]) -> bytes:
    """The last chunk with a choice, to which `choice` is what it adds; the usage, null where none is told; the end."""
    first = _beginning_of(first_frame)
    told = cut_by(ended_by) | {"usage": None if usage is None else usage.as_object()}
    head = {name: first.get(name) for name in _HEAD}
    ended = {"choices": [{"index": 0, **choice, "finish_reason": "length"}]}
    last, total = head | ended | told, head | {"choices": []} | told
    return b"data: %b\n\ndata: %b\n\n%b" % (orjson.dumps(last), orjson.dumps(total), DONE)


def _beginning_of(frame: bytes) -> dict[str, Any]:
    """The chunk, or of one too long to be parsed what stands before its choices, where servers name it."""
    before, _, _ = frame.partition(b',"choices"')
    return chunk_of(frame) or chunk_of(before + b"}")
