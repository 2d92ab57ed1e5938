"""Labelled prompts: read and checked, added to by the courtesies that people put around one, and parted by source."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from mcp_gateway.core.prompt_tasks import TASKS
from mcp_gateway.core.routing.classifier.excerpt import TOKEN, clipped
from mcp_gateway.core.routing.classifier.lexicon import lexicon

_BEFORE = (
    "Hello, ", "Hey! ", "Could you please assist me? ", "I need some help. ", "Good day. ", "Question: ", "Task: ",
    "USER: ", "Instruction:\n",
)  # fmt: skip
_AFTER = (
    "\nThank you!", " Thanks in advance.", " Please be concise.", "\n\nAnswer:", " Make it short.", "\n\n### Response:",
    " Think carefully.",
)  # fmt: skip


_ALPHABETS = ("aeiounrstlmáéíóúñçöü", "абвгдежзиклмнопрстуя", "的一是不了人我在有他", "ابتثجحخدرسشعفقكلمن")
_FOREIGN_TOKENS = 60


class LabelledPrompt(NamedTuple):
    """`accepted` has the task and whatever else a person would also call it; a natural one was written by a user."""

    text: str
    task: int
    accepted: frozenset[int]
    source: str
    is_natural: bool
    weight: float = 1.0


def read(path: Path) -> list[LabelledPrompt]:
    """Of a gzip of JSON lines with `prompt`, `task`, `alt`, `source` and `natural`."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        LabelledPrompt(
            text=row["prompt"],
            task=TASKS.index(row["task"]),
            accepted=frozenset(TASKS.index(name) for name in (row["task"], *row["alt"])),
            source=row["source"],
            is_natural=row["natural"],
        )
        for row in rows
    ]


def with_courtesies(prompts: Sequence[LabelledPrompt], share: float, random: Random) -> Iterator[LabelledPrompt]:
    """So much of them once more, with words around them that change nothing."""
    for prompt in prompts:
        if random.random() < share:
            place = random.random()
            before = random.choice(_BEFORE) if place < 0.6 else ""  # noqa: PLR2004 - some have both
            after = random.choice(_AFTER) if place > 0.4 else ""  # noqa: PLR2004
            yield prompt._replace(text=before + prompt.text + after, weight=0.6 * prompt.weight)


def as_if_foreign(prompts: Sequence[LabelledPrompt], share: float, random: Random) -> Iterator[LabelledPrompt]:
    """So much of them once more in no language: only words that are known in others are left, in one of these.

    There are few labelled prompts in other languages, and what tells a task in them are these words alone.
    """
    words_of: dict[str, list[str]] = {}
    for word, name in lexicon().foreign:
        words_of.setdefault(name, []).append(word)
    for prompt in prompts:
        if random.random() < share:
            letters = random.choice(_ALPHABETS)
            tokens = TOKEN.findall(clipped(prompt.text).lower())[:_FOREIGN_TOKENS]
            text = " ".join(_foreign_word(token, words_of, letters, random) for token in tokens)
            yield prompt._replace(text=text, weight=0.5 * prompt.weight)


def _foreign_word(token: str, words_of: Mapping[str, Sequence[str]], letters: str, random: Random) -> str:
    if words := words_of.get(lexicon().class_of.get(token, "")):
        return random.choice(words)
    return "".join(random.choice(letters) for _ in token) if token[0].isalpha() else token


def folds_by_source(prompts: Sequence[LabelledPrompt], number: int) -> list[frozenset[str]]:
    """The sources, in so many parts: what is left out together."""
    sources = sorted({prompt.source for prompt in prompts})
    return [frozenset(sources[part::number]) for part in range(number)]
