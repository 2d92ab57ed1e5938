"""What a backend's list of models may say: odd rows are left out, and tell the log without being shown there."""

import json
import logging
from typing import Any

import pytest

from mcp_gateway.core.catalog import build_catalog
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.upstream.backend import Backend, Headers, Response
from tests.cases import each


class Whole:
    """An answer in one piece."""

    def __init__(self, body: bytes) -> None:
        self.status = 200
        self._body = body

    def header(self, name: bytes) -> bytes | None:
        return None

    async def read(self, keep: Any = None) -> bytes:
        return await self.next_chunk()

    async def next_chunk(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def close(self) -> None: ...


class Listed:
    """An origin that lists what it is told to."""

    def __init__(self, data: Any) -> None:
        self.data = data

    async def request(self, method: str, path: str, headers: Headers, body: bytes = b"", **more: Any) -> Response:
        return Whole(json.dumps({"object": "list", "data": self.data}).encode() if path == "/v1/models" else b"")

    async def aclose(self) -> None: ...


def row(name: Any, **fields: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "owned_by": "vllm", "max_model_len": 4096} | fields


async def discovered(data: Any) -> Backend:
    backend = Backend("vllm-1", Listed(data))
    await backend.discover()
    return backend


ODD: list[Any] = [
    row(""), row(" "), row("\t"), row(" a"), row("a\n"), row("a\u00a0"), row("a\x1b[2Jb"), row("a\x9bb"),
    row("a\u202eb"), row("a\u2028b"), row("x" * 257), row(None), row(5), row(True), row(1.5), row([]), row({"a": 1}),
    {}, None, "good", 5, [], [row("inner")],
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: ascii(odd)[:40])
async def test_an_odd_row_is_left_out_and_the_others_are_served(odd: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        backend = await discovered([odd, row("good")])
    assert (list(backend.listings), backend.fault) == (["good"], "")
    (line,) = caplog.messages
    assert line == "backend vllm-1 lists 1 models by no name that can be understood"


async def test_the_log_tells_odd_rows_again_only_when_their_number_has_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    origin = Listed([row("good"), row("")])
    backend = Backend("vllm-1", origin)
    with caplog.at_level(logging.WARNING):
        for data in (origin.data, origin.data, [row(""), row(None)], [row("good")], [row("")]):
            origin.data = data
            await backend.discover()
    assert [line.split()[3] for line in caplog.messages] == ["1", "2", "1"]


@each("data", [None, 5, "text", {"id": "a"}, {}, True])
async def test_a_list_that_is_none_is_a_fault_of_its_backend(data: Any) -> None:
    assert (await discovered(data)).fault == "its list of models could not be understood"


@each("length", [0, -1, True, 1.5, "4096", None, 2**53, 2**63, 2**64, 16_000_001, [4096]])
async def test_an_odd_context_length_is_none(length: Any) -> None:
    backend = await discovered([row("good", max_model_len=length)])
    assert backend.listings["good"].max_model_len is None


@each("owner", [None, "", 5, ["x"], "a\x1bb", "x" * 300])
async def test_an_odd_owner_is_vllm(owner: Any) -> None:
    assert (await discovered([row("good", owned_by=owner)])).listings["good"].owned_by == "vllm"


async def test_a_name_of_several_words_is_served_under_a_configured_id_and_never_published_by_itself() -> None:
    backend = await discovered([row("my adapter"), row("a\u3000b"), row("good")])
    assert list(backend.listings) == ["my adapter", "a\u3000b", "good"]
    catalog = build_catalog((), backend.listings, publish_discovered=True)
    assert list(catalog) == ["good"]


async def test_a_backend_that_fails_is_no_crash() -> None:
    class Down(Listed):
        async def request(self, *args: Any, **more: Any) -> Response:
            raise GatewayError("backend_died", "gone")

    backend = Backend("vllm-1", Down(()))
    await backend.discover()
    assert backend.fault == "gone"


async def test_of_a_list_without_end_the_first_models_are_served() -> None:
    backend = await discovered([row(f"m{number}") for number in range(3000)])
    assert (list(backend.listings), backend.fault) == ([f"m{number}" for number in range(2000)], "")


@pytest.mark.parametrize(
    "data", [[[]] * 200_000, ["x" * 5_000_000], [{"id": str(number)} for number in range(100_000)]]
)
async def test_a_list_that_holds_too_much_is_not_parsed(data: Any) -> None:
    assert (await discovered(data)).fault == "its list of models is too long"
