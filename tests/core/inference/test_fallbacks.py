"""What is kept of an ask for the models that follow, and what leads to them."""

from typing import Any

import orjson

from mcp_gateway.core.blame import AnswerTooLarge
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.fallbacks import kept, leads_on
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.sent_images import PLACEHOLDER
from mcp_gateway.core.surfaces.chat import parse_chat
from mcp_gateway.core.surfaces.surface import Ask
from tests.cases import each


def ask_of(**fields: Any) -> Ask:
    part = {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png"}}
    sent = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PLACEHOLDER}}, part]}
    return parse_chat(dump_json({"model": "m", "messages": [sent], "seed": 2**70} | fields))


async def test_an_ask_is_restored_as_it_came_however_often_it_was_changed() -> None:
    ask = ask_of(stop=["a"])
    body, images = orjson.dumps(ask.body["messages"]), ask.prompt.images
    as_it_came = await kept(ask, None)
    assert orjson.dumps(ask.body["messages"]) == body
    for _ in range(2):
        ask.body["messages"][0]["content"].pop()
        del ask.body["stop"]
        ask.put_away(b'{"model":"other"}')
        as_it_came.restore(ask)
        assert (ask.body["stop"], ask.body["seed"]) == (["a"], 2**70)
        assert orjson.dumps(ask.body["messages"]) == body  # a pixel stands for what is fetched
        assert ask.prompt.images == images
        (remote,) = ask.prompt.remote_images
        assert remote.url == "https://pictures.example/cat.png"
        remote.put(remote.part, "data:image/png;base64,AAAA")
        assert ask.body["messages"][0]["content"][1]["image_url"]["url"] == "data:image/png;base64,AAAA"


@each(
    ("error", "leads"),
    [
        (GatewayError("model_unavailable", ""), True),
        (GatewayError("context_length_exceeded", ""), True),
        (GatewayError("insufficient_balance", ""), True),
        (GatewayError("tokens_per_minute", ""), False),
        (GatewayError("overloaded", ""), False),
        (GatewayError("ledger_unavailable", ""), False),
        (GatewayError("revoked_api_key", ""), False),
        (AnswerTooLarge(), False),
    ],
)
def test_only_what_another_model_may_change_leads_to_it(error: GatewayError, leads: bool) -> None:
    assert leads_on(error, None, {}, lambda _: False) is leads
