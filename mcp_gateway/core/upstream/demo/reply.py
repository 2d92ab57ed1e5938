"""What the demo says, token by token: an echo, JSON that fits a schema, or tool calls. Knows nothing of the wire.

Tools are called when `tool_choice` asks for it or, left to itself, when the last message is a user's and has a tool's
name in it as a word. Their arguments are valid against the tool's schema.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, cycle, islice
from typing import Any

from mcp_gateway.core.upstream.demo.body import ChatBody, Message, Tool, refused
from mcp_gateway.core.upstream.demo.instance import SchemaError, instance_of
from mcp_gateway.core.upstream.demo.tokens import END_OF_TURN, image_count, text_of, tokens_of


@dataclass(frozen=True, slots=True)
class Piece:
    """One token, with what it adds to the text, or what a stream shows instead."""

    token: str
    text: str = ""
    delta: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
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


def reply_to(body: ChatBody, choice: int, answer_id: str) -> Reply:
    """The reply of one choice. Raises Refused for a schema from which no value can be made."""
    if called := _tools_to_call(body):
        return _calling(body, called, f"{answer_id}/{choice}")
    constrained = _constrained_text(body)
    if constrained is not None:
        return Reply(_said(constrained))
    pieces = list(_said(_echo(body, choice)))
    least = None if body.ignore_eos else max(body.min_tokens or 0, len(pieces))
    return Reply(islice(cycle(pieces), least))


def steps(reply: Reply, body: ChatBody, max_tokens: int) -> Iterator[Step]:
    """Go through a reply until its end, a stop string or `max_tokens`, holding back what may begin a stop string.

    The token that ends a turn counts as one, as in vLLM.
    """
    stops, includes_stop = body.stops, bool(body.include_stop_str_in_output)
    reach = max(map(len, stops), default=1) - 1
    hold = 0 if includes_stop else reach
    text, shown, waiting = "", 0, list[str]()
    for count, piece in enumerate(chain(reply.pieces, (_END,)), 1):
        waiting.append(piece.token)
        searched_from = max(0, len(text) - reach)
        text += piece.text
        finish, stop = None, None
        if found := _first_stop(text, stops, searched_from):
            stop, at = found
            finish, text = "stop", text[: at + len(stop)] if includes_stop else text[:at]
        elif piece is _END:
            finish = reply.finish_reason
        elif count == max_tokens:
            finish = "length"
        end = len(text) if finish else max(shown, len(text) - hold)
        delta = piece.delta or ({"content": text[shown:end]} if end > shown else {})
        shown = end
        if delta or finish:
            yield Step(delta, waiting, count, finish, stop)
            waiting = []
        if finish:
            return


def _first_stop(text: str, stops: list[str], searched_from: int) -> tuple[str, int] | None:
    found = ((stop, text.find(stop, searched_from)) for stop in stops)
    return next((hit for hit in found if hit[1] >= 0), None)


def _said(text: str) -> Iterator[Piece]:
    return (Piece(token, text=token) for token in tokens_of(text))


def _echo(body: ChatBody, choice: int) -> str:
    which = f" (choice {choice + 1} of {body.choices})" if body.choices > 1 else ""
    images = sum(image_count(message.content) for message in body.messages)
    saw = f" It saw {images} image{'s' * (images > 1)}." if images else ""
    return f"This is the demo backend of the gateway, not a model{which}.{saw} {_heard(body.messages)}"


def _heard(messages: list[Message]) -> str:
    if messages[-1].role == "tool":
        return f"The tool answered: {text_of(messages[-1].content)}"
    return f"You said: {_last_user_text(messages)}"


def _last_user_text(messages: list[Message]) -> str:
    return next((text_of(message.content) for message in reversed(messages) if message.role == "user"), "")


def _tools_to_call(body: ChatBody) -> list[Tool]:
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


def _calling(body: ChatBody, tools: list[Tool], seed: str) -> Reply:
    """Calls written as the hermes format has them, of which a stream shows names and arguments only."""
    pieces, calls = list[Piece](), list[dict[str, Any]]()
    for index, tool in enumerate(tools):
        name, arguments = tool.function.name, json.dumps(_arguments(tool), ensure_ascii=False)
        call_id = f"chatcmpl-tool-{sha256(f'{seed}/{index}'.encode()).hexdigest()[:16]}"
        calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
        *head, last = tokens_of(f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": ')
        pieces += (Piece(token) for token in head)
        begun = {"id": call_id, "type": "function", "index": index, "function": {"name": name}}
        pieces.append(Piece(last, delta={"content": None, "tool_calls": [begun]}))
        for token in tokens_of(arguments):
            more = {"index": index, "function": {"arguments": token}}
            pieces.append(Piece(token, delta={"content": None, "tool_calls": [more]}))
        pieces += (Piece(token) for token in tokens_of("}\n</tool_call>"))
    is_free = body.tool_choice in (None, "auto")
    return Reply(pieces, "stop" if body.named_tool else "tool_calls", None if is_free else "", calls)


def _arguments(tool: Tool) -> Any:
    """Arguments valid against the tool's schema; none where the schema is beyond the demo, which vLLM lets pass too."""
    try:
        return instance_of(tool.function.parameters) if tool.function.parameters else {}
    except SchemaError:
        return {}


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
    except (SchemaError, json.JSONDecodeError) as error:
        raise refused(f"Failed to transform json schema into a grammar: {error}") from None


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
