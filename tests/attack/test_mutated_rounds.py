"""Whatever a backend answers amid a chat with tools of a server, it is told in one answer, and the books balance."""

from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from tests.attack.at_random import OUR_FAULT, each_case
from tests.attack.mutations import mutated_json
from tests.captured import captured
from tests.doors.test_tool_rounds import MCP, OWN, delta, keyed, opened, piece, said, said_stream
from tests.replaying import DONE, Asked, ReplayingBackend, events, final_usage, usage, whole
from tests.serving import Door
from tests.tool_server import ToolServerDouble

pytestmark = pytest.mark.slow

NAMES = [
    "id", "function", "name", "arguments", "index", "tool_calls", "content", "choices", "message", "delta",
    "finish_reason", "usage", "error", "role", "reasoning", "extra_content", "logprobs", "type", "model", "created",
]  # fmt: skip
CALL = {"id": "c", "type": "function", "function": {"name": "echo", "arguments": '{"text": "x"}'}}
FRAMES = [
    delta({"role": "assistant", "content": "a"}), piece(0, "echo", '{"te'), piece(0, None, 'xt": "x"}'),
    piece(1, "own", "{}"), delta({"reasoning": "b"}), delta({}, "tool_calls"),
]  # fmt: skip


def called(dice: Random) -> bytes:
    """An answer in one piece that calls a tool, with something changed."""
    body = orjson.loads(captured("100_chat").body) | {"usage": usage(10, 4)}
    message = {"role": "assistant", "content": "x", "reasoning": "y", "tool_calls": [CALL, CALL]}
    body["choices"][0] |= {"finish_reason": "tool_calls", "message": message}
    return orjson.dumps(mutated_json(dice, body, NAMES))


def frames(dice: Random) -> list[bytes]:
    """The same as a stream."""
    changed = [b"data: %b\n\n" % orjson.dumps(mutated_json(dice, orjson.loads(one[6:]), NAMES)) for one in FRAMES]
    return [dice.choice(pair) for pair in zip(FRAMES, changed, strict=True) if dice.random() < 0.9]


class OddRounds:
    """Answers the first round of a case with that case's bytes, and any other with words."""

    def __init__(self) -> None:
        self.cases: dict[str, Any] = {}

    async def __call__(self, asked: Asked) -> None:
        odd = self.cases.pop(asked.json["messages"][0]["content"], None)
        await (odd or (said_stream() if asked.json.get("stream") else said()))(asked)


async def ask_oddly(door: Door, key: str, odd: OddRounds, dice: Random) -> None:
    name, is_stream = f"case {dice.getrandbits(64)}", dice.random() < 0.5
    odd.cases[name] = events(*frames(dice), final_usage(10, 4), DONE) if is_stream else whole(called(dice))
    fields: dict[str, Any] = {"model": "priced/tiny", "max_tokens": 16, "tools": [MCP, OWN], "stream": is_stream}
    answer = await door.chat(key, messages=[{"role": "user", "content": name}], **fields)
    assert answer.status_code in (200, 502), answer.text
    assert not OUR_FAULT.search(answer.content), answer.text
    if is_stream and answer.status_code == 200:
        assert answer.content.endswith(DONE)
        assert answer.content.count(b"[DONE]") == 1


async def test_whatever_is_answered_amid_rounds_ends_them_once_and_the_books_balance(tmp_path: Path) -> None:
    odd = OddRounds()
    async with ReplayingBackend() as backend, opened(tmp_path, backend, ToolServerDouble()) as door:
        backend.standing = odd
        key = await keyed(door, credit="1000")
        await each_case(lambda dice: ask_oddly(door, key, odd, dice))
