"""Accounts: who keys belong to and money is kept for; their own limits bound all of their keys together."""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.own_limits import (
    LIMIT_NAMES,
    Limit,
    OwnLimits,
    assignments_of,
    limits_from,
)
from mcp_gateway.core.text import check_one_line, shown

LIMITS_OF = "limits_of_"
"""Before an account's id, for note_change: of what all its keys may use together, which changes none of them."""
_COLUMNS = f"id, name, created_at_ms, is_active, {', '.join(LIMIT_NAMES)}"


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    name: str
    created_at_ms: int
    is_active: bool
    limits: OwnLimits


class Accounts:
    """All accounts; changes are noticed by a server that runs beside."""

    def __init__(self, store: Engine, *, new_id: Callable[[str], str], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._new_id = new_id
        self._now_ms = now_ms

    async def create(self, name: str) -> Account:
        """Raises GatewayError `invalid_value` for a name that is no line of text."""
        check_one_line(name, "name")
        account = Account(self._new_id("acc"), name, self._now_ms(), True, OwnLimits())

        def work(connection: sqlite3.Connection) -> Account:
            row = (account.id, account.name, account.created_at_ms)
            connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES (?, ?, ?)", row)
            return account

        return await self._store.write(work)

    async def list(self) -> "list[Account]":
        """All accounts, the oldest first; the guests' is the first."""
        rows = await self._store.fetch_all(f"SELECT {_COLUMNS} FROM accounts ORDER BY created_at_ms, id")
        return [_account(row) for row in rows]

    async def get(self, account_id: str) -> Account:
        """Raises GatewayError `not_found`."""
        row = await self._store.fetch_one(f"SELECT {_COLUMNS} FROM accounts WHERE id = ?", (account_id,))
        if row is None:
            raise _unknown(account_id)
        return _account(row)

    async def set_active(self, account_id: str, *, is_active: bool) -> None:
        """Switch an account's keys off or on. Raises GatewayError `not_found`."""

        await self._change(account_id, account_id, {"is_active = ?": is_active})

    async def set_limits(self, account_id: str, limits: Mapping[str, Limit]) -> None:
        """Set those of an account's own limits that are given, one at least; others stay as they are by then.

        Raises GatewayError `not_found`, `conflict` for the guests'.
        """
        if account_id == GUEST_ACCOUNT_ID:
            raise GatewayError("conflict", "What guests may use is set in the configuration, under [guests].")
        await self._change(account_id, LIMITS_OF + account_id, assignments_of(limits))

    async def _change(self, account_id: str, changed_id: str, assignments: Mapping[str, int | None]) -> None:
        sql = f"UPDATE accounts SET {', '.join(assignments)} WHERE id = ?"

        def work(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(sql, (*assignments.values(), account_id))
            note_change(connection, changed_id)
            return bool(changed.rowcount)

        if not await self._store.write(work):
            raise _unknown(account_id)


def note_change(connection: sqlite3.Connection, changed_id: str) -> None:
    """Tell a running server to look at a key or an account again, in the transaction that changes it."""
    connection.execute("INSERT OR REPLACE INTO identity_changes (changed_id) VALUES (?)", (changed_id,))


def _unknown(account_id: str) -> GatewayError:
    message = f"There is no account '{shown(account_id)}'; `mcp-gateway accounts list` shows them."
    return GatewayError("not_found", message)


def _account(row: tuple[Any, ...]) -> Account:
    account_id, name, created_at_ms, is_active, *limits = row
    return Account(account_id, name, created_at_ms, bool(is_active), limits_from(limits))
