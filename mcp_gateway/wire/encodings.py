"""Request bodies that come compressed: decoded in slices, between which others are served, with room taken first.

Knows codings and sizes; knows nothing of what a body says. br and zstd need a library each, and are 415 without it.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType

from mcp_gateway.core.bytes_in_flight import STEP_BYTES, Reservation
from mcp_gateway.core.errors import GatewayError

_SLICE_BYTES = 256 * 1024
_MAX_MEMBERS = 100
"""Of one gzip body: an empty one costs far more than its bytes."""
_MAX_ZSTD_WINDOW_BYTES = 8 * 1024 * 1024
"""What RFC 9659 has a decoder of HTTP take at least, and a sender use at most."""
_ZSTD_READ_BYTES, _MAX_ZSTD_READS = 32 * 1024, 16
"""More than a piece takes that does not shrink."""


async def decoded(body: bytes, coding: bytes, reservation: Reservation, max_bytes: int) -> bytes:
    """The body as it was before `coding` (the value of Content-Encoding).

    Raises GatewayError: `unsupported_encoding`, `invalid_value`, `body_too_large` or `overloaded`.
    """
    name = coding.decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return body
    decode = _DECODERS.get(name)
    if decode is None:
        known = ", ".join(_DECODERS)
        raise GatewayError("unsupported_encoding", f"This Content-Encoding is not read here; there are: {known}.")
    pieces, size_bytes, counted_bytes = [], 0, 0
    try:
        for piece in decode(body):
            size_bytes += len(piece)
            if size_bytes > max_bytes:
                raise GatewayError("body_too_large", f"The request body may have at most {max_bytes} bytes, decoded.")
            if size_bytes > counted_bytes:
                await reservation.grow(STEP_BYTES)
                counted_bytes += STEP_BYTES
            pieces.append(piece)
            await asyncio.sleep(0)
    except _ERRORS:
        raise GatewayError("invalid_value", f"The body is not what its Content-Encoding says: {name}.") from None
    return b"".join(pieces)


def _inflated(body: bytes, window_bits: int) -> Iterator[bytes]:
    """Of zlib's formats; gzip may come in several members. Raises ValueError or zlib.error."""
    members = 1
    decoder = zlib.decompressobj(window_bits)
    for part in _slices(body):
        rest = part
        while rest:
            if decoder.eof:
                members += 1
                if window_bits != _GZIP or members > _MAX_MEMBERS:
                    raise ValueError("too many streams")
                decoder = zlib.decompressobj(window_bits)
            yield decoder.decompress(rest, _SLICE_BYTES)
            rest = decoder.unconsumed_tail or decoder.unused_data
    while not decoder.eof:
        if not (piece := decoder.decompress(b"", _SLICE_BYTES)):
            raise ValueError("cut")
        yield piece


_DEFLATE = 8
"""The method that zlib's head names (RFC 1950)."""
_GZIP, _ZLIB, _RAW = 31, 15, -15


def _gunzipped(body: bytes) -> Iterator[bytes]:
    return _inflated(body, _GZIP)


def _deflated(body: bytes) -> Iterator[bytes]:
    """With zlib's head, as it should be, or without it, as some clients send it."""
    has_head = len(body) > 1 and body[0] & 15 == _DEFLATE and (body[0] << 8 | body[1]) % 31 == 0
    return _inflated(body, _ZLIB if has_head else _RAW)


def _optional(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


_brotli, _zstandard = _optional("brotli"), _optional("zstandard")


def _unbrotlied(body: bytes) -> Iterator[bytes]:
    assert _brotli is not None
    decoder = _brotli.Decompressor()
    for part in _slices(body):
        yield decoder.process(part, output_buffer_limit=_SLICE_BYTES)
        while not decoder.can_accept_more_data():
            yield decoder.process(b"", output_buffer_limit=_SLICE_BYTES)
    while not decoder.is_finished():
        if not (piece := decoder.process(b"", output_buffer_limit=_SLICE_BYTES)):
            raise ValueError("cut")
        yield piece


def _unzstandarded(body: bytes) -> Iterator[bytes]:
    """Raises ValueError for a body that is cut, or goes on for long and says nothing: that would be one step."""
    assert _zstandard is not None
    decoder = _zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
    source, has_any = _ZstdSource(body), _zstandard.frame_content_size(body) == 0
    with decoder.stream_reader(source, read_size=_ZSTD_READ_BYTES, read_across_frames=False) as reader:
        while piece := reader.read(_SLICE_BYTES):
            if source.is_exhausted:  # amid a piece: a frame that ends asks for no more
                raise ValueError("cut")
            source.reads, has_any = 0, True
            yield piece
    if not has_any:
        raise ValueError("cut")


class _ZstdSource:
    """A body as a file, from which so much is read for one piece, and no more: empty frames come without number."""

    def __init__(self, body: bytes) -> None:
        self.reads = 0
        self.is_exhausted = False
        self._body = memoryview(body)

    def read(self, size_bytes: int) -> bytes:
        self.reads += 1
        if self.reads > _MAX_ZSTD_READS:
            raise ValueError("empty")
        part, self._body = bytes(self._body[:size_bytes]), self._body[size_bytes:]
        self.is_exhausted = not part
        return part


def _slices(body: bytes) -> Iterator[bytes]:
    return (body[start : start + _SLICE_BYTES] for start in range(0, len(body), _SLICE_BYTES))


_DECODERS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "gzip": _gunzipped,
    "x-gzip": _gunzipped,
    "deflate": _deflated,
}
_ERRORS: tuple[type[Exception], ...] = (ValueError, zlib.error)
if _brotli is not None:
    _DECODERS["br"] = _unbrotlied
    _ERRORS += (_brotli.error,)
if _zstandard is not None:
    _DECODERS["zstd"] = _unzstandarded
    _ERRORS += (_zstandard.ZstdError,)
