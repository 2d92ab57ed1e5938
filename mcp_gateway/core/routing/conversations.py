"""Which model served a conversation, and for which task: as many of the latest conversations as fit. Knows no text."""

from collections import OrderedDict
from typing import NamedTuple

_MOST = 20_000


class Remembered(NamedTuple):
    """Who served the conversation before, and for which task."""

    model_id: str
    task: str


class Conversations:
    """By the hash of how they begin (`rank.prefix_of`), which is an account's own; the one unused for longest goes."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._served: OrderedDict[bytes, Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._served)

    def served_before(self, prefix: bytes) -> Remembered | None:
        return self._served.get(prefix)

    def note(self, prefix: bytes, served: Remembered) -> None:
        self._served[prefix] = served
        self._served.move_to_end(prefix)
        if len(self._served) > self._most:
            self._served.popitem(last=False)
