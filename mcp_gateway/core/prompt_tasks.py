"""The tasks that prompts are told apart by, and the other names that callers use for them. Knows no prompt."""

from typing import Literal, TypeGuard, get_args

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import shown

PromptTask = Literal[
    "code", "math", "reasoning", "question_answering", "summarization", "translation",
    "extraction", "classification", "creative_writing", "rewriting", "conversation", "analysis",
]  # fmt: skip
TASKS: tuple[PromptTask, ...] = get_args(PromptTask)
"""In the order in which weights and probabilities stand."""
ALIASES: dict[str, PromptTask] = {
    "code_generation": "code", "coding": "code", "programming": "code",
    "maths": "math", "mathematics": "math",
    "logic": "reasoning",
    "qa": "question_answering", "question": "question_answering", "knowledge": "question_answering",
    "summary": "summarization", "summarisation": "summarization", "summarize": "summarization",
    "translate": "translation",
    "extract": "extraction", "information_extraction": "extraction",
    "classify": "classification", "sentiment": "classification",
    "creative": "creative_writing", "writing": "creative_writing", "generation": "creative_writing",
    "rewrite": "rewriting", "paraphrase": "rewriting", "editing": "rewriting",
    "chat": "conversation", "chitchat": "conversation", "general": "conversation",
    "analyze": "analysis", "analyse": "analysis",
}  # fmt: skip
"""What other gateways and dashboards call them."""


def task_named(name: str, param: str) -> PromptTask:
    """The task of that name or alias, in any case and with hyphens or spaces.

    Raises GatewayError `invalid_value`, which lists the names, for another.
    """
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    task = ALIASES.get(plain, plain)
    if not _is_task(task):
        message = f"`{param}` is '{shown(name)}', which is no task: {', '.join(TASKS)}."
        raise GatewayError("invalid_value", message, param=param)
    return task


def _is_task(name: str) -> TypeGuard[PromptTask]:
    return name in TASKS
