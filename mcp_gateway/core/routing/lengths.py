"""How many tokens answers have had, by model and task, for what the next one will cost and take. Knows no request."""

from collections.abc import Mapping
from types import MappingProxyType

from mcp_gateway.core.prompt_tasks import PromptTask

USUAL_OUTPUT_TOKENS: dict[PromptTask, int] = {
    "code": 475, "math": 300, "reasoning": 400, "question_answering": 600, "summarization": 280, "translation": 150,
    "extraction": 150, "classification": 120, "creative_writing": 530, "rewriting": 150, "conversation": 200,
    "analysis": 600,
}  # fmt: skip
"""Until a model has answers of its own to go by."""
_NEWEST_SHARE = 0.05
"""Of the latest answer in the average, so that about twenty replace what was assumed."""
OutputLengths = Mapping[tuple[str, PromptTask], float]
"""The tokens that answers have had on average, by model and task."""


class AnswerLengths:
    """Grows with the models and tasks that there are, and with nothing else."""

    def __init__(self) -> None:
        self._averages: dict[tuple[str, PromptTask], float] = {}
        self.averages: OutputLengths = MappingProxyType(self._averages)

    def note(self, model_id: str, task: PromptTask, tokens: int) -> None:
        """Take the length of an answer that has ended by itself."""
        before = self._averages.get((model_id, task), USUAL_OUTPUT_TOKENS[task])
        self._averages[model_id, task] = before + _NEWEST_SHARE * (tokens - before)
