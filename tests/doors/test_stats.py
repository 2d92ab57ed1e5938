"""GET /stats: public, cheap, and about nobody in particular."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from http_api.operations import Asked, Nothing, written
from http_api.query import AnyQuery
from http_api.stats import Stats
from mcp_gateway.core.condition import Judge
from tests.replaying import ReplayingBackend
from tests.serving import FREE, PRICED, Door, open_door

pytestmark = pytest.mark.gateways


async def stats_of(door: Door, path: str = "/stats") -> Any:
    response = await door.get(path, authorization="Bearer whatever")
    assert response.status_code == 200
    return response.json()


@pytest.mark.parametrize("path", ["/stats", "/v1/stats", "/api/v1/inference/stats"])
async def test_stats_are_public_whatever_is_sent_along(tmp_path: Path, path: str) -> None:
    async with ReplayingBackend() as backend, open_door(tmp_path, vllm_urls=[backend.url], models=[FREE]) as door:
        await door.chat(await door.key())
        stats = await stats_of(door, path)
    assert stats["status"] == "ok"
    assert stats["incident"] is None
    assert stats["models"] == [{"id": "free/tiny", "status": "ready", "first_token_ms": None, "uptime_percent": None}]
    day = stats["last_day"]
    assert (day["requests"], day["prompt_tokens"], day["completion_tokens"], day["total_tokens"]) == (1, 10, 4, 14)
    assert day["latency_ms"].keys() == day["first_token_ms"].keys() == {"p50", "p90", "p99"}
    assert day["latency_ms"]["p99"] is not None
    assert day["first_token_ms"]["p99"] is None


async def test_stats_tell_the_operators_text_and_which_models_are_down(tmp_path: Path) -> None:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path,
            vllm_urls=[backend.url, "http://127.0.0.1:1"],
            models=[FREE, {"id": "gone"}],
            incident="One is down.",
        ) as door,
    ):
        stats = await stats_of(door)
    assert (stats["status"], stats["incident"]) == ("degraded", "One is down.")
    unknown = {"first_token_ms": None, "uptime_percent": None}
    assert stats["models"] == [
        {"id": "free/tiny", "status": "ready"} | unknown,
        {"id": "gone", "status": "unavailable"} | unknown,
    ]


async def test_stats_tell_how_each_model_did_in_the_last_day_over_a_restart(tmp_path: Path) -> None:
    async with ReplayingBackend() as backend:
        served: dict[str, Any] = {"vllm_urls": [backend.url, "http://127.0.0.1:1"], "models": [FREE, {"id": "gone"}]}
        async with open_door(tmp_path, **served) as door:
            await door.chat(await door.key(), stream=True)
            written = door.gateway.board.note_minute()
            assert written is not None
            await written
            before = (await stats_of(door))["models"]
        async with open_door(tmp_path, **served) as door:
            assert (await stats_of(door))["models"] == before
    works, gone = before
    assert (works["uptime_percent"], gone["uptime_percent"]) == (100.0, 0.0)
    assert works["first_token_ms"] >= 0
    assert gone["first_token_ms"] is None


async def test_stats_answer_while_the_gateway_is_under_maintenance(tmp_path: Path) -> None:
    async with open_door(tmp_path, maintenance=True) as door:
        assert (await stats_of(door))["status"] == "down"
        assert (await door.get("/v1/usage")).status_code == 503


async def test_stats_are_made_anew_every_five_seconds_at_most_however_many_ask(tmp_path: Path) -> None:
    clock_ms = [1_900_000_000_000]
    async with open_door(tmp_path) as door:
        gateway = door.gateway
        judge = Judge(gateway.lifecycle, gateway.ledger, gateway.pool, gateway.published)
        stats = Stats(
            judge,
            gateway.published,
            gateway.pool,
            gateway.activity,
            gateway.model_days,
            lambda: None,
            lambda: clock_ms[0],
        )
        counts = []
        for later_ms in (0, 4999, 1, 0):
            clock_ms[0] += later_ms
            told = await stats.get(Asked({"type": "http"}, AnyQuery(), Nothing(), b""))
            counts.append(orjson.loads(written(told.answer))["last_day"]["requests"])
            await door.chat(model="demo/echo")
    assert counts == [0, 0, 2, 2]


async def test_a_restart_forgets_nothing_of_the_last_day(tmp_path: Path) -> None:
    async with ReplayingBackend() as backend:
        served: dict[str, Any] = {"vllm_urls": [backend.url], "models": [FREE, PRICED]}
        async with open_door(tmp_path, **served) as door:
            key = await door.key(credit="1")
            await door.chat(key, model="priced/tiny", stream=True)
            await door.chat(key)
            await door.chat(key, model="unknown")
            before = (await stats_of(door))["last_day"]
        async with open_door(tmp_path, **served) as door:
            assert (await stats_of(door))["last_day"] == before
    assert before["requests"] == 3


STATS = ("/stats", "/v1/stats", "/api/v1/inference/stats")


async def test_stats_of_status_alone_tell_neither_models_nor_traffic(tmp_path: Path) -> None:
    async with open_door(tmp_path, public_stats="status", incident="One is down.") as door:
        for path in STATS:
            stats = await stats_of(door, path)
            assert stats.keys() == {"object", "status", "incident", "updated_at"}
            assert (stats["status"], stats["incident"]) == ("ok", "One is down.")


@pytest.mark.parametrize("guests", [True, False])
async def test_stats_that_are_off_are_no_path_that_there_is(tmp_path: Path, guests: bool) -> None:
    async with open_door(tmp_path, public_stats="off", guests={"enabled": guests}) as door:
        key = await door.key()
        for path in STATS:
            assert (await door.get(path, key)).status_code == 404
            assert (await door.get(path)).status_code == (404 if guests else 401)
