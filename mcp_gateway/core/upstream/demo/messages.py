"""Anthropic's Messages as vLLM has them: a body is made a chat, and the chat's answer is written as a message."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from mcp_gateway.core.upstream.demo.body import ChatBody
from mcp_gateway.core.upstream.demo.reply import DemoReply, Step
from mcp_gateway.core.upstream.demo.tokens import text_of
from mcp_gateway.core.upstream.demo.wire import Head, message_of

_CHOICES = {"any": "required", "auto": "auto", "none": "none"}
_SAME = ("model", "stream", "temperature", "top_k", "top_p")
_REASONS = {"length": "max_tokens", "stop": "end_turn", "tool_calls": "tool_use"}


class InputMessage(BaseModel):
    """A message; its content is text or blocks."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: str
    content: str | list[dict[str, Any]]


class MessagesTool(BaseModel):
    """A tool that may be called."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    description: str | None = None
    input_schema: dict[str, Any]


class CountedMessages(BaseModel):
    """The body of /v1/messages/count_tokens."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str | None = None
    messages: list[InputMessage]
    system: str | list[dict[str, Any]] | None = None
    tools: list[MessagesTool] | None = None
    tool_choice: dict[str, Any] | None = None

    def as_chat(self) -> ChatBody:
        """The chat that it is."""
        system = [] if not self.system else [{"role": "system", "content": text_of(self.system)}]
        chat = {name: value for name in _SAME if (value := getattr(self, name, None)) is not None}
        chat["messages"] = [*system, *(one for turn in self.messages for one in _chat_turns(turn))]
        if self.tools:
            chat["tools"] = [_chat_tool(tool) for tool in self.tools]
            chat["tool_choice"] = _chat_choice(self.tool_choice)
        return ChatBody.model_validate(chat | self._limits())

    def _limits(self) -> dict[str, Any]:
        return {}


class MessagesBody(CountedMessages):
    """The body of /v1/messages."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def _limits(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "stop": self.stop_sequences}


def completion(head: Head, replies: Sequence[DemoReply], steps: Sequence[Sequence[Step]]) -> bytes:
    """A whole answer."""
    (reply,), (taken,) = replies, steps
    told = message_of(reply, taken, [token for step in taken for token in step.tokens])
    calls = told.get("tool_calls", ())
    content = [{"type": "text", "text": told["content"]}] if told["content"] else []
    content += [_tool_use(call, json.loads(call["function"]["arguments"])) for call in calls]
    message = _message(head, content, _reason(taken[-1], is_call=bool(calls)))
    return orjson.dumps(message | {"usage": _usage(head, taken[-1].completion_tokens)})


def events(head: Head, choices: Sequence[Iterator[Step]]) -> Iterator[tuple[int, bytes]]:
    """A streamed answer: each event with the number of tokens that there are by then."""
    start = _message(head, [], None) | {"stop_sequence": None, "usage": _usage(head, 0)}
    yield 1, _event({"type": "message_start", "message": start})
    blocks = _Blocks()
    for step in choices[0]:
        for event in blocks.of(step.delta):
            yield step.completion_tokens, _event(event)
    for event in blocks.close():
        yield step.completion_tokens, _event(event)
    delta = {"stop_reason": _reason(step, is_call=blocks.has_calls), "stop_sequence": None}
    usage = _usage(head, step.completion_tokens)
    yield step.completion_tokens, _event({"type": "message_delta", "delta": delta, "usage": usage})
    yield step.completion_tokens, _event({"type": "message_stop"})


class _Blocks:
    """The blocks of a stream, one open at a time."""

    def __init__(self) -> None:
        self._index = -1
        self._open = ""
        self.has_calls = False

    def of(self, delta: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if text := delta.get("content"):
            if self._open != "text":
                yield from self._begin("text", {"type": "text", "text": ""})
            yield self._more({"type": "text_delta", "text": text})
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                self.has_calls = True
                yield from self._begin(call["id"], _tool_use(call, {}))
            if arguments := call["function"].get("arguments"):
                yield self._more({"type": "input_json_delta", "partial_json": arguments})

    def close(self) -> Iterator[dict[str, Any]]:
        if self._open:
            yield {"type": "content_block_stop", "index": self._index}
        self._open = ""

    def _begin(self, name: str, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self.close()
        self._index, self._open = self._index + 1, name
        yield {"type": "content_block_start", "content_block": block, "index": self._index}

    def _more(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "delta": delta, "index": self._index}


def _chat_turns(turn: InputMessage) -> Iterator[dict[str, Any]]:
    """The results of tools are turns of their own, before what else a turn says."""
    if isinstance(turn.content, str):
        yield {"role": turn.role, "content": turn.content}
        return
    kinds = [(block.get("type"), block) for block in turn.content]
    for block in (block for kind, block in kinds if kind == "tool_result"):
        yield {"role": "tool", "content": text_of(block.get("content"))}
    parts = [_chat_part(block) for kind, block in kinds if kind in ("text", "image")]
    calls = [_chat_call(block) for kind, block in kinds if kind == "tool_use"]
    if parts or calls:
        yield {"role": turn.role, "content": parts, **({"tool_calls": calls} if calls else {})}


def _chat_part(block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": block.get("text", "")} if block["type"] == "text" else {"type": "image_url"}


def _chat_call(block: dict[str, Any]) -> dict[str, Any]:
    function = {"name": block.get("name"), "arguments": json.dumps(block.get("input"))}
    return {"id": block.get("id"), "type": "function", "function": function}


def _chat_tool(tool: MessagesTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def _chat_choice(choice: dict[str, Any] | None) -> Any:
    if choice is None:
        return None
    if choice.get("type") == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return _CHOICES.get(str(choice.get("type")), choice)


def _message(head: Head, content: list[Any], reason: str | None) -> dict[str, Any]:
    return {
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": head.model,
        "stop_reason": reason,
    }


def _tool_use(call: dict[str, Any], given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": given}


def _reason(last: Step, *, is_call: bool) -> str:
    """vLLM says of a call that was asked for by name that it stopped, and of the message that it uses a tool."""
    reason = _REASONS[last.finish_reason or "stop"]
    return "tool_use" if is_call and reason == "end_turn" else reason


def _usage(head: Head, output_tokens: int) -> dict[str, int]:
    return {"input_tokens": head.prompt_tokens, "output_tokens": output_tokens}


def _event(data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), orjson.dumps(data))
