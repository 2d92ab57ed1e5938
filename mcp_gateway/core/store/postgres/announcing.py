"""What servers tell each other by PostgreSQL's notifications: how it is written, and read again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

from mcp_gateway.core.engine import Announcement
from mcp_gateway.core.store.announcements import KINDS

CHANNEL = "mcp_gateway"
_MOST_BYTES = 7900
"""PostgreSQL takes less than 8000 of a notification."""


class HeardWord(NamedTuple):
    """What somebody has announced."""

    by: str
    facts: Sequence[Announcement] | None
    """None where that is more than a notification holds, or not all of it is known here: anything may have changed."""


def as_text(by: str, announced: Sequence[Announcement]) -> str:
    """Each of them once."""
    facts = [[fact.word, *astuple(fact)] for fact in dict.fromkeys(announced)]  # type: ignore[call-overload]
    text = json.dumps([by, facts], separators=(",", ":"))
    return text if len(text) <= _MOST_BYTES else json.dumps([by, None])


def said_in(text: str, kinds: Mapping[str, type[Announcement]] = KINDS) -> HeardWord:
    """Of a later version as of this one: what is not understood is read as "anything"."""
    try:
        by, told = json.loads(text)
        return HeardWord(str(by), [_fact(kinds, *one) for one in told])
    except (ValueError, TypeError, KeyError):
        return HeardWord("", None)


def _fact(kinds: Mapping[str, type[Announcement]], word: str, *ids: Any) -> Announcement:
    return kinds[word](*ids)
