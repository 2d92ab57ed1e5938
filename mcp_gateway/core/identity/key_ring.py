"""All API keys, in the database: made, shown once, kept as SHA-256 alone. Holds none in memory."""

import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID, SCOPES, KeyScope
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import LIMITS_OF, note_change
from mcp_gateway.core.identity.keys import (
    LIVE_PREFIX,
    TEST_PREFIX,
    TEST_SCOPES,
    Key,
    Maker,
    State,
    binding,
    digest_of,
    refusal,
)
from mcp_gateway.core.identity.own_limits import (
    LIMIT_NAMES,
    Limit,
    OwnLimits,
    assignments_of,
    limits_from,
    stored_limits,
)
from mcp_gateway.core.text import check_one_line, shown

_SHOWN_CHARACTERS = len(LIVE_PREFIX) + 4
_YEAR_10000_MS = 253_402_300_800_000
"""No calendar goes further."""

_MOST_MAKERS = 8
"""With other limits each, before a key: every request of it is counted by all of them."""
_MAKERS = f"""
CASE WHEN made_by IS NULL THEN '[]' ELSE (
    WITH RECURSIVE line (maker_id) AS (
        SELECT key_rights.made_by
        UNION ALL SELECT rights.made_by FROM line JOIN key_rights AS rights ON rights.key_id = maker_id
        WHERE rights.made_by IS NOT NULL
    )
    SELECT json_group_array(json_array(maker_id, {", ".join(f"maker.{name}" for name in LIMIT_NAMES)}))
    FROM line CROSS JOIN keys AS maker ON maker.id = maker_id
) END
"""
_MAKERS_AMONG = """
WITH RECURSIVE line (made_id, maker_id) AS (
    SELECT value, made_by FROM json_each(?) JOIN key_rights ON key_id = value WHERE made_by IS NOT NULL
    UNION ALL SELECT made_id, made_by FROM line JOIN key_rights ON key_id = maker_id WHERE made_by IS NOT NULL
)
SELECT made_id, maker_id FROM line
"""
_KEY_COLUMNS = (
    "keys.id, account_id, prefix, keys.name, is_test, keys.created_at_ms, revoked_at_ms, scopes, expires_at_ms, "
    f"made_by, {_MAKERS}, is_active, {', '.join(f'keys.{name}' for name in LIMIT_NAMES)}"
)
_SELECT = f"""
SELECT {_KEY_COLUMNS} FROM keys
JOIN accounts ON accounts.id = account_id LEFT JOIN key_rights ON key_id = keys.id
"""
_CONDITIONS: dict[State, str] = {
    "live": "revoked_at_ms IS NULL AND (expires_at_ms IS NULL OR expires_at_ms > :now_ms)",
    "revoked": "revoked_at_ms IS NOT NULL AND (expires_at_ms IS NULL OR revoked_at_ms < expires_at_ms)",
    "expired": "expires_at_ms <= COALESCE(revoked_at_ms, :now_ms)",
}
_LIVE_KEYS_MADE = f"""
WITH RECURSIVE made (made_id) AS (
    SELECT key_id FROM key_rights WHERE made_by = :key_id
    UNION SELECT key_id FROM key_rights JOIN made ON made_by = made_id
)
SELECT made_id FROM made JOIN keys ON keys.id = made_id JOIN key_rights ON key_id = made_id WHERE {_CONDITIONS["live"]}
"""
_LIMITS = f"SELECT {', '.join(LIMIT_NAMES)} FROM keys WHERE id = ?"
_HIGHEST = (f"CASE WHEN MIN(live.{name}) < 0 THEN -1 ELSE MAX(live.{name}) END" for name in LIMIT_NAMES)
_ACCOUNT_LIMITS = f"""
SELECT {", ".join(f"accounts.{name}" for name in LIMIT_NAMES)}, {", ".join(_HIGHEST)} FROM accounts LEFT JOIN (
    SELECT keys.* FROM keys LEFT JOIN key_rights ON key_id = keys.id
    WHERE account_id = :account_id AND {_CONDITIONS["live"]}
) AS live WHERE accounts.id = :account_id GROUP BY accounts.id
"""
_EXPIRY = "(SELECT expires_at_ms FROM key_rights WHERE key_id = keys.id)"
_END = f"UPDATE keys SET revoked_at_ms = MIN(?1, COALESCE({_EXPIRY}, ?1)) WHERE id = ?2 AND revoked_at_ms IS NULL"
_NOTE_EXPIRED = (
    f"UPDATE keys SET revoked_at_ms = {_EXPIRY} WHERE account_id = ? AND revoked_at_ms IS NULL AND {_EXPIRY} <= ?"
)
"""Notes the end of expired keys where that of revoked ones stands, so that an account's live keys are counted alone."""


class KeysPerAccount(NamedTuple):
    """How many keys one account may have that are valid, and how many it may make in a UTC day, ended ones included."""

    live: int
    a_day: int


class AccountLimits(NamedTuple):
    """An account's own limits, and the highest that any of its live keys sets (DEFAULT: none of them sets one)."""

    own: OwnLimits
    highest: OwnLimits


class Changes(NamedTuple):
    """The ids of keys and accounts that have changed, and the number of the last change."""

    number: int
    ids: frozenset[str]


class KeyRing:
    """All keys."""

    def __init__(
        self, store: Engine, *, new_id: Callable[[str], str], now_ms: Callable[[], int], most: KeysPerAccount
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

    async def makers_among(self, key_ids: Iterable[str]) -> Sequence[tuple[str, str]]:
        """Each of these keys that a key made, with that one and with each that stands before it."""
        rows = await self._store.fetch_all(_MAKERS_AMONG, (orjson.dumps(list(key_ids)).decode(),))
        return [(made_id, maker_id) for made_id, maker_id in rows]

    async def account_limits(self, account_id: str) -> AccountLimits:
        """Raises GatewayError `not_found`."""
        values = {"account_id": account_id, "now_ms": self._now_ms()}
        row = await self._store.fetch_one(_ACCOUNT_LIMITS, values)
        if row is None:
            raise GatewayError("not_found", f"There is no account '{shown(account_id)}'.")
        return AccountLimits(limits_from(row[: len(LIMIT_NAMES)]), limits_from(row[len(LIMIT_NAMES) :]))

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
        conditions = ["account_id = :account_id"]
        if before_id is not None:
            conditions.append("keys.id < :before_id")
        if state is not None:
            conditions.append(_CONDITIONS[state])
        sql = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY keys.id DESC LIMIT :limit"
        values = {"account_id": account_id, "before_id": before_id, "limit": limit, "now_ms": self._now_ms()}
        return [_key(row) for row in await self._store.fetch_report(account_id, sql, values)]

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
        limits: OwnLimits | None = None,
        scopes: Collection[KeyScope] | None = None,
        expires_at_ms: int | None = None,
        made_by: str | None = None,
        before: Callable[[sqlite3.Connection, Key], None] | None = None,
    ) -> tuple[Key, str]:
        """A new key and its raw text, which is not kept and cannot be shown again.

        It has all scopes where none are named, a test key `inference` alone. `before` writes in the same transaction,
        ahead of the key. Raises GatewayError: `not_found` for an unknown account, `conflict` for the guests' and where
        it has as many keys as it may, `requests_per_day` where it has made so many today, `invalid_value` for a name
        that is no line of text, scopes that a test key cannot have or a time that is past, 401 and 403 where `made_by`
        is not valid now.
        """
        check_one_line(name, "name")
        if account_id == GUEST_ACCOUNT_ID:
            raise GatewayError("conflict", "Guests are served without keys; make an account for whoever needs one.")
        raw = (TEST_PREFIX if is_test else LIVE_PREFIX) + secrets.token_urlsafe(32)
        now_ms = self._now_ms()
        key = Key(
            self._new_id("key"), account_id, raw[:_SHOWN_CHARACTERS], name, is_test, now_ms, None,
            limits or OwnLimits(), _scopes_of(scopes, is_test=is_test), _later(expires_at_ms, now_ms), made_by,
        )  # fmt: skip

        def work(connection: sqlite3.Connection) -> Key:
            makers = () if made_by is None else self._makers_from(connection, made_by)
            self._check_room(connection, account_id)
            if before is not None:
                before(connection, key)
            _insert(connection, key, digest_of(raw))
            note_change(connection, LIMITS_OF + account_id)
            return replace(key, makers=makers)

        return await self._store.write(work), raw

    async def change(
        self,
        key_id: str,
        *,
        name: str | None = None,
        limits: Mapping[str, Limit] | None = None,
        check: Callable[[OwnLimits], None] | None = None,
    ) -> Key:
        """Rename a key, or set those of its limits that are given; others stay as they are by then, whoever set them.

        `check` is called with the limits as they are by then, and raises where these must not be set. Raises
        GatewayError `not_found`, `invalid_value`, and what `check` raises.
        """
        check_one_line(name or "", "name")
        await self.get(key_id)
        changed = assignments_of(limits or {})

        def work(connection: sqlite3.Connection) -> None:
            if check is not None:
                check(limits_from(connection.execute(_LIMITS, (key_id,)).fetchone()))
            if name is not None:
                connection.execute("UPDATE keys SET name = ? WHERE id = ?", (name, key_id))
            if changed:
                connection.execute(f"UPDATE keys SET {', '.join(changed)} WHERE id = ?", (*changed.values(), key_id))
            _note_change(connection, key_id)

        return await self._changed(key_id, work)

    async def revoke(self, key_id: str) -> Key:
        """Make a key useless for good; one that has ended stays as it is. Raises GatewayError `not_found`."""
        await self.get(key_id)
        return await self._changed(key_id, lambda connection: self._end(connection, [key_id]))

    async def revoke_with_made(self, key_id: str) -> tuple[Key, int]:
        """As `revoke`, and so each key that it made, or that one of those made; returns how many these were."""
        await self.get(key_id)
        await self._store.write(lambda connection: self._end(connection, [key_id]))
        count = 0
        while made := await self._live_keys_made(key_id):  # by one that was revoked only now, perhaps
            await self._store.write(partial(self._end, key_ids=made))
            count += len(made)
        return await self._told(key_id), count

    async def _live_keys_made(self, key_id: str) -> Sequence[str]:
        """Walked on the reader: a key may have made very many that have ended long ago."""
        values = {"key_id": key_id, "now_ms": self._now_ms()}
        return [row[0] for row in await self._store.fetch_all(_LIVE_KEYS_MADE, values)]

    def _end(self, connection: sqlite3.Connection, key_ids: Iterable[str]) -> None:
        for key_id in key_ids:
            connection.execute(_END, (self._now_ms(), key_id))
            _note_change(connection, key_id)

    async def _changed(self, key_id: str, work: Callable[[sqlite3.Connection], None]) -> Key:
        await self._store.write(work)
        return await self._told(key_id)

    async def _told(self, key_id: str) -> Key:
        """A key that was changed, once those that listen have heard of it."""
        for listener in self._on_change:
            await listener()
        return await self.get(key_id)

    def _makers_from(self, connection: sqlite3.Connection, key_id: str) -> tuple[Maker, ...]:
        """The makers of a key that this one makes. Raises GatewayError.

        A key that ended while its request was read makes no other, nor does the last of a long line.
        """
        row = connection.execute(f"{_SELECT} WHERE keys.id = ?", (key_id,)).fetchone()
        maker = None if row is None else _key(row)
        code = "invalid_api_key" if maker is None else maker.fault_at(self._now_ms())
        if maker is None or code is not None:
            raise refusal(code or "invalid_api_key")
        makers = Maker(maker.id, maker.limits), *maker.makers
        if len(binding(makers)) > _MOST_MAKERS:
            message = f"This key is the last in a line of {_MOST_MAKERS + 1}, each with other limits; it makes no more."
            raise GatewayError("conflict", message)
        return makers

    def _check_room(self, connection: sqlite3.Connection, account_id: str) -> None:
        if not connection.execute("SELECT 1 FROM accounts WHERE id = ?", (account_id,)).fetchone():
            raise GatewayError("not_found", f"There is no account '{shown(account_id)}'.")
        now_ms = self._now_ms()
        connection.execute(_NOTE_EXPIRED, (account_id, now_ms))
        sql = "SELECT COUNT(*) FROM keys WHERE account_id = ? AND revoked_at_ms IS NULL"
        if connection.execute(sql, (account_id,)).fetchone()[0] >= self._most.live:
            raise GatewayError("conflict", f"This account has {self._most.live} keys already; revoke one first.")
        day_ms = now_ms - now_ms % DAY_MS
        sql = "SELECT COUNT(*) FROM keys WHERE account_id = ? AND created_at_ms >= ?"
        if connection.execute(sql, (account_id, day_ms)).fetchone()[0] >= self._most.a_day:
            message = f"This account has made {self._most.a_day} keys today, revoked ones included."
            raise GatewayError("requests_per_day", message, retry_after_s=(day_ms + DAY_MS - now_ms) // 1000 + 1)


def _note_change(connection: sqlite3.Connection, key_id: str) -> None:
    """Of a key, and so perhaps of what its account may use."""
    note_change(connection, key_id)
    ((account_id,),) = connection.execute("SELECT account_id FROM keys WHERE id = ?", (key_id,))
    note_change(connection, LIMITS_OF + account_id)


def _key(row: tuple[Any, ...]) -> Key:
    key_id, account_id, prefix, name, is_test, created_at_ms, ended_at_ms, scopes, expires_at_ms, made_by, *rest = row
    makers, is_active, *limits = rest
    has_expired = expires_at_ms is not None and ended_at_ms is not None and ended_at_ms >= expires_at_ms
    return Key(
        key_id, account_id, prefix, name, bool(is_test), created_at_ms, None if has_expired else ended_at_ms,
        limits_from(limits), _read_scopes(scopes, bool(is_test)), expires_at_ms, made_by,
        tuple(Maker(maker_id, limits_from(own)) for maker_id, *own in orjson.loads(makers)), bool(is_active),
    )  # fmt: skip


def _insert(connection: sqlite3.Connection, key: Key, digest: bytes) -> None:
    row = (key.id, key.account_id, digest, key.prefix, key.name, key.is_test, key.created_at_ms, None)
    connection.execute(
        "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, *stored_limits(key.limits))
    )
    rights = (key.id, " ".join(sorted(key.scopes)), key.expires_at_ms, key.made_by)
    connection.execute("INSERT INTO key_rights VALUES (?, ?, ?, ?)", rights)


def _scopes_of(asked: Collection[KeyScope] | None, *, is_test: bool) -> frozenset[KeyScope]:
    """A new key's scopes. Raises GatewayError `invalid_value` for those that a test key cannot have."""
    if is_test and asked is not None and set(asked) != TEST_SCOPES:
        raise GatewayError("invalid_value", "A test key has the scope `inference` alone.", param="scopes")
    return _read_scopes(None, is_test) if asked is None else frozenset(asked)


def _read_scopes(stored: str | None, is_test: bool) -> frozenset[KeyScope]:
    if stored is None:
        return TEST_SCOPES if is_test else frozenset(SCOPES)
    return frozenset(scope for scope in SCOPES if scope in stored.split(" "))


def _later(expires_at_ms: int | None, now_ms: int) -> int | None:
    if expires_at_ms is not None and not now_ms < expires_at_ms < _YEAR_10000_MS:
        message = "`expires_at` must be in the future, and before the year 10000."
        raise GatewayError("invalid_value", message, param="expires_at")
    return expires_at_ms
