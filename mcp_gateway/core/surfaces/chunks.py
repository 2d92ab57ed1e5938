"""Frames of OpenAI's streams, and the chunks of JSON in them, taken apart where searching them is not enough."""

from typing import Any

import orjson

MAX_PARSED_BYTES = 256 * 1024
"""Of one frame; of a longer one is read what can be searched for."""


def split_frames(frames: bytes) -> list[bytes]:
    return [frame + b"\n\n" for frame in frames.split(b"\n\n") if frame]


def chunk_of(frame: bytes) -> dict[str, Any]:
    """Empty for what is none, or is too long."""
    try:
        chunk = orjson.loads(frame.removeprefix(b"data:")) if len(frame) <= MAX_PARSED_BYTES else None
    except orjson.JSONDecodeError:
        return {}
    return chunk if isinstance(chunk, dict) else {}


def objects_in(choices: Any) -> list[dict[str, Any]]:
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def index_of(choice: dict[str, Any]) -> int:
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def is_object(text: str) -> bool:
    """Whether it is one object of JSON, whole."""
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False
