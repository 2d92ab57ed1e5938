"""MCP servers that others wrote: the gateway runs their tools within chats, over HTTP and over MCP."""

from pathlib import Path
from typing import Any

import pytest

from tests.clients.installed import INSTALLED, NODE
from tests.doors.test_tool_rounds import calling, calling_stream, result_of, said, said_stream
from tests.patience import eventually
from tests.replaying import ReplayingBackend, contents
from tests.serving import FREE, Door, open_door

pytestmark = pytest.mark.slow

EVERYTHING = INSTALLED / "node_modules" / ".bin" / "mcp-server-everything"
SERVERS: list[dict[str, Any]] = [
    {"label": "time", "command": str(INSTALLED / "mcp-servers" / "bin" / "mcp-server-time")},
    {"label": "everything", "command": str(NODE), "args": [str(EVERYTHING), "stdio"]},
]
TOOLS = [{"type": "mcp", "server_label": server["label"]} for server in SERVERS]
CALLS = [
    ("get_current_time", '{"timezone": "Asia/Tokyo"}'),
    ("get-sum", '{"a": 1, "b": 2}'),
    ("get-tiny-image", "{}"),
    ("get-structured-content", '{"location": "Chicago"}'),
]


def check_results(backend: ReplayingBackend) -> None:
    """What the model was told of each call."""
    clock, total, image, weather = [message["content"] for message in backend.chats[1].json["messages"][2:]]
    assert '"timezone": "Asia/Tokyo"' in clock
    assert total == "The sum of 1 and 2 is 3."
    assert "image/png, is not shown" in image
    assert '"temperature"' in weather


async def connected(door: Door) -> None:
    await eventually(lambda: all(server.tools for server in door.gateway.tool_servers))


@pytest.mark.parametrize("shared", [True, False])
async def test_their_tools_serve_within_a_chat(tmp_path: Path, backend: ReplayingBackend, shared: bool) -> None:
    servers = [server | {"accounts": ["*"], "shared": shared} for server in SERVERS]
    async with open_door(tmp_path, vllm_urls=[backend.url], models=[FREE], mcp_servers=servers) as door:
        await connected(door)
        key = await door.key(mcp_servers=["*"])
        backend.answer_with(calling(*CALLS), said("done"))
        answer = (await door.chat(key, tools=TOOLS)).json()
        check_results(backend)
        assert answer["choices"][0]["message"]["content"] == "done"
        assert {(ran["server"], ran["ok"]) for ran in answer["gateway"]["tool_calls"]} == {
            ("time", True),
            ("everything", True),
        }
        backend.answer_with(calling_stream(*CALLS), said_stream("done"))
        streamed = await door.chat(key, tools=TOOLS, stream=True)
        check_results(backend)
        assert len(contents([streamed.content])[-1]["gateway"]["tool_calls"]) == len(CALLS)
        backend.answer_with(calling(*CALLS), said("done"))
        messages = [{"role": "user", "content": "?"}]
        told = await door.call("chat_completion", key, model=FREE["id"], messages=messages, tools=TOOLS)
        check_results(backend)
        assert result_of(told)["structuredContent"]["content"] == "done"
        await door.nothing_is_left()
