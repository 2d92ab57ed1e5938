"""What was fetched as an image: of which type it is, and how it is written as a data: URI."""

import asyncio
from base64 import b64encode

from mcp_gateway.core.sent_images import IMAGE_TYPES

_TYPES = frozenset(f"image/{kind}".encode() for kind in (*IMAGE_TYPES, "jpg"))
TYPES = b", ".join(sorted(_TYPES))
"""As an Accept header has them."""
_RIFF, _WEBP, _WEBP_AT = b"RIFF", b"WEBP", 8
_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
}
_SLICE_BYTES = 192 * 1024
"""Whole groups of three."""


def is_image_type(content_type: bytes | None) -> bool:
    """Whether a Content-Type says one of the types that may be sent along as data."""
    return (content_type or b"").partition(b";")[0].strip().lower() in _TYPES


def image_type_of(content: bytes | bytearray) -> str | None:
    """The type by the first bytes; None for no such image."""
    if content.startswith(_RIFF) and content.startswith(_WEBP, _WEBP_AT):
        return "webp"
    return next((kind for beginning, kind in _BEGINNINGS.items() if content.startswith(beginning)), None)


def data_uri_chars(size_bytes: int) -> int:
    """How long so many bytes are as base64."""
    return (size_bytes + 2) // 3 * 4


async def data_uri(kind: str, content: bytes | bytearray) -> str:
    """In slices, between which others are served."""
    pieces = [f"data:image/{kind};base64,"]
    for start in range(0, len(content), _SLICE_BYTES):
        if start:
            await asyncio.sleep(0)
        pieces.append(b64encode(content[start : start + _SLICE_BYTES]).decode())
    return "".join(pieces)
