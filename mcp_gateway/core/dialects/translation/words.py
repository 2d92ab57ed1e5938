"""What chats and messages call by different words: one table for both directions. Knows no body and no stream."""

from collections.abc import Iterable
from typing import Any, get_args

from mcp_gateway.core.provider_settings import Effort

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "function_call": "tool_use",
}
"""By OpenAI's finish reasons."""
FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "compaction": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""By Anthropic's stop reasons."""
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
"""OpenAI's words by Anthropic's; one tool by its name is an object in both."""
EFFORTS: tuple[Effort, ...] = get_args(Effort)
"""From the least to the most."""
_EFFORT_OF_TOKENS = ((4096, "low"), (16_384, "medium"))
"""What a budget for thinking is, up to so many tokens; above all of them it is high."""


def stop_reason_of(finish_reason: str) -> str:
    """Why a message ended; a word that OpenAI has not is why it stopped."""
    return STOP_REASONS.get(finish_reason, "end_turn")


def ending_of(finish_reason: str, stop: str | None) -> dict[str, str | None]:
    """Why a message ended: by the text of its `stop_sequences` that came, where a chat tells which."""
    is_met = finish_reason == "stop" and stop is not None
    return {
        "stop_reason": "stop_sequence" if is_met else stop_reason_of(finish_reason),
        "stop_sequence": stop if is_met else None,
    }


def finish_reason_of(stop_reason: str) -> str:
    """Why a chat finished; a word that nobody knows is why it stopped."""
    return FINISH_REASONS.get(stop_reason, "stop")


def choice_of_tools(choice: dict[str, Any]) -> str | dict[str, Any]:
    """OpenAI's `tool_choice` of Anthropic's. Raises LookupError for what is none."""
    if choice["type"] == "tool":
        return {"type": "function", "function": {"name": choice["name"]}}
    return TOOL_CHOICES[choice["type"]]


def effort_of_tokens(budget_tokens: int) -> str:
    """The effort that a budget for thinking stands for."""
    return next((effort for most, effort in _EFFORT_OF_TOKENS if budget_tokens <= most), "high")


def nearest_effort(asked: str, known: Iterable[Effort]) -> Effort | None:
    """The least of those that are known which is enough, or else the most; None where none is."""
    able = sorted((one for one in known if one != "none"), key=EFFORTS.index)
    enough = [one for one in able if EFFORTS.index(one) >= EFFORTS.index(asked)]
    return next(iter(enough or able[-1:]), None)


def data_uri_of(source: dict[str, Any]) -> str:
    """The URL of an image block's source, which its surface has checked."""
    return str(source["url"] if source["type"] == "url" else f"data:{source['media_type']};base64,{source['data']}")
