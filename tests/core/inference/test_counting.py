"""A prompt that is counted for its caller, without a door."""

# ruff: noqa: F811 - the fixture is imported

from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.completions import COMPLETIONS
from mcp_gateway.core.surfaces.messages import COUNTED_MESSAGES
from mcp_gateway.core.surfaces.surface import Ask
from tests.core.test_chat import Stage, open_stage, stage  # noqa: F401 - the fixture
from tests.core.test_chat_streams import broken_off
from tests.replaying import Answer, ReplayingBackend, whole
from tests.serving import PRICED

PIXEL = "iVBORw0KGgo="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}


def asked(**fields: Any) -> Ask:
    body = {"model": "priced/tiny", "messages": [{"role": "user", "content": "Hi"}]} | fields
    return COUNTED_MESSAGES.read(body, len(orjson.dumps(body)))


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (whole(b'{"detail":"Not Found"}', 404), "unsupported_endpoint"),
        (whole(b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}', 400), "invalid_value"),
        (whole(b'{"error":{"message":"full","code":503}}', 503), "backend_busy"),
    ],
)
async def test_who_is_not_told_a_count_is_told_why(stage: Stage, answer: Answer, code: str) -> None:
    stage.backend.counts = answer
    with pytest.raises(GatewayError, match=code):
        await stage.gateway.inference.count(stage.caller, asked())


async def test_a_prompt_of_ids_is_not_asked_about(stage: Stage) -> None:
    body = {"model": "priced/tiny", "prompt": [1, 2, 3]}
    count = await stage.gateway.inference.count(stage.caller, COMPLETIONS.read(body, len(orjson.dumps(body))))
    assert count.tokens == 3
    assert stage.backend.counted == []


async def test_a_count_that_breaks_off_is_the_backends_failure(stage: Stage) -> None:
    stage.backend.counts = broken_off(b"{")
    with pytest.raises(GatewayError, match="backend_died"):
        await stage.gateway.inference.count(stage.caller, asked())


async def test_images_are_judged_before_anybody_counts(stage: Stage) -> None:
    with pytest.raises(GatewayError, match="vision_disabled"):
        await stage.gateway.inference.count(
            stage.caller, asked(messages=[{"role": "user", "content": [IMAGE, {"type": "text", "text": "Hi"}]}])
        )
    assert stage.backend.chats == []


async def test_ids_beyond_the_window_of_their_model_are_refused_without_a_question(tmp_path: Path) -> None:
    body = {"model": "priced/tiny", "prompt": [1] * 150}
    models = [PRICED | {"context_window": 100}]
    async with ReplayingBackend() as backend, open_stage(tmp_path, backend, models=models) as stage:
        with await stage.exchange() as exchange, pytest.raises(GatewayError, match="context_length_exceeded"):
            await exchange.begin(COMPLETIONS.read(body, len(orjson.dumps(body))))
        assert backend.counted == []
        await stage.is_accounted_for(0, "client_closed")
