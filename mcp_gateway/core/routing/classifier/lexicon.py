"""The lexicon (`lexicon.toml`), read once: words by class, phrases by task, and words of other languages."""

import tomllib
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).with_name("lexicon.toml")
_PAIR = 2
Phrases = dict[tuple[str, ...], tuple[str, ...]]


class Lexicon(NamedTuple):
    """Of tokens in lower case; names of classes begin with a star. `digest` is of the content, which weights go by."""

    class_of: dict[str, str]
    courtesy: frozenset[str]
    courtesy_begins: tuple[str, ...]
    """The first letters of these words."""
    votes: dict[str, tuple[str, float]]
    """By a word's class, the task that it speaks for, and how much."""
    pairs: Phrases
    """By two tokens in a row, the tasks that they speak for."""
    triples: Phrases
    foreign: tuple[tuple[str, str], ...]
    """The beginning of a word in another language, and the class of the English word."""
    foreign_particles: frozenset[str]
    """Words that texts in other languages have and English ones do not."""
    digest: str


@cache
def lexicon() -> Lexicon:
    content = _FILE.read_bytes()
    table = tomllib.loads(content.decode())
    phrases = _phrases_in(table["phrases"])
    courtesy = frozenset(table["courtesy"]["words"].split())
    return Lexicon(
        class_of=_class_by_word(table["words"]),
        courtesy=courtesy,
        courtesy_begins=tuple(sorted({word[:2] for word in courtesy})),
        votes={f"*{name}": (vote["task"], vote["weight"]) for name, vote in table["votes"].items()},
        pairs={words: tasks for words, tasks in phrases.items() if len(words) == _PAIR},
        triples={words: tasks for words, tasks in phrases.items() if len(words) > _PAIR},
        foreign=tuple((word, f"*{name}") for name, words in table["foreign"].items() for word in words.split()),
        foreign_particles=frozenset(table["foreign_particles"]["words"].split()),
        digest=blake2b(content, digest_size=8).hexdigest(),
    )


def _class_by_word(words_by_class: dict[str, str]) -> dict[str, str]:
    return {word: f"*{name}" for name, words in words_by_class.items() for word in words.split()}


def _phrases_in(by_task: dict[str, list[str]]) -> Phrases:
    found: Phrases = {}
    for task, phrases in by_task.items():
        for words in (tuple(phrase.split()) for phrase in phrases):
            found[words] = (*found.get(words, ()), task)
    return found
