"""API keys: made, shown once, and kept in the database, as SHA-256 alone. Holds none in memory."""

import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from hashlib import sha256
from typing import Final, Literal, NamedTuple

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import note_change
from mcp_gateway.core.store.store import Row, Store
from mcp_gateway.core.text import check_one_line, shown

LIVE_PREFIX = "gw_live_"
TEST_PREFIX = "gw_test_"
_SHOWN_CHARACTERS = len(LIVE_PREFIX) + 4
_DAY_MS = 86_400_000


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
_CONDITIONS = {"live": "revoked_at_ms IS NULL", "revoked": "revoked_at_ms IS NOT NULL"}
_SELECT = f"SELECT {_KEY_COLUMNS} FROM keys JOIN accounts ON accounts.id = account_id"


class KeysPerAccount(NamedTuple):
    """How many keys one account may have that are valid, and how many it may make in a UTC day, ended ones included."""

    live: int
    a_day: int


class Changes(NamedTuple):
    """The ids of keys and accounts that have changed, and the number of the last change."""

    number: int
    ids: frozenset[str]


State = Literal["live", "revoked"]


class KeyRing:
    """All keys."""

    def __init__(
        self, store: Store, *, new_id: Callable[[str], str], now_ms: Callable[[], int], most: KeysPerAccount
    ) -> None:
        self._store = store
        self._new_id = new_id
        self._now_ms = now_ms
        self._most = most
        self._on_change: list[Callable[[], Awaitable[None]]] = []

    # Asking

    async def find(self, digest: bytes) -> Key | None:
        """The key with that digest, whether it is valid or not."""
        row = await self._store.fetch_one(f"{_SELECT} WHERE sha256 = ?", (digest,))
        return None if row is None else _key(row)

    async def get(self, key_id: str) -> Key:
        """Raises GatewayError `not_found`."""
        row = await self._store.fetch_one(f"{_SELECT} WHERE keys.id = ?", (key_id,))
        if row is None:
            raise GatewayError("not_found", f"There is no key '{shown(key_id)}'.")
        return _key(row)

    async def list(self, account_id: str | None = None) -> "list[Key]":
        """The keys of one account, or all of them, the oldest first; revoked ones too."""
        where = "" if account_id is None else "WHERE account_id = ?"
        rows = await self._store.fetch_all(
            f"{_SELECT} {where} ORDER BY keys.id", () if account_id is None else (account_id,)
        )
        return [_key(row) for row in rows]

    async def page(
        self, account_id: str, *, before_id: str | None, limit: int, state: State | None = None
    ) -> Sequence[Key]:
        """An account's keys, the newest first, of one state or of all, from those before `before_id` on."""
        conditions, values = ["account_id = ?"], [account_id]
        if before_id is not None:
            conditions.append("keys.id < ?")
            values.append(before_id)
        if state is not None:
            conditions.append(_CONDITIONS[state])
        sql = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY keys.id DESC LIMIT ?"
        return [_key(row) for row in await self._store.fetch_all(sql, (*values, limit))]

    async def changes_after(self, number: int) -> Changes | None:
        """Changes of keys and accounts, by whichever process; None where there are none."""
        sql = "SELECT MAX(number), json_group_array(changed_id) FROM identity_changes WHERE number > ?"
        row = await self._store.fetch_one(sql, (number,))
        return None if row is None or row[0] is None else Changes(row[0], frozenset(orjson.loads(row[1])))

    # Changing

    def on_change(self, listener: Callable[[], Awaitable[None]]) -> None:
        """Call `listener` after each change to a key that this process makes, before it is told to whoever asked."""
        self._on_change.append(listener)

    async def forget_changes(self) -> None:
        """Start the notes of changes anew: a server that starts has read nothing that could have changed since."""
        await self._store.write(lambda connection: connection.execute("DELETE FROM identity_changes"))

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
        account, `invalid_value` for a name that is no line of text, `conflict` where it has as many keys as it may,
        `requests_per_day` where it has made so many today.
        """
        check_one_line(name, "name")
        raw = (TEST_PREFIX if is_test else LIVE_PREFIX) + secrets.token_urlsafe(32)
        limits = limits or KeyLimits()
        prefix = raw[:_SHOWN_CHARACTERS]
        key = Key(self._new_id("key"), account_id, prefix, name, is_test, self._now_ms(), None, limits)

        def work(connection: sqlite3.Connection) -> None:
            self._check_room(connection, account_id)
            if before is not None:
                before(connection, key)
            row = (key.id, account_id, digest_of(raw), prefix, name, is_test, key.created_at_ms, None)
            connection.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, *_stored_limits(limits))
            )

        await self._store.write(work)
        return key, raw

    async def change(self, key_id: str, *, name: str | None = None, limits: KeyLimits | None = None) -> Key:
        """Rename a key or replace its limits. Raises GatewayError `not_found`, `invalid_value`."""
        check_one_line(name or "", "name")
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
            note_change(connection, key_id)

        return await self._changed(key_id, work)

    async def revoke(self, key_id: str) -> Key:
        """Make a key useless for good; revoking it again changes nothing. Raises GatewayError `not_found`."""
        await self.get(key_id)

        def work(connection: sqlite3.Connection) -> None:
            sql = "UPDATE keys SET revoked_at_ms = ? WHERE id = ? AND revoked_at_ms IS NULL"
            connection.execute(sql, (self._now_ms(), key_id))
            note_change(connection, key_id)

        return await self._changed(key_id, work)

    async def _changed(self, key_id: str, work: Callable[[sqlite3.Connection], None]) -> Key:
        """The key after `work`, which those that listen have heard of."""
        await self._store.write(work)
        for listener in self._on_change:
            await listener()
        return await self.get(key_id)

    def _check_room(self, connection: sqlite3.Connection, account_id: str) -> None:
        if not connection.execute("SELECT 1 FROM accounts WHERE id = ?", (account_id,)).fetchone():
            raise GatewayError("not_found", f"There is no account '{shown(account_id)}'.")
        sql = "SELECT COUNT(*) FROM keys WHERE account_id = ? AND revoked_at_ms IS NULL"
        if connection.execute(sql, (account_id,)).fetchone()[0] >= self._most.live:
            raise GatewayError("conflict", f"This account has {self._most.live} keys already; revoke one first.")
        now_ms = self._now_ms()
        day_ms = now_ms - now_ms % _DAY_MS
        sql = "SELECT COUNT(*) FROM keys WHERE account_id = ? AND created_at_ms >= ?"
        if connection.execute(sql, (account_id, day_ms)).fetchone()[0] >= self._most.a_day:
            message = f"This account has made {self._most.a_day} keys today, revoked ones included."
            raise GatewayError("requests_per_day", message, retry_after_s=(day_ms + _DAY_MS - now_ms) // 1000 + 1)


def digest_of(raw: str) -> bytes:
    """All that is kept of a credential."""
    return sha256(raw.encode("utf-8", "surrogateescape")).digest()


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
