"""What a provider wants to have again in the next turn comes back to it, by whichever name its caller was told it."""

from pathlib import Path
from typing import Any

import pytest

from tests.providers.doubles import DeepSeek, Generic, Google, Moonshot, serving
from tests.providers.test_contract import ENVIRON, MODEL, TOOLS, chunks_of
from tests.serving import Door, open_door

pytestmark = pytest.mark.providers
NAMES: list[list[str]] = [[], ["reasoning"], ["reasoning", "reasoning_content"]]
ASKED = {"role": "user", "content": "Weather?"}


async def call_in(door: Door, key: str, *, is_stream: bool) -> dict[str, Any]:
    """The assistant's turn with its call of a tool, as a client puts it together."""
    response = await door.chat(key, model="sold/model", messages=[ASKED], tools=TOOLS, stream=is_stream)
    assert response.status_code == 200, response.text
    if not is_stream:
        message: dict[str, Any] = response.json()["choices"][0]["message"]
        return message
    told: dict[str, Any] = {"role": "assistant", "content": None}
    deltas = [choice["delta"] for chunk in chunks_of(response.content) for choice in chunk["choices"]]
    for delta in deltas:
        for name, value in delta.items():
            if isinstance(value, str) and name != "role":
                told[name] = (told.get(name) or "") + value
    (first, *rest) = [call for delta in deltas for call in delta.get("tool_calls", ())]
    first["function"]["arguments"] += "".join(call["function"]["arguments"] for call in rest)
    return told | {"tool_calls": [{name: value for name, value in first.items() if name != "index"}]}


@pytest.mark.parametrize("kind", [DeepSeek, Moonshot, Google])
async def test_a_turn_with_a_call_comes_back_with_what_belongs_to_it(kind: type[Generic], tmp_path: Path) -> None:
    async with serving(kind()) as double:
        for number, names in enumerate(NAMES):
            settings: dict[str, Any] = {"providers": [double.settings(reasoning_names=names)]}
            models = [MODEL | {"provider": double.manner.kind}]
            async with open_door(tmp_path / str(number), environ=ENVIRON, models=models, **settings) as door:
                key = await door.key(credit="10")
                for is_stream in (False, True):
                    turn = await call_in(door, key, is_stream=is_stream)
                    result = {"role": "tool", "tool_call_id": turn["tool_calls"][0]["id"], "content": "rain"}
                    answer = await door.chat(key, model="sold/model", messages=[ASKED, turn, result], tools=TOOLS)
                    assert answer.status_code == 200, answer.text
                    assert "x-ignored-parameters" not in answer.headers
                await door.nothing_is_left()


async def test_a_turn_without_it_is_refused_as_a_fault_of_the_request(tmp_path: Path) -> None:
    async with serving(DeepSeek()) as double:
        models = [MODEL | {"provider": "deepseek"}]
        async with open_door(tmp_path, environ=ENVIRON, providers=[double.settings()], models=models) as door:
            key = await door.key(credit="10")
            turn = {
                name: value for name, value in (await call_in(door, key, is_stream=False)).items() if "reas" not in name
            }
            result = {"role": "tool", "tool_call_id": "up_0", "content": "rain"}
            refused = await door.chat(key, model="sold/model", messages=[ASKED, turn, result], tools=TOOLS)
            assert refused.status_code == 400
            assert "reasoning_content" in refused.json()["error"]["message"]
            assert (await door.chat(key, model="sold/model")).status_code == 200
