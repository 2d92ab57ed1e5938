"""When the gateway first had each model, over restarts: backends tell the time at which they are asked."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mcp_gateway.core.engine import Engine, Read, Write

logger = logging.getLogger(__name__)

_MOST_REMEMBERED = 10_000
"""Names of models: a backend may list others again and again."""


@dataclass(frozen=True, slots=True)
class NoteModel(Write[None]):
    """A model that is new, in Unix seconds; the first note stays."""

    model_id: str
    first_seen_s: int


@dataclass(frozen=True, slots=True)
class ModelsSeen(Read[dict[str, int]]):
    """When each was first seen."""


class ModelAges:
    """Asked once for each model whenever the catalog is made anew."""

    def __init__(self, store: Engine, now_s: Callable[[], float]) -> None:
        self._store = store
        self._now_s = now_s
        self._began_at_s = int(now_s())
        self._seen: dict[str, int] = {}
        self._kept: set[str] = set()
        """Those that are in the database, or on their way."""

    async def restore(self) -> None:
        """Read what earlier runs saw; once, at start."""
        self._seen = await self._store.read(ModelsSeen())
        self._kept = set(self._seen)

    def created_at_s(self, model_id: str) -> int:
        """Unix seconds; of a model that is new now, which is noted."""
        if model_id not in self._seen and len(self._seen) >= _MOST_REMEMBERED:
            return self._began_at_s
        at_s = self._seen.setdefault(model_id, int(self._now_s()))
        if model_id not in self._kept:
            self._kept.add(model_id)
            written = self._store.write(NoteModel(model_id, at_s), is_durable=False)
            written.add_done_callback(partial(self._note_failure, model_id))
        return at_s

    def _note_failure(self, model_id: str, written: "asyncio.Future[None]") -> None:
        if written.cancelled() or written.exception() is None:
            return
        self._kept.discard(model_id)  # the next catalog tries again
        logger.info("when %s was first seen could not be written", model_id)
