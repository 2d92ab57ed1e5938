"""Budgets: which there are of an account, what was spent of their windows, and what is set aside for leases."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budgets import (
    LONGEST_WINDOW_MS,
    ONE_LEASE,
    Budget,
    BudgetGroup,
    BudgetsChanged,
    BudgetsOf,
    BudgetSpent,
    EndBudget,
    GroupByName,
    Lease,
    LeasesOver,
    MakeBudgets,
    PocketLeft,
    ReadBudgets,
    ReturnLeases,
    SetZone,
    Spent,
)
from mcp_gateway.core.ledger.entries import Ended
from mcp_gateway.core.ledger.rules import NOTHING, Amount
from mcp_gateway.core.store.sql.webhooks import tell_of_budget
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction
from mcp_gateway.core.text import shown
from mcp_gateway.core.webhooks.events import LEAST_PERCENT

_PAID = 0
"""In place of a grant's id, of paid money."""
_OPEN = """
SELECT budgets.id, budgets.account_id, holder, amount_nano, budgets.window, name, ends_at_ms
FROM budgets LEFT JOIN key_groups ON key_groups.id = holder LEFT JOIN leases ON budget_id = budgets.id
WHERE budgets.account_id = ? AND ended_at_ms IS NULL ORDER BY budgets.rowid
"""
_SPENT = """
SELECT budget_id, starts_at_ms, spent_nano FROM budgets JOIN budget_windows ON budget_id = id
WHERE account_id = ? AND ended_at_ms IS NULL AND (budgets.window = 'total' OR starts_at_ms >= ?)
"""
_OUT = "FROM budgets JOIN leases ON leases.budget_id = id WHERE returned_nano IS NULL"
_OUT_OF = f"{_OUT} AND leases.account_id = ?"
_LEASES = f"SELECT id, pocket, ended_at_ms IS NOT NULL {_OUT_OF} ORDER BY budgets.rowid"
_ABOVE = "SELECT budget_id, starts_at_ms FROM lease_windows WHERE lease_id = ?"
_WINDOWS = """
SELECT lease_id, above.budget_id, starts_at_ms FROM leases JOIN lease_windows AS above ON lease_id = leases.budget_id
WHERE account_id = ? AND returned_nano IS NULL
"""
_POCKETS = f"""
SELECT lease_id, grant_id, left_nano FROM pockets
WHERE left_nano > 0 AND lease_id IN (SELECT id {_OUT_OF})
"""
_POCKET = "SELECT lease_id, grant_id, left_nano FROM pockets WHERE lease_id = ? AND left_nano > 0"
_OVER = f"SELECT leases.account_id, id, ended_at_ms IS NOT NULL {_OUT} AND ends_at_ms <= ?"
_TAKE = "UPDATE pockets SET left_nano = left_nano - ? WHERE lease_id = ? AND grant_id = ?"
_PUT = """
INSERT INTO pockets SELECT budget_id, ?, ? FROM leases WHERE budget_id = ? AND returned_nano IS NULL
ON CONFLICT (lease_id, grant_id) DO UPDATE SET left_nano = pockets.left_nano + excluded.left_nano
"""
_SPEND = """
INSERT INTO budget_windows VALUES (?, ?, ?)
ON CONFLICT (budget_id, starts_at_ms) DO UPDATE SET spent_nano = budget_windows.spent_nano + excluded.spent_nano
RETURNING spent_nano, (SELECT amount_nano FROM budgets WHERE id = budget_id)
"""
_UNSPEND = """
UPDATE budget_windows SET spent_nano = spent_nano + ?3 WHERE budget_id = ?1 AND starts_at_ms = ?2
RETURNING spent_nano, (SELECT amount_nano FROM budgets WHERE id = budget_id)
"""
_LEFT_OF_LEASE = """
SELECT amount_nano - COALESCE(spent_nano, 0), pocket FROM budgets JOIN leases ON leases.budget_id = id
LEFT JOIN budget_windows AS spent ON spent.budget_id = id
WHERE id = ? AND leases.account_id = ? AND returned_nano IS NULL
"""
_RETURNED = "SELECT 1 FROM leases WHERE budget_id = ? AND returned_nano IS NOT NULL"
_IS_OPEN = "SELECT 1 FROM budgets WHERE id = ? AND ended_at_ms IS NULL"
_LEASE_OF = "SELECT id, ends_at_ms FROM budgets JOIN leases ON budget_id = id WHERE holder = ? AND ended_at_ms IS NULL"
_KEY_ENDS = "SELECT revoked_at_ms, expires_at_ms FROM keys LEFT JOIN key_rights ON key_id = id WHERE id = ?"
_END = "UPDATE budgets SET ended_at_ms = ? WHERE id = ? AND ended_at_ms IS NULL"
_HAVE_OVER = "UPDATE leases SET ends_at_ms = MIN(ends_at_ms, ?) WHERE budget_id = ?"
_UNDER = """
WITH RECURSIVE under (id) AS (
    SELECT budget_id FROM leases WHERE budget_id IN (SELECT value FROM json_each(?))
    UNION SELECT lease_id FROM under JOIN lease_windows ON lease_windows.budget_id = under.id
)
SELECT under.id FROM under JOIN budgets ON budgets.id = under.id WHERE ended_at_ms IS NULL
"""
_HOLDER = """
SELECT 1 FROM accounts WHERE id = ?1 AND id = ?2 UNION ALL SELECT 1 FROM keys WHERE id = ?2 AND account_id = ?1
UNION ALL SELECT 1 FROM key_groups WHERE id = ?2 AND account_id = ?1
"""
_OF_ENDED_KEYS = """
SELECT id FROM budgets WHERE account_id = ?1 AND ended_at_ms IS NULL AND holder IN (
    WITH RECURSIVE behind (one) AS (
        SELECT value FROM json_each(?2)
        UNION SELECT made_by FROM behind JOIN key_rights ON key_id = one WHERE made_by IS NOT NULL
    )
    SELECT one FROM behind
)
AND EXISTS (SELECT 1 FROM keys WHERE id = holder AND revoked_at_ms IS NOT NULL)
AND (EXISTS (SELECT 1 FROM minted_keys WHERE key_id = holder) OR holder NOT IN (
    WITH RECURSIVE spending (one) AS (
        SELECT id FROM keys WHERE account_id = ?1 AND revoked_at_ms IS NULL
        UNION SELECT made_by FROM spending JOIN key_rights ON key_id = one WHERE made_by IS NOT NULL
    )
    SELECT one FROM spending
))
"""
"""Those that no live key spends of: its own, or that of a key behind it. What a minted key has made ended with it."""
_GROUP = "SELECT id, account_id, name FROM key_groups WHERE account_id = ? AND name = ?"
_ZONE = "SELECT zone FROM account_zones WHERE account_id = ?"
_SET_ZONE = """
INSERT INTO account_zones VALUES (?, ?) ON CONFLICT (account_id) DO UPDATE SET zone = excluded.zone
WHERE account_zones.zone <> excluded.zone
"""


def _read(rows: Rows, read: ReadBudgets) -> BudgetsOf:
    account = (read.account_id,)
    found = rows.all(_SPENT, (read.account_id, read.now_ms - LONGEST_WINDOW_MS))
    spent = {(budget_id, starts_at_ms): spent_nano for budget_id, starts_at_ms, spent_nano in found}
    zone = rows.first(_ZONE, account)
    budgets = tuple(Budget(*row) for row in rows.all(_OPEN, account))
    pockets = _by_lease(rows.all(_POCKETS, account))
    return BudgetsOf(
        read.account_id, "UTC" if zone is None else zone[0], budgets, spent, _leases(rows, account), pockets
    )


def _leases(rows: Rows, account: tuple[str]) -> tuple[Lease, ...]:
    """Those not given back yet, each after those above it."""
    windows = defaultdict[str, list[Spent]](list)
    for lease_id, *window in rows.all(_WINDOWS, account):
        windows[lease_id].append((window[0], window[1]))
    return tuple(
        Lease(lease_id, tuple(windows[lease_id]), pocket, is_ended=bool(is_ended))
        for lease_id, pocket, is_ended in rows.all(_LEASES, account)
    )


def _by_lease(rows: Iterable[Row]) -> tuple[tuple[str, Amount], ...]:
    """What is left in each pocket."""
    parts = defaultdict[str, dict[int, int]](dict)
    for lease_id, grant_id, left_nano in rows:
        parts[lease_id][grant_id] = left_nano
    return tuple((lease_id, Amount(left.pop(_PAID, 0), tuple(left.items()))) for lease_id, left in parts.items())


def _make(transaction: Transaction, write: MakeBudgets) -> None:
    if write.keep is not None:
        transaction.run(write.keep)
    for budget in write.budgets:
        if not _is_held(transaction, budget, write.group):
            raise GatewayError("not_found", f"There is no account or key '{shown(budget.holder)}'.")
        if budget.lease_ends_at_ms is not None:
            _check_key(transaction, budget.holder, budget.lease_ends_at_ms)
            _end_lease_over(transaction, budget)
    if write.group is not None:
        transaction.execute("INSERT INTO key_groups VALUES (?, ?, ?) ON CONFLICT DO NOTHING", write.group)
    leases = {lease.budget_id: lease for lease in write.leases}
    for budget in write.budgets:
        row = budget.id, budget.account_id, budget.holder, budget.amount_nano, budget.window
        transaction.execute("INSERT INTO budgets VALUES (?, ?, ?, ?, ?, ?, NULL)", (*row, transaction.now_ms()))
        lease = leases.get(budget.id)
        assert (lease is None) == (budget.lease_ends_at_ms is None), "a lease is decided before it is written"
        named = transaction.first("SELECT name FROM key_groups WHERE id = ?", (budget.holder,)) or (None,)
        made = budget._replace(group=named[0])
        transaction.tell(BudgetsChanged(budget.account_id, (made,), () if lease is None else (lease,)))
        if lease is not None:
            _set_aside(transaction, budget, lease)


def _check_key(rows: Rows, holder: str, lease_ends_at_ms: int) -> None:
    """A lease that outlived its key would keep money from everybody."""
    found = rows.first(_KEY_ENDS, (holder,))
    if found is None:  # a group's
        return
    revoked_at_ms, expires_at_ms = found
    if revoked_at_ms is not None:
        raise GatewayError("conflict", f"The key '{shown(holder)}' has ended, and can have no lease.")
    if expires_at_ms is not None and expires_at_ms < lease_ends_at_ms:
        raise GatewayError("invalid_value", f"A lease ends with its key, at {expires_at_ms // 1000} at the latest.")


def _end_lease_over(transaction: Transaction, new: Budget) -> None:
    """One that a holder has, whose time is over, makes room for a new one; it bounded the holder until then."""
    found = transaction.first(_LEASE_OF, (new.holder,))
    if found is None:
        return
    lease_id, ends_at_ms = found
    if ends_at_ms > transaction.now_ms():
        raise GatewayError("conflict", ONE_LEASE)
    _end_all(transaction, new.account_id, [lease_id], transaction.now_ms())


def _set_aside(transaction: Transaction, budget: Budget, lease: Lease) -> None:
    """Spend a lease's amount of what is above it, and put its money into its pocket, if it has one of its own."""
    row = budget.id, lease.pocket, budget.lease_ends_at_ms, budget.account_id
    transaction.execute("INSERT INTO leases VALUES (?, ?, ?, NULL, ?)", row)
    for window in lease.windows:
        if transaction.first(_IS_OPEN, (window[0],)) is None:
            raise GatewayError("conflict", "A budget above this lease has ended meanwhile; ask again.")
        transaction.execute("INSERT INTO lease_windows VALUES (?, ?, ?)", (budget.id, *window))
        spend(transaction, budget.account_id, window, budget.amount_nano)
    parts = (_PAID, lease.set_aside.paid_nano), *lease.set_aside.grants
    for grant_id, part_nano in parts:
        if part_nano:
            transaction.execute("INSERT INTO pockets VALUES (?, ?, ?)", (budget.id, grant_id, part_nano))
    transaction.tell(Ended((budget.id,)))
    if lease.pocket == budget.id:
        transaction.tell(PocketLeft(budget.account_id, budget.id, lease.set_aside))


def spend(transaction: Transaction, account_id: str, window: Spent, amount_nano: int) -> None:
    """So much more is spent of a budget's window, or less, where something was."""
    row = transaction.first(_SPEND if amount_nano >= 0 else _UNSPEND, (*window, amount_nano))
    assert row is not None, "nothing was spent that could be given back"
    spent_nano, budget_nano = row
    transaction.tell(BudgetSpent(account_id, window, spent_nano))
    if 100 * spent_nano >= LEAST_PERCENT * budget_nano:
        tell_of_budget(transaction, account_id, window, budget_nano, spent_nano, amount_nano)


def with_returned(rows: Rows, windows: Sequence[Spent]) -> list[Spent]:
    """These, and those that what is left of a lease among them went back to: a later charge or its return is theirs."""
    found = list(windows)
    for budget_id, _ in found:  # which grows meanwhile
        if rows.first(_RETURNED, (budget_id,)) is not None:
            found += [(above, starts_at_ms) for above, starts_at_ms in rows.all(_ABOVE, (budget_id,))]
    return found


def take_from_pocket(transaction: Transaction, account_id: str, pocket: str, parts: Amount) -> None:
    """What was charged of a lease's money."""
    rows = (parts.paid_nano, pocket, _PAID), *((part_nano, pocket, grant_id) for grant_id, part_nano in parts.grants)
    transaction.execute_many(_TAKE, rows)
    _tell_pocket(transaction, account_id, pocket)


def put_into_pocket(transaction: Transaction, account_id: str, pocket: str, parts: Amount) -> None:
    """What was charged of a lease's money and comes back; it is the wallet's where all was given back since."""
    for grant_id, part_nano in ((_PAID, parts.paid_nano), *parts.grants):
        if part_nano:
            transaction.execute(_PUT, (grant_id, part_nano, pocket))
    _tell_pocket(transaction, account_id, pocket)


def _tell_pocket(transaction: Transaction, account_id: str, pocket: str) -> None:
    found = _by_lease(transaction.all(_POCKET, (pocket,)))
    transaction.tell(PocketLeft(account_id, pocket, found[0][1] if found else NOTHING))


def _return(transaction: Transaction, write: ReturnLeases) -> int:
    returned_nano = 0
    for lease_id in write.lease_ids:
        row = transaction.first(_LEFT_OF_LEASE, (lease_id, write.account_id))
        if row is None:
            continue  # given back already
        left_nano, pocket = row
        returned_nano += left_nano
        transaction.execute("UPDATE leases SET returned_nano = ? WHERE budget_id = ?", (left_nano, lease_id))
        transaction.tell(BudgetsChanged(write.account_id, returned=(lease_id,)))
        for budget_id, starts_at_ms in transaction.all(_ABOVE, (lease_id,)):
            spend(transaction, write.account_id, (budget_id, starts_at_ms), -left_nano)
        if pocket == lease_id:
            transaction.execute("DELETE FROM pockets WHERE lease_id = ?", (lease_id,))
            transaction.tell(PocketLeft(write.account_id, lease_id, NOTHING))
    return returned_nano


def _over(rows: Rows, read: LeasesOver) -> tuple[tuple[str, str, bool], ...]:
    return tuple(
        (account_id, lease_id, bool(is_ended)) for account_id, lease_id, is_ended in rows.all(_OVER, (read.now_ms,))
    )


def _is_held(rows: Rows, budget: Budget, new: BudgetGroup | None) -> bool:
    """Whether its holder is there, or is the new group, whose name no other has taken meanwhile."""
    if new is None or budget.holder != new.id:
        return rows.first(_HOLDER, (budget.account_id, budget.holder)) is not None
    return _group_by_name(rows, GroupByName(new.account_id, new.name)) in (None, new)


def _end(transaction: Transaction, write: EndBudget) -> bool:
    if transaction.first(f"{_IS_OPEN} AND account_id = ?", (write.budget_id, write.account_id)) is None:
        return False
    _end_all(transaction, write.account_id, [write.budget_id], write.at_ms)
    return True


def _end_all(transaction: Transaction, account_id: str, budget_ids: Sequence[str], at_ms: int) -> None:
    """The time of leases under a lease, which are of its money, is over with it; they go on bounding their holders."""
    transaction.execute_many(_END, [(at_ms, budget_id) for budget_id in budget_ids])
    under = [lease_id for (lease_id,) in transaction.all(_UNDER, (orjson.dumps(budget_ids).decode(),))]
    now_ms = transaction.now_ms()
    transaction.execute_many(_HAVE_OVER, [(now_ms, lease_id) for lease_id in (*budget_ids, *under)])
    over = tuple((lease_id, now_ms) for lease_id in under)
    transaction.tell(BudgetsChanged(account_id, ended=tuple(budget_ids), over=over))


def end_with_keys(transaction: Transaction, account_id: str, ended_ids: Sequence[str], at_ms: int) -> None:
    """End the budgets of keys that have ended, and of those behind them, that no live key of the account spends of."""
    found = transaction.all(_OF_ENDED_KEYS, (account_id, orjson.dumps(ended_ids).decode()))
    if found:
        _end_all(transaction, account_id, [budget_id for (budget_id,) in found], at_ms)


def _set_zone(transaction: Transaction, write: SetZone) -> bool:
    is_new = bool(transaction.execute(_SET_ZONE, (write.account_id, write.zone)))
    transaction.tell(BudgetsChanged(write.account_id, zone=write.zone))
    return is_new


def _group_by_name(rows: Rows, read: GroupByName) -> BudgetGroup | None:
    row = rows.first(_GROUP, (read.account_id, read.name))
    return None if row is None else BudgetGroup(*row)


EXECUTORS = Executors(
    alone={MakeBudgets: _make, EndBudget: _end, ReturnLeases: _return, SetZone: _set_zone},
    reads={ReadBudgets: _read, LeasesOver: _over, GroupByName: _group_by_name},
)
