"""What watches the gateway: one word for anybody, reasons for the operator, and a 503 only where nothing is served."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway import __version__
from mcp_gateway.core.errors import GatewayError
from tests.databases import locked_out, store_of
from tests.patience import eventually
from tests.replaying import ReplayingBackend, held, unary
from tests.serving import FREE, Door, error_of, fresh_guest, open_door

pytestmark = pytest.mark.gateways
TOKENS: dict[str, Any] = {"operator_token": "let-me-steer", "metrics_token": "let-me-see"}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with ReplayingBackend("tiny") as backend, open_door(tmp_path, vllm_urls=[backend.url], models=[FREE]) as door:
        yield door


def bearer(token: str) -> dict[str, str]:
    return fresh_guest() | {"authorization": f"Bearer {token}"}


async def condition_of(door: Door) -> tuple[int, str, list[str]]:
    """Status code, status and reasons, as /health tells the operator; /readyz says the same, /livez always `ok`."""
    health, ready = await door.health(), await door.get("/readyz")
    told = health.json()
    assert (ready.status_code, ready.json()) == (health.status_code, {"status": told["status"]})
    assert ("retry-after" in health.headers) == (health.status_code == 503)
    assert (await door.get("/livez")).json() == {"status": "ok"}
    return health.status_code, told["status"], told["reasons"]


async def test_anybody_is_told_one_word_whatever_they_send(door: Door) -> None:
    for path in ("/health", "/readyz", "/livez"):
        for key in (None, "gw_live_wrong"):
            answer = await door.get(path, key, x_forwarded_for="192.0.2.1")
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert (await door.get("/", "gw_live_wrong")).status_code == 200


async def test_the_operator_is_told_of_each_backend(tmp_path: Path) -> None:
    async with ReplayingBackend("tiny") as backend, open_door(tmp_path, vllm_urls=[backend.url], models=[FREE]) as door:
        is_released = asyncio.Event()
        backend.answer_with(held(is_released, unary()))
        running = asyncio.create_task(door.chat(await door.key()))
        await backend.chats_asked(1)
        health = await door.health()
        row = {"name": "vllm-1", "status": "up", "reason": None, "models": ["tiny"], "in_flight": 1}
        row |= {"running": 0, "waiting": 0}
        replica = {"replica": store_of(door.gateway).replica} if door.is_replica else {}
        told = {"status": "ok", "version": __version__, "reasons": [], "backends": [row]} | replica
        assert health.json() == told
        assert backend.url not in health.text
        is_released.set()
        await running


@pytest.mark.parametrize(
    "header",
    ["x-forwarded-for", "forwarded", "x-real-ip", "via", "x-forwarded-host", "x-forwarded-proto", "cf-connecting-ip"],
)
async def test_loopback_is_not_the_operator_where_a_proxy_speaks_for_somebody(door: Door, header: str) -> None:
    headers = {header: "127.0.0.1"}
    assert (await door.http.get("/health", headers=headers)).json() == {"status": "ok"}
    metrics = await door.http.get("/metrics", headers=headers)
    assert (metrics.status_code, error_of(metrics)["type"]) == (403, "forbidden")


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip"])
async def test_metrics_asked_for_through_an_untrusted_proxy_name_the_setting_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str
) -> None:
    async with open_door(tmp_path, trusted_proxies=[]) as door:
        for _ in range(2):
            metrics = await door.http.get("/metrics", headers={header: "127.0.0.1"})
            assert (metrics.status_code, error_of(metrics)["code"]) == (403, "insufficient_permissions")
        assert caplog.text.count('trusted_proxies = ["127.0.0.1"]') == 1
        assert (await door.http.get("/metrics")).status_code == 200


async def test_a_token_makes_an_operator_of_whoever_has_it(tmp_path: Path) -> None:
    async with open_door(tmp_path, **TOKENS) as door:
        for token in TOKENS.values():
            for headers in (bearer(token), fresh_guest() | {"x-api-key": token}):
                assert "backends" in (await door.http.get("/health", headers=headers)).json()
                assert (await door.http.get("/metrics", headers=headers)).status_code == 200
        wrong = [bearer("let-me-se"), bearer("let-me-see2"), fresh_guest() | {"authorization": "Basic let-me-see"}]
        for headers in ({}, fresh_guest(), *wrong):
            metrics = await door.http.get("/metrics", headers=headers)
            assert (metrics.status_code, error_of(metrics)["code"]) == (401, "missing_credentials")
            assert ("backends" in (await door.http.get("/health", headers=headers)).json()) == (headers == {})


async def test_without_a_metrics_token_metrics_stay_open_on_this_machine(tmp_path: Path) -> None:
    async with open_door(tmp_path, operator_token="let-me-steer") as door:
        assert (await door.http.get("/metrics")).status_code == 200
        assert (await door.http.get("/metrics", headers=bearer("let-me-steer"))).status_code == 200
        assert (await door.http.get("/metrics", headers=fresh_guest())).status_code == 403


async def test_a_model_that_no_backend_lists_degrades_and_is_named(tmp_path: Path) -> None:
    async with (
        ReplayingBackend("tiny") as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[FREE, {"id": "org/gone"}]) as door,
    ):
        assert await condition_of(door) == (200, "degraded", ["no backend that is up has the model org/gone"])


async def test_one_backend_of_two_that_is_down_degrades_and_both_is_down(tmp_path: Path) -> None:
    async with (
        ReplayingBackend("tiny") as one,
        ReplayingBackend("tiny") as two,
        open_door(tmp_path, vllm_urls=[one.url, two.url], models=[FREE]) as door,
    ):
        first, second = door.gateway.pool.backends
        second.lost("no connection")
        assert await condition_of(door) == (200, "degraded", ["backend vllm-2 is down: no connection"])
        first.lost("no connection")
        status_code, status, reasons = await condition_of(door)
        assert (status_code, status, reasons[0]) == (503, "down", "no backend is up")


async def test_a_dead_background_loop_is_down_and_in_a_gauge(door: Door) -> None:
    async def ends() -> None:
        pass

    async with door.gateway.lifecycle.loops.running(odd=ends):
        await eventually(lambda: door.gateway.lifecycle.loops.dead)
        assert await condition_of(door) == (503, "down", ["the background loop odd has ended"])
        metrics = (await door.http.get("/metrics")).text
        assert 'gateway_background_loop_up{loop="odd"} 0.0' in metrics
        for loop in ("discovery", "keys", "grants", "day_counts", "mcp_sessions", "mcp_changes"):
            assert f'gateway_background_loop_up{{loop="{loop}"}} 1.0' in metrics
    assert (await condition_of(door))[1] == "ok"


async def test_a_credential_of_other_bytes_than_ascii_is_no_operators(tmp_path: Path) -> None:
    async with open_door(tmp_path, **TOKENS) as door:
        head = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n"
        answer = await door.raw(head + b"Authorization: Bearer let-me-see\xe9\r\n\r\n")
        assert answer.endswith(b'{"status":"ok"}')


async def test_down_while_nothing_can_be_billed_and_up_again_by_itself(door: Door) -> None:
    ledger, account_id = door.gateway.ledger, await door.account()
    async with locked_out(door.gateway, wait_s=0.01):
        with pytest.raises(GatewayError):
            await ledger.credit(account_id, 1, "refused")
        assert await condition_of(door) == (503, "down", ["the ledger cannot be written: nothing can be billed"])
        assert "gateway_ledger_writable 0.0" in (await door.http.get("/metrics")).text
    await eventually(lambda: ledger.is_writable)
    assert (await door.health()).status_code == 200
    door.errors.clear()


async def test_maintenance_refuses_new_work_and_is_down(tmp_path: Path) -> None:
    async with open_door(tmp_path, maintenance=True) as door:
        for response in (await door.chat(model="demo/echo"), await door.get("/v1/models")):
            assert (response.status_code, error_of(response)["type"]) == (503, "maintenance")
            assert int(response.headers["retry-after"]) > 0
        assert await condition_of(door) == (503, "down", ["it is in maintenance"])
        assert (await door.http.get("/metrics")).status_code == 200


async def test_draining_is_down(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        door.gateway.lifecycle.begin_draining()
        assert await condition_of(door) == (503, "down", ["it is draining"])


@pytest.mark.parametrize("path", ["/health", "/readyz", "/livez"])
async def test_head_is_answered_like_get_without_a_body(door: Door, path: str) -> None:
    answer: Any = await door.http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
