"""What a request had in memory is let go of however the fetch of its images ends, without waiting for the collector."""

import asyncio
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.exchange import Exchange
from tests.core.test_chat import Stage, open_stage, request
from tests.core.upstream.misbehaving import Behaviour, MisbehavingServer, close, read_then_stall
from tests.image_server import PNG, certificate_in, fetcher_of, image, port_of, redirect, url_at
from tests.patience import PATIENCE_S, eventually
from tests.replaying import ReplayingBackend
from tests.serving import PRICED

SEEING = PRICED | {"input_modalities": ["text", "image"]}
ENDS: dict[str, Behaviour] = {
    "an image": image(),
    "none there": image(status=404),
    "none at all": image(b"<html>"),
    "too large": image(PNG.ljust(2000, b"x")),
    "a connection that dies": close,
    "a circle": redirect("/cat.png"),
}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Stage, MisbehavingServer]]:
    server_tls, client_tls = certificate_in(tmp_path)
    async with ReplayingBackend() as backend, MisbehavingServer(ssl_context=server_tls) as server:
        settings: dict[str, Any] = {
            "enable_vision": True,
            "fetch_images": True,
            "image_fetch": {"ports": [port_of(server)]},
        }
        async with open_stage(tmp_path / "data", backend, models=[SEEING], **settings) as stage:
            stage.gateway.inference.parts.image_fetcher = fetcher_of(server, client_tls, max_image_bytes=1000)
            yield stage, server


async def asked(stage: Stage, server: MisbehavingServer) -> weakref.ref[Exchange]:
    """What is left of an exchange that is let go of."""
    parts = [{"type": "image_url", "image_url": {"url": url_at(server)}}] * 2
    exchange = await stage.exchange()
    try:
        with exchange:
            await exchange.begin(request(messages=[{"role": "user", "content": parts}]))
    except (GatewayError, asyncio.CancelledError):
        pass
    return weakref.ref(exchange)


async def is_settled(stage: Stage) -> None:
    assert await stage.gateway.lifecycle.wait_until_idle(PATIENCE_S)
    await stage.gateway.ledger._store.flushed()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("behaviour", ENDS.values(), ids=ENDS)
async def test_nothing_of_a_request_is_kept_by_how_its_images_came(
    served: tuple[Stage, MisbehavingServer], behaviour: Behaviour
) -> None:
    stage, server = served
    server.behaviours[:] = [behaviour]
    had = await asyncio.create_task(asked(stage, server))
    await is_settled(stage)
    assert had() is None


@pytest.mark.usefixtures("uncollected")
async def test_nothing_is_kept_of_a_request_whose_client_left_before_its_images_came(
    served: tuple[Stage, MisbehavingServer],
) -> None:
    stage, server = served
    server.behaviours[:] = [read_then_stall]
    task = asyncio.create_task(asked(stage, server))
    await eventually(lambda: len(server.requests) == 2)
    task.cancel()
    had = await task
    await is_settled(stage)
    assert had() is None
