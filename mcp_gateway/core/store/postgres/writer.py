"""The one who writes to PostgreSQL: all that waits goes as one batch, in one transaction.

What comes meanwhile waits for the next batch, so that batches grow with the load. A commit is on the disk once it is
answered. Where its answer is lost, nothing else is written until the database, asked by another connection, has said
whether it happened; so nothing is lost and nothing happens twice.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from mcp_gateway.core.engine import Announcement
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gathering import Gathering
from mcp_gateway.core.ledger.allotments import StartedAnew
from mcp_gateway.core.store.jobs import Job, fail, replace, resolve, runs
from mcp_gateway.core.store.postgres.announcing import CHANNEL, as_text
from mcp_gateway.core.store.postgres.batches import RequestBatch, account_of, is_plain
from mcp_gateway.core.store.postgres.calls import carried_out
from mcp_gateway.core.store.postgres.executors import LONG
from mcp_gateway.core.store.postgres.faults import FAILED, is_answer, is_locked, is_unavailable, told
from mcp_gateway.core.store.postgres.session import WriterSession
from mcp_gateway.core.store.queue import WriteQueue
from mcp_gateway.core.store.transaction import Transaction

logger = logging.getLogger(__name__)

_RETRY_S = 0.25
_MOST = 512
"""Of a batch: trips over the network and the disk are the same for one and for many."""


_is_apart = attrgetter("is_apart")


class _Ended(NamedTuple):
    """How a batch ended."""

    error: Exception | None = None
    """What put it off; None where it is committed, or to be run again at once."""
    is_committed: bool = False
    is_in_doubt: bool = False
    facts: Sequence[object] = ()
    """What it has told."""
    facts_anew: Callable[[], Sequence[object]] | None = None
    """Reads that, of a batch whose answer would have told it."""
    locked: frozenset[str] = frozenset()
    """Accounts whose wallets somebody else keeps locked, who put it off: it is to be run at once without them."""


class _RunAgain(Exception):
    """Something failed, or was refused, after it had changed something: the batch must be run again without it."""


class BatchWriter(WriteQueue):
    """Who alone changes an open database, of this process."""

    def __init__(self, session: WriterSession, transaction: Transaction) -> None:
        super().__init__()
        self._session = session
        self._transaction = transaction
        self._loop = asyncio.get_running_loop()
        session.link.ended = self._look_if_idle
        self._batch: list[Job] = []
        """What is on its way, or in doubt."""
        self._is_in_doubt = False
        self._facts: Sequence[object] = ()
        """What the batch in doubt has told."""
        self._facts_anew: Callable[[], Sequence[object]] | None = None
        self._announced_in_doubt: Sequence[Announcement] = ()
        """The same of what it has announced."""
        self._unsaid: list[Announcement] = []
        """Committed, and not said to the other servers yet."""
        self._decided: set[Job] = set()
        """Of those on their way: refused, or failed, after they had changed something; they are not run again."""
        self._late: list[Job] = []
        """Of accounts whose wallets somebody else keeps locked, in their order; nobody else waits for them."""
        self._locked: frozenset[str] = frozenset()
        self._is_look_due = False
        """Whether it is to be seen if they are free, or the connection is there."""
        self._gathering = Gathering(self._waiting, self._gathered)
        self._is_gathering = False
        self._working: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        """Set once no rest is to be taken any more."""

    @property
    def waiting(self) -> int:
        """How many writes wait for their commit."""
        return len(self._waiting) + len(self._late) + sum(job.future is not None for job in self._batch)

    def submit(self, job: Job) -> "asyncio.Future[Any]":
        """Queue it, and see to it that there is a batch."""
        if self.is_closing:
            raise RuntimeError("the store is closed")
        self._waiting.append(job)
        if self._working is None and not self._is_gathering:
            self._is_gathering = True
            self._gathering.begin(self._loop)
        assert job.future is not None
        return job.future

    def withdraw(self, written: "asyncio.Future[Any]") -> bool:
        """Take back a write that still waits, so that it never happens; False where it may have happened."""
        for job in self._late:
            if job.future is written:
                self._late.remove(job)
                return True
        return super().withdraw(written)

    async def close(self) -> list[Any]:
        """Commit what is queued, then end; in an outage it is tried once more. Returns the writes that are to be kept.

        These could not be committed, or nobody can say whether they are.
        """
        self.is_closing = True
        self._wanted.set()
        self._take_up(self._locked)
        was_tried = False
        while self._working is not None or ((self._waiting or self._batch) and (self.is_available or not was_tried)):
            if self._working is not None:
                await asyncio.wait([self._working])
            else:
                was_tried = True
                await self._turn()
        left = [*self._batch, *self._late, *self._waiting]
        for job in left:
            if job.future is not None:
                job.future.cancel()
        await carried_out(self._session.close)
        return [job.write for job in left if job.in_outage != "refuse"]

    # On the loop

    def _gathered(self) -> None:
        self._is_gathering = False
        if not self.is_closing and self._working is None:
            self._begin_work()

    def _begin_work(self) -> None:
        self._working = self._loop.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting or self._batch or self._is_look_due or not self.is_available:
                if self._is_look_due:
                    self._is_look_due = False
                    await self._look()
                await self._turn()
                if self.is_closing:
                    return
                if not self.is_available:
                    await self._rest()
        finally:
            self._working = None
            self._look_if_idle()

    def _look_if_idle(self) -> None:
        """Know at once when the connection ends: whoever is admitted after that would wait for nothing."""
        if self._working is None and self.is_available and not self._session.link.is_open:
            self._look_soon()

    def _look_soon(self) -> None:
        self._is_look_due = True
        if self._working is None and not self.is_closing:
            self._begin_work()

    async def _look(self) -> None:
        """Whether the connection is there, and which wallets are free again."""
        free = await carried_out(self._free_now, self._locked)
        self._take_up(free)
        self._look_later()

    def _look_later(self) -> None:
        if self._locked:
            self._loop.call_later(_RETRY_S, self._look_soon)

    def _take_up(self, accounts: frozenset[str]) -> None:
        """What waits for these comes first now."""
        self._waiting.extendleft(reversed([job for job in self._late if account_of(job.write) in accounts]))
        self._late = [job for job in self._late if account_of(job.write) not in accounts]
        self._locked -= accounts

    def _set_aside(self, jobs: list[Job]) -> list[Job]:
        """Those of them that need no locked wallet; who needs one and is not patient is told."""
        if not self._locked:
            return jobs
        late = [job for job in jobs if account_of(job.write) in self._locked]
        self._refuse_impatient(late)
        self._late += [job for job in late if job.future is not None or job.in_outage != "refuse"]
        return [job for job in jobs if account_of(job.write) not in self._locked]

    async def _turn(self) -> None:
        """One batch, from the queue to its results."""
        if not self._is_in_doubt:
            batch = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
            self._batch = self._set_aside(batch)
        run = self._ask if self._is_in_doubt else self._run
        ended = await carried_out(run, self._batch)
        if ended.is_in_doubt:
            self._doubt(ended)
        elif ended.locked:
            logger.error("somebody else keeps %s wallets locked; what these pay waits for them", len(ended.locked))
            is_first = not self._locked
            self._locked |= ended.locked
            self._batch = self._set_aside(self._batch)
            self._put_back()
            if is_first:
                self._look_later()
        elif ended.error is not None:
            self._put_back()
            self._put_off(told(ended.error))
        elif ended.is_committed:
            self._finish(ended.facts)
        else:
            self._put_back()

    async def _rest(self) -> None:
        """Without it each new write of an outage would run all late ones again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETRY_S):
                await self._wanted.wait()

    def _finish(self, facts: Sequence[object]) -> None:
        jobs, self._batch = self._batch, []
        self._decided.clear()
        self.is_available = True
        self._is_in_doubt = False
        self._tell(facts)
        for job in jobs:
            resolve(job)

    def _put_back(self) -> None:
        """To the front of the queue, but for what was refused while it was in doubt."""
        self._waiting.extendleft(
            job for job in reversed(self._batch) if job.future is not None or job.in_outage != "refuse"
        )
        self._batch = []
        self._is_in_doubt = False

    def _doubt(self, ended: _Ended) -> None:
        """The same where nobody knows yet whether the batch is committed: it stays as it is until somebody does."""
        assert ended.error is not None
        if not self._is_in_doubt:
            self._facts, self._facts_anew = ended.facts, ended.facts_anew
        self._is_in_doubt = True
        self._refuse_impatient(self._batch)
        self._put_off(told(ended.error))

    # Within `carried_out`

    def _ask(self, _: list[Job]) -> _Ended:
        """Whether the batch is committed whose answer was lost."""
        try:
            self._session.open()
            is_committed = self._session.has_committed()
            if is_committed and self._facts_anew is not None:
                self._facts = self._session.as_of_now(self._facts_anew)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is still not known
            self._session.give_up(error)
            return _Ended(error, is_in_doubt=True)
        if is_committed:
            self._say(self._announced_in_doubt)
        return _Ended(is_committed=is_committed, facts=self._facts)

    def _run(self, jobs: list[Job]) -> _Ended:
        ended = self._run_alone(jobs) or self._run_in_steps(jobs)
        if ended.error is None or not is_locked(ended.error):
            return ended
        try:
            accounts = {account for job in jobs if (account := account_of(job.write)) is not None}
            return ended._replace(locked=self._session.locked_wallets(accounts))
        except Exception as error:  # noqa: BLE001 - as it is of the batch
            self._session.give_up(error)
            return ended

    def _free_now(self, accounts: frozenset[str]) -> frozenset[str]:
        try:
            self._session.open()
            return accounts - self._session.locked_wallets(accounts)
        except Exception as error:  # noqa: BLE001 - the batch that follows fails by the same
            self._session.give_up(error)
            return frozenset()

    def _run_alone(self, jobs: list[Job]) -> _Ended | None:
        """In one statement that is a transaction of its own; None where it takes steps, and nothing is changed yet."""
        writes = [job.write for job in jobs]
        if not jobs or self._decided or any(map(_is_apart, jobs)) or not all(map(is_plain, writes)):
            return None
        try:
            self._session.open()
            if self._session.is_anew:
                return None
            batch = RequestBatch(self._transaction, writes)
        except Exception as error:  # noqa: BLE001 - whatever failed, the batch waits to be run again
            self._session.give_up(error)
            self._transaction.forget()
            return _Ended(error) if is_unavailable(error) else None
        for job, outcome in zip(jobs, batch.outcomes, strict=True):
            job.result, job.error = outcome, None
        try:
            facts = self._session.run_alone(batch, is_durable=any(job.is_durable for job in jobs))
        except Exception as error:  # noqa: BLE001 - it may have happened, unless the server says otherwise
            if is_answer(error):
                return _Ended(error) if is_unavailable(error) else None
            self._session.link.drop()
            self._transaction.forget()
            return _Ended(error, is_in_doubt=True, facts_anew=batch.facts_anew)
        return None if facts is None else _Ended(is_committed=True, facts=facts)

    def _run_in_steps(self, jobs: list[Job]) -> _Ended:
        try:
            self._session.open()
            self._session.begin(is_durable=any(job.is_durable for job in jobs))
            self._transaction.replica = self._session.replica
            if self._session.is_anew:
                self._transaction.tell(StartedAnew())
            if any(type(job.write) in LONG for job in jobs):
                self._session.be_patient()
            if jobs:
                self._run_all(jobs)
        except _RunAgain:
            self._roll_back()
            return _Ended()
        except Exception as error:  # noqa: BLE001 - whatever failed, the batch waits to be run again
            self._session.give_up(error)  # first, so that nobody waits once more for whoever is silent
            self._roll_back()
            return _Ended(error)
        facts, announced = self._transaction.take_told(), self._transaction.take_announced()
        try:
            self._session.commit()
        except Exception as error:  # noqa: BLE001 - it may have happened, unless the server says otherwise
            self._roll_back_unless_lost(error)
            if is_answer(error):
                return _Ended(error)
            self._announced_in_doubt = announced
            return _Ended(error, is_in_doubt=True, facts=facts)
        self._say(announced)
        return _Ended(is_committed=True, facts=facts)

    def _say(self, announced: Sequence[Announcement]) -> None:
        """To the other servers, after the commit and apart from it; where that fails, after the next one."""
        self._unsaid += announced
        if not self._unsaid:
            return
        try:
            self._session.notify(CHANNEL, as_text(self._session.name, self._unsaid))
        except Exception as error:  # noqa: BLE001 - what is committed stays so, whoever hears of it
            self._session.give_up(error)
        else:
            self._unsaid = []

    def _roll_back_unless_lost(self, error: Exception) -> None:
        if not is_answer(error):
            self._session.link.drop()
        self._roll_back()

    def _roll_back(self) -> None:
        self._transaction.forget()
        self._session.roll_back()

    def _run_all(self, jobs: list[Job]) -> None:
        """Raises _RunAgain where the batch must be run again; any other error concerns all of it."""
        left = [job for job in jobs if job not in self._decided]
        for run in runs(left) if left else ():
            traces = self._transaction.traces
            try:
                outcomes = self._outcomes_of(run)
            except GatewayError as refusal:
                self._refuse(run[0], refusal, traces)
            except Exception as error:
                if is_unavailable(error):
                    raise
                self._fail(run, error, traces)
            else:
                for job, outcome in zip(run, outcomes, strict=True):
                    is_refused = isinstance(outcome, GatewayError)
                    # without its traceback, whose frames hold the outcomes, and so itself
                    job.result, job.error = (None, outcome.with_traceback(None)) if is_refused else (outcome, None)

    def _outcomes_of(self, run: list[Job]) -> Sequence[Any]:
        first = run[0]
        if first.alone is not None:  # as part of no savepoint: what is refused after all is left out of the next run
            return [first.alone(self._transaction, first.write)]
        assert first.together is not None
        return first.together(self._transaction, [job.write for job in run])

    def _refuse(self, job: Job, refusal: GatewayError, traces: tuple[int, int]) -> None:
        job.result, job.error = None, refusal.with_traceback(None)
        if self._transaction.traces != traces:
            self._decided.add(job)
            raise _RunAgain from refusal

    def _fail(self, run: list[Job], error: Exception, traces: tuple[int, int]) -> None:
        """A bug in one of them: PostgreSQL ends the transaction with any error of a statement."""
        if len(run) > 1:
            for job in run:
                job.is_apart = True
            raise _RunAgain from error
        if replace(run[0], error):
            raise _RunAgain from error
        fail(run[0], error, FAILED)
        if self._transaction.traces != traces or isinstance(error, FAILED):
            self._decided.add(run[0])
            raise _RunAgain from error
