"""Accounts, the limits that they and keys set for themselves, and the notes of changes that a running server reads."""

from collections.abc import Iterable, Mapping, Sequence

from mcp_gateway.core.identity.accounts import (
    LIMITS_OF,
    Account,
    AccountById,
    AccountsPage,
    AllAccounts,
    AttributeAccount,
    ChangeAccount,
    CreateAccount,
    IdentitiesChanged,
    LetAccountProxy,
    RenameAccount,
    SetAccountActive,
    SetAccountLimits,
    SetAccountMargin,
)
from mcp_gateway.core.identity.own_limits import DEFAULT, LIMIT_NAMES, Limit, OwnLimits
from mcp_gateway.core.store.sql.auto_topups import begin_if_low
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction

MARGIN = "COALESCE((SELECT margin FROM account_margins WHERE account_margins.account_id = accounts.id), 0)"
"""Of a row of accounts; most have none."""
MAY_PROXY = "EXISTS (SELECT 1 FROM proxying_accounts WHERE proxying_accounts.account_id = accounts.id)"
IS_ATTRIBUTED = "EXISTS (SELECT 1 FROM attributing_accounts WHERE attributing_accounts.account_id = accounts.id)"
ORIGIN = "(SELECT address FROM sharing_accounts WHERE sharing_accounts.account_id = accounts.id)"
"""The address that an account was registered from, while it shares the limits of one with others from there."""
_COLUMNS = f"id, name, created_at_ms, is_active, {MARGIN}, {MAY_PROXY}, {IS_ATTRIBUTED}, {', '.join(LIMIT_NAMES)}"
_NO_LIMIT = -1
"""As it is stored; NULL is the default."""


def note_change(transaction: Transaction, changed_id: str) -> None:
    """Tell running servers to look at a key or an account again, in the transaction that changes it."""
    transaction.execute("DELETE FROM identity_changes WHERE changed_id = ?", (changed_id,))  # a new number for it
    transaction.execute("INSERT INTO identity_changes (changed_id) VALUES (?)", (changed_id,))
    transaction.announce(IdentitiesChanged())


def stored_limits(limits: OwnLimits) -> tuple[int | None, ...]:
    """As columns in the order of LIMIT_NAMES."""
    return tuple(_stored(getattr(limits, name)) for name in LIMIT_NAMES)


def set_limits(transaction: Transaction, table: str, row_id: str, limits: Mapping[str, Limit]) -> int:
    """Set those that are given, by the names that LIMIT_NAMES has; returns how many rows there are of that id."""
    given = {f"{name} = ?": _stored(limits[name]) for name in LIMIT_NAMES if name in limits}
    return transaction.execute(f"UPDATE {table} SET {', '.join(given)} WHERE id = ?", (*given.values(), row_id))


def limits_from(columns: Iterable[int | None]) -> OwnLimits:
    return OwnLimits(*map(_read, columns))


def _stored(limit: Limit) -> int | None:
    if limit is DEFAULT:
        return None
    return _NO_LIMIT if limit is None else limit


def _read(stored: int | None) -> Limit:
    if stored is None:
        return DEFAULT
    return None if stored == _NO_LIMIT else stored


def _create(transaction: Transaction, write: CreateAccount) -> None:
    account = write.account
    row = (account.id, account.name, account.created_at_ms)
    transaction.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES (?, ?, ?)", row)


def _change(transaction: Transaction, write: ChangeAccount) -> bool:
    if transaction.first("SELECT 1 FROM accounts WHERE id = ?", (write.account_id,)) is None:
        return False
    for change in write.changes:
        transaction.run(change)
    return True


def _rename(transaction: Transaction, write: RenameAccount) -> bool:
    renamed = "UPDATE accounts SET name = ?1 WHERE id = ?2 AND name <> ?1"
    return bool(transaction.execute(renamed, (write.name, write.account_id)))


def _set_active(transaction: Transaction, write: SetAccountActive) -> None:
    transaction.execute("UPDATE accounts SET is_active = ? WHERE id = ?", (write.is_active, write.account_id))
    note_change(transaction, write.account_id)
    if write.is_active:
        begin_if_low(transaction, write.account_id)


def _set_limits(transaction: Transaction, write: SetAccountLimits) -> None:
    set_limits(transaction, "accounts", write.account_id, write.limits)
    note_change(transaction, LIMITS_OF + write.account_id)


def _set_margin(transaction: Transaction, write: SetAccountMargin) -> None:
    """Noted as limits are: both are what a key's caller is made with."""
    sql = "INSERT INTO account_margins VALUES (?, ?) ON CONFLICT (account_id) DO UPDATE SET margin = excluded.margin"
    transaction.execute(sql, (write.account_id, write.margin))
    note_change(transaction, LIMITS_OF + write.account_id)


def _let_proxy(transaction: Transaction, write: LetAccountProxy) -> None:
    _list_in(transaction, "proxying_accounts", write.account_id, is_listed=write.is_let)


def _attribute(transaction: Transaction, write: AttributeAccount) -> None:
    _list_in(transaction, "attributing_accounts", write.account_id, is_listed=write.is_attributed)


def _list_in(transaction: Transaction, table: str, account_id: str, *, is_listed: bool) -> None:
    """Have an account in a table of those that something is said of, or not; noted as limits are."""
    put = f"INSERT INTO {table} VALUES (?) ON CONFLICT DO NOTHING"
    transaction.execute(put if is_listed else f"DELETE FROM {table} WHERE account_id = ?", (account_id,))
    note_change(transaction, LIMITS_OF + account_id)


def stop_sharing(transaction: Transaction, account_id: str) -> None:
    """Give an account that has paid, or was granted credit, limits of its own."""
    if transaction.execute("DELETE FROM sharing_accounts WHERE account_id = ?", (account_id,)):
        note_change(transaction, LIMITS_OF + account_id)


def _all(rows: Rows, _: AllAccounts) -> list[Account]:
    return [_account(row) for row in rows.all(f"SELECT {_COLUMNS} FROM accounts ORDER BY created_at_ms, id")]


def _page(rows: Rows, read: AccountsPage) -> Sequence[Account]:
    asked = {"id < ?": read.before_id, "name = ?": read.name, "is_active = ?": read.is_active}
    given = {condition: value for condition, value in asked.items() if value is not None}
    sql = f"SELECT {_COLUMNS} FROM accounts WHERE {' AND '.join(('TRUE', *given))} ORDER BY id DESC LIMIT ?"
    return [_account(row) for row in rows.all(sql, (*given.values(), read.limit))]


def _by_id(rows: Rows, read: AccountById) -> Account | None:
    row = rows.first(f"SELECT {_COLUMNS} FROM accounts WHERE id = ?", (read.account_id,))
    return None if row is None else _account(row)


def _account(row: Row) -> Account:
    account_id, name, created_at_ms, is_active, margin, may_proxy, is_attributed, *limits = row
    own = limits_from(limits)
    return Account(account_id, name, created_at_ms, bool(is_active), own, margin, bool(may_proxy), bool(is_attributed))


EXECUTORS = Executors(
    alone={
        CreateAccount: _create,
        ChangeAccount: _change,
        RenameAccount: _rename,
        SetAccountActive: _set_active,
        SetAccountLimits: _set_limits,
        SetAccountMargin: _set_margin,
        LetAccountProxy: _let_proxy,
        AttributeAccount: _attribute,
    },
    reads={AllAccounts: _all, AccountsPage: _page, AccountById: _by_id},
)
