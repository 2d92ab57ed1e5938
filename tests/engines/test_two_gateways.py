"""Two gateways on one Valkey, as their callers and their operator see them."""

import asyncio
import logging
import shutil
from pathlib import Path

import pytest

from mcp_gateway.core.identity.own_limits import OwnLimits
from tests.logged import lines_logged
from tests.patience import eventually
from tests.replaying import ReplayingBackend, held, unary
from tests.serving import FREE, UNLIMITED, Clock, Door, error_of, open_door
from tests.valkey_server import ValkeyServer

pytestmark = pytest.mark.engines


def metric(exposition: str, name: str) -> float:
    return next(float(line.split()[1]) for line in exposition.splitlines() if line.startswith(f"{name} "))


async def metrics(door: Door) -> str:
    return (await door.http.get("/metrics")).text


async def test_keys_have_one_limit_at_both(valkey_url: str, tmp_path: Path) -> None:
    clock = Clock()
    async with ReplayingBackend() as backend:
        settings = {"vllm_urls": [backend.url], "models": [FREE], "valkey_url": valkey_url}
        async with open_door(tmp_path / "one", clock, **settings) as one:
            limited = await one.key(limits=OwnLimits(4, 10, 100_000, 2))
            other = await one.key(limits=UNLIMITED)
            await one.gateway.inference.parts.records._store.flushed()
            shutil.copytree(tmp_path / "one", tmp_path / "two", ignore=shutil.ignore_patterns("*.lock"))
            async with open_door(tmp_path / "two", clock, **settings) as two:
                told = [await door.chat(limited) for door in (one, two, one)]
                assert [answer.status_code for answer in told] == [200] * 3
                left = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in told]
                assert left == [3, 2, 1]
                limits = (await two.get("/v1/limits", limited)).json()
                assert limits["requests_per_minute"] == {"limit": 4, "remaining": 1}
                assert limits["requests_per_day"] == {"limit": 10, "remaining": 7}
                used_tokens = 100_000 - limits["tokens_per_minute"]["remaining"]
                assert used_tokens == 3 * told[0].json()["usage"]["total_tokens"]
                balance = (await one.call("get_balance", limited)).json()["result"]["structuredContent"]
                assert balance["limits"]["requests_left_this_minute"] == 1
                key = (await two.get("/v1/key", limited)).json()["data"]
                assert key["free_model_daily_requests"] == {"limit": 10, "remaining": 7, "used": 3}
                assert (await two.chat(limited)).status_code == 200
                refused = await one.chat(limited)
                assert (refused.status_code, error_of(refused)["code"]) == (429, "requests_per_minute")
                assert (await one.chat(other)).status_code == 200

                clock.now_s += 60
                now_running = asyncio.Event()
                backend.answer_with(*[held(now_running, unary())] * 2)
                running = [asyncio.ensure_future(door.chat(limited)) for door in (one, two)]
                await eventually(lambda: len(backend.asked) == 2)
                in_flight = (await one.get("/v1/limits", limited)).json()["in_flight"]
                assert in_flight == {"limit": 2, "running": 2}
                assert error_of(await two.chat(limited))["code"] == "in_flight"
                now_running.set()
                assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}
                await one.gateway.lifecycle.wait_until_idle(30)
                for door in (one, two):
                    assert metric(await metrics(door), "gateway_limits_fallback") == 0
                await two.nothing_is_left()
            await one.nothing_is_left()


async def test_a_gateway_serves_without_valkey_and_says_so(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    own_valkey.kill()
    with lines_logged(logging.WARNING) as lines:
        async with (
            ReplayingBackend() as backend,
            open_door(tmp_path, vllm_urls=[backend.url], models=[FREE], valkey_url=own_valkey.url()) as door,
        ):
            assert any("cannot be used" in line for line in lines)
            limited = await door.key(limits=OwnLimits(2, None, None, None))
            assert (await door.chat(limited)).status_code == 200
            assert metric(await metrics(door), "gateway_limits_fallback") == 1
            reasons = (await door.health()).json()
            assert reasons["status"] == "degraded"
            assert "Valkey is away" in str(reasons)
            own_valkey.begin()
            await eventually(lambda: not door.gateway.limiter.is_alone)  # type: ignore[attr-defined]
            await eventually(lambda: not door.gateway.limiter.owed)  # type: ignore[attr-defined]
            answer = await door.chat(limited)
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert metric(await metrics(door), "gateway_limits_fallback") == 0
            assert (await door.health()).json()["status"] == "ok"
            assert error_of(await door.chat(limited))["code"] == "requests_per_minute"
            await door.nothing_is_left()
