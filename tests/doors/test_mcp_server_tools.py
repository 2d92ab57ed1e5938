"""The tools of other servers as keys are told them (GET /mcp/tools)."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.errors import GatewayError
from tests.cases import each
from tests.patience import eventually
from tests.serving import Door, error_of, open_door
from tests.tool_server import ToolServerDouble

pytestmark = pytest.mark.gateways


def server_at(double: ToolServerDouble, **more: Any) -> dict[str, Any]:
    return {"label": "double", "url": f"{double.url}?profile=secret", "accounts": ["*"]} | more


async def connected(door: Door) -> None:
    await eventually(lambda: all(server.tools for server in door.gateway.tool_servers))


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


async def test_a_key_that_a_key_makes_offers_tools_by_itself_as_its_maker_does_or_as_it_is_asked(
    tmp_path: Path,
) -> None:
    async with open_door(tmp_path) as door:
        for is_offering in (True, False):
            key = await door.key(mcp_servers=["a"], offers_mcp_tools=is_offering)
            for asked, told in [
                ({}, is_offering),
                ({"offer_mcp_tools": True}, True),
                ({"offer_mcp_tools": False}, False),
            ]:
                made = (await door.post(orjson.dumps(asked), key, "/v1/keys")).json()
                assert made["offer_mcp_tools"] is told
                assert (await own_key(door, made["key"]))["offer_mcp_tools"] is told
        assert error_of(await door.post(b'{"offer_mcp_tools": 1}', key, "/v1/keys"))["param"] == "offer_mcp_tools"


@each(
    ("given", "left"),
    [
        (["a"], [["a"], ["a"], ["a"], []]),
        (["a", "b", "c"], [["a", "b", "c"], ["a", "b"], ["a"], []]),
        (["*"], [["*"], ["a", "b"], ["a"], []]),
        (["b", "c"], [["b", "c"], ["b"], [], []]),
        ([], [[], [], [], []]),
    ],
)
async def test_what_a_key_loses_of_servers_what_it_made_loses_too(
    tmp_path: Path, given: list[str], left: list[list[str]]
) -> None:
    async with open_door(tmp_path / "_".join(given)) as door:
        top = await door.key(mcp_servers=["a", "b"])
        line = [await own_key(door, top)]
        minted: dict[str, Any] = {"budgets": [{"amount_usd": "1", "window": "day"}]}
        asked: list[dict[str, Any]] = [minted, {"mcp_servers": ["a"]}, {"mcp_servers": []}]
        for fields in asked:
            line.append((await door.post(orjson.dumps(fields), line[-1].get("key", top), "/v1/keys")).json())
        other = await door.key(mcp_servers=["a"])
        desk = await door.desk()
        changed = await desk.keys.change(line[0]["id"], mcp_servers=given)
        assert changed.mcp_servers == frozenset(given)
        await door.gateway.known_keys.catch_up()
        told = [(await own_key(door, one.get("key", top)))["mcp_servers"] for one in line]
        assert told == left
        assert (await own_key(door, other))["mcp_servers"] == ["a"]
        callers = [door.gateway.authenticator.recall(one.get("key", top)) for one in line]
        assert [sorted(caller.mcp_servers) for caller in callers if caller is not None] == left


async def test_a_key_is_given_no_server_that_its_maker_may_not_use(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        top = await door.key(mcp_servers=["a", "b"])
        below = (await door.post(orjson.dumps({"mcp_servers": []}), top, "/v1/keys")).json()
        for servers in (["c"], ["a", "c"], ["*"]):
            with pytest.raises(GatewayError) as refused:
                await door.gateway.keys.change(below["id"], mcp_servers=servers)
            assert (refused.value.code, refused.value.param) == ("insufficient_permissions", "mcp_servers")
        assert (await own_key(door, below["key"]))["mcp_servers"] == []
        await door.gateway.keys.change(below["id"], mcp_servers=["b"])
        assert (await own_key(door, below["key"]))["mcp_servers"] == ["b"]


async def own_key(door: Door, key: str) -> dict[str, Any]:
    """What a key is told of itself."""
    told = (await door.get("/v1/keys", key)).json()["data"]
    return next(one for one in told if key.startswith(one["prefix"]))
