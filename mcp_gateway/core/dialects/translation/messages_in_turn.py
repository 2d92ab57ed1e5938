"""The messages of a conversation as Anthropic's clients send them, as OpenAI's do: blocks become parts, calls, results.

They have been sifted, so that each block has a type that is known; what a type needs is checked here.
"""

from collections.abc import Container, Iterator
from typing import Any

from mcp_gateway.core.dialects.translation.carried import carried_by
from mcp_gateway.core.dialects.translation.shapes import misplaced, named, odd
from mcp_gateway.core.dialects.translation.words import data_uri_of
from mcp_gateway.core.json_bounds import dump_json

Block = dict[str, Any]
_REASONING = ("reasoning_content", "reasoning")
_BETWEEN = "\n\n"
"""Between texts that stood in blocks of their own."""
_FAILED = "Error: "
_NOTHING = " "
"""In place of reasoning that a client did not send back: who wants `reasoning_content` takes whatever it says."""


class MessagesInTurn:
    """For a provider that wants what is in `replay` back with the next request."""

    def __init__(self, replay: Container[str]) -> None:
        self._reasoning = next((name for name in _REASONING if name in replay), None)
        self._takes_carried = "extra_content" in replay

    def of(self, system: Any, messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Raises GatewayError `invalid_value`."""
        if told := _joined(system or "", "system"):
            yield {"role": "system", "content": told}
        if messages and messages[-1]["role"] == "assistant":
            problem = "is the assistant's: no provider goes on with prefilled words, so the last one must be the user's"
            raise odd(f"messages[{len(messages) - 1}]", problem)
        for number, message in enumerate(messages):
            where, content = f"messages[{number}].content", message["content"]
            match message["role"]:
                case "user":
                    yield from _of_user(_blocks(content), where)
                case "assistant":
                    yield self._of_assistant(_blocks(content), where)
                case "system":
                    yield {"role": "system", "content": _joined(content, where)}
                case _:
                    raise odd(f"messages[{number}].role", "must be user, assistant or system")

    def _of_assistant(self, blocks: list[Block], where: str) -> dict[str, Any]:
        texts, thoughts, calls = [], [], []
        extra: dict[str, Any] | None = None
        for index, block in enumerate(blocks):
            place = f"{where}[{index}]"
            match block["type"]:
                case "text":
                    texts.append(named(block, "text", place))
                case "thinking":
                    thoughts.append(named(block, "thinking", place))
                case "redacted_thinking":
                    extra = carried_by(block)
                case "tool_use":
                    calls.append(_call(block, place, extra if self._takes_carried else None))
                    extra = None
                case kind:
                    raise misplaced(place, kind, "assistant")
        content = _BETWEEN.join(texts) if texts or not calls else None
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            message["tool_calls"] = calls
        return message | self._replayed("".join(thoughts), has_calls=bool(calls))

    def _replayed(self, thought: str, *, has_calls: bool) -> dict[str, Any]:
        """The reasoning of an earlier turn, where the provider wants it back."""
        if self._reasoning is None:
            return {}
        if not thought and has_calls and self._reasoning == "reasoning_content":
            thought = _NOTHING
        return {self._reasoning: thought} if thought else {}


def _of_user(blocks: list[Block], where: str) -> Iterator[dict[str, Any]]:
    """The results of tools first, each a message of its own; then what else there is, and what the system says last."""
    parts: list[dict[str, Any]] = []
    has_results = False
    said: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        place = f"{where}[{index}]"
        match block["type"]:
            case "tool_result":
                yield _result(block, place, parts)
                has_results = True
            case "mid_conv_system":
                said.append({"role": "system", "content": _joined(block.get("content") or "", f"{place}.content")})
            case _:
                parts.append(_part(block, place))
    if parts or not (has_results or said):
        yield {"role": "user", "content": _content_of(parts)}
    yield from said


def _result(block: Block, place: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """A tool's result, whose images go among the parts of the user's message: OpenAI has no place for them here."""
    texts = []
    for index, inner in enumerate(_blocks(block.get("content") or [])):
        part = _part(inner, f"{place}.content[{index}]")
        if part["type"] == "text":
            texts.append(part["text"])
        else:
            parts.append(part)
    told = (_FAILED if block.get("is_error") else "") + _BETWEEN.join(texts)
    return {"role": "tool", "tool_call_id": named(block, "tool_use_id", place), "content": told}


def _call(block: Block, place: str, extra: dict[str, Any] | None) -> dict[str, Any]:
    if not isinstance(block.get("input"), dict):
        raise odd(f"{place}.input", "must be an object")
    function = {"name": named(block, "name", place), "arguments": dump_json(block["input"]).decode()}
    call = {"id": named(block, "id", place), "type": "function", "function": function}
    return call if extra is None else call | {"extra_content": extra}


def _content_of(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """One text, which every provider takes, unless there is more than text."""
    if all(part["type"] == "text" for part in parts):
        return _BETWEEN.join(part["text"] for part in parts)
    return parts


def _part(block: Block, place: str) -> dict[str, Any]:
    match block["type"]:
        case "image":
            return {"type": "image_url", "image_url": {"url": data_uri_of(block["source"])}}
        case "text":
            text = named(block, "text", place)
        case "tool_reference":
            text = named(block, "tool_name", place)
        case "document":
            told = (block.get("title"), block.get("context"), block["source"]["data"])
            text = _BETWEEN.join(one for one in told if isinstance(one, str) and one)
        case kind:
            raise misplaced(place, kind, "user")
    return {"type": "text", "text": text}


def _joined(content: str | list[Block], where: str) -> str:
    """The texts of blocks that may have nothing else."""
    texts = []
    for index, block in enumerate(_blocks(content)):
        if block["type"] != "text":
            raise misplaced(f"{where}[{index}]", block["type"], "system")
        texts.append(named(block, "text", f"{where}[{index}]"))
    return _BETWEEN.join(texts)


def _blocks(content: str | list[Block]) -> list[Block]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
