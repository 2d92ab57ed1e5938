"""What backends had counted, and what stands in the request log of the requests that they answered."""

from collections.abc import Sequence

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.observe.counter_samples import CounterSample, NoteSamples, SamplesBetween, ThinSamples
from mcp_gateway.core.observe.uses import BilledUse, UsesBetween
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction
from mcp_gateway.core.token_counters import TokenCounters

_COUNTERS = ", ".join(TokenCounters._fields)
_COLUMNS = f"at_ms, asked_at_ms, backend, model, run_at_ms, {_COUNTERS}, ours, others, failed_requests"
_INSERT = (
    f"INSERT INTO counter_samples ({_COLUMNS}) VALUES ({', '.join('?' * len(_COLUMNS.split(', ')))}) "
    "ON CONFLICT DO NOTHING"
)
_FORGET = "DELETE FROM counter_samples WHERE at_ms < ?"
_THIN = f"""
DELETE FROM counter_samples WHERE at_ms >= :since_ms AND at_ms < :until_ms AND (at_ms, backend, model) NOT IN (
    SELECT MAX(at_ms), backend, model FROM counter_samples WHERE at_ms >= :since_ms AND at_ms < :until_ms
    GROUP BY at_ms / {HOUR_MS}, backend, model, run_at_ms, began_at_ms
)
"""
_THINNED_AT_ONCE_MS = 2 * DAY_MS
"""The event loop waits for it: what is older was thinned in its time, or else waits to be forgotten."""
_USES = """
SELECT backend, model, started_at_ms, started_at_ms + latency_ms, prompt_tokens, completion_tokens, cached_tokens,
    http_status, error_code, policy, ended_by
FROM accounts CROSS JOIN requests ON requests.account_id = accounts.id AND requests.id >= ? AND requests.id < ?
LEFT JOIN missing_usages AS missing ON missing.account_id = requests.account_id AND missing.id = requests.id
LEFT JOIN request_counts AS counted ON counted.account_id = requests.account_id AND counted.id = requests.id
WHERE backend IS NOT NULL
"""


def _note_samples(transaction: Transaction, writes: Sequence[NoteSamples]) -> list[None]:
    transaction.execute_many(_INSERT, [_row(sample) for write in writes for sample in write.samples])
    return [None] * len(writes)


def _row(sample: CounterSample) -> Row:
    head = (sample.at_ms, sample.asked_at_ms, sample.backend, sample.model, sample.run_at_ms)
    return (*head, *sample.counters, sample.ours, sample.others, sample.failed_requests)


def _thin(transaction: Transaction, write: ThinSamples) -> None:
    transaction.execute(_FORGET, (write.kept_from_ms,))
    until_ms = write.whole_from_ms
    transaction.connection.execute(_THIN, {"since_ms": until_ms - _THINNED_AT_ONCE_MS, "until_ms": until_ms})


def _samples(rows: Rows, read: SamplesBetween) -> list[CounterSample]:
    sql = f"SELECT {_COLUMNS} FROM counter_samples WHERE at_ms >= ? AND at_ms <= ? ORDER BY at_ms, backend, model"
    return list(map(_sample, rows.all(sql, (read.since_ms, read.until_ms))))


def _sample(row: Row) -> CounterSample:
    at_ms, asked_at_ms, backend, model, run_at_ms, *counters, ours, others, failed_requests = row
    told = TokenCounters(*counters)
    return CounterSample(at_ms, asked_at_ms, backend, model, run_at_ms, told, ours, others, failed_requests)


def _uses(rows: Rows, read: UsesBetween) -> list[BilledUse]:
    return [BilledUse(*row) for row in rows.all(_USES, (read.first_id, read.before_id))]


EXECUTORS = Executors(
    alone={ThinSamples: _thin},
    together={NoteSamples: _note_samples},
    reads={SamplesBetween: _samples, UsesBetween: _uses},
)
