"""A chat that uses tools of servers and says which models may answer: each round is asked so, and all are summed up."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.doors.test_tool_rounds import asked, calling, calling_stream, keyed, opened, said, said_stream
from tests.replaying import Asked, ReplayingBackend, whole
from tests.serving import FREE, PRICED
from tests.tool_server import ToolServerDouble

pytestmark = pytest.mark.gateways
REFUSED = whole(b'{"error":{"message":"Not now.","type":"BadRequestError","code":400}}', 400)
COST = (30 * 300 + 10 * 700) / 10**9


@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_cost_of_all_rounds_is_told_as_a_number(is_stream: bool, tmp_path: Path) -> None:
    async with ReplayingBackend() as backend, opened(tmp_path, backend, ToolServerDouble()) as door:
        called = ("echo", '{"text": "x"}')
        answers = (calling_stream(called), said_stream()) if is_stream else (calling(called), said())
        backend.answer_with(*answers)
        fields: dict[str, Any] = {"model": "priced/tiny", "max_tokens": 16, "stream": is_stream}
        answer = await asked(door, await keyed(door, credit="1"), **fields, usage={"include": True})
        if is_stream:
            frames = [orjson.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")]
            assert [frame["choices"] for frame in frames if frame.get("usage")] == [[]]
            usage = frames[-1]["usage"]
        else:
            usage = answer.json()["usage"]
        assert usage["cost"] == float(usage["cost_usd"]) == COST


async def test_each_round_falls_back_by_itself(tmp_path: Path) -> None:
    async with ReplayingBackend() as backend, opened(tmp_path, backend, ToolServerDouble()) as door:
        answers = [REFUSED, calling(("echo", '{"text": "x"}')), REFUSED, said("It is x.")]

        async def answer(asked: Asked) -> None:
            await answers[len(backend.chats) - 1](asked)

        backend.standing = answer
        key = await keyed(door, credit="1")
        told = (await asked(door, key, model="free/tiny", models=["priced/tiny"], max_tokens=16)).json()
        assert (told["model"], told["choices"][0]["message"]["content"]) == ("priced/tiny", "It is x.")
        assert len(backend.chats) == 4
        last = backend.chats[-1].json["messages"]
        assert [message["role"] for message in last] == ["user", "assistant", "tool"]
        rows = (await door.get("/v1/requests", key)).json()["data"]
        assert [row["model"] for row in rows] == ["priced/tiny", "priced/tiny"]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_all_rounds_of_a_chat_are_answered_by_the_model_that_was_chosen(is_stream: bool, tmp_path: Path) -> None:
    async with ReplayingBackend() as backend, opened(tmp_path, backend, ToolServerDouble()) as door:
        called = ("echo", '{"text": "x"}')
        answers = (calling_stream(called), said_stream()) if is_stream else (calling(called), said())
        backend.answer_with(*answers)
        routing = {"optimize": "quality", "model_pool": ["free/tiny", "priced/tiny"], "event": True}
        answer = await asked(
            door, key := await keyed(door, credit="1"), model="auto", routing=routing, stream=is_stream
        )
        assert answer.headers["x-routing-task"] == "conversation"
        rows = (await door.get("/v1/requests", key)).json()["data"]
        assert {row["model"] for row in rows} == {answer.headers["x-routing-model"]}
        assert [row["routing"]["task"] for row in rows] == ["conversation"] * 2
        assert "routing" not in backend.chats[-1].json
        frames = answer.text.split("\n\n")
        assert ['"object":"routing"' in frame for frame in frames] == [is_stream, *[False] * (len(frames) - 1)]


async def test_tools_that_a_key_offers_are_offered_to_the_model_that_is_chosen(tmp_path: Path) -> None:
    models = [PRICED, FREE | {"features": []}]
    async with ReplayingBackend() as backend, opened(tmp_path, backend, ToolServerDouble(), models=models) as door:
        backend.answer_with(calling(("echo", '{"text": "x"}')), said())
        key = await keyed(door, credit="1", offers_mcp_tools=True)
        answer = await door.chat(key, model="auto")
        assert answer.json()["gateway"]["tool_calls"][0]["name"] == "echo"
        assert answer.headers["x-routing-model"] == PRICED["id"]
