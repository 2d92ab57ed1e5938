"""A prompt's task is read in a bounded time, with a confidence that means something, and never fails a request."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

import mcp_gateway
from mcp_gateway.core.prompt_tasks import TASKS, PromptTask
from mcp_gateway.core.routing.classifier.classifier import UNKNOWN, PromptClassifier
from mcp_gateway.core.routing.classifier.excerpt import MOST_CHARS, clipped, without_courtesy
from mcp_gateway.core.routing.classifier.features import Feature, features_of
from mcp_gateway.core.routing.classifier.weights import FILE, MOST_BYTES, LinearSums, TaskWeights, shipped
from scripts.routing.gates import fuzzed_without_failure
from scripts.routing.perturbed import PERTURBATIONS
from tests.cases import each

ARTICLE = (
    "The council met on Tuesday to discuss the new bridge over the river. Members disagreed about its price, and two "
    "of them left before the vote. Work is expected to begin in spring, once the engineers have finished their report."
)
PLAIN: dict[PromptTask, list[str]] = {
    "code": [
        "Write a Python function that reverses a linked list.",
        "import os\n\n\ndef names(folder):\n    return sorted(os.listdir(folder))",
        "Fix the bug in this JavaScript: `for (let i = 0; i <= list.length; i++) { total += list[i] }`",
    ],
    "math": [
        "Solve the equation 3x^2 - 12x + 9 = 0.",
        "A train travels 180 miles in 3 hours. How many miles does it travel in 5 hours at the same speed?",
    ],
    "question_answering": ["What is the capital of Australia?", "Why is the sky blue?"],
    "summarization": [
        f"Summarize the following article in one sentence.\n\n{ARTICLE}",
        f"{ARTICLE}\n\nSummarize this text briefly.",
    ],
    "translation": ["Translate this sentence into French: I would like a cup of coffee."],
    "extraction": [f"Extract all the dates and names of persons from the text below.\n\n{ARTICLE}"],
    "classification": ["Classify the sentiment of this review as positive, negative or neutral: I loved the food."],
    "creative_writing": ["Write a short story about a dragon who is afraid of fire.", "Compose a poem about autumn."],
    "rewriting": ["Rewrite this sentence to sound more professional: hey, send me the file asap."],
    "conversation": ["Hi! How are you today?", "I feel so lonely today, my girlfriend left me."],
    "analysis": ["Analyze the strengths and weaknesses of this strategy, and discuss the implications for the market."],
}
PROMPTS = [(text, task) for task, texts in PLAIN.items() for text in texts]


@pytest.fixture(scope="module")
def classifier() -> PromptClassifier:
    return PromptClassifier()


@each(("text", "task"), PROMPTS)
def test_a_plain_prompt_has_its_task(classifier: PromptClassifier, text: str, task: PromptTask) -> None:
    assert classifier.read(text).task == task


@each(
    ("text", "task"),
    [
        ("Übersetze ins Englische: Der Hund schläft.", "translation"),
        ("traduce esto al inglés: el perro duerme", "translation"),
        ("请把这句话翻译成英文:今天天气很好", "translation"),
        ("Schreibe ein Gedicht ueber den Herbst und das Meer", "creative_writing"),
        ("напиши рассказ о драконе", "creative_writing"),
        ("请写一个Python函数计算斐波那契数列", "code"),
    ],
)
def test_a_plain_prompt_in_another_language_has_its_task(classifier: PromptClassifier, text: str, task: str) -> None:
    assert classifier.read(text).task == task


@each("name", PERTURBATIONS)
def test_what_changes_nothing_for_a_reader_hardly_ever_changes_the_task(
    classifier: PromptClassifier, name: str
) -> None:
    same = [classifier.read(PERTURBATIONS[name](text)).task == task for text, task in PROMPTS]
    assert sum(same) >= len(same) - 3


@each("text", ["", " ", "aaaa", "\0", "zxcv qwer", "....", "\U0001f600", "\ud800", "\n" * 5000])
def test_what_says_nothing_is_told_with_little_confidence(classifier: PromptClassifier, text: str) -> None:
    reading = classifier.read(text)
    assert reading.task in TASKS
    assert 1 / len(TASKS) <= reading.confidence <= 0.3 + 1e-9


def test_a_confidence_is_the_chance_of_the_task_among_all(classifier: PromptClassifier) -> None:
    for text, _ in PROMPTS:
        likely = classifier.probabilities(text)
        assert sum(likely) == pytest.approx(1)
        assert classifier.read(text).confidence == max(likely)


@each("task", TASKS)
def test_a_task_that_the_caller_names_stands(classifier: PromptClassifier, task: PromptTask) -> None:
    reading = classifier.read("Write a poem about autumn.", task)
    assert (reading.task, reading.confidence) == (task, 1.0)


def test_random_texts_are_read_without_a_failure() -> None:
    """Ten thousand by `make routing-gates`."""
    assert fuzzed_without_failure([], 300).is_met


@each(
    ("text", "said"),
    [
        ("Hi! Please help me with the following. What is 2 + 2?", "What is 2 + 2?"),
        ("User: Sum this up.\nAssistant:", "Sum this up"),
        ("What is this?\n\nThanks in advance for your help!", "What is this?"),
        ("Fix the bug! Thanks so much!", "Fix the bug"),
        ("Hello, how are you?", "how are you?"),
        ("How do I say thank you?", "How do I say thank you?"),
        ("Write a note that says thank you", "Write a note that says thank you"),
        ("Can you count to three?", "Can you count to three?"),
        ("Thank you! Thank you!", "Thank you! Thank you!"),
        ("hi! cheers", "hi! cheers"),
        ("\u0130\u0130 hi \u0130 thanks", "\u0130\u0130 hi \u0130 thanks"),
        ("", ""),
    ],
)
def test_a_greeting_and_thanks_are_passed_over_where_something_else_is_said(text: str, said: str) -> None:
    assert without_courtesy(text) == said


class Broken(TaskWeights):
    def sums(self, features: Sequence[Feature]) -> LinearSums:
        raise MemoryError


def test_a_prompt_that_cannot_be_read_is_unknown_and_no_failure() -> None:
    broken = PromptClassifier(Broken({}, [0.0] * len(TASKS), 1.0, 1.0))
    assert broken.read("Hello, how are you?") == UNKNOWN
    assert (UNKNOWN.task, UNKNOWN.confidence, UNKNOWN.complexity) == ("unknown", 0.0, "medium")


def test_a_long_prompt_is_read_at_its_ends_alone(classifier: PromptClassifier) -> None:
    question = "Translate the following text into German.\n\n"
    text = question + "word " * 200_000 + "\n\nGive the translation alone."
    assert len(clipped(text)) <= MOST_CHARS + 2
    assert (
        features_of(text).words == features_of(question + "word " * 300_000 + "\n\nGive the translation alone.").words
    )
    assert classifier.read(text).task == "translation"


def test_features_do_not_hang_on_who_asked_before(classifier: PromptClassifier) -> None:
    texts = [text for text, _ in PROMPTS]
    first = [classifier.read(text) for text in texts]
    Random(3).shuffle(texts)
    again = {text: classifier.read(text) for text in texts}
    assert [again[text] for text, _ in PROMPTS] == first


def test_the_weights_are_small_and_shipped_in_the_wheel_with_their_lexicon() -> None:
    assert FILE.stat().st_size < MOST_BYTES == 65536
    assert 1000 < len(shipped()) <= 3000
    package = Path(mcp_gateway.__file__).parent
    packed = tomllib.loads((package.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    there = {path for pattern in packed["mcp_gateway"] for path in package.glob(pattern)}
    assert {FILE, FILE.with_name("lexicon.toml")} <= there
