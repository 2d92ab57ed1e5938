"""Which engine a gateway's database is on: the one place that says so."""

from pathlib import Path

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.store.database import GatewayDatabase
from mcp_gateway.core.store.sqlite.database import SqliteDatabase

_PACKAGES = ("asyncpg", "greenlet")
_MISSING = "GATEWAY_DATABASE_URL names PostgreSQL, for which {} is needed: pip install 'mcp-gateway[postgres]'"


def database_in(folder: Path, url: str | None = None, is_shared: bool = False) -> GatewayDatabase:
    """The one at `url`, which servers may share; or else the folder's own. There or not.

    Raises DatabaseError where a package is missing.
    """
    if url is None:
        return SqliteDatabase(folder)
    try:
        from mcp_gateway.core.store.postgres.database import PostgresDatabase  # noqa: PLC0415 - its driver is an extra
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise DatabaseError(_MISSING.format(error.name)) from None
    return PostgresDatabase(folder, url, is_shared=is_shared)
