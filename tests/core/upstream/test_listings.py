"""What a backend's list of models may say: odd rows are left out, and tell the log without being shown there."""

import asyncio
import json
import logging
from typing import Any

import pytest

from mcp_gateway.core.catalog import build_catalog
from mcp_gateway.core.dialects import vllm
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.surface import Headers
from mcp_gateway.core.upstream.backend import Backend, BackendResponse
from mcp_gateway.core.upstream.served_models import ServedModels
from mcp_gateway.core.upstream.transport import ConnectFailed, UpstreamError
from tests.cases import each
from tests.origins import Whole


class Listed:
    """An origin that lists what it is told to."""

    def __init__(self, data: Any) -> None:
        self.data = data

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes = b"", **more: Any
    ) -> BackendResponse:
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
    assert (list(backend.models.listings), backend.fault) == (["good"], "")
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
    assert backend.models.listings["good"].max_model_len is None


@each("owner", [None, "", 5, ["x"], "a\x1bb", "x" * 300])
async def test_an_odd_owner_is_vllm(owner: Any) -> None:
    assert (await discovered([row("good", owned_by=owner)])).models.listings["good"].owned_by == "vllm"


async def test_a_name_of_several_words_is_served_under_a_configured_id_and_never_published_by_itself() -> None:
    backend = await discovered([row("my adapter"), row("a\u3000b"), row("good")])
    assert list(backend.models.listings) == ["my adapter", "a\u3000b", "good"]
    listings = {name: [row] for name, row in backend.models.listings.items()}
    catalog = build_catalog((), listings, publish_discovered=True)
    assert list(catalog) == ["good"]


class Counting(Listed):
    """An origin that answers each question for a count with the next of these: a body, a status, or an exception."""

    def __init__(self, data: Any, *counts: bytes | int | GatewayError | UpstreamError) -> None:
        super().__init__(data)
        self.counts = list(counts)
        self.asked: list[str] = []

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes = b"", **more: Any
    ) -> BackendResponse:
        if path != "/tokenize":
            return await super().request(method, path, headers, body, **more)
        self.asked.append(json.loads(body)["model"])
        told = self.counts.pop(0)
        if isinstance(told, Exception):
            raise told
        return Whole(b"{}", told) if isinstance(told, int) else Whole(told)


async def look_at(backend: Backend) -> None:
    await backend.discover()
    await backend.measure_templates()


@each(
    ("told", "template"),
    [
        (b'{"count":12,"max_model_len":4096,"tokens":[1]}', 12),
        (b'{"count": 4095}', 4095),
        (b'{"count":0}', 0),
        (b'{"count":4096}', None),
        (b'{"count":9223372036854775808}', None),
        (b'{"count":-5}', None),
        (b'{"count":"12"}', None),
        (b'{"count":null}', None),
        (b'{"detail":"Not Found"}', None),
        (b"", None),
    ],
)
async def test_what_the_template_adds_is_asked_once_and_believed_below_the_window(
    told: bytes, template: int | None
) -> None:
    origin = Counting([row("good"), row("other")], told)
    backend = Backend("vllm-1", origin, models=ServedModels(frozenset({"good", "absent"})))
    for _ in range(3):
        await look_at(backend)
        good, other = (backend.models.listings[name] for name in ("good", "other"))
        assert (good.template_tokens, other.template_tokens) == (template, None)
    assert origin.asked == ["good"]


@each("failure", [GatewayError("backend_died", "gone"), ConnectFailed("gone"), 500, 503, 429])
async def test_where_the_question_fails_it_is_asked_again_the_next_time(
    failure: GatewayError | UpstreamError | int,
) -> None:
    origin = Counting([row("good")], failure, failure, b'{"count":7}')
    backend = Backend("vllm-1", origin, models=ServedModels(frozenset({"good"})))
    found = []
    for _ in range(4):
        await look_at(backend)
        found.append(backend.models.listings["good"].template_tokens)
    assert (found, len(origin.asked)) == ([None, None, 7, 7], 3)


@each("status", [400, 401, 404, 405, 422])
async def test_a_backend_that_does_not_count_is_not_asked_again(status: int) -> None:
    origin = Counting([row("good")], status)
    backend = Backend("vllm-1", origin, models=ServedModels(frozenset({"good"})))
    for _ in range(3):
        await look_at(backend)
    assert (backend.models.listings["good"].template_tokens, len(origin.asked)) == (None, 1)


async def test_a_model_that_appears_and_a_backend_that_comes_back_are_asked_anew() -> None:
    origin = Counting([row("good")], b'{"count":7}', b'{"count":8}', b'{"count":9}', b'{"count":9}')
    backend = Backend("vllm-1", origin, models=ServedModels(frozenset({"good", "later"})))
    await look_at(backend)
    origin.data = [row("good"), row("later")]
    await look_at(backend)
    assert [listing.template_tokens for listing in backend.models.listings.values()] == [7, 8]
    backend.lost("no connection")
    await look_at(backend)
    assert [listing.template_tokens for listing in backend.models.listings.values()] == [9, 9]


async def test_a_count_that_does_not_come_in_time_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Listed):
        async def request(self, *args: Any, **more: Any) -> BackendResponse:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr("mcp_gateway.core.upstream.backend.COUNT_S", 0)
    backend = Backend("vllm-1", Hanging(()))
    assert await backend.count_prompt(vllm.shortest_chat("tiny")) is None


async def test_a_backend_that_fails_is_no_crash() -> None:
    class Down(Listed):
        async def request(self, *args: Any, **more: Any) -> BackendResponse:
            raise GatewayError("backend_died", "gone")

    backend = Backend("vllm-1", Down(()))
    await backend.discover()
    assert backend.fault == "gone"


async def test_of_a_list_without_end_the_first_models_are_served() -> None:
    backend = await discovered([row(f"m{number}") for number in range(3000)])
    assert (list(backend.models.listings), backend.fault) == ([f"m{number}" for number in range(2000)], "")


@pytest.mark.parametrize(
    "data", [[[]] * 200_000, ["x" * 5_000_000], [{"id": str(number)} for number in range(100_000)]]
)
async def test_a_list_that_holds_too_much_is_not_parsed(data: Any) -> None:
    assert (await discovered(data)).fault == "its list of models is too long"
