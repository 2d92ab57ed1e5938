"""The writer's session: who else writes waits, who was cut off is known to have ended, and a lost answer is asked for.

All writes of all processes on a database go one after the other, as executors need it that read before they change
anything; each commit notes its number in the same transaction, in a row that is also who this writer is. A replica
lives while its session has the lock of its row, and for a grace after its last commit: a connection that is cut is no
end. Whose row was declared over meanwhile goes on as another.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from mcp_gateway.core.store.postgres.batches import RequestBatch
from mcp_gateway.core.store.postgres.faults import TakenOver, is_gone
from mcp_gateway.core.store.postgres.link import PostgresLink, Where

T = TypeVar("T")

LOCKS = 1_835_231_079
"""The first number of the gateway's advisory locks: "mcpg"; the second says which."""
WRITING, SERVING, MIGRATING, ELECTED = 1, 2, 3, 4
_SESSIONS = LOCKS + 1
"""The same of the locks of sessions, by their writer's id."""
BEAT_S = 5.0
"""How often a replica that has nothing to write commits all the same."""
GRACE_S = 15
"""For how long after its last commit a replica without a session is not taken for dead."""
DECLARE_OVER = f"""
UPDATE writers SET is_over = TRUE WHERE id IN (
    SELECT id FROM writers WHERE NOT is_over AND is_replica AND id <> ? AND CASE
        WHEN at < now() - make_interval(secs => ?) THEN pg_try_advisory_xact_lock({_SESSIONS}, (id % 2147483648)::int)
        ELSE FALSE
    END
) RETURNING id
"""
"""Of replicas without a session for so many seconds, by another; none comes back while the transaction lasts."""
DECLARE_ENDED = f"""
UPDATE writers SET is_over = TRUE
WHERE id = ? AND is_replica AND pg_try_advisory_xact_lock({_SESSIONS}, (id % 2147483648)::int) RETURNING id
"""
"""The same of one whose process is known to have ended."""
REPLICAS = f"""
SELECT id FROM writers WHERE is_replica AND NOT is_over AND (at > now() - interval '{GRACE_S} s' OR EXISTS (
    SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = {_SESSIONS} AND objid = id % 2147483648
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)) ORDER BY id
"""
"""Those that nobody may take for dead."""
END_ALL = "UPDATE writers SET is_over = TRUE WHERE is_replica; DELETE FROM allotments"
"""The same of all, by whoever has the lock of all that serve."""
ANY_MAY_LIVE = f"""
SELECT 1 FROM writers WHERE is_replica AND NOT is_over AND at > now() - interval '{GRACE_S} s' LIMIT 1
"""
"""Whether a replica that has lost its session just now may come back."""
WRITES = {
    "lock_timeout": "500ms",
    "statement_timeout": "2s",
    "idle_in_transaction_session_timeout": "5s",
    "client_connection_check_interval": "100ms",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "synchronous_commit": "on",
    "jit": "off",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
}
"""A machine that is gone without a word has its session, and so its locks, for some 14 s."""
_ANSWER_S = 1.5
"""Whoever is refused is to be told so within 2.5 s, however long the server is silent."""
_PATIENT_S = 600.0
_LOOKS_S = (0.0, 0.01, 0.02)
_LOCKED = """
WITH free AS (SELECT account_id FROM wallets WHERE account_id = ANY (CAST(?1 AS text[])) FOR NO KEY UPDATE SKIP LOCKED)
SELECT account_id FROM wallets WHERE account_id = ANY (CAST(?1 AS text[])) AND account_id NOT IN (SELECT * FROM free)
"""


class WriterSession:
    """Used as its link is."""

    def __init__(
        self,
        url: str,
        *,
        is_server: bool,
        is_shared: bool = False,
        lock_timeout_ms: int | None = None,
        fsynced: Callable[[float], None] | None = None,
    ) -> None:
        """A server that `is_shared` lets others serve beside it, which do so too.

        `fsynced` is told how many seconds each commit took that was answered once it was on the disk.
        """
        more = {} if lock_timeout_ms is None else {"lock_timeout": f"{lock_timeout_ms}ms"}
        self.link = PostgresLink(Where(url, _ANSWER_S, WRITES | more))
        self.is_server = is_server
        self._is_shared = is_shared
        self.name = secrets.token_hex(8)
        """By which its process knows what it has announced itself, and which rows of writers are its own."""
        self._id: int | None = None
        self._numbered_by: int | None = None
        """The row that the last batch was numbered in."""
        self._batch = 0
        self._committed = 0
        """The last batch that is known to be committed by its row: a database without it has lost what came after."""
        self._fsynced = fsynced
        self._is_durable = True
        self._process_id: int | None = None
        self.is_patient = False
        """Whether statements may take long, of a batch that reads much."""
        self.is_anew = False
        """Whether this replica was taken for dead since the last commit, and is another one from now on."""

    @property
    def replica(self) -> int | None:
        """Which of the servers on the database it is; None where it is the only one, or a command."""
        return self._id if self.is_server and self._is_shared else None

    def open(self) -> None:
        """Connect, where there is no connection. Raises what `faults.py` names."""
        if self.link.is_open:
            return
        self.link.connect()
        try:
            self._take_locks()
        except BaseException:
            self.link.drop()
            raise
        self._process_id = self.link.process_id

    def begin(self, *, is_durable: bool) -> None:
        """Open the transaction of the next batch, once nobody else writes."""
        self._batch += 1
        later = "" if is_durable else "SET LOCAL synchronous_commit TO off;"
        self._is_durable = is_durable
        self.is_patient = False
        self.link.in_transaction = True
        self.link.script(f"BEGIN; {later} SELECT pg_advisory_xact_lock({LOCKS}, {WRITING})")

    def be_patient(self) -> None:
        """What follows in this transaction may read much."""
        self.is_patient = True
        self.link.patient(_PATIENT_S)
        self.link.script(f"SET LOCAL statement_timeout TO {int(_PATIENT_S * 1000)}")

    def commit(self) -> None:
        """With its number. Raises where it is not known to have happened, or has not."""
        self._numbered_by = self._id
        number = f"UPDATE writers SET batch = {self._batch}, at = now() WHERE id = {self._id}"
        began_s = time.perf_counter()
        self.link.script(f"{number}; COMMIT")
        self._note_commit(began_s, is_durable=self._is_durable)
        self._committed = self._batch
        self.link.in_transaction = False
        self.is_anew = False
        self._rest()

    def run_alone(self, batch: RequestBatch, *, is_durable: bool) -> Sequence[object] | None:
        """A batch that is its whole transaction, with its number, in one trip; what it tells, None where it leaves it.

        Writers of such go side by side: each locks what it changes, in the same order.
        """
        assert self._id is not None
        self._batch += 1
        self._numbered_by = self._id
        is_replica = self.replica is not None
        began_s = time.perf_counter()
        facts = batch.run_alone(self._id, self._batch, is_durable=is_durable, is_replica=is_replica)
        if facts is not None:
            self._note_commit(began_s, is_durable=is_durable)
            self._committed = self._batch
        return facts

    def locked_wallets(self, accounts: Iterable[str]) -> frozenset[str]:
        """Those of these that somebody else has locked for longer than another writer's batch takes."""
        locked = frozenset(accounts)
        for pause_s in _LOOKS_S:
            if locked:
                self.link.pause(pause_s)
                locked = frozenset(one for (one,) in self.link.execute(_LOCKED, (sorted(locked),)))
        return locked

    def as_of_now(self, read: Callable[[], T]) -> T:
        """What is read as of one moment, between two batches."""
        try:
            self.link.script("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = read()
            self.link.script("ROLLBACK")
        except BaseException:
            self.link.drop()
            raise
        return found

    def notify(self, channel: str, text: str) -> None:
        """In a transaction of its own: one that notifies holds up the commits of all others that do."""
        self.link.execute("SELECT pg_notify(?, ?)", (channel, text))

    def roll_back(self) -> None:
        """As far as there is a connection to do so."""
        if self.link.in_transaction and self.link.is_open:
            try:
                self.link.script("ROLLBACK")
            except Exception:  # noqa: BLE001 - with the connection its transaction ends, too
                self.link.drop()
        self.link.in_transaction = False
        self._rest()

    def give_up(self, error: BaseException) -> None:
        """The connection, where that error says that it is of no more use."""
        if is_gone(error):
            self.link.drop()

    def has_committed(self) -> bool:
        """Whether the batch did that was numbered last: no session is left that could still do so."""
        asked = f"SELECT batch FROM writers WHERE id = {self._numbered_by} AND name = ?"
        row = self.link.execute(asked, (self.name,)).fetchone()
        return row is not None and row[0] >= self._batch

    def close(self) -> None:
        if self.link.is_open and self._id is not None:
            try:
                allotted = f"DELETE FROM allotments WHERE replica = {self._id};" if self.replica is not None else ""
                self.link.script(f"{allotted} DELETE FROM writers WHERE id = {self._id}")
            except Exception as error:  # noqa: BLE001 - a row is left, which another writer deletes
                self.give_up(error)
        self.link.close()

    def _note_commit(self, began_s: float, *, is_durable: bool) -> None:
        if is_durable and self._fsynced is not None:
            self._fsynced(time.perf_counter() - began_s)

    def _rest(self) -> None:
        if self.is_patient:
            self.link.patient(None)
            self.is_patient = False

    def _take_locks(self) -> None:
        if self._id is None:
            self.link.script("DELETE FROM writers WHERE at < now() - interval '30 days'")
            self._be_another()
        elif self._is_over() is None:
            self._be_anew()
        elif not self._has_own():
            self._end_former()
            raise TakenOver("an earlier session of this writer has not ended yet")
        elif self._is_over() is not False:
            self._unlock()  # so that others may take it for dead
            self._be_anew()
        if self.is_server and not self._serves():
            raise TakenOver("another gateway serves from this database; only one may, unless all share it")

    def _be_anew(self) -> None:
        self._be_another()
        self.is_anew = True

    def _be_another(self) -> None:
        made = "INSERT INTO writers (batch, is_replica, name) VALUES (0, ?, ?) RETURNING id"
        self._id = int(self.link.execute(made, (self.is_server and self._is_shared, self.name)).fetchone()[0])
        self._committed = 0
        if not self._has_own():
            raise TakenOver("another session has the lock of a row that was just made")

    def _has_own(self) -> bool:
        assert self._id is not None
        return self._try("pg_try_advisory_lock", _SESSIONS, self._id % 2**31)

    def _unlock(self) -> None:
        assert self._id is not None
        self.link.execute(f"SELECT pg_advisory_unlock({_SESSIONS}, {self._id % 2**31})")

    def _is_over(self) -> bool | None:
        """Also where the database has lost commits, and so may have allotted other things than are known here.

        None where it does not know this writer, as one that took another's place: its number may be somebody's.
        """
        asked = f"SELECT is_over OR batch < {self._committed} FROM writers WHERE id = {self._id} AND name = ?"
        row = self.link.execute(asked, (self.name,)).fetchone()
        return None if row is None else bool(row[0])

    def _serves(self) -> bool:
        return self._try(f"pg_try_advisory_lock{'_shared' if self._is_shared else ''}", LOCKS, SERVING)

    def _try(self, lock: str, first: int, second: int) -> bool:
        (is_ours,) = self.link.execute(f"SELECT {lock}({first}, {second})").fetchone()
        return bool(is_ours)

    def _end_former(self) -> None:
        if self._process_id is not None:
            self.link.execute(f"SELECT pg_terminate_backend({self._process_id})")
