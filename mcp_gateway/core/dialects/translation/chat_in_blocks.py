"""The messages of a chat as a message's conversation has them: a system prompt, and turns of blocks.

They have been sifted, so that parts are of a known type; what a type needs is checked here. Whatever the system says
stands in front, wherever it was said; the results of tools stand together in the turn that follows the calls.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.dialects.translation.shapes import misplaced, named, odd
from mcp_gateway.core.dialects.translation.thoughts import blocks_of
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import parse_json

Block = dict[str, Any]
_SYSTEM = ("system", "developer")
_MARK = "cache_control"
_UNMARKED = ("thinking", "redacted_thinking")
_NO_ID = re.compile(r"[^A-Za-z0-9_-]")


class Conversation(NamedTuple):
    """A system prompt, the turns, and the names of the tools that were called."""

    system: list[Block]
    turns: list[dict[str, Any]]
    called: list[str]


def conversation_of(messages: list[dict[str, Any]]) -> Conversation:
    """Where nobody but the system said anything, that is what the user says. Raises GatewayError `invalid_value`."""
    system: list[Block] = []
    turns: list[dict[str, Any]] = []
    called: dict[str, None] = {}
    for number, message in enumerate(messages):
        where, role = f"messages[{number}]", message["role"]
        if role in _SYSTEM:
            system += _marked([*_texts(message.get("content"), f"{where}.content", role)], message)
            continue
        blocks = _marked([*_blocks_of(message, where)], message)
        called |= {block["name"]: None for block in blocks if block["type"] == "tool_use"}
        _add(turns, "assistant" if role == "assistant" else "user", blocks)
    if not turns:
        return Conversation([], [{"role": "user", "content": system}], [])
    for turn in turns:
        turn["content"].sort(key=_is_no_result)
    return Conversation(system, turns, list(called))


def _add(turns: list[dict[str, Any]], role: str, blocks: list[Block]) -> None:
    """One turn for what one side says in several messages; none for nothing."""
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    elif blocks:
        turns.append({"role": role, "content": blocks})


def _marked(blocks: list[Block], message: dict[str, Any]) -> list[Block]:
    """A mark of a cache that a whole message bears stands at the end of it."""
    if (mark := message.get(_MARK)) is not None and blocks and blocks[-1]["type"] not in _UNMARKED:
        blocks[-1] = {_MARK: mark} | blocks[-1]
    return blocks


def _is_no_result(block: Block) -> bool:
    """Results of tools have to come first."""
    return bool(block["type"] != "tool_result")


def _blocks_of(message: dict[str, Any], where: str) -> Iterator[Block]:
    content = message.get("content")
    match message["role"]:
        case "user":
            yield from _parts(content, f"{where}.content")
        case "assistant":
            yield from blocks_of(message.get("reasoning_details"))
            yield from _texts(_without_thoughts(content), f"{where}.content", "assistant")
            yield from _refused(message)
            for index, call in enumerate(_list_in(message, "tool_calls", where)):
                yield _call(call, f"{where}.tool_calls[{index}]")
        case "tool":
            told = _parts(content, f"{where}.content")
            call_id = _id_of(named(message, "tool_call_id", where))
            yield {"type": "tool_result", "tool_use_id": call_id, "content": [*told]}
        case _:
            raise odd(f"{where}.role", "must be system, developer, user, assistant or tool")


def _parts(content: Any, where: str) -> Iterator[Block]:
    """The blocks of a content; an empty text, which is refused there, is none."""
    for index, part in enumerate(_listed(content)):
        place = f"{where}[{index}]"
        mark = {_MARK: part[_MARK]} if part.get(_MARK) is not None else {}
        match part["type"]:
            case "text" | "refusal" as kind:
                if text := named(part, kind, place):
                    yield {"type": "text", "text": text} | mark
            case "image_url":
                yield {"type": "image", "source": _source(part["image_url"])} | mark
            case kind:
                raise misplaced(place, kind, "user")


def _texts(content: Any, where: str, role: str) -> Iterator[Block]:
    for index, block in enumerate(_parts(content, where)):
        if block["type"] != "text":
            raise misplaced(f"{where}[{index}]", "image_url", role)
        yield block


def _without_thoughts(content: Any) -> Any:
    """Less the thoughts that some providers tell as parts: Anthropic takes back those that it has signed."""
    if not isinstance(content, list):
        return content
    return [part for part in content if isinstance(part, str) or part["type"] != "thinking"]


def _refused(message: dict[str, Any]) -> Iterator[Block]:
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        yield {"type": "text", "text": refusal}


def _call(call: Any, place: str) -> Block:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise odd(place, "must be a call of a function")
    name, arguments = named(function, "name", f"{place}.function"), function.get("arguments")
    try:
        given = parse_json((arguments or "{}").encode()) if isinstance(arguments, str | None) else None
    except (orjson.JSONDecodeError, UnicodeEncodeError, GatewayError):  # its nesting
        given = None
    if not isinstance(given, dict):
        raise odd(f"{place}.function.arguments", "must be the JSON text of an object")
    return {"type": "tool_use", "id": _id_of(named(call, "id", place)), "name": name, "input": given}


def _id_of(call_id: str) -> str:
    """Anthropic takes letters, digits, `_` and `-`; others give their calls ids of other characters too."""
    return _NO_ID.sub("_", call_id)


def _source(image: Any) -> dict[str, Any]:
    """Of a data: URI, which its surface has read."""
    url = str(image["url"] if isinstance(image, dict) else image)
    head, _, data = url.partition(",")
    return {"type": "base64", "media_type": head.removeprefix("data:").removesuffix(";base64"), "data": data}


def _listed(content: Any) -> list[dict[str, Any]]:
    if content is None:
        return []
    parts = content if isinstance(content, list) else [content]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def _list_in(holder: dict[str, Any], name: str, where: str) -> list[Any]:
    value = holder.get(name)
    if not isinstance(value, list | None):
        raise odd(f"{where}.{name}", "must be a list")
    return value or []
