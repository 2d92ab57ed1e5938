"""A write on its way: who carries it out, what has come of it, and who is told."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_gateway.core.engine import DatabaseError, InOutage, unavailable
from mcp_gateway.core.store.transaction import Run, RunTogether

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """One write, from its call to its result."""

    write: Any
    alone: Run | None
    """Who carries it out; None where that is `together`, with its neighbours."""
    together: RunTogether | None
    is_durable: bool
    in_outage: InOutage
    future: asyncio.Future[Any] | None
    is_apart: bool = False
    """To be run without its neighbours, since a call for several failed."""
    result: Any = None
    error: Exception | None = None


def runs(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """The jobs, of which there is one at least, in order, neighbours that are carried out together in one run."""
    run: list[Job] = []
    for job in jobs:
        if run and (job.together is None or job.is_apart or job.together is not run[-1].together):
            yield run
            run = []
        run.append(job)
    yield run


def replace(job: Job, error: Exception) -> bool:
    """Put what is to be written instead into a write that fails; False where there is nothing."""
    instead = job.write.stand_in()
    if instead is None:
        return False
    logger.error("a write failed with %s; what stands in for it is written", type(error).__name__)
    job.write = instead
    return True


def fail(job: Job, error: Exception, faults: type[Exception] | tuple[type[Exception], ...]) -> None:
    """A bug in one write: it is left out, and told to whoever waits for it; an engine's `faults` as the gateway's."""
    logger.error("a write failed with %s and was left out", type(error).__name__)
    job.result, job.error = None, DatabaseError(str(error)) if isinstance(error, faults) else error


def refuse(job: Job) -> None:
    """Tell whoever waits that this cannot be written now."""
    job.result, job.error = None, unavailable()
    resolve(job)


def resolve(job: Job) -> None:
    """Tell whoever waits what has come of it."""
    future = job.future
    if future is None or future.done():
        return
    if job.error is None:
        future.set_result(job.result)
    else:
        future.set_exception(job.error)
