"""Which engine a data folder's database is on: the one place that says so."""

from pathlib import Path

from mcp_gateway.core.store.database import GatewayDatabase
from mcp_gateway.core.store.sqlite.database import SqliteDatabase


def database_in(folder: Path) -> GatewayDatabase:
    """The folder's own, there or not."""
    return SqliteDatabase(folder)
