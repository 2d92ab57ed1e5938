"""What the demo says, token by token: an echo, JSON that fits a schema, or tool calls. Knows nothing of the wire.

Tools are called when `tool_choice` asks for it or, left to itself, when the last message is a user's and has a tool's
name in it as a word. Their arguments are valid against the tool's schema.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, islice, repeat
from typing import Any

from mcp_gateway.core.upstream.demo.body import (
    MAX_OUTPUT_TOKENS,
    ChatBody,
    ChatMessage,
    ChatTool,
    CompletionBody,
    SamplingBody,
    refused,
)
from mcp_gateway.core.upstream.demo.instance import Allotment, SchemaError, instance_of
from mcp_gateway.core.upstream.demo.tokens import END_OF_TURN, MAX_TOKEN_CHARS, image_count, text_of, tokens_of

_MAX_TEXT_CHARS = (MAX_OUTPUT_TOKENS + 1) * MAX_TOKEN_CHARS
"""More than any answer has room for."""
_SINGLE_TOKENS = 32
_WORD = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class Piece:
    """One token, with what it adds to the text, or what a stream shows instead."""

    token: str
    text: str = ""
    delta: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DemoReply:
    """One choice in full; `content` is what stands beside `tool_calls`, which cannot be cut and stay whole."""

    pieces: Iterable[Piece]
    finish_reason: str = "stop"
    content: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """What a stream shows at once: its delta, the tokens since the step before, and how many there are by now."""

    delta: dict[str, Any]
    tokens: list[str]
    completion_tokens: int
    finish_reason: str | None = None
    stop_reason: str | None = None


_END = Piece(END_OF_TURN)


def replies_to(body: ChatBody, answer_id: str) -> list[DemoReply]:
    """The reply of each choice. Raises VllmRefusal for a schema from which no value can be made.

    What all choices share is worked out once; tokens are made as they are taken.
    """
    if called := _tools_to_call(body):
        arguments = _Arguments()
        return [_calling(body, called, arguments, f"{answer_id}/{choice}") for choice in range(body.choices)]
    constrained = _constrained_text(body)
    if constrained is not None:
        return [DemoReply(_said(constrained[:_MAX_TEXT_CHARS])) for _ in range(body.choices)]
    least = MAX_OUTPUT_TOKENS if body.ignore_eos else body.min_tokens or 0
    saw, heard = _saw(body.messages), _heard(body.messages)[:_MAX_TEXT_CHARS]
    return [
        DemoReply(_said_at_least(least, f"{_greeting(body, choice)}{saw} {heard}")) for choice in range(body.choices)
    ]


def replies_to_prompts(body: CompletionBody) -> list[DemoReply]:
    """What goes on behind each prompt, so often as choices are wanted: the prompt again."""
    least = MAX_OUTPUT_TOKENS if body.ignore_eos else body.min_tokens or 0
    return [
        DemoReply(_said_at_least(least, f"{_greeting(body, choice)} The prompt was: {prompt}"[:_MAX_TEXT_CHARS]))
        for prompt in body.prompts
        for choice in range(body.choices)
    ]


def steps(reply: DemoReply, body: SamplingBody, max_tokens: int, tokens_at_once: int = 1) -> Iterator[Step]:
    """Go through a reply until its end, a stop string or `max_tokens`, holding back what may begin a stop string.

    The token that ends a turn counts as one, as in vLLM. After the first ones, `tokens_at_once` make a step together.
    """
    stops, includes_stop = body.stops, bool(body.include_stop_str_in_output)
    reach = max(map(len, stops), default=1) - 1
    hold = 0 if includes_stop else reach
    text, shown, waiting = "", 0, list[str]()
    for count, piece in enumerate(chain(reply.pieces, (_END,)), 1):
        waiting.append(piece.token)
        text += piece.text
        finish, stop = None, None
        if found := _first_stop(text, stops, len(piece.text)):
            stop, at = found
            finish, text = "stop", text[: at + len(stop)] if includes_stop else text[:at]
        elif piece is _END:
            finish = reply.finish_reason
        elif count == max_tokens:
            finish = "length"
        if not (finish or piece.delta or count <= _SINGLE_TOKENS or count % tokens_at_once == 0):
            continue
        end = len(text) if finish else max(shown, len(text) - hold)
        delta = piece.delta or ({"content": text[shown:end]} if end > shown else {})
        shown = end
        if delta or finish:
            yield Step(delta, waiting, count, finish, stop)
            waiting = []
        if finish:
            return


def _first_stop(text: str, stops: list[str], new_chars: int) -> tuple[str, int] | None:
    """The first stop string that ends within the new characters, and where it begins.

    Looks only where one could end: to search the text for long ones again with each token would cost their product.
    """
    for stop in stops:
        last = len(text) - len(stop)
        for at in range(max(0, last - new_chars + 1), last + 1):
            if text.startswith(stop, at):
                return stop, at
    return None


def _said(text: str) -> Iterator[Piece]:
    return (Piece(token, text=token) for token in tokens_of(text))


def _said_at_least(least: int, text: str) -> Iterator[Piece]:
    """The whole text, and then from its start again until there are `least` tokens."""
    said = 0
    for piece in _said(text):
        said += 1
        yield piece
    again = chain.from_iterable(map(_said, repeat(text)))
    yield from islice(again, max(0, least - said))


def _greeting(body: SamplingBody, choice: int) -> str:
    which = f" (choice {choice + 1} of {body.choices})" if body.choices > 1 else ""
    return f"This is the demo backend of the gateway, not a model{which}."


def _saw(messages: list[ChatMessage]) -> str:
    images = sum(image_count(message.content) for message in messages)
    return f" It saw {images} image{'s' * (images > 1)}." if images else ""


def _heard(messages: list[ChatMessage]) -> str:
    if messages[-1].role == "tool":
        return f"The tool answered: {text_of(messages[-1].content)}"
    return f"You said: {_last_user_text(messages)}"


def _last_user_text(messages: list[ChatMessage]) -> str:
    return next((text_of(message.content) for message in reversed(messages) if message.role == "user"), "")


def _tools_to_call(body: ChatBody) -> list[ChatTool]:
    tools = body.tools or []
    if body.tool_choice == "none":
        return []
    if body.named_tool is not None:
        return [tool for tool in tools if tool.function.name == body.named_tool][:1]
    asked = {word.rstrip(".-") for word in re.findall(r"[\w.-]+", _last_user_text(body.messages))}
    called = [tool for tool in tools if tool.function.name in asked]
    if body.tool_choice == "required":
        called = called or tools[:1]
    elif body.messages[-1].role != "user":
        return []
    return called[:1] if body.parallel_tool_calls is False else called


class _Arguments:
    """The arguments that each tool is called with, as JSON; made once, and all of them from one budget."""

    def __init__(self) -> None:
        self._budget = Allotment()
        self._texts: dict[str, str] = {}

    def of(self, tool: ChatTool) -> str:
        name = tool.function.name
        if name not in self._texts:
            self._texts[name] = json.dumps(self._made(tool.function.parameters), ensure_ascii=False)
        return self._texts[name]

    def _made(self, schema: dict[str, Any] | None) -> Any:
        """Valid against the tool's schema; none where the schema is beyond the demo, which vLLM lets pass too."""
        try:
            return instance_of(schema, self._budget) if schema else {}
        except SchemaError:
            return {}


def _calling(body: ChatBody, tools: list[ChatTool], arguments: _Arguments, seed: str) -> DemoReply:
    calls = list[dict[str, Any]]()
    is_free = body.tool_choice in (None, "auto")
    finish_reason = "stop" if body.named_tool else "tool_calls"
    return DemoReply(_called(tools, arguments, seed, calls), finish_reason, None if is_free else "", calls)


def _called(tools: list[ChatTool], arguments: _Arguments, seed: str, calls: list[dict[str, Any]]) -> Iterator[Piece]:
    """Calls written as the hermes format has them, of which a stream shows names and arguments only.

    `calls` is filled as they are written: one that nobody reads so far is never made.
    """
    for index, tool in enumerate(tools):
        name, text = tool.function.name, arguments.of(tool)
        call_id = f"chatcmpl-tool-{sha256(f'{seed}/{index}'.encode()).hexdigest()[:16]}"
        calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": text}})
        head = tokens_of(f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": ')
        last = next(head)
        for token in head:
            yield Piece(last)
            last = token
        begun = {"id": call_id, "type": "function", "index": index, "function": {"name": name}}
        yield Piece(last, delta={"content": None, "tool_calls": [begun]})
        for token in tokens_of(text):
            more = {"index": index, "function": {"arguments": token}}
            yield Piece(token, delta={"content": None, "tool_calls": [more]})
        yield from map(Piece, tokens_of("}\n</tool_call>"))


def _constrained_text(body: ChatBody) -> str | None:
    wanted = body.response_format
    constraint = body.structured_outputs or {}
    if choices := constraint.get("choice"):
        return str(choices[0]) if isinstance(choices, list) else None
    schema: Any = constraint.get("json")
    if wanted and wanted.json_schema:
        schema = wanted.json_schema.get("schema")
    if schema:
        return _json_for(schema)
    if constraint.get("json_object") or (wanted and wanted.type in ("json_object", "json_schema")):
        return _compact({"demo": True, "you_said": _last_user_text(body.messages)})
    return None


def _json_for(schema: Any) -> str:
    try:
        return _compact(instance_of(json.loads(schema) if isinstance(schema, str) else schema))
    except (SchemaError, ValueError) as error:  # not JSON, or a number of thousands of digits
        raise refused(f"Failed to transform json schema into a grammar: {error}") from None


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
