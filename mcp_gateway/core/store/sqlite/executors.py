"""Who carries out every write and answers every read that there is."""

from mcp_gateway.core.store.sql.executors import EXECUTORS as OF_ANY_ENGINE
from mcp_gateway.core.store.sqlite import space

EXECUTORS = OF_ANY_ENGINE | space.EXECUTORS
