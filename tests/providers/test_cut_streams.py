"""A provider's stream that breaks off behind any of its bytes, or comes in two pieces that part there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
import pytest

from mcp_gateway.core.dialects.openai import OpenAi as OpenAiDialect
from mcp_gateway.core.provider_settings import ProviderSettings, row_of
from mcp_gateway.core.surfaces.chat import CHAT
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.messages import MESSAGES
from mcp_gateway.core.surfaces.surface import Ask, Reader
from tests.message_streams import blocks_in, events_in
from tests.providers.anthropic_double import Anthropic
from tests.providers.doubles import Generic
from tests.providers.kinds import KINDS
from tests.providers.test_contract import TOOLS
from tests.providers.test_messages import TOOL

pytestmark = pytest.mark.providers
BOUNDS = UsageBounds(1000, 1000)
HELLO = [{"role": "user", "content": "hello"}]
each_stream = pytest.mark.parametrize("has_tools", [False, True], ids=["text", "call"])
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


class Read(NamedTuple):
    told: bytes
    is_whole: bool
    tokens: int | None


def read(reader: Reader, *pieces: bytes) -> Read:
    told = b"".join([reader.feed(piece) for piece in pieces]) + reader.feed_end()
    usage = reader.usage
    ending = reader.end(billed=usage) if reader.has_started else b""  # until then it is a refusal
    return Read(told + ending, reader.is_whole, None if usage is None else usage.completion_tokens)


def stream_of(manner: Generic, *, has_tools: bool) -> bytes:
    asked: dict[str, Any] = {"stream": True, "messages": HELLO, "store": False, "service_tier": "default"}
    asked |= {"stream_options": {"include_usage": True}} if manner.kind != "cohere" else {}
    return b"".join(manner.stream(asked | ({"tools": [TOOL | TOOLS[0]]} if has_tools else {})))


def readers(manner: Generic, name: Any, surface: Any) -> Callable[[], Reader]:
    """Makes the gateway's reader of this provider's streams."""
    settings: dict[str, Any] = {"name": "a", "kind": manner.kind, "api_key_env": "K", "account_id": "a"} | manner.row()
    translation = OpenAiDialect(row_of(ProviderSettings.model_validate(settings))).translations[name]
    body = {"model": "m", "max_tokens": 100, "stream": True, "messages": HELLO}
    ask: Ask = surface.read(body | ({"stream_options": {"include_usage": True}} if name == "chat" else {}), 100)
    ask.request_id = "req_1"
    return lambda: translation.reader(ask, "m", BOUNDS)


def choices_in(stream: bytes) -> list[dict[str, Any]]:
    """The choices of a stream's chunks, without the ids of calls that the gateway gave."""
    frames = [frame.removeprefix(b"data: ") for frame in stream.split(b"\n\n") if frame.startswith(b"data: {")]
    choices = [choice for frame in frames for choice in orjson.loads(frame)["choices"]]
    for choice in choices:
        for call in choice["delta"].get("tool_calls", ()):
            call.pop("id", None)
    return choices


def events_without_ids(stream: bytes) -> list[dict[str, Any]]:
    events = events_in(stream)
    for event in events:
        event.get("content_block", {}).pop("id", None)
    return events


@each_kind
@each_stream
def test_a_chat_that_breaks_off_has_told_the_beginning_and_no_finish(kind: type[Generic], has_tools: bool) -> None:
    manner = kind()
    stream, reader = stream_of(manner, has_tools=has_tools), readers(manner, "chat", CHAT)
    whole = read(reader(), stream)
    expected = choices_in(whole.told)
    assert whole.is_whole
    told_finish = stream.index(b'"stop_reason":"' if b"message_delta" in stream else b'"finish_reason":"')
    for at in range(len(stream)):
        told = read(reader(), stream[:at])
        assert not told.is_whole or at > told_finish
        choices = choices_in(told.told)
        finishes = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        assert len(finishes) == told.is_whole
        assert choices[: len(choices) - len(finishes)] == expected[: len(choices) - len(finishes)]


@each_kind
@each_stream
def test_a_message_that_breaks_off_has_told_the_beginning_and_ends_its_blocks(
    kind: type[Generic], has_tools: bool
) -> None:
    manner = kind()
    stream, reader = stream_of(manner, has_tools=has_tools), readers(manner, "messages", MESSAGES)
    assert read(reader(), stream).is_whole
    told_finish = stream.index(b'"stop_reason":"' if b"message_delta" in stream else b'"finish_reason":"')
    for at in range(len(stream)):
        told = read(reader(), stream[:at])
        assert not told.is_whole or at > told_finish
        events = events_in(told.told)
        assert [event["type"] for event in events[:1]] in ([], ["message_start"])
        if kind is not Anthropic:  # whose events pass as they come
            blocks_in([event for event in events if event["type"].startswith("content_block")])


@each_kind
@each_stream
@pytest.mark.parametrize(
    ("name", "surface", "told_by"), [("chat", CHAT, choices_in), ("messages", MESSAGES, events_without_ids)]
)
def test_a_stream_is_the_same_wherever_it_parts(
    name: str, surface: Any, told_by: Callable[[bytes], Any], kind: type[Generic], has_tools: bool
) -> None:
    manner = kind()
    stream, reader = stream_of(manner, has_tools=has_tools), readers(manner, name, surface)
    whole = read(reader(), stream)
    expected = told_by(whole.told)
    for at in range(1, len(stream)):
        parted = read(reader(), stream[:at], stream[at:])
        assert (told_by(parted.told), parted.is_whole, parted.tokens) == (expected, True, whole.tokens)
