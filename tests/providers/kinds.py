"""All doubles of providers that the contract holds for, and how its tests go through them."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.providers.anthropic_double import Anthropic, AnthropicChat
from tests.providers.doubles import (
    Cloudflare,
    Cohere,
    DeepSeek,
    Generic,
    Google,
    Groq,
    Mistral,
    Moonshot,
    OddLines,
    Ollama,
    OpenAi,
)

KINDS: tuple[type[Generic], ...] = (
    OpenAi, Anthropic, AnthropicChat, Cohere, Groq, Cloudflare, Ollama, DeepSeek, Mistral, Moonshot, Google, Generic,
    OddLines,
)  # fmt: skip


def sweep(name: str, rows: Iterable[Any], ids: Callable[[Any], object] | None = None) -> pytest.MarkDecorator:
    """Run for each of the rows: for the first with all that is fast, for the others with what is marked `providers`."""
    first, *others = rows
    return pytest.mark.parametrize(
        name, [first, *(pytest.param(row, marks=pytest.mark.providers) for row in others)], ids=ids
    )
