"""The demo's embeddings, and scores by them: a vector for each text, always the same one, of unit length."""

from base64 import b64encode
from hashlib import shake_128
from math import sqrt
from struct import pack
from typing import Any

DIMENSIONS = 16


def embedding(index: int, text: str, dimensions: int, *, as_base64: bool) -> dict[str, Any]:
    """One row of an answer."""
    vector = _vector(text, dimensions)
    told = b64encode(pack(f"<{dimensions}f", *vector)).decode() if as_base64 else vector
    return {"index": index, "object": "embedding", "embedding": told}


def _vector(text: str, dimensions: int) -> list[float]:
    raw = [byte - 127.5 for byte in shake_128(text.encode()).digest(dimensions)]
    length = sqrt(sum(number * number for number in raw))
    return [number / length for number in raw]


def likeness(one: str, other: str) -> float:
    """How alike two texts are by their vectors, between 0 and 1."""
    pairs = zip(_vector(one, DIMENSIONS), _vector(other, DIMENSIONS), strict=True)
    return (1 + sum(left * right for left, right in pairs)) / 2
