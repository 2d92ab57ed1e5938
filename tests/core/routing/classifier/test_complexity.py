"""Complexity is the amount of work that a prompt asks for, whatever its task is."""

import pytest

from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.routing.classifier.classifier import PromptClassifier
from mcp_gateway.core.routing.classifier.complexity import Complexity
from tests.cases import each

LONG = (
    "Design and implement a distributed rate limiter. It must serve 50,000 requests a second in 2 ms at most.\n"
    "1. Explain the algorithm, step by step, and prove that it never admits more than the limit.\n"
    "2. Write the code, without any external library, with tests.\n"
    "3. Compare it with 3 other designs. Include the trade-offs, and ensure that failures of 1 node are handled.\n"
    "- Requirements: exactly one writer, at least 3 replicas.\n"
)


@pytest.fixture(scope="module")
def classifier() -> PromptClassifier:
    return PromptClassifier()


@each(
    ("text", "task", "complexity"),
    [
        ("Hi!", "conversation", "simple"),
        ("What is the capital of France?", "question_answering", "simple"),
        ("Translate 'good morning' into Spanish.", "translation", "simple"),
        ("Write a function that adds two numbers.", "code", "medium"),
        ("Write an essay about the causes of the French Revolution, in 800 words.", "creative_writing", "medium"),
        (LONG, "code", "complex"),
        ("Prove that there are infinitely many primes congruent to 3 mod 4, step by step.", "math", "complex"),
    ],
)
def test_more_work_is_more_complex(
    classifier: PromptClassifier, text: str, task: PromptTask, complexity: Complexity
) -> None:
    assert classifier.read(text, task).complexity == complexity


@each("task", ["code", "math", "question_answering", "summarization", "conversation", "analysis"])
def test_a_prompt_that_grows_never_asks_for_less(classifier: PromptClassifier, task: PromptTask) -> None:
    texts = [LONG[:size] for size in range(0, len(LONG), 20)]
    works = [classifier.read(text, task).work for text in texts]
    assert works == sorted(works)


@each("text", ["", "x" * 10**6, "\\frac" * 1000, "1 " * 10**5, "\n- " * 10**5])
def test_a_score_stays_within_its_range(classifier: PromptClassifier, text: str) -> None:
    for task in ("code", "conversation"):
        assert -0.2 < classifier.read(text, "code" if task == "code" else "conversation").work < 1.4
