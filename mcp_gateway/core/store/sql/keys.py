"""Keys: what each may do, who made it, and how many an account has."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import chain
from operator import itemgetter

import orjson

from mcp_gateway.core.caller import SCOPES, KeyScope
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import LIMITS_OF
from mcp_gateway.core.identity.key_ring import (
    AccountLimits,
    AccountLimitsOf,
    AllKeys,
    AnyKeysPage,
    ChangeKey,
    Changes,
    ChangesAfter,
    CreateKey,
    EndedKeys,
    EndKeys,
    ForgetChanges,
    KeyByDigest,
    KeyById,
    KeyNames,
    KeysPage,
    LiveKeysMade,
    LiveMintedBy,
    MakersAmong,
    MintedKeys,
    RotateKey,
)
from mcp_gateway.core.identity.keys import (
    MOST_REPLACED,
    Key,
    KeyGrant,
    KeysPerAccount,
    Maker,
    State,
    check_line,
    check_live,
    check_lowered,
    check_made,
    check_servers,
    counted_for_ms,
    in_force,
    makers_of,
    scopes_by_default,
    servers_within,
    unknown_account,
)
from mcp_gateway.core.identity.own_limits import LIMIT_NAMES
from mcp_gateway.core.identity.particulars import NO_PARTICULARS, Particulars
from mcp_gateway.core.networks import Networks, networks_as_words, networks_in
from mcp_gateway.core.optimization import MODES, NO_DEFAULTS, RoutingDefaults
from mcp_gateway.core.store.sql.accounts import (
    IS_ATTRIBUTED,
    MARGIN,
    MAY_PROXY,
    ORIGIN,
    limits_from,
    note_change,
    set_limits,
    stored_limits,
)
from mcp_gateway.core.store.sql.budgets import end_with_keys
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction
from mcp_gateway.core.text import shown

_PLACE = itemgetter(0)
"""Of a maker in its line: an engine may join in any order."""
_MAKERS = f"""
CASE WHEN made_by IS NULL THEN '[]' ELSE (
    WITH RECURSIVE line (maker_id, place) AS (
        SELECT key_rights.made_by, 0
        UNION ALL SELECT rights.made_by, place + 1 FROM line JOIN key_rights AS rights ON rights.key_id = maker_id
        WHERE rights.made_by IS NOT NULL
    )
    SELECT json_group_array(json_array(
        place, maker_id, group_id, networks, {", ".join(f"maker.{name}" for name in LIMIT_NAMES)}
    ))
    FROM line CROSS JOIN keys AS maker ON maker.id = maker_id
    LEFT JOIN grouped_keys ON grouped_keys.key_id = maker_id
    LEFT JOIN key_particulars ON key_particulars.key_id = maker_id
) END
"""
_MAKERS_AMONG = """
WITH RECURSIVE line (made_id, maker_id) AS (
    SELECT value, made_by FROM json_each(?) JOIN key_rights ON key_id = value WHERE made_by IS NOT NULL
    UNION ALL SELECT made_id, made_by FROM line JOIN key_rights ON key_id = maker_id WHERE made_by IS NOT NULL
)
SELECT made_id, maker_id FROM line
"""
_REPLACED_UNTIL = "(SELECT MAX(ends_at_ms) FROM replaced_secrets WHERE replaced_secrets.key_id = keys.id)"
_KEY_COLUMNS = (
    "keys.id, keys.account_id, prefix, keys.name, is_test, keys.created_at_ms, revoked_at_ms, scopes, expires_at_ms, "
    f"made_by, {_MAKERS}, is_active, key_groups.id, key_groups.name, models, minted_keys.key_id IS NOT NULL, "
    f"mcp_minting_keys.key_id IS NOT NULL, labels, are_offered, model_pool, mode, tells_event, "
    f"key_particulars.networks, note, tags, {_REPLACED_UNTIL}, "
    "client_id, client_name, redirect_uri, "
    f"{', '.join(f'keys.{name}' for name in LIMIT_NAMES)}"
)
_SELECT = f"""
SELECT {_KEY_COLUMNS} FROM keys
JOIN accounts ON accounts.id = keys.account_id LEFT JOIN key_rights ON key_rights.key_id = keys.id
LEFT JOIN grouped_keys ON grouped_keys.key_id = keys.id LEFT JOIN key_groups ON key_groups.id = group_id
LEFT JOIN key_models ON key_models.key_id = keys.id
LEFT JOIN minted_keys ON minted_keys.key_id = keys.id
LEFT JOIN mcp_minting_keys ON mcp_minting_keys.key_id = keys.id
LEFT JOIN key_mcp_servers ON key_mcp_servers.key_id = keys.id
LEFT JOIN key_routing ON key_routing.key_id = keys.id
LEFT JOIN key_particulars ON key_particulars.key_id = keys.id
LEFT JOIN oauth_grants ON oauth_grants.key_id = keys.id
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
_ACCOUNT = "SELECT account_id FROM keys WHERE id = ?"
_HAVE_MADE = "SELECT 1 FROM json_each(?) CROSS JOIN key_rights ON made_by = value LIMIT 1"
_LIVE_MINTED = """
SELECT keys.id, made_by FROM keys JOIN minted_keys ON minted_keys.key_id = keys.id JOIN key_rights USING (key_id)
WHERE revoked_at_ms IS NULL AND account_id IN (SELECT account_id FROM keys JOIN json_each(?) ON keys.id = value)
"""
KEYS_WITHIN = """
WITH RECURSIVE branch (one) AS (VALUES ({}) UNION SELECT key_id FROM branch JOIN key_rights ON made_by = one)
SELECT one FROM branch
"""
"""A key and what it has made, and what that made."""
_NAMES = "SELECT id, CASE WHEN name = '' THEN prefix || '…' ELSE name END FROM keys WHERE account_id = :account_id"
_WITHIN = f"keys.id IN ({KEYS_WITHIN.format(':within')})"
_LIVE_MINTED_BY = f"""
SELECT keys.id FROM keys JOIN minted_keys ON minted_keys.key_id = keys.id JOIN key_rights ON key_rights.key_id = keys.id
WHERE keys.account_id = :account_id AND +made_by = :key_id AND {_CONDITIONS["live"]} ORDER BY keys.id DESC
"""
"""Not by the index of makers: what one has made may have ended long ago, and is far more."""
_LET_MINT = "INSERT INTO mcp_minting_keys VALUES (?) ON CONFLICT DO NOTHING"
_FORBID_MINTING = """
DELETE FROM mcp_minting_keys WHERE key_id IN (
    WITH RECURSIVE line (made_id, maker_id) AS (
        SELECT key_id, key_id FROM mcp_minting_keys
        UNION ALL SELECT made_id, made_by FROM line JOIN key_rights ON key_id = maker_id WHERE made_by IS NOT NULL
    )
    SELECT made_id FROM line WHERE maker_id = ?
)
"""
_PUT_SERVERS = """
INSERT INTO key_mcp_servers VALUES (?, ?, FALSE) ON CONFLICT (key_id) DO UPDATE SET labels = excluded.labels
"""
_OFFER_TOOLS = """
INSERT INTO key_mcp_servers VALUES (?, '', ?) ON CONFLICT (key_id) DO UPDATE SET are_offered = excluded.are_offered
"""
_SERVERS_OF_MADE = """
WITH RECURSIVE line (made_id, maker_id) AS (
    SELECT key_id, made_by FROM key_mcp_servers JOIN key_rights USING (key_id)
    JOIN keys ON id = key_id WHERE revoked_at_ms IS NULL AND account_id = ? AND made_by IS NOT NULL
    UNION ALL SELECT made_id, made_by FROM line JOIN key_rights ON key_id = maker_id WHERE made_by IS NOT NULL
)
SELECT made_id, labels FROM line JOIN key_mcp_servers ON key_id = made_id WHERE maker_id = ?
"""
"""Of all that a key has made, and what that made, but for what has ended."""
_ROUTING = "SELECT model_pool, mode, tells_event FROM key_routing WHERE key_id = ?"
_PUT_ROUTING = """
INSERT INTO key_routing VALUES (?, ?, ?, ?) ON CONFLICT (key_id) DO UPDATE SET
model_pool = excluded.model_pool, mode = excluded.mode, tells_event = excluded.tells_event
"""
_PARTICULARS = "SELECT networks, note, tags FROM key_particulars WHERE key_id = ?"
_PUT_PARTICULARS = """
INSERT INTO key_particulars VALUES (?, ?, ?, ?) ON CONFLICT (key_id) DO UPDATE SET
networks = excluded.networks, note = excluded.note, tags = excluded.tags
"""
_REPLACED = "SELECT key_id, ends_at_ms FROM replaced_secrets WHERE sha256 = ?"
_ACCESS_SHOWN = """
SELECT key_id, oauth_access_tokens.ends_at_ms, resource FROM oauth_access_tokens JOIN oauth_grants USING (key_id)
WHERE sha256 = ?
"""
_KEEP_REPLACED = "INSERT INTO replaced_secrets SELECT sha256, id, ? FROM keys WHERE id = ?"
_FORGET_ENDED = "DELETE FROM replaced_secrets WHERE key_id = :key_id AND ends_at_ms <= :at_ms"
_END_OLDEST = f"""
UPDATE replaced_secrets SET ends_at_ms = :at_ms WHERE key_id = :key_id AND sha256 NOT IN (
    SELECT sha256 FROM replaced_secrets WHERE key_id = :key_id ORDER BY ends_at_ms DESC LIMIT {MOST_REPLACED - 1}
)
"""
_END_SOONER = """
UPDATE replaced_secrets SET ends_at_ms = :old_ends_at_ms - 1 WHERE key_id = :key_id AND ends_at_ms >= :old_ends_at_ms
"""
"""A millisecond before the one that is replaced now, so that they stay in the order in which they were replaced."""
_ROTATIONS = "SELECT rotations FROM key_rotations WHERE account_id = ? AND of_minted = ? AND since_ms = ?"
_COUNT_ROTATION = """
INSERT INTO key_rotations VALUES (?, ?, ?, 1) ON CONFLICT (account_id, of_minted) DO UPDATE SET
rotations = CASE key_rotations.since_ms WHEN excluded.since_ms THEN key_rotations.rotations ELSE 0 END + 1,
since_ms = excluded.since_ms
"""
_PUT = "INSERT INTO grouped_keys VALUES (?, ?)"
_LIMITS = f"SELECT {', '.join(LIMIT_NAMES)} FROM keys WHERE id = ?"
_HIGHEST = (f"CASE WHEN MIN(live.{name}) < 0 THEN -1 ELSE MAX(live.{name}) END" for name in LIMIT_NAMES)
_ACCOUNT_LIMITS = f"""
SELECT {", ".join(f"accounts.{name}" for name in LIMIT_NAMES)}, {", ".join(_HIGHEST)}, {MARGIN}, {MAY_PROXY}, {ORIGIN},
    {IS_ATTRIBUTED}
FROM accounts LEFT JOIN (
    SELECT keys.* FROM keys LEFT JOIN key_rights ON key_id = keys.id
    WHERE account_id = :account_id AND {_CONDITIONS["live"]}
) AS live ON TRUE WHERE accounts.id = :account_id GROUP BY accounts.id
"""
_EXPIRY = "(SELECT expires_at_ms FROM key_rights WHERE key_id = keys.id)"
_END = f"""
UPDATE keys SET revoked_at_ms = MIN(?1, COALESCE({_EXPIRY}, ?1))
WHERE id IN (SELECT value FROM json_each(?2)) AND revoked_at_ms IS NULL RETURNING account_id, id
"""
_NOTE_EXPIRED = f"""
UPDATE keys SET revoked_at_ms = {_EXPIRY} WHERE account_id = ? AND revoked_at_ms IS NULL AND {_EXPIRY} <= ? RETURNING id
"""
"""Notes the end of expired keys where that of revoked ones stands, so that an account's live keys are counted alone."""


def _create(transaction: Transaction, write: CreateKey) -> Key:
    key = write.key
    maker = None if key.made_by is None else _by_id(transaction, KeyById(key.made_by))
    makers = () if key.made_by is None else makers_of(maker, key.created_at_ms)
    is_minted = maker is not None and (write.has_budget or maker.is_minted)
    check_line(_count_minted(transaction, makers))
    _check_room(transaction, write, is_minted=is_minted)
    group_id = None if write.group is None else _group_id(transaction, key.account_id, write.group)
    if write.keep is not None:
        transaction.run(write.keep)
    servers = key.mcp_servers if maker is None else servers_within(key.mcp_servers, maker.mcp_servers)
    made = replace(key, makers=makers, group_id=group_id, group=write.group, is_minted=is_minted, mcp_servers=servers)
    _insert(transaction, made, write.digest)
    _insert_beside(transaction, made)
    for behind in write.behind:
        transaction.run(behind)
    if not is_minted:  # which may use no more than its maker
        note_change(transaction, LIMITS_OF + key.account_id)
    return made


def _count_minted(rows: Rows, makers: Sequence[Maker]) -> int:
    sql = "SELECT COUNT(*) FROM json_each(?) CROSS JOIN minted_keys ON key_id = value"
    ((count,),) = rows.all(sql, (orjson.dumps([maker.key_id for maker in makers]).decode(),))
    return int(count)


def _check_room(transaction: Transaction, write: CreateKey, *, is_minted: bool) -> None:
    account_id, now_ms = write.key.account_id, write.key.created_at_ms
    if not transaction.first("SELECT 1 FROM accounts WHERE id = ?", (account_id,)):
        raise unknown_account(account_id)
    if expired := transaction.all(_NOTE_EXPIRED, (account_id, now_ms)):
        end_with_keys(transaction, account_id, [key_id for (key_id,) in expired], now_ms)
    check_live(
        write.most, _count(transaction, "revoked_at_ms IS NULL", account_id, is_minted=is_minted), is_minted=is_minted
    )
    _check_made(transaction, account_id, write.most, now_ms, is_minted=is_minted)


def _check_made(rows: Rows, account_id: str, most: KeysPerAccount, now_ms: int, *, is_minted: bool) -> None:
    since_ms = _window(now_ms, is_minted=is_minted)
    made = _count(rows, "created_at_ms >= ?", account_id, since_ms, is_minted=is_minted)
    rotated = rows.first(_ROTATIONS, (account_id, is_minted, since_ms))
    check_made(most, made + (0 if rotated is None else rotated[0]), now_ms, is_minted=is_minted)


def _window(now_ms: int, *, is_minted: bool) -> int:
    """When the one began in which keys are counted now."""
    return now_ms - now_ms % counted_for_ms(is_minted=is_minted)


def _count(rows: Rows, condition: str, *parameters: object, is_minted: bool) -> int:
    """An account's keys, those that are minted or the others."""
    is_one = f"{'' if is_minted else 'NOT '}EXISTS (SELECT 1 FROM minted_keys WHERE key_id = id)"
    row = rows.first(f"SELECT COUNT(*) FROM keys WHERE account_id = ? AND {condition} AND {is_one}", parameters)
    assert row is not None
    return int(row[0])


def _insert(transaction: Transaction, key: Key, digest: bytes) -> None:
    row = (key.id, key.account_id, digest, key.prefix, key.name, key.is_test, key.created_at_ms, None)
    transaction.execute(
        "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, *stored_limits(key.limits))
    )
    rights = (key.id, " ".join(sorted(key.scopes)), key.expires_at_ms, key.made_by)
    transaction.execute("INSERT INTO key_rights VALUES (?, ?, ?, ?)", rights)


def _insert_beside(transaction: Transaction, key: Key) -> None:
    """What few keys have, in tables of its own."""
    if key.group_id is not None:
        transaction.execute(_PUT, (key.id, key.group_id))
    if key.models is not None:
        transaction.execute("INSERT INTO key_models VALUES (?, ?)", (key.id, " ".join(sorted(key.models))))
    if key.mcp_servers:
        _put_servers(transaction, key.id, key.mcp_servers)
    if key.offers_mcp_tools:
        transaction.execute(_OFFER_TOOLS, (key.id, True))
    if key.routing != NO_DEFAULTS:
        _put_routing(transaction, key.id, key.routing)
    if key.particulars != NO_PARTICULARS:
        _put_particulars(transaction, key.id, key.particulars)
    if key.is_minted:
        transaction.execute("INSERT INTO minted_keys VALUES (?)", (key.id,))
    if key.may_mint_over_mcp:
        transaction.execute(_LET_MINT, (key.id,))


def _group_id(rows: Rows, account_id: str, name: str) -> str:
    """Raises GatewayError `not_found`."""
    found = rows.first("SELECT id FROM key_groups WHERE account_id = ? AND name = ?", (account_id, name))
    if found is None:
        message = f"This account has no group '{shown(name)}'; `mcp-gateway budgets create` makes one."
        raise GatewayError("not_found", message)
    return str(found[0])


def _change(transaction: Transaction, write: ChangeKey) -> None:
    if write.defaults is not None:
        row = transaction.first(_LIMITS, (write.key_id,))
        assert row is not None
        check_lowered(in_force(limits_from(row), write.defaults), write.limits)
    ((account_id,),) = transaction.all(_ACCOUNT, (write.key_id,))
    group_id = _group_id(transaction, account_id, write.group) if write.group else None
    if write.name is not None:
        transaction.execute("UPDATE keys SET name = ? WHERE id = ?", (write.name, write.key_id))
    if write.limits:
        set_limits(transaction, "keys", write.key_id, write.limits)
    if write.group is not None:
        transaction.execute("DELETE FROM grouped_keys WHERE key_id = ?", (write.key_id,))
    if group_id is not None:
        transaction.execute(_PUT, (write.key_id, group_id))
    _change_beside(transaction, write, account_id)
    _note_change(transaction, write.key_id)


def _change_beside(transaction: Transaction, write: ChangeKey, account_id: str) -> None:
    """What few keys have, in tables of its own."""
    if write.may_mint_over_mcp is not None:
        transaction.execute(_LET_MINT if write.may_mint_over_mcp else _FORBID_MINTING, (write.key_id,))
    if write.mcp_servers is not None:
        _change_servers(transaction, write.key_id, account_id, write.mcp_servers)
    if write.offers_mcp_tools is not None:
        transaction.execute(_OFFER_TOOLS, (write.key_id, write.offers_mcp_tools))
    if write.routing:
        row = transaction.first(_ROUTING, (write.key_id,))
        routing = NO_DEFAULTS if row is None else _routing(*row)
        _put_routing(transaction, write.key_id, routing._replace(**write.routing))
    if write.particulars:
        row = transaction.first(_PARTICULARS, (write.key_id,))
        particulars = NO_PARTICULARS if row is None else _particulars(*row)
        _put_particulars(transaction, write.key_id, particulars._replace(**write.particulars))


def _change_servers(transaction: Transaction, key_id: str, account_id: str, servers: frozenset[str]) -> None:
    """A key's, and of what it has made those that it has no more. Raises GatewayError for what its maker has not."""
    key = _by_id(transaction, KeyById(key_id))
    maker = None if key is None or key.made_by is None else _by_id(transaction, KeyById(key.made_by))
    if maker is not None:
        check_servers(servers, maker.mcp_servers, f"The key that made this one, {maker.id},")
    _put_servers(transaction, key_id, servers)
    for made_id, labels in transaction.all(_SERVERS_OF_MADE, (account_id, key_id)):
        _put_servers(transaction, made_id, servers_within(_labels_in(labels), servers))


def _put_servers(transaction: Transaction, key_id: str, servers: frozenset[str]) -> None:
    transaction.execute(_PUT_SERVERS, (key_id, " ".join(sorted(servers))))


def _put_routing(transaction: Transaction, key_id: str, routing: RoutingDefaults) -> None:
    pool = " ".join(routing.model_pool or ()) or None
    transaction.execute(_PUT_ROUTING, (key_id, pool, routing.mode, routing.tells_event))


def _routing(pool: str | None, stored_mode: str | None, tells_event: int | None) -> RoutingDefaults:
    mode = next((mode for mode in MODES if mode == stored_mode), None)
    return RoutingDefaults(tuple(pool.split(" ")) if pool else None, mode, bool(tells_event))


def _put_particulars(transaction: Transaction, key_id: str, particulars: Particulars) -> None:
    networks, note, tags = particulars
    stored = None if networks is None else networks_as_words(networks)
    transaction.execute(_PUT_PARTICULARS, (key_id, stored, note, orjson.dumps(tags).decode()))


def _particulars(networks: str | None, note: str | None, tags: str | None) -> Particulars:
    return Particulars(_networks(networks), note, tuple(orjson.loads(tags or "[]")))


def _networks(stored: str | None) -> Networks | None:
    return None if stored is None else networks_in(stored)


def _labels_in(stored: str | None) -> frozenset[str]:
    return frozenset((stored or "").split())


def _end(transaction: Transaction, write: EndKeys) -> EndedKeys:
    ending = _with_minted(transaction, write.key_ids)
    ending_now = orjson.dumps(ending[-write.most :]).decode()
    ended = defaultdict[str, list[str]](list)
    for account_id, key_id in transaction.all(_END, (write.at_ms, ending_now)):
        ended[account_id].append(key_id)
    for account_id, key_ids in ended.items():
        end_with_keys(transaction, account_id, key_ids, write.at_ms)
    for key_id in write.key_ids:  # whoever knows a key that one of these has made looks at it again, too
        _note_change(transaction, key_id)
    return EndedKeys(frozenset(chain.from_iterable(ended.values())), len(ending) <= write.most)


def _rotate(transaction: Transaction, write: RotateKey) -> None:
    key = _by_id(transaction, KeyById(write.key_id))
    if key is None or key.state_at(write.at_ms) != "live":
        raise GatewayError("conflict", "This key has ended, and has no new secret.")
    if key.grant is not None:
        raise GatewayError("conflict", "A program is let in by this key, which has no secret; revoke it instead.")
    _check_made(transaction, key.account_id, write.most, write.at_ms, is_minted=key.is_minted)
    since_ms = _window(write.at_ms, is_minted=key.is_minted)
    transaction.execute(_COUNT_ROTATION, (key.account_id, key.is_minted, since_ms))
    if write.keep is not None:
        transaction.run(write.keep)
    values = {"key_id": key.id, "at_ms": write.at_ms, "old_ends_at_ms": write.old_ends_at_ms}
    for sql in (_FORGET_ENDED, _END_OLDEST, _END_SOONER):
        transaction.execute(sql, values)
    transaction.execute(_KEEP_REPLACED, (write.old_ends_at_ms, key.id))
    transaction.execute("UPDATE keys SET sha256 = ?, prefix = ? WHERE id = ?", (write.digest, write.prefix, key.id))
    note_change(transaction, key.id)


def _with_minted(rows: Rows, key_ids: Sequence[str]) -> list[str]:
    """These keys, and each live one that one of them has minted, or one of those; behind whichever minted it.

    Reads the live minted keys of their accounts, of which there are so many at most, and none that ended long ago.
    """
    if rows.first(_HAVE_MADE, (orjson.dumps(key_ids).decode(),)) is None:
        return list(key_ids)
    minted = defaultdict[str, list[str]](list)
    for key_id, made_by in rows.all(_LIVE_MINTED, (orjson.dumps(key_ids).decode(),)):
        minted[made_by].append(key_id)
    ending = list(key_ids)
    for key_id in ending:  # which grows meanwhile
        ending.extend(minted.pop(key_id, ()))
    return ending


def _note_change(transaction: Transaction, key_id: str) -> None:
    """Of a key, and so perhaps of what its account may use."""
    note_change(transaction, key_id)
    ((account_id,),) = transaction.all(_ACCOUNT, (key_id,))
    note_change(transaction, LIMITS_OF + account_id)


def _forget_changes(transaction: Transaction, write: ForgetChanges) -> int:
    row = transaction.first("SELECT MAX(number) FROM identity_changes")
    last = 0 if row is None or row[0] is None else int(row[0])
    transaction.execute("DELETE FROM identity_changes WHERE number <= ?", (last - write.kept,))
    return last


def _by_digest(rows: Rows, read: KeyByDigest) -> Key | None:
    row = rows.first(f"{_SELECT} WHERE sha256 = ?", (read.digest,))
    if row is not None:
        return _key(row).found_by(read.digest, None)
    if (replaced := rows.first(_REPLACED, (read.digest,))) is not None:
        key_id, ends_at_ms, audience = *replaced, None
    elif (token := rows.first(_ACCESS_SHOWN, (read.digest,))) is not None:
        key_id, ends_at_ms, audience = token
    else:
        return None
    key = _by_id(rows, KeyById(key_id))
    return None if key is None else key.found_by(read.digest, ends_at_ms, audience)


def _by_id(rows: Rows, read: KeyById) -> Key | None:
    row = rows.first(f"{_SELECT} WHERE keys.id = ?", (read.key_id,))
    return None if row is None else _key(row)


def _makers_among(rows: Rows, read: MakersAmong) -> list[tuple[str, str]]:
    found = rows.all(_MAKERS_AMONG, (orjson.dumps(read.key_ids).decode(),))
    return [(made_id, maker_id) for made_id, maker_id in found]


def _account_limits(rows: Rows, read: AccountLimitsOf) -> AccountLimits | None:
    row = rows.first(_ACCOUNT_LIMITS, {"account_id": read.account_id, "now_ms": read.now_ms})
    if row is None:
        return None
    *limits, margin, may_proxy, origin, is_attributed = row
    own, highest = limits[: len(LIMIT_NAMES)], limits[len(LIMIT_NAMES) :]
    return AccountLimits(limits_from(own), limits_from(highest), margin, bool(may_proxy), origin, bool(is_attributed))


def _all(rows: Rows, read: AllKeys) -> list[Key]:
    where, parameters = ("", ()) if read.account_id is None else ("WHERE keys.account_id = ?", (read.account_id,))
    return [_key(row) for row in rows.all(f"{_SELECT} {where} ORDER BY keys.id", parameters)]


def _page(rows: Rows, read: KeysPage) -> Sequence[Key]:
    return _newest(rows, read, ["keys.account_id = :account_id", *([] if read.within is None else [_WITHIN])])


def _names(rows: Rows, read: KeyNames) -> dict[str, str]:
    within = "" if read.within is None else f"AND {_WITHIN}"
    sql = f"{_NAMES} {within} ORDER BY keys.id DESC LIMIT :most"
    return dict(rows.all(sql, {"account_id": read.account_id, "within": read.within, "most": read.most}))


def _any_page(rows: Rows, read: AnyKeysPage) -> Sequence[Key]:
    conditions = [] if read.account_id is None else ["keys.account_id = :account_id"]
    if read.key_id is not None:
        conditions.append("keys.id = :key_id")
    if read.beginning is not None:
        conditions.append("substr(keys.prefix, 1, length(:beginning)) = :beginning")
    return _newest(rows, read, conditions)


def _newest(rows: Rows, read: KeysPage | AnyKeysPage, conditions: list[str]) -> Sequence[Key]:
    if read.before_id is not None:
        conditions.append("keys.id < :before_id")
    if read.state is not None:
        conditions.append(_CONDITIONS[read.state])
    sql = f"{_SELECT} WHERE {' AND '.join(('TRUE', *conditions))} ORDER BY keys.id DESC LIMIT :limit"
    values = {field.name: getattr(read, field.name) for field in fields(read)}
    return [_key(row) for row in rows.all(sql, values)]


def _live_minted_by(rows: Rows, read: LiveMintedBy) -> MintedKeys:
    values = {"account_id": read.account_id, "key_id": read.key_id, "now_ms": read.now_ms}
    ids = [key_id for (key_id,) in rows.all(_LIVE_MINTED_BY, values)]
    newest = orjson.dumps(ids[: read.most]).decode()
    sql = f"{_SELECT} WHERE keys.id IN (SELECT value FROM json_each(?)) ORDER BY keys.id DESC"
    return MintedKeys([_key(row) for row in rows.all(sql, (newest,))], len(ids))


def _changes_after(rows: Rows, read: ChangesAfter) -> Changes | None:
    sql = "SELECT MAX(number), json_group_array(changed_id) FROM identity_changes WHERE number > ?"
    row = rows.first(sql, (read.number,))
    return None if row is None or row[0] is None else Changes(row[0], frozenset(orjson.loads(row[1])))


def _live_keys_made(rows: Rows, read: LiveKeysMade) -> list[str]:
    return [key_id for (key_id,) in rows.all(_LIVE_KEYS_MADE, {"key_id": read.key_id, "now_ms": read.now_ms})]


def _key(row: Row) -> Key:
    key_id, account_id, prefix, name, is_test, created_at_ms, ended_at_ms, scopes, expires_at_ms, made_by, *rest = row
    makers, is_active, group_id, group, models, is_minted, may_mint_over_mcp, *rest = rest
    labels, are_offered, pool, mode, tells_event, networks, note, tags, replaced_until_ms, *rest = rest
    client_id, client_name, redirect_uri, *limits = rest
    has_expired = expires_at_ms is not None and ended_at_ms is not None and ended_at_ms >= expires_at_ms
    return Key(
        key_id, account_id, prefix, name, bool(is_test), created_at_ms, None if has_expired else ended_at_ms,
        limits_from(limits), _read_scopes(scopes, bool(is_test)), expires_at_ms, made_by,
        tuple(
            Maker(one, limits_from(own), its_group, _networks(its_networks))
            for _, one, its_group, its_networks, *own in sorted(orjson.loads(makers), key=_PLACE)
        ),
        bool(is_active), group_id, group, None if models is None else frozenset(models.split(" ")),
        bool(is_minted), bool(may_mint_over_mcp), _labels_in(labels), bool(are_offered),
        _routing(pool, mode, tells_event), _particulars(networks, note, tags),
        replaced_until_ms, grant=None if client_id is None else KeyGrant(client_id, client_name, redirect_uri),
    )  # fmt: skip


def _read_scopes(stored: str | None, is_test: bool) -> frozenset[KeyScope]:
    if stored is None:
        return scopes_by_default(is_test=is_test)
    return frozenset(scope for scope in SCOPES if scope in stored.split(" "))


EXECUTORS = Executors(
    alone={CreateKey: _create, ChangeKey: _change, RotateKey: _rotate, EndKeys: _end, ForgetChanges: _forget_changes},
    reads={
        KeyByDigest: _by_digest,
        KeyById: _by_id,
        MakersAmong: _makers_among,
        AccountLimitsOf: _account_limits,
        AllKeys: _all,
        KeysPage: _page,
        KeyNames: _names,
        AnyKeysPage: _any_page,
        ChangesAfter: _changes_after,
        LiveKeysMade: _live_keys_made,
        LiveMintedBy: _live_minted_by,
    },
)
