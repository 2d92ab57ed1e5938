"""Tools of MCP servers in chats that providers answer: the gateway calls them, whoever the model is of."""

from pathlib import Path
from typing import Any

import pytest

from tests.patience import eventually
from tests.providers.doubles import TEXT, Generic, serving
from tests.providers.test_contract import ENVIRON, MODEL, chunks_of, cost_of, each_kind
from tests.serving import open_door
from tests.tool_server import ToolServerDouble

WEATHER = [{"type": "mcp", "server_label": "sky", "allowed_tools": ["weather"]}]


@each_kind
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_tool_of_a_server_is_called_within_a_chat_and_each_round_is_billed(
    manner: Generic, is_stream: bool, tmp_path: Path
) -> None:
    async def weather(city: str) -> str:
        return f"{city}: rain"

    sky = ToolServerDouble()
    sky.server.add_tool(weather, structured_output=False)
    async with sky.serving(), serving(manner) as double:
        settings: dict[str, Any] = {
            "providers": [double.settings()],
            "models": [MODEL | {"provider": manner.kind}],
            "mcp_servers": [{"label": "sky", "url": sky.url, "accounts": ["*"], "shared": True}],
        }
        async with open_door(tmp_path, environ=ENVIRON, **settings) as door:
            await eventually(lambda: all(server.tools for server in door.gateway.tool_servers))
            account_id = await door.account("1")
            key = await door.key(account_id, mcp_servers=["sky"])
            answer = await door.chat(key, model="sold/model", max_tokens=100, tools=WEATHER, stream=is_stream)
            assert answer.status_code == 200, answer.text
            if is_stream:
                chunks = chunks_of(answer.content)
                told = chunks[-1]
                texts = [choice["delta"].get("content") or "" for one in chunks for choice in one["choices"]]
                text = "".join(texts).replace("7", "")
            else:
                told = answer.json()
                text = told["choices"][0]["message"]["content"]
            assert text.endswith("".join(TEXT))  # some say it before they call, too
            [ran] = told["gateway"]["tool_calls"]
            assert (ran["name"], ran["ok"], told["gateway"]["rounds"]) == ("weather", True, 2)
            assert "Paris: rain" in str(double.asked[1].body["messages"][-1]["content"])
            assert await door.balance_nano(account_id) == 10**9 - 2 * cost_of(manner)
