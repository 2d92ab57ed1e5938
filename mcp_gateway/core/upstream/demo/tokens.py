"""The demo's tokens: short pieces of words, and single other characters. Joined they are the text again, byte for byte.

The number of a token tells which it is, so that there is no table of them.
"""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

END_OF_TURN = "<|im_end|>"
IMAGE_TOKENS = 256
MAX_TOKEN_CHARS = 6
_SPECIAL = ("<|im_start|>", END_OF_TURN, "<|image|>", "assistant")
_LETTERS = 27
"""A word of up to five letters is a number whose digits they are, from 1 on; two bits tell a capital, and a space."""
_WORDS, _CHARACTERS = 4 * 27**5, 2 * 0x110000
VOCABULARY_SIZE = _WORDS + _CHARACTERS + len(_SPECIAL)
_PIECE = re.compile(r" ?[A-Za-z][a-z]{0,4}| ?\S|\s")


def tokens_of(text: str) -> Iterator[str]:
    """The tokens of a text, none longer than six characters but for those of a template."""
    return (piece[0] for piece in _PIECE.finditer(text))


def id_of(token: str) -> int:
    """The number of a token, below VOCABULARY_SIZE."""
    if token in _SPECIAL:
        return _WORDS + _CHARACTERS + _SPECIAL.index(token)
    is_spaced = len(token) > 1 and token[0] == " "
    bare = token[is_spaced:]
    if not (bare.isascii() and bare.isalpha()):
        return _WORDS + 2 * ord(bare) + is_spaced
    number = 0
    for letter in bare.lower():
        number = number * _LETTERS + ord(letter) - ord("a") + 1
    return 4 * number + 2 * bare[0].isupper() + is_spaced


def token_of(number: int) -> str | None:
    """The token of that number, if there is one."""
    if not 0 <= number < VOCABULARY_SIZE:
        return None
    if number >= _WORDS + _CHARACTERS:
        return _SPECIAL[number - _WORDS - _CHARACTERS]
    space = " " if number % 2 else ""
    if number >= _WORDS:
        return space + chr((number - _WORDS) // 2)
    word = _word_of(number // 4)
    return space + (word.capitalize() if number & 2 else word)


def _word_of(number: int) -> str:
    letters = []
    while number:
        number, letter = divmod(number, _LETTERS)
        letters.append(chr(ord("a") - 1 + letter) if letter else "")
    return "".join(reversed(letters))


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
