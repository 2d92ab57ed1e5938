"""Tasks have one name each, and are understood by the names that others have for them."""

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.prompt_tasks import ALIASES, TASKS, task_named
from tests.cases import each


@each(
    ("name", "task"),
    [
        ("code", "code"),
        ("code_generation", "code"),
        ("Coding", "code"),
        ("chat", "conversation"),
        ("QA", "question_answering"),
        ("question-answering", "question_answering"),
        ("Creative Writing", "creative_writing"),
        (" creative ", "creative_writing"),
    ],
)
def test_a_task_is_known_by_its_name_and_by_those_of_others(name: str, task: str) -> None:
    assert task_named(name, "routing.task") == task


@each("name", ["", "poetry", "code generation please", "unknown", "x" * 10_000, "\0"])
def test_another_name_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(GatewayError) as refused:
        task_named(name, "routing.task")
    assert (refused.value.code, refused.value.param) == ("invalid_value", "routing.task")
    assert all(task in refused.value.message for task in TASKS)
    assert len(refused.value.message) < 500


def test_no_alias_is_the_name_of_a_task() -> None:
    assert ALIASES.keys().isdisjoint(TASKS)
    assert len(TASKS) == 12
