"""All doubles of providers that the contract holds for."""

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
