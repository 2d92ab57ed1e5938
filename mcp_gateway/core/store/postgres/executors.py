"""Who carries out every write and answers every read: as on any engine, but for what stands here."""

from dataclasses import replace
from typing import Any

from mcp_gateway.core.engine import Write
from mcp_gateway.core.ledger.closing import ForgetSums, KeepSums
from mcp_gateway.core.ledger.entries import (
    CatchUp,
    Departure,
    Discrepancies,
    GiveBack,
    LeaveUncharged,
    Settle,
    VerifySinceCheckpoint,
)
from mcp_gateway.core.ledger.orders import ReplicasThere
from mcp_gateway.core.observe.history import Groups, TotalsOfHours
from mcp_gateway.core.observe.hourly_sums import AddToSums
from mcp_gateway.core.observe.retention import GiveSpaceBack, Space, SpaceOf
from mcp_gateway.core.record import AddRecord
from mcp_gateway.core.store.postgres.allotments import CHECKS, spending_allotted
from mcp_gateway.core.store.postgres.allotments import EXECUTORS as OF_REPLICAS
from mcp_gateway.core.store.postgres.batches import carried_out_by
from mcp_gateway.core.store.postgres.claims import EXECUTORS as OF_CLAIMS
from mcp_gateway.core.store.postgres.orders import EXECUTORS as OF_ORDERS
from mcp_gateway.core.store.postgres.session import REPLICAS
from mcp_gateway.core.store.sql.executors import EXECUTORS as OF_ANY_ENGINE
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction

LONG: frozenset[type[Write[Any]]] = frozenset({AddToSums, CatchUp, ForgetSums, KeepSums, VerifySinceCheckpoint})
"""What may take longer than a connection that is sound is otherwise waited for."""

_OF_ANY_BOOKS = OF_ANY_ENGINE.reads[Discrepancies]
_OF_ONE_GROUPING = OF_ANY_ENGINE.reads[TotalsOfHours]


def _space(_: Rows, __: SpaceOf) -> Space:
    """PostgreSQL gives it back by itself."""
    return Space(free_pages=0, pages=0, can_shrink=False)


def _give_back(_: Transaction, __: GiveSpaceBack) -> None:
    """Nothing is to be done."""


def _replicas(rows: Rows, _: ReplicasThere) -> tuple[int, ...]:
    return tuple(replica for (replica,) in rows.all(REPLICAS))


def _totals_of_hours(rows: Rows, read: TotalsOfHours) -> list[Groups]:
    """One grouping after the other: what they are by is of different types, which no UNION takes."""
    found: list[Groups] = []
    for grouping in read.groupings:
        found += _OF_ONE_GROUPING(rows, replace(read, groupings=(grouping,)))
    return found


def _discrepancies(rows: Rows, read: Discrepancies) -> list[tuple[str, Row]]:
    """With what several servers are allotted."""
    found: list[tuple[str, Row]] = _OF_ANY_BOOKS(rows, read)
    return found + [(what, row) for what, sql in CHECKS.items() for row in rows.all(sql)]


_OF_REQUESTS = spending_allotted(carried_out_by(OF_ANY_ENGINE.together[Settle]))
EXECUTORS = (
    OF_ANY_ENGINE
    | OF_REPLICAS
    | OF_CLAIMS
    | OF_ORDERS
    | Executors(
        alone={GiveSpaceBack: _give_back},
        together={
            **dict.fromkeys((Settle, LeaveUncharged, GiveBack, Departure), _OF_REQUESTS),
            AddRecord: carried_out_by(OF_ANY_ENGINE.together[AddRecord]),
        },
        reads={
            SpaceOf: _space,
            ReplicasThere: _replicas,
            TotalsOfHours: _totals_of_hours,
            Discrepancies: _discrepancies,
        },
    )
)
