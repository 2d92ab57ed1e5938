"""What people do to a prompt without changing what it asks for, and texts that are no prompts at all."""

from collections.abc import Callable, Sequence
from random import Random

from scripts.routing.labelled import LabelledPrompt

_CHARS_PER_TYPO = 60
_LONGEST_PIECE = 400
_PIECES = (
    "", "\0", "\n", " ", "?", "```", "\\frac", "{}", "[1, 2, 3]", '{"role": "user"}', "def ", "translate",
    "Hi", "9" * 30, "\U0001f600", "\u0645\u0631\u062d\u0628\u0627", "\u4f60\u597d", "\u0130", "\ud800", "\u0301",
    "\u202e", "\ufeff", "a" * 999,
)  # fmt: skip


def _with_typos(text: str) -> str:
    """Two letters changed places, once in so many characters."""
    letters = list(text)
    for at in range(_CHARS_PER_TYPO // 2, len(letters) - 1, _CHARS_PER_TYPO):
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


PERTURBATIONS: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "upper case": str.upper,
    "a greeting before": lambda text: f"Hi! Please help me with the following. {text}",
    "thanks behind": lambda text: f"{text}\n\nThanks in advance for your help!",
    "a typo in 60 characters": _with_typos,
    "double spaces": lambda text: text.replace(" ", "  "),
    "a transcript": lambda text: f"User: {text}\nAssistant:",
}


def fuzzed(prompts: Sequence[LabelledPrompt], random: Random) -> str:
    """Pieces of prompts, marks, other scripts and what is no text, in any order and of any length."""
    pieces = [random.choice(_PIECES) for _ in range(random.randrange(6))]
    for _ in range(random.randrange(3) if prompts else 0):
        text = random.choice(prompts).text
        at = random.randrange(len(text) + 1)
        pieces.append(text[at : at + random.randrange(_LONGEST_PIECE)])
    pieces += ["".join(chr(random.randrange(0x110000)) for _ in range(random.randrange(40)))]
    random.shuffle(pieces)
    return "".join(pieces) * random.choice((1, 1, 1, 2, 50))
