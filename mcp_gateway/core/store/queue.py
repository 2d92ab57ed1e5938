"""What waits for a writer, of any engine: it may be taken back, and an outage tells whoever is not patient."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from mcp_gateway.core.engine import Fact
from mcp_gateway.core.store.jobs import Job, refuse

logger = logging.getLogger(__name__)


class WriteQueue:
    """The writes of one writer, oldest first, and who listens for what its commits tell."""

    def __init__(self) -> None:
        self.is_closing = False
        """Whether it is about to be closed, or is."""
        self.is_available = True
        """Whether what was written last went through; during an outage it is tried again until something does."""
        self._waiting: deque[Job] = deque()
        self._listeners: dict[type[Any], Callable[[Any], None]] = {}

    def withdraw(self, written: "asyncio.Future[Any]") -> bool:
        """Take back a write that still waits, so that it never happens; False where it may have happened."""
        for job in self._waiting:
            if job.future is written:
                self._waiting.remove(job)
                return True
        return False

    def listen(self, kind: type[Fact], hear: Callable[[Fact], None]) -> None:
        """Have `hear` told of what commits have changed, of this kind: after each, before the results of its writes."""
        self._listeners[kind] = hear

    def hear(self, fact: object) -> None:
        """What another server has told."""
        self._tell((fact,))

    def _tell(self, facts: Iterable[object]) -> None:
        for fact in facts:
            try:
                self._listeners.get(type(fact), _ignore)(fact)
            except Exception as error:  # noqa: BLE001 - a bug in who listens: what is committed is told to who waits
                logger.critical("what a commit told was not heard: %s", type(error).__name__)

    def _put_off(self, cause: object) -> None:
        """An outage: those that are not patient are told; what is to be kept stays in the queue, in its order."""
        self._note_outage(cause)
        queued = tuple(self._waiting)
        self._waiting.clear()
        self._waiting.extend(job for job in queued if job.in_outage != "refuse")
        self._refuse_impatient(queued)

    def _refuse_impatient(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if job.in_outage != "wait":
                refuse(job)
                job.future = None

    def _note_outage(self, cause: object) -> None:
        """`cause` in words."""
        if self.is_available:
            logger.error("the database cannot be written for now: %s", cause)
        self.is_available = False


def _ignore(_: object) -> None:
    """What nobody listens for."""
