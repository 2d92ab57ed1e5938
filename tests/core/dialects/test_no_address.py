"""No address reaches a backend, which would fetch it: neither beside a text nor as an image, wherever either stands."""

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
from mcp_gateway.core.surfaces.scores import RERANK, SCORE
from mcp_gateway.core.surfaces.surface import Ask, Surface
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


@each(
    ("surface", "sides"),
    [(RERANK, {"query": "a", "documents": ["b"]}), (SCORE, {"text_1": "a", "text_2": ["b"]})],
)
def test_sides_of_scores_that_were_not_read_are_left_out_and_named(surface: Surface, sides: Object) -> None:
    """Of the pairs of names that vLLM has for them, since it reads images in any."""
    others = ("query", "queries", "documents", "items", "text_1", "text_2", "data_1", "data_2")
    image = {"content": [{"type": "image_url", "image_url": {"url": ADDRESS}}]}
    body = {"model": "m"} | dict.fromkeys(others, image) | sides
    ask = surface.read(body, len(orjson.dumps(body)))
    assert Vllm().translations[surface.name].sift(ask.body) == tuple(name for name in others if name not in sides)
    assert ask.body == {"model": "m"} | sides


def url_block(url: str = ADDRESS) -> Object:
    return {"type": "image", "source": {"type": "url", "url": url}}


def result_of(content: Any) -> Object:
    return {"type": "tool_result", "tool_use_id": "t", "content": content}


INPUT_IMAGE = {"type": "input_image", "image_url": ADDRESS}
IN_SHORT = {"type": "image_url", "image_url": ADDRESS}
IMAGES: dict[str, tuple[Surface, Object]] = {
    "a chat": (CHAT, said([{"type": "image_url", "image_url": {"url": ADDRESS}}])),
    "a chat, in short": (CHAT, said([IN_SHORT])),
    "a tool's message": (CHAT, {"messages": [{"role": "tool", "tool_call_id": "c", "content": [IN_SHORT]}]}),
    "a system's message": (CHAT, {"messages": [{"role": "system", "content": [IN_SHORT]}]}),
    "a message": (MESSAGES, to_anthropic([url_block()])),
    "a system prompt": (MESSAGES, to_anthropic("a") | {"system": [url_block()]}),
    "a result": (MESSAGES, to_anthropic([result_of([url_block()])])),
    "a result in a result": (MESSAGES, to_anthropic([result_of([result_of([url_block()])])])),
    "an item": (RESPONSES, item(role="user", content=[INPUT_IMAGE])),
    "an item, with an empty file": (RESPONSES, item(role="user", content=[INPUT_IMAGE | {"file_id": []}])),
    "an output": (RESPONSES, item(type="function_call_output", call_id="c", output=[INPUT_IMAGE])),
    "a summary": (RESPONSES, item(type="reasoning", summary=[INPUT_IMAGE])),
    "a reasoning": (RESPONSES, item(type="reasoning", summary=[], content=[INPUT_IMAGE])),
}
NOWHERE: dict[str, tuple[Surface, Object, str]] = {
    "an image that is a content": (MESSAGES, to_anthropic(url_block()), "invalid_type"),
    "one that is a result's": (MESSAGES, to_anthropic([result_of(url_block())]), "invalid_type"),
    "one that is a system prompt": (MESSAGES, to_anthropic("a") | {"system": url_block()}, "invalid_type"),
    "a part that is a content": (RESPONSES, item(role="user", content=INPUT_IMAGE), "invalid_type"),
    "one that is an output": (
        RESPONSES,
        item(type="function_call_output", call_id="c", output=INPUT_IMAGE),
        "invalid_type",
    ),
    "one that is a chat's": (CHAT, said(IN_SHORT), "invalid_type"),
    "an object": (RESPONSES, item(role="user", content=[INPUT_IMAGE | {"image_url": {"url": ADDRESS}}]), "missing"),
    "a file beside it": (RESPONSES, item(role="user", content=[INPUT_IMAGE | {"file_id": "f"}]), "unsupported"),
    "a file alone": (RESPONSES, item(role="user", content=[{"type": "input_image", "file_id": "f"}]), "unsupported"),
    "another kind of part": (CHAT, said([{"type": "video_url", "video_url": {"url": ADDRESS}}]), "unsupported"),
    "a part without a kind": (CHAT, said([{"image_url": ADDRESS}]), "unsupported"),
    "a source of two kinds": (
        MESSAGES,
        to_anthropic([url_block() | {"source": {"type": "file", "url": ADDRESS}}]),
        "un",
    ),
}


def ask_in(surface: Surface, body: Object) -> Ask:
    """A body of its own as it is read and sifted."""
    raw = orjson.dumps({"model": "m"} | body)
    ask = surface.read(orjson.loads(raw), len(raw))
    Vllm().translations[surface.name].sift(ask.body)
    return ask


@each("place", IMAGES)
def test_an_image_s_address_is_taken_out_and_its_data_put_there(place: str) -> None:
    ask = ask_in(*IMAGES[place])
    assert ADDRESS.encode() not in orjson.dumps(ask.body)
    assert ask.prompt.images == (ADDRESS,)
    (remote,) = ask.prompt.remote_images
    remote.put(remote.part, "data:image/gif;base64,R0lGODlh")
    assert b"R0lGODlh" in orjson.dumps(ask.body)
    assert b"image/gif" in orjson.dumps(ask.body)


@each("place", NOWHERE)
def test_where_no_image_may_stand_it_is_refused(place: str) -> None:
    surface, body, code = NOWHERE[place]
    with pytest.raises(GatewayError, match=code):
        ask_in(surface, body)


def test_of_a_source_of_two_kinds_the_address_is_left_out() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA", "url": ADDRESS}
    ask = ask_in(MESSAGES, to_anthropic([{"type": "image", "source": source}]))
    assert (ADDRESS.encode() in orjson.dumps(ask.body), ask.prompt.images) == (False, ("data:image/png;base64,AAAA",))
