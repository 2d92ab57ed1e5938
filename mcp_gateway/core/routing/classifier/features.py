"""What a prompt looks like, as the names of features that weights are learned for. Knows no weights.

Words count by their class (`lexicon.toml`) more than by themselves: sequences of classes say the same of prompts of
another source, and sequences of words do not.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import compress, count, pairwise, repeat
from typing import NamedTuple

from mcp_gateway.core.routing.classifier.excerpt import COURTESY_SIGNS, TOKEN, clipped, without_courtesy
from mcp_gateway.core.routing.classifier.lexicon import Phrases, lexicon

_HEAD_TOKENS, _TAIL_TOKENS = 50, 25
"""Where the order of words counts; in between they are counted alone."""

_CODE_MARKS = (
    "```", "def ", "import ", "#include", "class ", "function(", "SELECT ", "</", "=>", "return ", "public ", "const ",
    "void ", ";\n", "print(", "){",
)  # fmt: skip
_CHOICE_MARKS = (
    "\nA)", "\n(A)", "\nA.", "\nB)", "\n(B)", "\nB.", "ptions:", "PTIONS:", "hoices:", " (A) ", " A) ", "\n1)", "\n- ",
)  # fmt: skip
_LATEX_MARKS = ("\\frac", "\\sqrt", "$", "\\(", "\\[", "\\begin", "^2", "^{")
_DIGITS, _SIGNS, _NEW_LINE = b"0123456789", b"{}()[];=<>", "\n"
_DIGIT_SHARES = (1e-9, 0.01, 0.03, 0.08)
_SIGN_SHARES = (0.005, 0.02, 0.05)
_FOREIGN_SHARES = (0.02, 0.2, 0.7)
"""Bytes beyond one a character: 0.02 has accents, 0.7 another script."""
_NUMBER = "*number"
_FEW = (1, 2, 3, 6)
"""Counts are told as none, one, two, some, many."""
_MANY = _FEW[-1]
_LEVEL_OF_FEW = tuple(bisect_right(_FEW, number) for number in range(_MANY + 1))
"""By the number itself, of which more than many is no more."""
_ENDS = '?.:!")'
_FOREIGN_CHARS = 500
"""Where words of other languages are looked for, one by one."""
_FOREIGN_TOKENS, _FEW_PARTICLES = 20, 2
"""Without accents a text is taken for one in another language by so many of its particles among the first words."""
_BODY_BEGINS_CHARS, _LONG_CHARS = 400, 600
"""An instruction is before a text, or behind it, where a blank line parts off so many characters."""
_WH_WORDS = frozenset(("what", "who", "whom", "whose", "when", "where", "why", "which", "how"))
_AUXILIARIES = frozenset((
    "is", "are", "was", "were", "do", "does", "did", "can", "could", "should", "will", "would", "has", "have", "am",
))  # fmt: skip
_OPENING_TOKENS = 8
_MOST_COURTESY = 14
"""A longer row of such words is no courtesy."""
_SHORT_TOKENS = 6
"""All of a prompt that is so short is what it says."""
_PAIR_VOTE, _TRIPLE_VOTE = 2, 3


_CODE_BEGINS = (
    "def ", "import ", "from typing", "#include", "#!/", "package ", "using ", "public class", "class ", "func ", "fn ",
    "SELECT ", "select ", "CREATE TABLE", "<?php", "<!DOCTYPE", "<html", "```", "%%", "function ", "const ", "let ",
    "var ", "@app", "import{",
)  # fmt: skip
_BEGIN_CHARS = 200


Feature = str | tuple[str, ...]
"""A text, or the classes of two or three words in a row."""


class Features(NamedTuple):
    """Of one prompt: what its form says and what its words say, and the tokens of what was read of it."""

    form: list[Feature]
    words: list[Feature]
    tokens: list[str]


def features_of(text: str) -> Features:
    """The same for the same text in any process: no feature hangs on the order of a set."""
    whole = clipped(text)
    read = without_courtesy(whole)
    tokens = TOKEN.findall(read.lower())
    classes = _classes(tokens)
    foreign = _foreign_classes(read, tokens)
    voting = [*dict.fromkeys((*foreign, *classes[:_HEAD_TOKENS], *classes[-_TAIL_TOKENS:]))]
    words = [*_sequences(tokens, classes), *_opening(tokens, classes), *_counts(classes), *_votes(tokens, voting)]
    words += [feature for name in foreign for feature in (name, f"1{name}", f"n{name}1")]
    return Features(_form(read, len(text) - len(whole) + len(read)), words, tokens)


def _classes(tokens: Sequence[str]) -> list[str]:
    """Of each token; empty where it has none. Of many tokens few are numbers, so that only these are looped over."""
    classes = [*map(lexicon().class_of.get, tokens, repeat(""))]
    for place in compress(count(), map(str.isdigit, tokens)):
        classes[place] = classes[place] or _NUMBER
    return classes


def begins_as_code(text: str) -> bool:
    """Whether it is a source file, with no instruction to read: lines of code from its beginning on."""
    begin = text[:_BEGIN_CHARS].lstrip()
    return begin.startswith(_CODE_BEGINS) and (_NEW_LINE in begin or _number_of(_SIGNS, begin) > 0)


def _form(read: str, whole_chars: int) -> list[Feature]:
    size = len(read) or 1
    form: list[Feature] = [
        f"#length{min(15, whole_chars.bit_length())}",
        f"#lines{_level(read.count(_NEW_LINE), _FEW)}",
        f"#digits{_level(_number_of(_DIGITS, read) / size, _DIGIT_SHARES)}",
        f"#signs{_level(_number_of(_SIGNS, read) / size, _SIGN_SHARES)}",
        f"#code{min(3, _found(_CODE_MARKS, read))}",
        f"#choices{min(3, _found(_CHOICE_MARKS, read))}",
        f"#end{_end_of(read)}",
        _layout(read, whole_chars),
    ]
    form += [name for name, mark in (("#fence", "```"), ("#question", "?"), ("#quoted", '"')) if mark in read]
    if any(map(read.__contains__, _LATEX_MARKS)):
        form.append("#latex")
    if not read.isascii():
        form.append(f"#foreign{_level(_foreign_share(read), _FOREIGN_SHARES)}")
    return form


def _level(amount: float, bounds: Sequence[float]) -> int:
    return bisect_right(bounds, amount)


def _number_of(signs: bytes, text: str) -> int:
    """How many of these ASCII characters are in it, by one pass over its bytes, however many they are."""
    encoded = text.encode(errors="ignore")
    return len(encoded) - len(encoded.translate(None, signs))


def _found(marks: Sequence[str], text: str) -> int:
    return sum(map(text.__contains__, marks))


def _end_of(read: str) -> str:
    end = read.rstrip()[-1:]
    return end if end in _ENDS else "w"


def _layout(read: str, whole_chars: int) -> str:
    """Where an instruction stands beside a text that it is about."""
    first = read.find("\n\n")
    if first < 0:
        return "#layout-one"
    if first < _BODY_BEGINS_CHARS and whole_chars > 3 * first:
        return "#layout-head"
    is_tail = whole_chars > _LONG_CHARS and read.rfind("\n\n") > len(read) - _BODY_BEGINS_CHARS
    return "#layout-tail" if is_tail else "#layout-parts"


def _foreign_share(read: str) -> float:
    return len(read.encode(errors="ignore")) / len(read) - 1


def _foreign_classes(read: str, tokens: list[str]) -> list[str]:
    """The classes of the words that are known in other languages, as if they had been said in English."""
    known = lexicon()
    has_accents = not read.isascii() and _foreign_share(read) >= _FOREIGN_SHARES[0]
    if not has_accents and len(known.foreign_particles.intersection(tokens[:_FOREIGN_TOKENS])) < _FEW_PARTICLES:
        return []
    begin = read[:_FOREIGN_CHARS].lower()
    return [*dict.fromkeys(name for word, name in known.foreign if word in begin)]


def _sequences(tokens: list[str], classes: list[str]) -> list[Feature]:
    """Words, and one to three classes of words in a row, at the head and, with a mark of their own, at the tail."""
    found = _in_a_row(tokens[:_HEAD_TOKENS], classes[:_HEAD_TOKENS])
    if len(tokens) > _HEAD_TOKENS:
        tail = max(_HEAD_TOKENS, len(tokens) - _TAIL_TOKENS)
        found += _in_a_row([f"~{token}" for token in tokens[tail:]], [f"~{name}" for name in classes[tail:]])
    return found


def _in_a_row(tokens: list[str], classes: list[str]) -> list[Feature]:
    """Tuples, which take a third of the time of texts that would be put together."""
    following = classes[1:]
    return [
        *tokens,
        *classes,
        *zip(classes, following, strict=False),
        *zip(classes, following, classes[2:], strict=False),
    ]


def _opening(tokens: list[str], classes: list[str]) -> list[Feature]:
    """How it begins, once it has been polite."""
    if not tokens:
        return []
    at = _courtesy_ends(tokens)
    first, first_class = tokens[at], classes[at] or tokens[at]
    found: list[Feature] = [f"^{first}", f"^^{first_class}", f"1{_kind_of(first)}"]
    if at + 1 < len(tokens):
        found += [f"^{first} {tokens[at + 1]}", f"^^{first_class}{classes[at + 1]}"]
    return found + [f"1{name}" for name in dict.fromkeys(classes[at : at + _OPENING_TOKENS]) if name]


def _kind_of(word: str) -> str:
    return "wh" if word in _WH_WORDS else "aux" if word in _AUXILIARIES else "other"


def _courtesy_ends(tokens: list[str]) -> int:
    """The place of the first token that says something."""
    if len(tokens) < _SHORT_TOKENS:
        return 0
    courtesy = lexicon().courtesy
    for at, token in enumerate(tokens[:-3]):
        if at >= _MOST_COURTESY:
            return 0
        if token not in courtesy and token not in COURTESY_SIGNS:
            return at
    return 0


def _counts(classes: list[str]) -> list[Feature]:
    counts = Counter(classes)
    del counts[""]
    return [f"n{name}{_LEVEL_OF_FEW[number if number < _MANY else _MANY]}" for name, number in counts.items()]


def _votes(tokens: list[str], voting: list[str]) -> list[Feature]:
    """What phrases and classes of words speak for, added up by task: rules whose weights are learned."""
    votes: dict[str, float] = {}
    known = lexicon()
    _add_phrases(votes, pairwise(tokens), known.pairs, _PAIR_VOTE)
    _add_phrases(votes, zip(tokens, tokens[1:], tokens[2:], strict=False), known.triples, _TRIPLE_VOTE)
    found: list[Feature] = [f"c:{task}{min(4, int(vote) // 2)}" for task, vote in votes.items()]
    for task, weight in filter(None, map(known.votes.get, voting)):
        votes[task] = votes.get(task, 0) + weight
    if votes:
        found.append(f"V:{max(votes, key=votes.__getitem__)}")  # of equals the first one said
    return found + [f"v:{task}{min(5, int(vote / 2))}" for task, vote in votes.items()]


def _add_phrases(votes: dict[str, float], rows: Iterator[tuple[str, ...]], phrases: Phrases, weight: int) -> None:
    for tasks in filter(None, map(phrases.get, rows)):
        for task in tasks:
            votes[task] = votes.get(task, 0) + weight
