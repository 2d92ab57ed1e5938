"""Request bodies that come compressed, at both doors."""

import gzip
import random
import zlib
from collections.abc import AsyncIterator, Callable

import orjson
import pytest
import pytest_asyncio

from tests.cases import each
from tests.serving import Door, chat_body, error_of, open_door

brotli, zstandard = pytest.importorskip("brotli"), pytest.importorskip("zstandard")
pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_BYTES = 1024 * 1024


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


def in_two_members(data: bytes) -> bytes:
    return gzip.compress(data[:30]) + gzip.compress(data[30:])


CODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress), ("x-gzip", gzip.compress), ("GZIP", in_two_members), ("deflate", zlib.compress),
    ("deflate", raw_deflate), ("br", brotli.compress), ("zstd", zstandard.compress), ("identity", bytes),
]  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    guests = {"max_body_bytes": MAX_BYTES, "requests_per_minute": 1000}
    async with open_door(tmp_path_factory.mktemp("encodings"), max_body_bytes=MAX_BYTES, guests=guests) as door:
        yield door
        await door.nothing_is_left()


def body(content: str = "hi", size_bytes: int = 0) -> bytes:
    messages = [{"role": "user", "content": content}]
    return orjson.dumps(chat_body(model="demo/echo", messages=messages, max_tokens=4)).ljust(size_bytes)


@each(("coding", "compress"), CODINGS)
@each("size_bytes", [0, 300_000, MAX_BYTES])
async def test_a_compressed_body_is_read_within_the_body_s_limit(
    door: Door, coding: str, compress: Callable[[bytes], bytes], size_bytes: int
) -> None:
    response = await door.post(compress(body(size_bytes=size_bytes)), await door.key(), content_encoding=coding)
    assert response.status_code == 200, response.text


@each(("coding", "compress"), CODINGS[:-1])
async def test_a_bomb_is_too_large(door: Door, coding: str, compress: Callable[[bytes], bytes]) -> None:
    for size_bytes in (MAX_BYTES + 1, 10 * MAX_BYTES):
        response = await door.post(compress(body(size_bytes=size_bytes)), await door.key(), content_encoding=coding)
        assert error_of(response)["code"] == "body_too_large"


@each(("coding", "compress"), CODINGS[:-1])
async def test_what_is_cut_or_something_else_is_told_so(
    door: Door, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    key = await door.key()
    noise = random.Random(1).randbytes(200_000).hex()
    for sent in (compress(body())[:-5], compress(body(noise))[:-5], compress(body(noise))[:100_000], body()):
        error = error_of(await door.post(sent, key, content_encoding=coding))
        assert error["code"] == "invalid_value"
        assert "Content-Encoding" in error["message"]


EMPTY_BLOCKS = b"\x28\xb5\x2f\xfd\x00\x58" + b"\x00\x00\x00" * 300_000
"""The head of a zstd frame, and blocks without a byte."""


@pytest.mark.parametrize(
    ("coding", "empty", "compress"),
    [
        ("gzip", gzip.compress(b"") * 10_000, gzip.compress),
        ("zstd", zstandard.compress(b"") * 100_000, zstandard.compress),
        ("zstd", EMPTY_BLOCKS, zstandard.compress),
    ],
)
async def test_a_crowd_of_empty_members_is_refused(
    door: Door, coding: str, empty: bytes, compress: Callable[[bytes], bytes]
) -> None:
    sent = empty + compress(body())
    assert error_of(await door.post(sent, await door.key(), content_encoding=coding))["code"] == "invalid_value"


@each("coding", ["gzip", "deflate", "br", "zstd"])
async def test_a_body_that_was_nothing_before_is_empty(door: Door, coding: str) -> None:
    sent = dict(CODINGS)[coding](b"")
    error = error_of(await door.post(sent, await door.key(), content_encoding=coding))
    assert (error["code"], "empty" in error["message"]) == ("invalid_json", True)


@each("coding", ["compress", "gzip, gzip", "br, gzip", "aes128gcm"])
async def test_another_coding_is_415_in_words(door: Door, coding: str) -> None:
    response = await door.post(gzip.compress(gzip.compress(body())), await door.key(), content_encoding=coding)
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_encoding"
    assert "gzip" in error_of(response)["message"]


async def test_the_mcp_door_reads_them_too(door: Door) -> None:
    ping = gzip.compress(orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}))
    accept = "application/json, text/event-stream"
    kept = await door.post(ping, await door.key(), "/v1/mcp", accept=accept, content_encoding="gzip")
    refused = await door.post(ping, await door.key(), "/v1/mcp", accept=accept, content_encoding="compress")
    assert kept.status_code != 415
    assert "encoding" not in kept.text
    assert refused.status_code == 415
