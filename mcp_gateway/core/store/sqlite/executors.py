"""Who carries out every write and answers every read that there is."""

from mcp_gateway.core.ledger.orders import ReplicasThere
from mcp_gateway.core.store.sql.executors import EXECUTORS as OF_ANY_ENGINE
from mcp_gateway.core.store.sqlite import space
from mcp_gateway.core.store.transaction import Executors, Rows


def _replicas(_: Rows, __: ReplicasThere) -> tuple[int, ...]:
    """One process serves from a file."""
    return ()


EXECUTORS = OF_ANY_ENGINE | space.EXECUTORS | Executors(reads={ReplicasThere: _replicas})
