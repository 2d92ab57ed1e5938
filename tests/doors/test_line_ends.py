"""Whatever a model says, a frame of either door is one line for every reader of lines."""

import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.wire.line_ends import without_line_ends
from tests.cases import each
from tests.doors.mcp_host import chat
from tests.serving import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDS = "\u2028", "\u2029", "\u0085"
TEXT = "one\u2028two\u2029three\u0085four\u2028\u2028é“\U0001f600\\\u2028"
SSE = {"accept": "text/event-stream"}
REVISION = {"mcp-protocol-version": "2025-11-25"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("lines")) as door:
        yield door


def is_clean(text: str) -> bool:
    return not any(end in text for end in ENDS)


@each("text", [TEXT, *ENDS, "plain", "é", "\U00028000\u2027\u202a\u0086"])
async def test_a_text_means_the_same_without_its_line_ends(text: str) -> None:
    frame = without_line_ends(orjson.dumps({text: text}))
    assert is_clean(frame.decode())
    assert orjson.loads(frame) == {text: text}


async def test_a_stream_over_http(door: Door) -> None:
    body = {"model": "demo/echo", "messages": [{"role": "user", "content": TEXT}], "stream": True}
    answer = await door.post(orjson.dumps(body))
    assert is_clean(answer.text)
    chunks = [orjson.loads(line) for line in re.findall(r"^data: (\{.+)$", answer.text, re.MULTILINE)]
    told = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert TEXT in told


@each("meta", [{}, {"progressToken": "\u2028"}])
@each("accept", ["application/json", "text/event-stream"])
async def test_an_answer_over_mcp(door: Door, meta: dict[str, Any], accept: str) -> None:
    message = chat(TEXT, request_id="id\u2029")
    message["params"]["_meta"] = meta
    answer = await door.post(orjson.dumps(message), path="/v1/mcp", accept=accept, **REVISION)
    assert is_clean(answer.text)
    told = orjson.loads(answer.text.strip().split("data: ")[-1])
    assert told["id"] == "id\u2029"
    assert TEXT in told["result"]["content"][0]["text"]
    assert TEXT in told["result"]["structuredContent"]["content"]


async def test_an_error_over_mcp(door: Door) -> None:
    message = {"jsonrpc": "2.0", "id": "\u0085", "method": "no\u2028such"}
    answer = await door.post(orjson.dumps(message), path="/v1/mcp", **SSE)
    assert is_clean(answer.text)
    assert orjson.loads(answer.text.split("data: ")[-1])["id"] == "\u0085"
