"""API keys: made, shown once, kept as SHA-256 alone, and resolved from memory.

A running server holds all keys in memory and looks every half second whether another process changed any.
"""

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from hashlib import sha256
from typing import Final, Literal

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import raise_epoch
from mcp_gateway.core.store.store import Row, Store

logger = logging.getLogger(__name__)

LIVE_PREFIX = "gw_live_"
TEST_PREFIX = "gw_test_"
_SHOWN_CHARACTERS = len(LIVE_PREFIX) + 4
_WATCH_INTERVAL_S = 0.5


class Default(Enum):
    """The limit that the configuration gives to keys which set none of their own."""

    DEFAULT = "default"


DEFAULT: Final = Default.DEFAULT
Limit = int | None | Literal[Default.DEFAULT]
"""A number; None for no limit; DEFAULT."""

_NO_LIMIT_IN_DATABASE = -1


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """A key's own limits; see Allowance for their meaning."""

    requests_per_minute: Limit = DEFAULT
    requests_per_day: Limit = DEFAULT
    tokens_per_minute: Limit = DEFAULT
    in_flight: Limit = DEFAULT


LIMIT_NAMES = tuple(field.name for field in fields(KeyLimits))


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it may be shown: never the key itself, `prefix` is its first characters."""

    id: str
    account_id: str
    prefix: str
    name: str
    is_test: bool
    created_at_ms: int
    revoked_at_ms: int | None
    limits: KeyLimits
    is_account_active: bool = True


_KEY_COLUMNS = (
    "keys.id, account_id, prefix, keys.name, is_test, keys.created_at_ms, revoked_at_ms, "
    "requests_per_minute, requests_per_day, tokens_per_minute, in_flight, is_active"
)
_SELECT = f"SELECT {_KEY_COLUMNS} FROM keys JOIN accounts ON accounts.id = account_id"


class KeyRing:
    """All keys."""

    def __init__(
        self,
        store: Store,
        *,
        new_id: Callable[[str], str],
        now_ms: Callable[[], int],
        max_keys_per_account: int,
    ) -> None:
        self._store = store
        self._new_id = new_id
        self._now_ms = now_ms
        self._max_keys_per_account = max_keys_per_account
        self._keys: dict[bytes, Key] = {}
        self._epoch = -1
        self._on_close: list[Callable[[str], None]] = []

    # Asking

    def resolve(self, raw: str) -> Key:
        """The key behind a credential. Raises GatewayError (401, or 403 for a deactivated account)."""
        key = self._keys.get(sha256(raw.encode("utf-8", "surrogateescape")).digest())
        if key is None:
            raise GatewayError("invalid_api_key", "This API key is not known here.")
        if key.revoked_at_ms is not None:
            raise GatewayError("revoked_api_key", "This API key was revoked.")
        if not key.is_account_active:
            raise GatewayError("account_deactivated", "The account of this API key is switched off.")
        return key

    async def list(self, account_id: str | None = None) -> "list[Key]":
        """The keys of one account, or all of them, the oldest first; revoked ones too."""
        where = "" if account_id is None else "WHERE account_id = ?"
        rows = await self._store.fetch_all(
            f"{_SELECT} {where} ORDER BY keys.id", () if account_id is None else (account_id,)
        )
        return [_key(row) for row in rows]

    async def get(self, key_id: str) -> Key:
        """Raises GatewayError `not_found`."""
        row = await self._store.fetch_one(f"{_SELECT} WHERE keys.id = ?", (key_id,))
        if row is None:
            raise GatewayError("not_found", f"There is no key {key_id[:100]!r}.")
        return _key(row)

    # Changing

    async def create(
        self,
        account_id: str,
        *,
        name: str = "",
        is_test: bool = False,
        limits: KeyLimits | None = None,
        before: Callable[[sqlite3.Connection, Key], None] | None = None,
    ) -> tuple[Key, str]:
        """A new key and its raw text, which is not kept and cannot be shown again.

        `before` writes in the same transaction, ahead of the key. Raises GatewayError `not_found` for an unknown
        account, `conflict` where it has as many keys as it may.
        """
        raw = (TEST_PREFIX if is_test else LIVE_PREFIX) + secrets.token_urlsafe(32)
        limits = limits or KeyLimits()
        shown = raw[:_SHOWN_CHARACTERS]
        key = Key(self._new_id("key"), account_id, shown, name, is_test, self._now_ms(), None, limits)

        def work(connection: sqlite3.Connection) -> None:
            self._check_room(connection, account_id)
            if before is not None:
                before(connection, key)
            row = (key.id, account_id, sha256(raw.encode()).digest(), shown, name, is_test, key.created_at_ms, None)
            connection.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, *_stored_limits(limits))
            )
            raise_epoch(connection)

        await self._store.write(work)
        await self._reload_if_serving()
        return key, raw

    async def change(self, key_id: str, *, name: str | None = None, limits: KeyLimits | None = None) -> Key:
        """Rename a key or replace its limits. Raises GatewayError `not_found`."""
        await self.get(key_id)

        def work(connection: sqlite3.Connection) -> None:
            if name is not None:
                connection.execute("UPDATE keys SET name = ? WHERE id = ?", (name, key_id))
            if limits is not None:
                connection.execute(
                    "UPDATE keys SET requests_per_minute = ?, requests_per_day = ?, tokens_per_minute = ?, "
                    "in_flight = ? WHERE id = ?",
                    (*_stored_limits(limits), key_id),
                )
            raise_epoch(connection)

        await self._store.write(work)
        await self._reload_if_serving()
        return await self.get(key_id)

    async def revoke(self, key_id: str) -> Key:
        """Make a key useless for good; revoking it again changes nothing. Raises GatewayError `not_found`."""
        await self.get(key_id)

        def work(connection: sqlite3.Connection) -> None:
            sql = "UPDATE keys SET revoked_at_ms = ? WHERE id = ? AND revoked_at_ms IS NULL"
            connection.execute(sql, (self._now_ms(), key_id))
            raise_epoch(connection)

        await self._store.write(work)
        await self._reload_if_serving()
        return await self.get(key_id)

    def _check_room(self, connection: sqlite3.Connection, account_id: str) -> None:
        if not connection.execute("SELECT 1 FROM accounts WHERE id = ?", (account_id,)).fetchone():
            raise GatewayError("not_found", f"There is no account {account_id[:100]!r}.")
        sql = "SELECT COUNT(*) FROM keys WHERE account_id = ? AND revoked_at_ms IS NULL"
        if connection.execute(sql, (account_id,)).fetchone()[0] >= self._max_keys_per_account:
            message = f"This account has {self._max_keys_per_account} keys already; revoke one first."
            raise GatewayError("conflict", message)

    # Keeping up

    def on_close(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the id of each key that stops being valid while this process runs."""
        self._on_close.append(listener)

    async def reload(self) -> None:
        """Read all keys where any has changed."""
        epoch = await self._store.fetch_one("SELECT value FROM identity_epoch")
        assert epoch is not None
        if epoch[0] == self._epoch:
            return
        rows = await self._store.fetch_all(_SELECT.replace("SELECT ", "SELECT sha256, ", 1))
        before, self._keys = self._keys, {row[0]: _key(row[1:]) for row in rows}
        self._epoch = epoch[0]
        for digest, key in before.items():
            if _is_valid(key) and not _is_valid(self._keys.get(digest)):
                for listener in self._on_close:
                    listener(key.id)

    async def watch(self) -> None:
        """Keep up with changes of other processes, until cancelled; what is known stays while nothing can be read."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            try:
                await self.reload()
            except sqlite3.Error as error:
                logger.error("the keys could not be read: %s", error)

    async def _reload_if_serving(self) -> None:
        if self._epoch >= 0:
            await self.reload()


def _is_valid(key: Key | None) -> bool:
    return key is not None and key.revoked_at_ms is None and key.is_account_active


def _stored_limits(limits: KeyLimits) -> tuple[int | None, ...]:
    return tuple(_stored(getattr(limits, name)) for name in LIMIT_NAMES)


def _stored(limit: Limit) -> int | None:
    if limit is DEFAULT:
        return None
    return _NO_LIMIT_IN_DATABASE if limit is None else limit


def _read(stored: int | None) -> Limit:
    if stored is None:
        return DEFAULT
    return None if stored == _NO_LIMIT_IN_DATABASE else stored


def _key(row: Row) -> Key:
    key_id, account_id, prefix, name, is_test, created_at_ms, revoked_at_ms, *limits, is_active = row
    return Key(
        key_id, account_id, prefix, name, bool(is_test), created_at_ms, revoked_at_ms,
        KeyLimits(*map(_read, limits)), bool(is_active),
    )  # fmt: skip
