"""What is asked about the gateway rather than of a model: models, health, metrics, the welcome."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from http_api.program import _greeting, _guest_line
from tests.databases import outside
from tests.patience import eventually
from tests.replaying import ReplayingBackend, unary
from tests.serving import FREE, PRICED, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
Served = tuple[Door, ReplayingBackend]
RICH = PRICED | {
    "id": "org/big/model-1.5:latest",
    "name": "Big",
    "description": "A big one.",
    "max_output_tokens": 1024,
    "quantization": "fp8",
    "features": ["tools", "reasoning"],
    "input_modalities": ["text", "image"],
}
ELSEWHERE = {"id": "not/there", "backend_model": "absent", "free": True}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("operations"), vllm_urls=[backend.url], models=[FREE, RICH, ELSEWHERE]
        ) as door,
    ):
        yield door, backend
        await door.nothing_is_left()


async def test_models_are_listed_in_openai_s_shape_with_prices_and_abilities_beside(served: Served) -> None:
    door, _ = served
    for prefix in ("/v1", "/api/v1/inference"):
        listed = (await door.get(f"{prefix}/models")).json()
        assert listed["object"] == "list"
        free, rich, _, _ = listed["data"]
        assert (free["id"], free["pricing"], free["guests"]) == ("free/tiny", {"prompt": "0", "completion": "0"}, True)
        assert rich["id"] == "org/big/model-1.5:latest"
        assert rich["object"] == "model"
        assert isinstance(rich["created"], int)
        assert rich["pricing"] == {"prompt": "0.0000003", "completion": "0.0000007"}
        assert (rich["context_window"], rich["context_length"], rich["max_output_length"]) == (2048, 2048, 1024)
        assert rich["input_modalities"] == ["text", "image"]
        assert rich["supported_features"] == ["tools", "reasoning"]
        assert rich["quantization"] == "fp8"
        assert rich["guests"] is False
        assert "max_tokens" in rich["supported_sampling_parameters"]
        assert not {"root", "permission", "backend_model"} & rich.keys()
        assert (await door.get(f"{prefix}/models/{rich['id']}")).json() == rich


async def test_a_listing_is_the_same_each_time(served: Served) -> None:
    door, _ = served
    first = await door.get("/v1/models")
    await door.gateway.pool.discover()
    assert (await door.get("/v1/models")).content == first.content


async def test_an_unknown_model_is_404_with_the_closest_names(served: Served) -> None:
    door, _ = served
    for path in ("/v1/models/free/tinny", "/v1/models/free/tinny/health", "/v1/models/free%2Ftinny"):
        response = await door.get(path)
        assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
        assert "free/tiny" in error_of(response)["message"]


async def test_an_id_may_be_percent_encoded(served: Served) -> None:
    door, _ = served
    assert (await door.get("/v1/models/org%2Fbig%2Fmodel-1.5%3Alatest")).status_code == 200


async def test_a_model_s_health_is_ready_or_unavailable(served: Served) -> None:
    door, _ = served
    for path, status in (("org/big/model-1.5:latest", "ready"), ("not/there", "unavailable")):
        response = await door.get(f"/v1/models/{path}/health")
        assert (response.status_code, response.json()) == (200, {"model": path, "status": status})


async def test_a_model_is_loading_until_each_backend_was_asked(served: Served) -> None:
    pool, model = served[0].gateway.pool, served[0].gateway.published.current["free/tiny"]
    pool.backends[0].fault, pool.backends[0].is_probed = "not asked yet", False
    assert pool.status_of(model) == "loading"
    await pool.discover()
    assert pool.status_of(model) == "ready"


async def test_metrics_count_requests_tokens_and_times_by_model(served: Served) -> None:
    door, backend = served
    backend.answer_with(unary(11, 7))
    key = await door.key()
    before = (await door.http.get("/metrics")).text
    await door.chat(key)
    await door.chat(key, model="invented/name")
    await door.chat(key, stream=True)
    await door.nothing_is_left()
    after = await door.http.get("/metrics")
    assert after.headers["content-type"].startswith("text/plain")

    def grown(sample: str) -> float:
        return value(after.text, sample) - value(before, sample)

    assert grown('gateway_requests_total{door="http",model="free/tiny",status="200",surface="chat"}') == 2
    assert grown('gateway_requests_total{door="http",model="unknown",status="404",surface="chat"}') == 1
    assert grown('gateway_tokens_total{kind="prompt",model="free/tiny",surface="chat"}') == 11 + 10
    assert grown('gateway_tokens_total{kind="completion",model="free/tiny",surface="chat"}') == 7 + 4
    assert grown('gateway_request_duration_seconds_count{model="free/tiny",surface="chat"}') == 2
    assert grown('gateway_time_to_first_token_seconds_count{model="free/tiny",surface="chat"}') == 1
    assert value(after.text, "gateway_in_flight") == 0
    assert value(after.text, 'gateway_backend_up{backend="vllm-1"}') == 1
    assert "invented" not in after.text


async def test_metrics_tell_what_runs(served: Served) -> None:
    page = (await served[0].http.get("/metrics")).text
    (line,) = [line for line in page.splitlines() if line.startswith("gateway_build_info{")]
    assert f'version="{served[0].gateway.version}"' in line
    assert line.endswith("} 1.0")


async def test_metrics_tell_of_money_and_of_the_ledger(served: Served) -> None:
    door, backend = served
    backend.answer_with(unary(1000, 10))
    key = await door.key(credit="1")
    before = (await door.http.get("/metrics")).text
    assert (await door.chat(key, model=RICH["id"])).status_code == 200
    after = (await door.http.get("/metrics")).text
    sample = f'gateway_revenue_usd_total{{model="{RICH["id"]}",surface="chat"}}'
    assert round(value(after, sample) - value(before, sample), 9) == 0.000307
    name = "gateway_ledger_fsync_seconds"
    assert value(after, f"{name}_count") > value(before, f"{name}_count")
    assert value(after, f"{name}_sum") > value(before, f"{name}_sum")
    assert (value(after, "gateway_ledger_log_bytes") > 0) is door.is_on_sqlite  # PostgreSQL looks after its own
    assert value(after, "gateway_ledger_queue") == 0


async def test_metrics_tell_what_requests_hold(served: Served) -> None:
    door, _ = served
    account = (await (await door.desk()).accounts.create("holder")).id
    await (await door.desk()).ledger.credit(account, 5_000_000_000, account)
    before = (await door.http.get("/metrics")).text
    for request_id, held_nano in (("req_held_1", 1_250_000_000), ("req_held_2", 3_000_000_000)):
        await door.gateway.ledger.hold(request_id, account, 1, held_nano)
    after = (await door.http.get("/metrics")).text
    assert value(after, "gateway_held_usd") - value(before, "gateway_held_usd") == 4.25
    assert value(after, "gateway_open_holds") - value(before, "gateway_open_holds") == 2
    assert value(after, "gateway_held_beyond_wallets_usd") == 0
    await door.gateway.ledger.adjust(account, -2_000_000_000, "taken back")
    beyond_usd = 0 if door.is_replica else 1.25  # which knows what it is allotted
    assert value((await door.http.get("/metrics")).text, "gateway_held_beyond_wallets_usd") == beyond_usd
    for request_id in ("req_held_1", "req_held_2"):
        door.gateway.ledger.release(request_id)
    ended = (await door.http.get("/metrics")).text
    assert value(ended, "gateway_held_usd") == value(before, "gateway_held_usd")
    assert value(ended, "gateway_held_beyond_wallets_usd") == 0


async def test_metrics_tell_which_models_no_backend_serves(served: Served) -> None:
    page = (await served[0].http.get("/metrics")).text
    assert value(page, 'gateway_model_available{model="free/tiny"}') == 1
    assert 'gateway_model_available{model="not/there"} 0.0' in page


async def test_refusals_are_counted_by_their_code(served: Served) -> None:
    door, _ = served
    before = (await door.http.get("/metrics")).text
    refused = [
        await door.get("/v1/keys", "gw_live_unknown"),
        await door.get("/v1/nothing"),
        await door.chat(model="no/such"),
        await door.post(b"{", path="/v1/mcp", key="gw_live_unknown"),
    ]
    after = (await door.http.get("/metrics")).text
    codes = [error_of(response)["code"] for response in refused]
    assert codes == ["invalid_api_key", "unknown_url", "model_not_found", "invalid_api_key"]
    for code in codes:
        sample = f'gateway_refusals_total{{code="{code}"}}'
        assert value(after, sample) - value(before, sample) == codes.count(code)


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, "invalid_json"),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, "invalid_json"),
        (b"BREW / HTTP/1.1\r\nhost: x\r\n\r\n", 501, "unknown_method"),
        (b"PROPFIND / HTTP/1.1\r\nhost: x\r\n\r\n", 501, "unknown_method"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501, "unsupported_transfer_coding"),
        (b"GET / HTTP/3.0\r\nhost: x\r\n\r\n", 505, "unsupported_version"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"x" * 70_000, 431, "headers_too_large"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_refused_before_it_is_a_request_is_counted_once(
    served: Served, raw: bytes, status: int, code: str
) -> None:
    door, _ = served
    sample = f'gateway_refusals_total{{code="{code}"}}'
    before = value((await door.http.get("/metrics")).text, sample)
    assert (await door.raw(raw)).startswith(b"HTTP/1.1 %d " % status)
    assert value((await door.http.get("/metrics")).text, sample) - before == 1


def value(text: str, sample: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


async def test_without_a_backend_the_demo_serves_and_says_so(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        (echo, *_) = (await door.get("/v1/models")).json()["data"]
        assert echo["id"] == "demo/echo"
        assert "demo" in echo["owned_by"]
        assert (await door.chat(model="demo/echo")).status_code == 200


async def test_created_is_what_an_earlier_run_noted(tmp_path: Path) -> None:
    async with ReplayingBackend("one") as backend:
        async with open_door(tmp_path, vllm_urls=[backend.url]) as door:
            assert (await created_in(door)) == (await door.rows("SELECT first_seen_s FROM models_seen"))[0][0]
        with outside(door.gateway.settings) as another:
            another.rows("UPDATE models_seen SET first_seen_s = 5")
        async with open_door(tmp_path, vllm_urls=[backend.url]) as door:
            assert await created_in(door) == 5
            backend.max_model_len = 4096
            await door.gateway.pool.discover()
            assert await created_in(door) == 5


async def created_in(door: Door) -> int:
    row, _ = (await door.get("/v1/models")).json()["data"]
    created: int = row["created"]
    return created


async def test_a_model_that_a_backend_begins_to_list_is_published_while_running(tmp_path: Path) -> None:
    async with (
        ReplayingBackend("one") as backend,
        open_door(tmp_path, vllm_urls=[backend.url], upstream={"discovery_interval_s": 0.05}) as door,
    ):
        backend.models = ("one", "two")
        await eventually(lambda: "two" in door.gateway.published.current)
        listed = (await door.get("/v1/models")).json()["data"]
        assert [row["id"] for row in listed] == ["one", "two", "auto"]


async def test_a_gateway_whose_backend_is_silent_serves_what_it_knows_and_the_rest_once_it_is_told(
    tmp_path: Path,
) -> None:
    backend = ReplayingBackend("tiny", "found")
    backend.is_mute = True
    settings: dict[str, Any] = {"models": [FREE], "publish_discovered": True, "upstream": {"start_wait_s": 0}}
    async with backend, open_door(tmp_path, vllm_urls=[backend.url], **settings) as door:
        assert "vllm-1" in _greeting(door.gateway, door.url, "")
        assert [row["id"] for row in (await door.get("/v1/models")).json()["data"]] == ["free/tiny", "auto"]
        assert (await door.get("/v1/models/free/tiny/health")).json()["status"] == "loading"
        refused = await door.chat()
        assert (refused.status_code, error_of(refused)["code"]) == (503, "model_unavailable")
        assert (await door.chat(await door.key(is_test=True))).status_code == 200
        backend.is_mute = False
        await door.gateway.pool.discover()
        assert "vllm-1" not in _greeting(door.gateway, door.url, "")
        assert [row["id"] for row in (await door.get("/v1/models")).json()["data"]] == ["free/tiny", "found", "auto"]
        assert (await door.chat()).status_code == 200


async def test_the_greeting_of_a_gateway_that_knows_no_model_yet_says_so(tmp_path: Path) -> None:
    backend = ReplayingBackend("tiny")
    backend.is_mute = True
    async with backend, open_door(tmp_path, vllm_urls=[backend.url], upstream={"start_wait_s": 0}) as door:
        assert _guest_line(door.gateway, door.url) == "not yet: no backend has told of a model"


@pytest.mark.parametrize(
    ("models", "guests", "named"),
    [
        ([PRICED, FREE], {}, "free/tiny"),
        ([FREE | {"guests": False}, PRICED | {"guests": True}], {}, "priced/tiny"),
        ([PRICED], {}, None),
        ([FREE], {"enabled": False}, None),
    ],
)
async def test_the_greeting_s_command_names_a_model_that_guests_may_use(
    tmp_path: Path, models: list[dict[str, Any]], guests: dict[str, Any], named: str | None
) -> None:
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=models, guests=guests) as door,
    ):
        line = _guest_line(door.gateway, door.url)
        assert line.startswith("curl" if named else "not without a key")
        refused = 401 if guests else 403
        assert (await door.chat(model=named or models[0]["id"])).status_code == (200 if named else refused)
