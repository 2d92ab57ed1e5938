"""The one who writes: all writes that wait run in one transaction, a burst, and what an outage makes of them.

A burst is on the event loop: each statement takes microseconds, and from a thread each would have to win the
interpreter back from a busy loop. A commit only appends to the log; what must be on the disk before its result is given
waits for an fsync in a thread, while further bursts go on. What waits for another process is in threads too.

The writer's states, what moves it from one to another, and what it does with a write that comes meanwhile:

    from       to         by
    ---------  ---------  -------------------------------------------------------------------------------------------
    idle       gathering  a write comes
    idle       burst      it is asked to pause; or it closes, and something waits
    gathering  burst      a turn of the loop brings no more, 2 ms are over, or 128 wait
    gathering  idle       it closes
    burst      idle       nothing waits; or it closes
    burst      gathering  more wait: 128 are a full burst, a bug has others run again, or who listened has written
    burst      paused     another process has the lock, the database is full, a commit fails; or it is to pause
    paused     burst      that is over, and something waits, or has to be tried for an outage to end
    paused     idle       that is over, and nothing waits; or it closes
    idle       closed     it closes, and what waited is committed, or was tried once more in an outage

In each state but the last a write is queued, unless the writer closes: then it is refused with a RuntimeError. In an
outage, in which it is `paused` most of the time, what is queued is refused, kept or left waiting as its `in_outage`
says, each time that it was tried in vain.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Literal

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gathering import MOST, Gathering
from mcp_gateway.core.store.jobs import Job, fail, refuse, replace, resolve, runs
from mcp_gateway.core.store.queue import WriteQueue
from mcp_gateway.core.store.sqlite.checkpoints import Checkpoints, touch
from mcp_gateway.core.store.sqlite.faults import is_busy, is_unavailable
from mcp_gateway.core.store.sqlite.threads import WaitingThreads
from mcp_gateway.core.store.sqlite.write_ahead_log import Flusher, Sync, WriteAheadLog
from mcp_gateway.core.store.transaction import Transaction

logger = logging.getLogger(__name__)

State = Literal["idle", "gathering", "burst", "paused", "closed"]

_RETRY_S = 0.25
_BUSY_POLL_S = 0.001
_BURSTS_PER_LOOK = 32


class _Spoiled(Exception):
    """Something failed after it had changed something: the burst must be run again, without the culprit if known."""

    def __init__(self, culprit: Job | None) -> None:
        super().__init__()
        self.culprit = culprit


class Writer(WriteQueue):
    """Who alone changes an open database."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        transaction: Transaction,
        log: WriteAheadLog,
        checkpoints: Checkpoints,
        threads: WaitingThreads,
        sync: Sync,
        busy_timeout_s: float,
    ) -> None:
        super().__init__()
        self._connection = connection
        self._transaction = transaction
        self._log = log
        self._checkpoints = checkpoints
        self._threads = threads
        self._sync = sync
        self._busy_timeout_s = busy_timeout_s
        self._loop = asyncio.get_running_loop()
        self._flusher = Flusher[Job](self._sync_log, self._flushed)
        self._state: State = "idle"
        self._unsynced: list[Job] = []
        """Committed, of those that wait, while the disk has failed to take the log."""
        self._gathering = Gathering(self._waiting, self._gathered)
        self._pause: asyncio.Task[None] | None = None
        self._due: Callable[[], Coroutine[Any, Any, None]] | None = None
        """What the next burst is to pause for."""
        self._bursts = 0

    @property
    def waiting(self) -> int:
        """How many writes wait for their commit, or for the disk to take it again after it failed."""
        return len(self._waiting) + len(self._unsynced)

    def submit(self, job: Job) -> "asyncio.Future[Any]":
        """Queue it, and see to it that there is a burst."""
        if self.is_closing:
            raise RuntimeError("the store is closed")
        self._waiting.append(job)
        if self._state == "idle":
            self._begin_gathering()
        assert job.future is not None
        return job.future

    def pause_for(self, work: Callable[[], Awaitable[None]]) -> None:
        """Pause for `work` before the next burst, unless there is a pause to come already."""

        async def due() -> None:
            await work()
            if self._due is due:
                self._due = None

        if self._due is None:
            self._make_room(due)

    async def close(self) -> list[Any]:
        """Commit what is queued, then end; in an outage it is tried once more. Returns the writes that are to be kept.

        These could not be committed.
        """
        self.is_closing = True
        if self._state == "gathering":
            self._state = "idle"
        was_tried = False
        while self._pause is not None or (self._waiting and (self.is_available or not was_tried)):
            if self._pause is not None:
                await asyncio.wait([self._pause])
            else:
                self._burst()
                was_tried = True
        self._roll_back()
        await self._flusher.close()
        self._state = "closed"
        await self._threads.run(self._connection.close)
        for job in (*self._waiting, *self._unsynced):
            if job.future is not None:
                job.future.cancel()
        return [job.write for job in self._waiting if job.in_outage != "refuse"]

    # From a write to its commit

    def _begin_gathering(self) -> None:
        """Of a lone write the next turn of the loop is a burst, of a busy loop's many are one."""
        self._state = "gathering"
        self._gathering.begin(self._loop)

    def _gathered(self) -> None:
        if self._state == "gathering":  # not closing
            self._burst()

    def _burst(self) -> None:
        """Run what waits in one transaction and commit it, without leaving the loop.

        With `synchronous=NORMAL` a commit only appends to the log. SQLite syncs that by itself in one place: its
        header, each time the log is begun anew, together with the folder's entry after the log was created
        (sqlite3WalFrames, unixSync). So an fsync of the log after the commit leaves on the disk what
        `synchronous=FULL` would have, and the connection is free meanwhile.
        """
        self._state = "burst"
        if not self._begin():
            return
        jobs = self._taken()
        try:
            if jobs:
                self._run(jobs)
            else:
                touch(self._connection)  # an outage, in which nobody may ask: health says that nothing is written
            self._connection.execute("COMMIT")
        except _Spoiled as spoiled:
            self._roll_back()
            self._waiting.extendleft(job for job in reversed(jobs) if job is not spoiled.culprit)
            if spoiled.culprit is not None:
                resolve(spoiled.culprit)
        except Exception as error:  # noqa: BLE001 - whatever failed, the burst waits to be run again
            self._roll_back()
            self._waiting.extendleft(reversed(jobs))
            self._put_off(error)
        else:
            self.is_available = True
            self._tell(self._transaction.take_told())
            self._hand_out(jobs)
            self._bursts += 1
            if not self._bursts % _BURSTS_PER_LOOK:
                self._checkpoints.look(self.pause_for)
        self._go_on()

    def _begin(self) -> bool:
        """Open the transaction, or leave that to a pause."""
        if self._due is not None:
            self._roll_back()
            self._begin_pause(self._due())
            return False
        if self._connection.in_transaction:  # begun where it was waited for
            return True
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._begin_pause(self._begin_when_free() if is_busy(error) else self._rest_from(error))
            return False
        return True

    def _taken(self) -> list[Job]:
        """What this burst is of."""
        waiting = self._waiting
        if len(waiting) > MOST:
            return [waiting.popleft() for _ in range(MOST)]
        jobs = list(waiting)
        waiting.clear()
        return jobs

    def _run(self, jobs: list[Job]) -> None:
        """Raises _Spoiled where the burst must be run again; any other error concerns all of it."""
        for run in runs(jobs):
            traces = self._transaction.traces
            try:
                outcomes = self._outcomes_of(run)
                for job, outcome in zip(run, outcomes, strict=True):
                    is_refused = isinstance(outcome, GatewayError)
                    # without its traceback, whose frames hold the outcomes, and so itself
                    job.result, job.error = (None, outcome.with_traceback(None)) if is_refused else (outcome, None)
            except Exception as error:
                if is_unavailable(error):
                    raise
                if len(run) > 1:
                    for job in run:
                        job.is_apart = True
                    raise _Spoiled(None) from error
                if replace(run[0], error):
                    raise _Spoiled(None) from error
                fail(run[0], error, sqlite3.Error)
                if self._transaction.traces != traces or not self._connection.in_transaction:
                    raise _Spoiled(run[0]) from error

    def _outcomes_of(self, run: list[Job]) -> Sequence[Any]:
        first = run[0]
        if first.alone is None:
            assert first.together is not None
            return first.together(self._transaction, [job.write for job in run])
        try:
            return [self._transaction.whole(first.alone, first.write)]
        except GatewayError as refusal:
            return [refusal]

    def _hand_out(self, jobs: list[Job]) -> None:
        durable = []
        for job in jobs:
            if job.is_durable:
                durable.append(job)
            else:
                resolve(job)
        if durable:
            self._flusher.add(durable)

    def _go_on(self) -> None:
        if self.is_closing:
            self._state = "idle"
        elif not self.is_available:
            self._begin_pause(self._rest())
        elif self._waiting:
            self._begin_gathering()
        else:
            self._state = "idle"

    def _roll_back(self) -> None:
        self._transaction.forget()
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    # Outages

    def _flushed(self, jobs: Sequence[Job], error: OSError | None) -> None:
        if error is None:
            for job in jobs:
                resolve(job)
            return
        self._note_outage(error)
        for job in jobs:
            if job.in_outage == "wait":
                self._unsynced.append(job)
            else:
                refuse(job)
        self._make_room(self._make_log_sound)

    # Pauses: what is asked meanwhile waits with the writer

    def _make_room(self, due: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Pause for `due` before the next burst, at once where none is on its way."""
        self._due = due
        if self._state == "idle" and not self.is_closing:
            self._burst()

    def _begin_pause(self, work: Coroutine[Any, Any, None]) -> None:
        self._state = "paused"
        self._pause = self._loop.create_task(work)
        self._pause.add_done_callback(self._end_pause)

    def _end_pause(self, pause: "asyncio.Task[None]") -> None:
        self._pause = None
        if self.is_closing:
            self._state = "idle"
        elif self._waiting or self._due is not None or not self.is_available or self._connection.in_transaction:
            self._burst()
        else:
            self._state = "idle"

    async def _begin_when_free(self) -> None:
        """Another process writes."""
        try:
            await self._threads.run(self._poll_for_lock)
            self.is_available = True
        except sqlite3.Error as error:
            await self._rest_from(error)

    async def _rest_from(self, error: Exception) -> None:
        self._put_off(error)
        await self._rest()

    async def _rest(self) -> None:
        """Without it each new write of an outage would run all late ones again."""
        if not self.is_closing:
            await asyncio.sleep(_RETRY_S)

    async def _make_log_sound(self) -> None:
        """After an fsync that failed: move the whole log into the database, which SQLite syncs.

        The system may tell of a failure once and forget what it could not write, so that a second fsync of the log
        says nothing about the first. What was committed can still be read.
        """
        while self._due is not None:
            try:
                await self._checkpoints.move_all()
                await self._threads.run(self._sync_log)
                self._due, self.is_available = None, True
                self._resolve_unsynced()
            except (sqlite3.Error, OSError) as error:
                self._put_off(error)
                if self.is_closing:
                    return
                await asyncio.sleep(_RETRY_S)

    def _resolve_unsynced(self) -> None:
        unsynced, self._unsynced = self._unsynced, []
        for job in unsynced:
            resolve(job)

    # In threads, which may wait

    def _sync_log(self) -> None:
        self._sync(self._log.descriptor)

    def _poll_for_lock(self) -> None:
        deadline_s = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() >= deadline_s:
                    raise
                time.sleep(_BUSY_POLL_S)
