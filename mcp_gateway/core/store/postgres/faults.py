"""The errors of PostgreSQL and of the way to it: those that say "not now", and all of them as the gateway's own."""

import asyncio
import contextlib
from collections.abc import Iterator

import asyncpg

from mcp_gateway.core.engine import DatabaseError

GONE = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
)
"""Whatever of these it is, the connection is given up."""
_ENDED = ("57P01", "57P02", "57P03", "57P05")
"""The server ends, or has just begun."""
_NOT_NOW = ("08", "53", "58", "57014", "55P03", "40001", "40P01", "25006", "25P03", *_ENDED)
"""Codes, or the beginnings of such, that say: not now, for reasons outside this write."""
FAILED = (asyncpg.PostgresError, *GONE)


class TakenOver(Exception):
    """Another server works on the database, or an earlier session of this one has not ended."""


@contextlib.contextmanager
def as_database_error(what: str = "") -> Iterator[None]:
    """Raises DatabaseError for whatever a connection may raise, `what` in front of what it says itself."""
    try:
        yield
    except FAILED as error:
        raise DatabaseError(what + told(error)) from error


def is_unavailable(error: BaseException) -> bool:
    """Whether what failed may go through later."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "").startswith(_NOT_NOW)
    return isinstance(error, (*GONE, TakenOver)) and not _is_unsayable(error)


def is_gone(error: BaseException) -> bool:
    """Whether the connection is of no more use."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "").startswith(("08", *_ENDED))
    return isinstance(error, GONE) and not _is_unsayable(error)


def is_locked(error: BaseException) -> bool:
    """Whether somebody else has what it waited for."""
    return isinstance(error, asyncpg.LockNotAvailableError)


def is_answer(error: BaseException) -> bool:
    """Whether the server itself has said so, and goes on; or was not asked, since no column has such a value."""
    return (isinstance(error, asyncpg.PostgresError) and not is_gone(error)) or _is_unsayable(error)


def told(error: BaseException) -> str:
    """For the operator: a time that ran out has no words of its own."""
    return str(error) or ("it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


def _is_unsayable(error: BaseException) -> bool:
    """A parameter that is too large for its column, or of another type: nothing was sent."""
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
