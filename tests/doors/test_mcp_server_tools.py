"""The tools of other servers as keys are told them (GET /mcp/tools)."""

from pathlib import Path
from typing import Any

import orjson

from tests.cases import each
from tests.patience import eventually
from tests.serving import Door, error_of, open_door
from tests.tool_server import ToolServerDouble


def server_at(double: ToolServerDouble, **more: Any) -> dict[str, Any]:
    return {"label": "double", "url": f"{double.url}?profile=secret", "accounts": ["*"]} | more


async def connected(door: Door) -> None:
    await eventually(lambda: all(server.tools for server in door.gateway.tool_servers._servers.values()))


async def test_keys_are_told_the_tools_of_their_account_s_servers_alone(tmp_path: Path) -> None:
    double = ToolServerDouble()
    async with (
        double.serving(),
        open_door(
            tmp_path,
            mcp={"expose_tools": True},
            mcp_servers=[
                server_at(double, tools=["add"]),
                server_at(double, label="other", accounts=["acc_other"]),
            ],
        ) as door,
    ):
        await connected(door)
        key = await door.key(mcp_servers=["*"])
        for path in ("/v1/mcp/tools", "/api/v1/inference/mcp/tools"):
            told = (await door.get(path, key)).json()
            [tool] = told["tools"]
            assert (tool["name"], tool["description"], tool["server"]) == ("add", "Add two numbers.", double.url)
            assert tool["inputSchema"]["required"] == ["a", "b"]
        test_key = await door.key(is_test=True, mcp_servers=["*"])
        assert (await door.get("/v1/mcp/tools", test_key)).json() == {"tools": []}
        assert (await door.get("/v1/mcp/tools", await door.key())).json() == {"tools": []}
        assert (await door.get("/v1/mcp/tools", await door.key(mcp_servers=["other"]))).json() == {"tools": []}
        assert (await door.get("/v1/mcp/tools")).status_code == 401
        narrow = await door.key(scopes=frozenset({"read"}))
        assert error_of(await door.get("/v1/mcp/tools", narrow))["code"] == "insufficient_scope"
        await door.nothing_is_left()


async def test_the_tools_are_told_only_where_the_settings_say_so(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        refused = await door.get("/v1/mcp/tools", await door.key())
        assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")


@each("servers", [[], [{"label": "gone", "url": "http://127.0.0.1:9/mcp", "accounts": ["*"]}]])
async def test_a_gateway_starts_without_its_servers_of_tools(tmp_path: Path, servers: list[dict[str, Any]]) -> None:
    async with open_door(tmp_path / str(len(servers)), mcp={"expose_tools": True}, mcp_servers=servers) as door:
        assert (await door.get("/v1/mcp/tools", await door.key())).json() == {"tools": []}


async def test_a_key_gives_a_key_that_it_makes_no_more_servers_than_it_has(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        key = await door.key(mcp_servers=["a", "b"])

        async def made(maker: str, **fields: Any) -> Any:
            return (await door.post(orjson.dumps(fields), maker, "/v1/keys")).json()

        assert (await made(key))["mcp_servers"] == ["a", "b"]
        narrow = await made(key, mcp_servers=["a"])
        assert narrow["mcp_servers"] == ["a"]
        assert (await made(narrow["key"]))["mcp_servers"] == ["a"]
        assert (await made(key, mcp_servers=[]))["mcp_servers"] == []
        for maker, asked in [(key, ["c"]), (key, ["*"]), (narrow["key"], ["b"]), (await door.key(), ["a"])]:
            refused = await made(maker, mcp_servers=asked)
            assert (refused["error"]["code"], refused["error"]["param"]) == ("insufficient_permissions", "mcp_servers")
        assert (await made(await door.key(mcp_servers=["*"]), mcp_servers=["x"]))["mcp_servers"] == ["x"]
        assert (await made(key, mcp_servers=["a b"]))["error"]["type"] == "invalid_request"
