"""The demo's tokens: short pieces of words, single marks and spaces. Joined they are the text again, byte for byte."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any
from zlib import crc32

VOCABULARY_SIZE = 65536
END_OF_TURN = "<|im_end|>"
IMAGE_TOKENS = 256
MAX_TOKEN_CHARS = 7

_PIECE = re.compile(r" ?\w{1,6}| ?[^\w\s]|\s")


def tokens_of(text: str) -> Iterator[str]:
    """The tokens of a text, none longer than seven characters."""
    return (piece[0] for piece in _PIECE.finditer(text))


def id_of(token: str) -> int:
    """A number below VOCABULARY_SIZE; two tokens may share one."""
    return crc32(token.encode()) % VOCABULARY_SIZE


def text_of(content: Any) -> str:
    """The text of a message's content, a string or a list of parts, without its images."""
    if isinstance(content, str):
        return content
    parts = (part if isinstance(part, str) else part.get("text") for part in content or ())
    return "\n".join(part for part in parts if isinstance(part, str))


def image_count(content: Any) -> int:
    """How many images a message's content has."""
    if isinstance(content, str):
        return 0
    return sum(isinstance(part, dict) and "image" in str(part.get("type")) for part in content or ())


def prompt_tokens(messages: list[Any], tools: list[Any] | None) -> Iterator[str]:
    """The tokens of a conversation: `messages` with `role`, `content` and `tool_calls`, and the tools offered."""
    offered = tokens_of(_compact(tools)) if tools else ()
    return chain(offered, *map(_turn, messages), ("<|im_start|>", "assistant", "\n"))


def _turn(message: Any) -> Iterator[str]:
    yield "<|im_start|>"
    yield from tokens_of(message.role)
    yield "\n"
    yield from tokens_of(text_of(message.content))
    for _ in range(image_count(message.content)):
        yield from ["<|image|>"] * IMAGE_TOKENS
    if message.tool_calls:
        yield from tokens_of(_compact(message.tool_calls))
    yield END_OF_TURN
    yield "\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
