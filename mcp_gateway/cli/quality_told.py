"""What models are expected to do well, by task, and what stands behind that: in words and as JSON."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mcp_gateway.cli.desk import LISTED_CHARS
from mcp_gateway.core.prompt_tasks import TASKS, PromptTask
from mcp_gateway.core.routing.classifier.classifier import UNKNOWN, PromptReading
from mcp_gateway.core.routing.quality import LEAST_OUTCOMES, Basis, QualityTable
from mcp_gateway.core.text import shown

_HEAD = f"{'model':<40}{'task':<20}{'rate':>6}{'outcomes':>10}  by"


class TaskQuality(NamedTuple):
    """`counted` are the outcomes that there are, of which fewer than thirty move nothing."""

    rate: float
    counted: int
    by: Basis


def qualities_of(table: QualityTable, model_id: str) -> dict[PromptTask, TaskQuality]:
    return {task: _quality(table, model_id, task) for task in TASKS}


def qualities_in_words(table: QualityTable, model_ids: Sequence[str]) -> str:
    """A line for each task of a model that something is known of, and one for all others of it."""
    default = [f"the default model is {shown(table.default_model)}"] if table.default_model else []
    return "\n".join([_HEAD, *(line for model_id in model_ids for line in _lines(table, model_id)), *default])


def qualities_as_facts(table: QualityTable, model_ids: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"model": model_id, "task": task, "rate": quality.rate, "outcomes": quality.counted, "by": quality.by}
        for model_id in model_ids
        for task, quality in qualities_of(table, model_id).items()
    ]


def _quality(table: QualityTable, model_id: str, task: PromptTask) -> TaskQuality:
    expected = table.expected(PromptReading(task, 1.0, UNKNOWN.complexity, UNKNOWN.work))[model_id]
    return TaskQuality(round(expected.rate, 4), table.counted(model_id, task), table.basis(model_id, task))


def _lines(table: QualityTable, model_id: str) -> Iterator[str]:
    found = qualities_of(table, model_id)
    known = [task for task, quality in found.items() if quality.counted or quality.by == "configuration"]
    for task in known:
        yield _line(model_id, task, found[task])
    if other := [quality for task, quality in found.items() if task not in known]:
        yield _line(model_id, "any other" if known else "any", other[0])


def _line(model_id: str, task: str, quality: TaskQuality) -> str:
    name = f"{shown(model_id, LISTED_CHARS):<38}  {task:<20}"
    too_few = " (too few outcomes to count)" if 0 < quality.counted < LEAST_OUTCOMES else ""
    return f"{name}{quality.rate:>6.3f}{quality.counted:>10}  {quality.by}{too_few}"
