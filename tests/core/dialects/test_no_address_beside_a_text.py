"""Of each item, message and part only the keys of its kind reach a backend: others could make it fetch any address."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from mcp_gateway.core.dialects.vllm import Vllm
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.chat import CHAT
from mcp_gateway.core.surfaces.embeddings import EMBEDDINGS
from mcp_gateway.core.surfaces.messages import MESSAGES
from mcp_gateway.core.surfaces.responses import RESPONSES
from mcp_gateway.core.surfaces.surface import Surface
from tests.cases import each

ADDRESS = "http://192.0.2.1/x"
Object = dict[str, Any]


def said(content: Any, more: Object | None = None) -> Object:
    """A conversation of one message."""
    return {"messages": [{"role": "user", "content": content} | (more or {})]}


def to_anthropic(content: Any, more: Object | None = None) -> Object:
    return said(content, more) | {"max_tokens": 9}


def item(**fields: Any) -> Object:
    return {"input": [fields]}


def text(kind: str, more: Object) -> list[Object]:
    return [{"type": kind, "text": "a"} | more]


def result(more: Object) -> list[Object]:
    return [{"type": "tool_result", "tool_use_id": "t", "content": text("text", more)}]


PLACES: dict[str, tuple[Surface, Callable[[Object], Object]]] = {
    "a part of a chat": (CHAT, lambda more: said(text("text", more))),
    "a message of a chat": (CHAT, lambda more: said("a", more)),
    "a block": (MESSAGES, lambda more: to_anthropic(text("text", more))),
    "a message": (MESSAGES, lambda more: to_anthropic("a", more)),
    "a block of a result": (MESSAGES, lambda more: to_anthropic(result(more))),
    "a part of an item": (RESPONSES, lambda more: item(role="user", content=text("input_text", more))),
    "an item": (RESPONSES, lambda more: item(role="user", content="a", **more)),
    "a part of an output": (
        RESPONSES,
        lambda more: item(type="function_call_output", call_id="c", output=text("input_text", more)),
    ),
    "a summary": (RESPONSES, lambda more: item(type="reasoning", summary=text("summary_text", more))),
    "a message that is embedded": (EMBEDDINGS, lambda more: said("a", more)),
}
"""Where a text stands, each with a body that has more keys beside it."""


def sift(place: str, more: dict[str, Any]) -> tuple[tuple[str, ...], bytes]:
    """The names that were left out, and what is left."""
    surface, body_with = PLACES[place]
    body = {"model": "m"} | body_with(more)
    ask = surface.read(body, len(orjson.dumps(body)))
    return Vllm().translations[surface.name].sift(ask.body), orjson.dumps(ask.body)


@each("place", PLACES)
@each("key", ["image_url", "audio_url", "video_url", "file_id", "url"])
@each("value", [ADDRESS, {"url": ADDRESS}])
def test_an_address_beside_a_text_is_refused(place: str, key: str, value: Any) -> None:
    with pytest.raises(GatewayError, match="unsupported_parameter"):
        sift(place, {key: value})


@each("place", PLACES)
def test_another_key_beside_a_text_is_left_out_and_named(place: str) -> None:
    names, left = sift(place, {"uuid": "of-another"})
    assert [name for name in names if name.endswith(".uuid")] == list(names)
    assert len(names) == 1
    assert b"uuid" not in left
