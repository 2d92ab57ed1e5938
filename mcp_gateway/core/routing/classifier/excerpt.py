"""The part of a prompt that is read: its two ends, without the greeting and the thanks around it, as tokens.

Instructions stand at the ends, so that the time is bounded however long the prompt is.
"""

import re

from mcp_gateway.core.routing.classifier.lexicon import lexicon

_HEAD_CHARS, _TAIL_CHARS = 1400, 600
MOST_CHARS = _HEAD_CHARS + _TAIL_CHARS
"""What is read of a prompt: instructions stand at its ends."""
TOKEN = re.compile(r"[a-z][a-z'+#]*|[^\W\da-z_]+|\d+|[?!:;={}<>$\\%`()\[\]*/^+]")
"""Of lower case: a word of Latin letters (c++, c#), one of any others, a number, a sign."""
COURTESY_SIGNS = "!:"
"""Between words of courtesy."""
_COURTESY_CHARS = 120
_GREETINGS = frozenset(("hi", "hello", "hey", "dear", "please", "help", "thanks", "morning", "user", "assistant"))
_THANKS = frozenset(("thanks", "thank", "cheers", "assistant"))
_CLOSING = _THANKS | {
    "you", "so", "much", "very", "a", "lot", "in", "advance", "for", "your", "help", "time", "please", "and",
}  # fmt: skip
_SENTENCE_SIGNS = frozenset("?!:.,;\n")


def clipped(text: str) -> str:
    return text if len(text) <= MOST_CHARS else f"{text[:_HEAD_CHARS]}\n\n{text[-_TAIL_CHARS:]}"


def without_courtesy(read: str) -> str:
    """Without a greeting before it or thanks behind it, which say nothing of what is asked."""
    begin, end = read[:_COURTESY_CHARS].lower(), read[-_COURTESY_CHARS:].lower()
    before = _courtesy_before(begin) if begin.lstrip().startswith(lexicon().courtesy_begins) else 0
    behind = _courtesy_behind(end) if any(word in end for word in _THANKS) else 0
    return read[before : len(read) - behind] or read


def _courtesy_before(begin: str) -> int:
    """Its length; 0 where such words are all that there is, or none of them is a greeting or a plea."""
    is_courteous, courtesy = False, lexicon().courtesy
    for found in TOKEN.finditer(begin):
        token = found[0]
        if token not in courtesy and token not in COURTESY_SIGNS:
            return found.start() if is_courteous else 0
        is_courteous = is_courteous or token in _GREETINGS
    return 0


def _courtesy_behind(end: str) -> int:
    """Its length, where it is a sentence of its own with thanks in it."""
    behind = len(end)
    found = list(TOKEN.finditer(end))
    while found and (found[-1][0] in _CLOSING or found[-1][0] in COURTESY_SIGNS):
        token = found.pop()
        behind = behind if token[0] in COURTESY_SIGNS else token.start()
    if not found or _THANKS.isdisjoint(TOKEN.findall(end[behind:])):
        return 0
    last = found[-1]
    is_apart = last[0] in _SENTENCE_SIGNS or not _SENTENCE_SIGNS.isdisjoint(end[last.end() : behind])
    return len(end) - last.end() if is_apart else 0
