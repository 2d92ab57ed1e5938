"""SQLite behind three verbs: write, read, close.

All writes that wait run in one transaction, a burst, on the event loop: each statement takes microseconds, and from a
thread each would have to win the interpreter back from a busy loop. A commit only appends to the log; what must be on
the disk before its result is given waits for an fsync in a thread, while further bursts go on. What waits for another
process or for a checkpoint is in threads too. Knows nothing of what is stored.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mcp_gateway.core.engine import DatabaseError, Fact, InOutage, Read, Write, unavailable
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gathering import MOST, Gathering
from mcp_gateway.core.store.sqlite.faults import as_database_error
from mcp_gateway.core.store.sqlite.migrations import migrate
from mcp_gateway.core.store.sqlite.private import keep_private
from mcp_gateway.core.store.sqlite.readers import Readers
from mcp_gateway.core.store.sqlite.space import let_it_shrink
from mcp_gateway.core.store.sqlite.write_ahead_log import Flusher, Sync, WriteAheadLog, sync_data
from mcp_gateway.core.store.transaction import Executors, Rows, Run, RunTogether, Transaction

logger = logging.getLogger(__name__)

T = TypeVar("T")

ENGINE_VERSION = sqlite3.sqlite_version
_LEAST_SQLITE = (3, 37)
"""The first with STRICT tables."""
_RETRY_S = 0.25
_BUSY_POLL_S = 0.001
_BURSTS_PER_LOOK = 32
_CHECKPOINT_BYTES = 16 * 1024 * 1024
_CHECKPOINT_REST_S = 1.0
"""After a checkpoint that did not come to its end."""
_READERS_TIMEOUT_S = 0.02
"""How long a checkpoint, and so every write, waits for readers of the log."""
_UNAVAILABLE = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
})  # fmt: skip
"""Primary result codes that say: not now, for reasons outside this write."""

# Of each value of another type than the four basic ones, sqlite3 would ask twice whether it can adapt itself.
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(type(None), lambda null: null)


@dataclass(slots=True, eq=False)
class _Job:
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


@dataclass(frozen=True, slots=True)
class _Nothing(Write[None]):
    """Changes nothing: once it is committed, so is what was written before."""


@dataclass(frozen=True, slots=True)
class _Identity(Read[str]):
    pass


def _identity(rows: Rows, _: _Identity) -> str:
    row = rows.first("SELECT id FROM database_identity")
    assert row is not None
    return str(row[0])


_OWN = Executors(alone={_Nothing: lambda _, __: None}, reads={_Identity: _identity})


class _Spoiled(Exception):
    """Something failed after it had changed something: the burst must be run again, without the culprit if known."""

    def __init__(self, culprit: _Job | None) -> None:
        super().__init__()
        self.culprit = culprit


class Store:
    """An open database."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        readers: Readers,
        log: WriteAheadLog,
        sync: Sync,
        busy_timeout_s: float,
        executors: Executors,
        now_ms: Callable[[], int],
    ) -> None:
        self._path = path
        self._connection = connection
        self.now_ms = now_ms
        self._transaction = Transaction(connection, executors, now_ms)
        self._alone, self._together = executors.alone, executors.together
        self._readers = readers
        self._log = log
        self._sync = sync
        self._busy_timeout_s = busy_timeout_s
        self._loop = asyncio.get_running_loop()
        self._flusher = Flusher[_Job](self._sync_log, self._flushed)
        self._threads = ThreadPoolExecutor(2, "ledger-wait")  # a lock does not wait for a checkpoint
        self._listeners: dict[type[Any], Callable[[Any], None]] = {}
        self._waiting: deque[_Job] = deque()
        self._unsynced: list[_Job] = []
        """Committed, of those that wait, while the disk has failed to take the log."""
        self._gathering = Gathering(self._waiting, self._burst_if_open)
        self._is_idle = True
        self._is_closed = False
        self._is_available = True
        self._pause: asyncio.Task[None] | None = None
        self._due: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._copying: asyncio.Task[None] | None = None
        self._bursts = 0
        self._next_look_s = 0.0

    @classmethod
    async def open(
        cls,
        path: Path,
        executors: Executors,
        *,
        now_ms: Callable[[], int],
        busy_timeout_s: float = 5.0,
        report_timeout_s: float = 30.0,
        sync: Sync = sync_data,
    ) -> "Store":
        """Open or create the database at `path` and bring its schema up to date.

        Raises SchemaTooNew, DatabaseError, OSError. `executors` carry out what is written and read, by the clock
        `now_ms`. `busy_timeout_s` is how long a write waits while another process writes; `sync` brings the log to the
        disk, given its descriptor.
        """
        executors = executors | _OWN
        with as_database_error(), contextlib.ExitStack() as opened:
            connection = await asyncio.to_thread(_open_for_writing, path, busy_timeout_s)
            opened.callback(connection.close)
            log = WriteAheadLog(path)
            opened.callback(log.close)
            readers = Readers(path, executors.reads, report_timeout_s)
            opened.pop_all()
        return cls(path, connection, readers, log, sync, busy_timeout_s, executors, now_ms)

    def write(self, write: Write[T], *, is_durable: bool = True, in_outage: InOutage = "refuse") -> "asyncio.Future[T]":
        """Carry out `write` in the next transaction; the result comes once that is committed.

        A GatewayError that its executor raises is the write's decision: what it changed before that stays. Any other
        error takes back what it changed; then its `stand_in` is written. An executor may run more than once for a
        write, since a burst in which a write failed is run again without it; one that takes neighbours together is
        called for each by itself then, so that a bug costs only that one. Where the disk failed to take what was
        committed already, a durable write that does not wait fails with `ledger_unavailable` too, and stays committed.
        """
        kind = type(write)
        alone = self._alone.get(kind)
        together = None if alone is not None else self._together[kind]
        return self._submit(_Job(write, alone, together, is_durable, in_outage, self._loop.create_future()))

    def withdraw(self, written: "asyncio.Future[Any]") -> bool:
        """Take back a write that still waits, so that it never happens; False where it is committed already."""
        for job in self._waiting:
            if job.future is written:
                self._waiting.remove(job)
                return True
        return False

    def listen(self, kind: type[Fact], hear: Callable[[Fact], None]) -> None:
        """Have `hear` told of what commits have changed, of this kind: after each, before the results of its writes."""
        self._listeners[kind] = hear

    async def read(self, read: Read[T]) -> T:
        """The answer as of the last commit. Raises DatabaseError; GatewayError `overloaded` at a report's deadline."""
        return await self._readers.read(read)

    async def flushed(self) -> None:
        """Wait until what was written before this call is committed. Raises GatewayError `ledger_unavailable`."""
        await self.write(_Nothing(), is_durable=False)

    async def identity(self) -> str:
        """What tells this database from every other, its own copies apart."""
        return await self.read(_Identity())

    @property
    def waiting(self) -> int:
        """How many writes wait for their commit, or for the disk to take it again after it failed."""
        return len(self._waiting) + len(self._unsynced)

    @property
    def log_bytes(self) -> int:
        """Of the write-ahead log. Raises OSError."""
        return self._log.size_bytes

    @property
    def is_available(self) -> bool:
        """Whether what was written last went through; during an outage it is tried again until something does."""
        return self._is_available

    async def close(self) -> list[Any]:
        """Commit what is queued, then close. Returns the writes to keep that could not be committed."""
        if self._is_closed:
            return []
        self._is_closed = True
        await self._finish()
        await self._flusher.close()
        if self._copying is not None:
            self._copying.cancel()
        self._log.close()
        await self._in_thread(self._connection.close)
        await asyncio.to_thread(self._threads.shutdown)
        await self._readers.close()
        for job in (*self._waiting, *self._unsynced):
            if job.future is not None:
                job.future.cancel()
        return [job.write for job in self._waiting if job.in_outage != "refuse"]

    # From a write to its commit

    def _submit(self, job: _Job) -> "asyncio.Future[Any]":
        if self._is_closed:
            raise RuntimeError("the store is closed")
        self._waiting.append(job)
        if self._is_idle:
            self._begin_gathering()
        assert job.future is not None
        return job.future

    def _begin_gathering(self) -> None:
        """Of a lone write the next turn of the loop is a burst, of a busy loop's many are one."""
        self._is_idle = False
        self._gathering.begin(self._loop)

    def _burst_if_open(self) -> None:
        if not self._is_closed:
            self._burst()

    def _burst(self) -> None:
        """Run what waits in one transaction and commit it, without leaving the loop.

        With `synchronous=NORMAL` a commit only appends to the log. SQLite syncs that by itself in one place: its
        header, each time the log is begun anew, together with the folder's entry after the log was created
        (sqlite3WalFrames, unixSync). So an fsync of the log after the commit leaves on the disk what
        `synchronous=FULL` would have, and the connection is free meanwhile.
        """
        if not self._begin():
            return
        jobs = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST))]
        try:
            if jobs:
                self._run(jobs)
            else:
                _touch(self._connection)  # an outage, in which nobody may ask: health says that nothing is written
            self._connection.execute("COMMIT")
        except _Spoiled as spoiled:
            self._roll_back()
            self._waiting.extendleft(job for job in reversed(jobs) if job is not spoiled.culprit)
            if spoiled.culprit is not None:
                _resolve(spoiled.culprit)
        except Exception as error:  # noqa: BLE001 - whatever failed, the burst waits to be run again
            self._roll_back()
            self._waiting.extendleft(reversed(jobs))
            self._put_off(error)
        else:
            self._is_available = True
            self._tell()
            self._hand_out(jobs)
            self._look_at_log()
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
            self._begin_pause(self._begin_when_free() if _is_busy(error) else self._rest_from(error))
            return False
        return True

    def _run(self, jobs: list[_Job]) -> None:
        """Raises _Spoiled where the burst must be run again; any other error concerns all of it."""
        for run in _runs(jobs):
            traces = self._transaction.traces
            try:
                outcomes = self._outcomes_of(run)
                for job, outcome in zip(run, outcomes, strict=True):
                    is_refused = isinstance(outcome, GatewayError)
                    # without its traceback, whose frames hold the outcomes, and so itself
                    job.result, job.error = (None, outcome.with_traceback(None)) if is_refused else (outcome, None)
            except Exception as error:
                if _is_unavailable(error):
                    raise
                if len(run) > 1:
                    for job in run:
                        job.is_apart = True
                    raise _Spoiled(None) from error
                if _replace(run[0], error):
                    raise _Spoiled(None) from error
                _fail(run[0], error)
                if self._transaction.traces != traces or not self._connection.in_transaction:
                    raise _Spoiled(run[0]) from error

    def _outcomes_of(self, run: list[_Job]) -> Sequence[Any]:
        first = run[0]
        if first.alone is None:
            assert first.together is not None
            return first.together(self._transaction, [job.write for job in run])
        try:
            return [self._transaction.whole(first.alone, first.write)]
        except GatewayError as refusal:
            return [refusal]

    def _tell(self) -> None:
        for fact in self._transaction.take_told():
            try:
                self._listeners.get(type(fact), _ignore)(fact)
            except Exception as error:  # noqa: BLE001 - a bug in who listens: what is committed is told to who waits
                logger.critical("what a commit told was not heard: %s", type(error).__name__)

    def _hand_out(self, jobs: list[_Job]) -> None:
        durable = []
        for job in jobs:
            if job.is_durable:
                durable.append(job)
            else:
                _resolve(job)
        if durable:
            self._flusher.add(durable)

    def _flushed(self, jobs: Sequence[_Job], error: OSError | None) -> None:
        if error is None:
            for job in jobs:
                _resolve(job)
            return
        self._note_outage(error)
        for job in jobs:
            if job.in_outage == "wait":
                self._unsynced.append(job)
            else:
                _refuse(job)
        self._make_room(self._make_log_sound)

    def _go_on(self) -> None:
        if self._is_closed:
            return
        if not self._is_available:
            self._begin_pause(self._rest())
        elif self._waiting:
            self._begin_gathering()
        else:
            self._is_idle = True

    def _put_off(self, cause: Exception) -> None:
        """An outage: those that are not patient are told; what is to be kept stays in the queue, in its order."""
        self._note_outage(cause)
        queued = tuple(self._waiting)
        self._waiting.clear()
        self._waiting.extend(job for job in queued if job.in_outage != "refuse")
        for job in queued:
            if job.in_outage != "wait":
                _refuse(job)
                job.future = None

    def _note_outage(self, cause: Exception) -> None:
        if self._is_available:
            logger.error("the database cannot be written for now: %s", cause)
        self._is_available = False

    def _roll_back(self) -> None:
        self._transaction.take_told()
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    async def _finish(self) -> None:
        """Commit what is queued; during an outage it is tried once more."""
        was_tried = False
        while self._pause is not None or (self._waiting and (self._is_available or not was_tried)):
            if self._pause is not None:
                await asyncio.wait([self._pause])
            else:
                self._burst()
                was_tried = True
        self._roll_back()

    # The log's size

    def _look_at_log(self) -> None:
        self._bursts += 1
        if self._bursts % _BURSTS_PER_LOOK or self._copying is not None or self._due is not None:
            return
        if time.monotonic() < self._next_look_s:
            return
        with contextlib.suppress(OSError):  # a disk that fails shows at the next commit or fsync
            if self._log.reaches(_CHECKPOINT_BYTES):
                self._copying = self._loop.create_task(self._copy())

    async def _copy(self) -> None:
        """The long part of a checkpoint, beside the writer. It only tidies up, so that it may fail."""
        with contextlib.suppress(sqlite3.Error, OSError, RuntimeError):
            await self._in_thread(self._copy_log)
        self._copying = None
        if self._due is None:
            self._make_room(self._begin_log_anew)

    # Pauses: the writer waits, and what is asked meanwhile waits with it

    def _begin_pause(self, work: Coroutine[Any, Any, None]) -> None:
        self._pause = self._loop.create_task(work)
        self._pause.add_done_callback(self._end_pause)

    def _end_pause(self, pause: "asyncio.Task[None]") -> None:
        self._pause = None
        if self._is_closed:
            return
        if self._waiting or self._due is not None or not self._is_available or self._connection.in_transaction:
            self._burst()
        else:
            self._is_idle = True

    def _make_room(self, due: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Pause for `due` before the next burst, at once where none is on its way."""
        self._due = due
        if self._is_idle and not self._is_closed:
            self._is_idle = False
            self._burst()

    async def _begin_when_free(self) -> None:
        """Another process writes."""
        try:
            await self._in_thread(self._poll_for_lock)
            self._is_available = True
        except sqlite3.Error as error:
            await self._rest_from(error)

    async def _rest_from(self, error: Exception) -> None:
        self._put_off(error)
        await self._rest()

    async def _rest(self) -> None:
        """Without it each new write of an outage would run all late ones again."""
        if not self._is_closed:
            await asyncio.sleep(_RETRY_S)

    async def _begin_log_anew(self) -> None:
        """The short part of a checkpoint, for which the writer must rest: so not soon again if it fails."""
        try:
            await self._in_thread(self._restart_log)
        except (sqlite3.Error, OSError):
            self._next_look_s = time.monotonic() + _CHECKPOINT_REST_S
        if self._due == self._begin_log_anew:
            self._due = None

    async def _make_log_sound(self) -> None:
        """After an fsync that failed: move the whole log into the database, which SQLite syncs.

        The system may tell of a failure once and forget what it could not write, so that a second fsync of the log
        says nothing about the first. What was committed can still be read.
        """
        while self._due is not None:
            try:
                await self._in_thread(self._copy_log)
                await self._in_thread(self._restart_log)
                await self._in_thread(self._sync_log)
                self._due, self._is_available = None, True
                self._resolve_unsynced()
            except (sqlite3.Error, OSError) as error:
                self._put_off(error)
                if self._is_closed:
                    return
                await asyncio.sleep(_RETRY_S)

    def _resolve_unsynced(self) -> None:
        unsynced, self._unsynced = self._unsynced, []
        for job in unsynced:
            _resolve(job)

    # In threads, which may wait

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """The result of `work`; cancelled or not, it is waited for, since the connection is one."""
        return await asyncio.shield(self._loop.run_in_executor(self._threads, work))

    def _sync_log(self) -> None:
        self._sync(self._log.descriptor)

    def _poll_for_lock(self) -> None:
        deadline_s = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= deadline_s:
                    raise
                time.sleep(_BUSY_POLL_S)

    def _copy_log(self) -> None:
        """Copy what is in the log into the database, as far as nobody reads what was there before."""
        with self._beside() as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _restart_log(self) -> None:
        """Copy the rest and let the log begin anew: to overwrite the file costs the disk less than to let it grow.

        What it grew beyond its usual size while a reader was in the way (a backup, a check of the books) is given back.
        Raises sqlite3.Error, and BlockingIOError where a reader was in the way.
        """
        with self._beside() as connection:
            is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            if is_busy:
                raise BlockingIOError("a reader of the log is in the way")
            connection.execute(f"PRAGMA journal_size_limit = {2 * _CHECKPOINT_BYTES}")
            _touch(connection)  # so that no burst has to sync the header; cuts the file at the limit

    def _beside(self) -> contextlib.closing[sqlite3.Connection]:
        """A connection that holds up nobody on the writer's."""
        return contextlib.closing(sqlite3.connect(self._path, timeout=_READERS_TIMEOUT_S, isolation_level=None))


def _runs(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """The jobs, of which there is one at least, in order, neighbours that are carried out together in one run."""
    run: list[_Job] = []
    for job in jobs:
        if run and (job.together is None or job.is_apart or job.together is not run[-1].together):
            yield run
            run = []
        run.append(job)
    yield run


def _touch(connection: sqlite3.Connection) -> None:
    """Write a page as it was: SQLite does not compare."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version = {version}")


def _replace(job: _Job, error: Exception) -> bool:
    """Put what is to be written instead into a write that fails; False where there is nothing."""
    instead = job.write.stand_in()
    if instead is None:
        return False
    logger.error("a write failed with %s; what stands in for it is written", type(error).__name__)
    job.write = instead
    return True


def _fail(job: _Job, error: Exception) -> None:
    """A bug in one write: it is left out, and told to whoever waits for it."""
    logger.error("a write failed with %s and was left out", type(error).__name__)
    job.result, job.error = None, DatabaseError(str(error)) if isinstance(error, sqlite3.Error) else error


def _ignore(_: object) -> None:
    """What nobody listens for."""


def _resolve(job: _Job) -> None:
    future = job.future
    if future is None or future.done():
        return
    if job.error is None:
        future.set_result(job.result)
    else:
        future.set_exception(job.error)


def _refuse(job: _Job) -> None:
    job.result, job.error = None, unavailable()
    _resolve(job)


def _is_unavailable(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNAVAILABLE


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _open_for_writing(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < _LEAST_SQLITE:
        least = ".".join(map(str, _LEAST_SQLITE))
        raise sqlite3.NotSupportedError(f"SQLite {least} is needed; this Python brings {sqlite3.sqlite_version}")
    keep_private(path)
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        let_it_shrink(connection)
        _switch_to_wal(connection, busy_timeout_s)
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # checkpoints wait for the disk: see _copy
        connection.execute("PRAGMA busy_timeout = 0")  # so does another process's lock: see _begin
        connection.execute("PRAGMA synchronous = NORMAL")  # and so does what must be on the disk: see _burst
    except BaseException:
        connection.close()
        raise
    return connection


def _switch_to_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Try for a while: two processes that open a fresh database at once get in each other's way without any waiting."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_unavailable(error) or time.monotonic() >= deadline_s:
                raise
            time.sleep(0.01)
