"""What replicas are allotted of accounts: drawn, spent, given back, and taken from the dead.

All of it within the one transaction that writes at a time, so that what is free is what nobody is allotted.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger import rules
from mcp_gateway.core.ledger.allotments import (
    NOBODY,
    PAID,
    AllAllotted,
    AllMoney,
    AllMoneyOf,
    Allotted,
    Amounts,
    AskForMoney,
    BudgetsMoved,
    Draw,
    Drawn,
    Fund,
    MoneyReturned,
    MoneyWanted,
    ReturnAllotted,
    TakeFromDead,
    of_money,
    of_windows,
    with_more,
    without,
)
from mcp_gateway.core.ledger.budgets import EndBudget, MakeBudgets, ReadBudgets, ReturnLeases, SetZone, Spent
from mcp_gateway.core.ledger.entries import (
    CatchUp,
    Departure,
    ExpireGrants,
    GiveBack,
    LeaveUncharged,
    Move,
    Settle,
    WalletOf,
)
from mcp_gateway.core.ledger.rules import NOTHING, Amount, Free, GrantLeft
from mcp_gateway.core.store.postgres.session import DECLARE_ENDED, DECLARE_OVER, GRACE_S
from mcp_gateway.core.store.sql import budgets, settlements
from mcp_gateway.core.store.sql.budgets import with_returned
from mcp_gateway.core.store.sql.executors import EXECUTORS as OF_ANY_ENGINE
from mcp_gateway.core.store.transaction import Executors, Rows, RunTogether, Transaction

_RICH = 4
"""More than was asked for is allotted where so many times that are left for each replica."""
_FOREVER_NANO = 2**62

_LOCK = "SELECT account_id, paid_nano FROM wallets WHERE account_id = ANY(?) ORDER BY account_id FOR NO KEY UPDATE"
_GRANTS = """
SELECT account_id, id, remaining_nano, expires_at_ms FROM grants WHERE account_id = ANY(?) AND remaining_nano > 0
ORDER BY expires_at_ms IS NULL, expires_at_ms, id
"""
_POCKETS = """
SELECT account_id, lease_id, grant_id, left_nano FROM pockets JOIN leases ON budget_id = lease_id
WHERE account_id = ANY(?) AND returned_nano IS NULL AND left_nano > 0
"""
_ALLOTTED = "SELECT account_id, replica, kind, of_id, part, amount_nano FROM allotments WHERE account_id = ANY(?)"
_OWN = """
SELECT account_id, kind, of_id, part, amount_nano, expires_at_ms FROM allotments
LEFT JOIN grants ON kind <> 'window' AND part <> 0 AND grants.id = part AND grants.account_id = allotments.account_id
WHERE allotments.account_id = ANY(?) AND replica = ?
"""
_OWN = _OWN.replace("SELECT account_id", "SELECT allotments.account_id")
_WINDOWS = """
SELECT id, asked.starts, amount_nano - COALESCE(spent_nano, 0), ended_at_ms IS NULL AND COALESCE(ends_at_ms > ?, TRUE)
FROM unnest(?::text[], ?::bigint[]) AS asked (budget, starts) JOIN budgets ON id = budget
LEFT JOIN budget_windows AS spent ON spent.budget_id = id AND starts_at_ms = asked.starts
LEFT JOIN leases ON leases.budget_id = id
"""
_VERSIONS = "SELECT account_id, version FROM budget_versions WHERE account_id = ANY(?)"
_REPLICAS = f"""
SELECT id FROM writers WHERE is_replica AND NOT is_over AND at > now() - interval '{GRACE_S} s'
"""
_SET = """
INSERT INTO allotments VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (account_id, replica, kind, of_id, part) DO UPDATE SET amount_nano = EXCLUDED.amount_nano
"""
_LOWER = """
UPDATE allotments SET amount_nano = CASE WHEN amount_nano > ?1 THEN amount_nano - ?1 ELSE 0 END
WHERE replica = ?2 AND account_id = ?3 AND kind = ?4 AND of_id = ?5 AND part = ?6
"""
_CLEAR = "DELETE FROM allotments WHERE replica = ? AND account_id = ANY(?) AND amount_nano = 0"
_CLEAR_LEASES = """
DELETE FROM allotments WHERE replica = ? AND account_id = ? AND kind <> 'wallet' AND of_id = ANY(?)
"""
_ON_LEASES = """
SELECT DISTINCT of_id FROM allotments WHERE replica <> ? AND account_id = ? AND kind <> 'wallet' AND of_id = ANY(?)
    AND amount_nano > 0
"""
_TAKE_ALL = "DELETE FROM allotments WHERE replica IN (SELECT id FROM writers WHERE id = ? AND is_over)"
_TAKE = "DELETE FROM allotments WHERE replica = ANY(?) RETURNING account_id, replica"


class _Accounts:
    """What there is of some accounts, what every replica is allotted of it, and so what is free."""

    def __init__(self, transaction: Transaction, account_ids: Iterable[str], windows: Iterable[Spent] = ()) -> None:
        self.now_ms = transaction.now_ms()
        self._transaction = transaction
        self._ids = sorted(set(account_ids))
        self._windows = sorted(set(windows))
        self._paid: dict[str, int] = dict(transaction.all(_LOCK, (self._ids,)))
        self._grants = defaultdict[str, list[GrantLeft]](list)
        for account_id, *grant in transaction.all(_GRANTS, (self._ids,)):
            self._grants[account_id].append(GrantLeft(*grant))
        self._pockets = defaultdict[str, dict[Fund, int]](dict)
        for account_id, lease_id, grant_id, nano in transaction.all(_POCKETS, (self._ids,)):
            self._pockets[account_id][Fund("pocket", lease_id, grant_id)] = nano
        self._rooms = self._rooms_of(self._windows)
        self.allotted = defaultdict[str, dict[int, dict[Fund, int]]](lambda: defaultdict(dict))
        self.beside = defaultdict[tuple[str, Fund], int](int)
        """What was allotted of each beside what was asked for, in this transaction."""
        self._read_allotted()

    def _read_allotted(self) -> None:
        self.allotted.clear()
        for account_id, replica, *fund, nano in self._transaction.all(_ALLOTTED, (self._ids,)):
            self.allotted[account_id][replica][Fund(*fund)] = nano
        self._totals: dict[str, dict[Fund, int]] = {}
        for account_id, by_replica in self.allotted.items():
            for amounts in by_replica.values():
                self._totals[account_id] = with_more(self._totals.get(account_id, {}), amounts)

    def _rooms_of(self, windows: Sequence[Spent], *, also_ended: bool = False) -> dict[Spent, int]:
        """What was not spent of each; nothing where nothing may be spent any more."""
        if not windows:
            return {}
        ids, starts = [one for one, _ in windows], [at for _, at in windows]
        found = self._transaction.all(_WINDOWS, (self.now_ms, ids, starts))
        return {(one, at): left if is_open or also_ended else 0 for one, at, left, is_open in found}

    def money(self, account_id: str, pocket: str | None, until_ms: int | None = None) -> Free:
        """What nobody is allotted of the wallet, beside what is set aside for leases, or of a pocket."""
        totals, pockets = self._totals.get(account_id, {}), self._pockets[account_id]
        if pocket is None:
            set_aside = defaultdict[int, int](int)
            for fund, nano in pockets.items():
                set_aside[fund.part] += nano
            paid_nano = self._paid.get(account_id, 0) - set_aside[PAID] - totals.get(Fund("wallet"), 0)
            parts = {one.id: one.left_nano - set_aside[one.id] for one in self._grants[account_id]}
        else:
            paid_nano = pockets.get(Fund("pocket", pocket), 0) - totals.get(Fund("pocket", pocket), 0)
            parts = {one.id: pockets.get(Fund("pocket", pocket, one.id), 0) for one in self._grants[account_id]}
        kind, lease_id = ("wallet", "") if pocket is None else ("pocket", pocket)
        grants = []
        for grant in self._grants[account_id]:
            left_nano = parts[grant.id] - totals.get(Fund(kind, lease_id, grant.id), 0)  # type: ignore[arg-type]
            if left_nano > 0 and (until_ms is None or grant.lives_at(until_ms)):
                grants.append(grant._replace(left_nano=left_nano))
        return Free(paid_nano, tuple(grants))

    def room(self, account_id: str, window: Spent) -> int:
        """Nothing of one that is not known."""
        return self._rooms.get(window, 0) - self._totals.get(account_id, {}).get(Fund("window", *window), 0)

    def lower_unallotted(self, account_id: str, windows: Sequence[Spent], pocket: str | None, charge: Amount) -> None:
        """So much was taken from what nobody is allotted."""
        self._paid[account_id] = self._paid.get(account_id, 0) - charge.paid_nano
        parts = dict(charge.grants)
        self._grants[account_id] = [
            one._replace(left_nano=one.left_nano - parts.get(one.id, 0)) for one in self._grants[account_id]
        ]
        if pocket is not None:
            of_pocket = self._pockets[account_id]
            self._pockets[account_id] = without(of_pocket, of_money(pocket, charge))
        for window in windows:
            self._rooms[window] = self._rooms.get(window, 0) - charge.amount_nano

    def know_windows(self, windows: Iterable[Spent]) -> None:
        """Also of budgets that have ended, for what was delivered before."""
        more = sorted(set(windows) - self._rooms.keys())
        self._rooms |= self._rooms_of(more, also_ended=True)

    def add(self, account_id: str, replica: int, amounts: Amounts) -> None:
        self.allotted[account_id][replica] = with_more(self.allotted[account_id][replica], amounts)
        self._totals[account_id] = with_more(self._totals.get(account_id, {}), amounts)

    def expiries(self, account_id: str) -> dict[int, int | None]:
        return {one.id: one.expires_at_ms for one in self._grants[account_id]}

    def others(self, account_id: str, replica: int) -> set[int]:
        return {one for one, amounts in self.allotted[account_id].items() if amounts} - {replica}

    def take_from_dead(self) -> None:
        """Where there are any."""
        if _take_from_dead(self._transaction):
            self._read_allotted()


# Draws


def _draw(transaction: Transaction, draws: Sequence[Draw]) -> list[Drawn]:
    replica = _own(transaction)
    versions: dict[str, int] = dict(transaction.all(_VERSIONS, (sorted({draw.account_id for draw in draws}),)))
    timely = [draw for draw in draws if draw.version == versions.get(draw.account_id, 0)]
    accounts = _Accounts(
        transaction, {draw.account_id for draw in timely}, (lack.window for draw in timely for lack in draw.lacks)
    )
    replicas = max(1, len(transaction.all(_REPLICAS)))
    changed = defaultdict[str, dict[Fund, int]](dict)
    wholes: dict[str, AllMoney] = {}
    outcomes: list[tuple[Draw, bool, bool]] = []
    has_looked = False
    for draw in draws:
        if draw.version != versions.get(draw.account_id, 0):
            outcomes.append((draw, False, False))
            continue
        is_covered, is_full = _allot(accounts, replica, draw, changed, replicas)
        if not is_full and not has_looked and accounts.others(draw.account_id, replica):
            has_looked = True
            accounts.take_from_dead()
            if not is_covered:
                is_covered, is_full = _allot(accounts, replica, draw, changed, replicas)
        outcomes.append((draw, is_covered, is_full))
    _set(transaction, accounts, replica, changed)
    drawn = []
    for draw, is_covered, is_full in outcomes:
        if is_full:
            drawn.append(Drawn(is_covered))
            continue
        whole = wholes.get(draw.account_id)
        if whole is None:
            whole = wholes[draw.account_id] = _whole(transaction, AllMoneyOf(draw.account_id, transaction.now_ms()))
        drawn.append(Drawn(is_covered, whole, is_outdated=draw.version != whole.version))
    return drawn


def _allot(
    accounts: _Accounts, replica: int, draw: Draw, changed: dict[str, dict[Fund, int]], replicas: int
) -> tuple[bool, bool]:
    """Whether what is needed is allotted, and all that is wanted."""
    account_id, now_ms = draw.account_id, accounts.now_ms
    free = accounts.money(account_id, draw.pocket, draw.until_ms)
    free_nano = rules.spendable_nano(free, now_ms)
    rooms = [accounts.room(account_id, lack.window) for lack in draw.lacks]
    if free_nano < draw.least_nano or any(room < lack.least_nano for room, lack in zip(rooms, draw.lacks, strict=True)):
        return False, False
    within = min(
        [_FOREVER_NANO, *(max(0, room) for room, lack in zip(rooms, draw.lacks, strict=True) if lack.most_nano)]
    )
    most_nano = min(draw.most_nano, max(within, draw.least_nano))
    if draw.until_ms is None:
        fund = Fund("wallet" if draw.pocket is None else "pocket", draw.pocket or "")
        most_nano += _more(accounts, draw, fund, free_nano, most_nano, replicas)
    money = rules.place(free, draw.least_nano, most_nano, now_ms)
    assert money is not None, "it was just seen to be free"
    more = of_money(draw.pocket, money)
    for room, lack in zip(rooms, draw.lacks, strict=True):
        fund = Fund("window", *lack.window)
        nano = lack.most_nano + _more(accounts, draw, fund, room, lack.most_nano, replicas)
        more = with_more(more, {fund: min(max(0, room), nano)})
    changed[account_id] = with_more(changed[account_id], more)
    accounts.add(account_id, replica, more)
    is_full = free_nano >= draw.most_nano and all(
        room >= lack.most_nano for room, lack in zip(rooms, draw.lacks, strict=True)
    )
    return True, is_full


def _more(accounts: _Accounts, draw: Draw, fund: Fund, free_nano: int, most_nano: int, replicas: int) -> int:
    """What is allotted beside what was asked for, where there is plenty; all draws of a moment share in it."""
    beside_nano = accounts.beside[draw.account_id, fund]
    plenty_nano = (free_nano + beside_nano - most_nano) // (_RICH * replicas) - beside_nano
    if plenty_nano < _RICH * most_nano:
        return 0
    more_nano = min(plenty_nano, draw.times * most_nano)
    accounts.beside[draw.account_id, fund] += more_nano
    return more_nano


def _set(
    transaction: Transaction, accounts: _Accounts, replica: int, changed: Mapping[str, Mapping[Fund, int]]
) -> None:
    rows = []
    for account_id, more in changed.items():
        amounts = accounts.allotted[account_id][replica]
        rows += [(replica, account_id, *fund, amounts[fund]) for fund in more]
        transaction.tell(Allotted(account_id, dict(amounts), accounts.expiries(account_id)))
    transaction.execute_many(_SET, rows)


def _own(transaction: Transaction) -> int:
    assert transaction.replica is not None, "who draws is one of several"
    return transaction.replica


# What goes back


def _lower(transaction: Transaction, replica: int, amounts: Iterable[tuple[str, Amounts]]) -> None:
    rows = [
        (nano, replica, account_id, *fund) for account_id, of_account in amounts for fund, nano in of_account.items()
    ]
    transaction.execute_many(_LOWER, rows)
    transaction.execute(_CLEAR, (replica, sorted({row[2] for row in rows})))


def _own_amounts(
    transaction: Transaction, replica: int, account_ids: Iterable[str]
) -> dict[str, tuple[dict[Fund, int], dict[int, int | None]]]:
    """What a replica is allotted of accounts, with when the grants among it expire."""
    ids = sorted(set(account_ids))
    found: dict[str, tuple[dict[Fund, int], dict[int, int | None]]] = {one: ({}, {}) for one in ids}
    for account_id, kind, of_id, part, nano, expires_at_ms in transaction.all(_OWN, (ids, replica)):
        amounts, expiries = found[account_id]
        amounts[Fund(kind, of_id, part)] = nano
        if kind != "window" and part != PAID:
            expiries[part] = expires_at_ms
    return found


def _return(transaction: Transaction, write: ReturnAllotted) -> None:
    replica = transaction.replica or 0
    _lower(transaction, replica, write.amounts)
    left = _own_amounts(transaction, replica, (account_id for account_id, _ in write.amounts))
    for account_id, (amounts, expiries) in left.items():
        transaction.tell(Allotted(account_id, amounts, expiries, write.number))
        transaction.announce(MoneyReturned(account_id, replica))


def _ask(transaction: Transaction, write: AskForMoney) -> tuple[int, ...]:
    replica = _own(transaction)
    transaction.announce(MoneyWanted(write.account_id, replica))
    return tuple(one for (one,) in transaction.all(_REPLICAS) if one != replica)


def _take(transaction: Transaction, _: TakeFromDead) -> int:
    return _take_from_dead(transaction)


def _take_from_dead(transaction: Transaction) -> int:
    dead = [one for (one,) in transaction.all(DECLARE_OVER, (transaction.replica or 0, GRACE_S))]
    if dead:
        for account_id, replica in set(transaction.all(_TAKE, (dead,))):
            transaction.announce(MoneyReturned(account_id, replica))
    return len(dead)


# Charges


_Ending = Settle | LeaveUncharged | GiveBack | Departure


def spending_allotted(others: RunTogether) -> RunTogether:
    """Who has `others` carry out what requests cost, once it is taken from what the replica is allotted, too."""

    def carry_out(transaction: Transaction, writes: Sequence[Any]) -> Sequence[Any]:
        if transaction.replica is None or not any(isinstance(one, Settle) for one in writes):
            return others(transaction, writes)
        return others(transaction, _decided(transaction, transaction.replica, writes))

    return carry_out


def _decided(transaction: Transaction, replica: int, writes: Sequence[_Ending]) -> list[_Ending]:
    """What is charged in the end: as it is asked for where that was allotted, and is not any more."""
    charged = {one.account_id for one in writes if isinstance(one, Settle)}
    own = _own_amounts(transaction, replica, charged)
    taken: dict[str, dict[Fund, int]] = {account_id: {} for account_id in charged}
    late: _Accounts | None = None
    decided: list[_Ending] = []
    for one in writes:
        if not isinstance(one, Settle) or not one.charge.amount_nano:
            decided.append(one)
            continue
        amounts, _ = own[one.account_id]
        needed = of_money(one.pocket, one.charge) | of_windows(one.windows, one.charge.amount_nano)
        if all(amounts.get(fund, 0) >= nano for fund, nano in needed.items()):
            amounts.update({fund: amounts[fund] - nano for fund, nano in needed.items()})
            taken[one.account_id] = with_more(taken[one.account_id], needed)
            decided.append(one)
        else:
            late = late or _Accounts(transaction, charged)
            decided.append(_from_unallotted(transaction, late, one))
    lowered = [(account_id, amounts) for account_id, amounts in taken.items() if amounts]
    for account_id, _ in lowered:
        amounts, expiries = own[account_id]
        transaction.tell(Allotted(account_id, {fund: nano for fund, nano in amounts.items() if nano}, expiries))
    if lowered:
        _lower(transaction, replica, lowered)
    return decided


def _from_unallotted(transaction: Transaction, accounts: _Accounts, one: Settle) -> Settle:
    """A charge of what was taken back from this replica meanwhile: as much as is free now, and nobody is allotted."""
    windows = tuple(with_returned(transaction, one.windows))
    accounts.know_windows(windows)
    pocket = one.pocket
    if pocket is not None and transaction.first(budgets._RETURNED, (pocket,)) is not None:
        pocket = None
    cost_nano = one.charge.amount_nano
    for window in windows:
        cost_nano = min(cost_nano, max(0, accounts.room(one.account_id, window)))
    charge = rules.charge(NOTHING, cost_nano, accounts.money(one.account_id, pocket), accounts.now_ms)
    accounts.lower_unallotted(one.account_id, windows, pocket, charge)
    record = one.record and one.record._replace(cost_nano=charge.amount_nano)
    return replace(one, charge=charge, windows=windows, pocket=pocket, record=record)


def _move(transaction: Transaction, write: Move) -> bool:
    """What it takes away may be allotted: replicas give back at once what they do not hold where too little is left."""
    is_new = settlements._move(transaction, write)
    if is_new and write.amount_nano < 0:
        accounts = _Accounts(transaction, [write.account_id])
        if accounts.allotted and accounts.money(write.account_id, None).paid_nano < 0:
            wanted = MoneyWanted(write.account_id, NOBODY)
            transaction.tell(wanted)  # whoever announces does not hear it
            transaction.announce(wanted)
    return is_new


def _catch_up(transaction: Transaction, write: CatchUp) -> None:
    """What an earlier process left is charged of what nobody is allotted: it holds nothing any more."""
    if write.left_by is not None:
        transaction.all(DECLARE_ENDED, (write.left_by,))
        transaction.execute(_TAKE_ALL, (write.left_by,))
    if transaction.replica is None:
        settlements._catch_up(transaction, write)
        return
    for entry in write.entries:
        if isinstance(entry, Settle) and transaction.first(settlements._IS_SETTLED, (entry.request_id,)) is None:
            entry = _from_unallotted(transaction, _Accounts(transaction, [entry.account_id]), entry)
        settlements._catch_up(transaction, replace(write, entries=(entry,)))


def _expire(transaction: Transaction, write: ExpireGrants) -> int:
    """Of what nobody is allotted; the rest once that has come back."""
    accounts = _Accounts(transaction, [account_id for account_id, _ in write.left])
    left = []
    for account_id, parts in write.left:
        free = {one.id: one.left_nano for one in accounts.money(account_id, None).grants}
        within = tuple((one, min(nano, free.get(one, 0))) for one, nano in parts.grants)
        left.append((account_id, Amount(grants=tuple((one, nano) for one, nano in within if nano > 0))))
    return settlements._expire_grants(transaction, replace(write, left=tuple(left)))


# Budgets


def _make(transaction: Transaction, write: MakeBudgets) -> None:
    """What is set aside for leases was allotted to this replica, and is spent now."""
    replica = transaction.replica
    if replica is not None and write.leases:
        account_id = write.budgets[0].account_id
        amounts, expiries = _own_amounts(transaction, replica, [account_id])[account_id]
        amount_of = {budget.id: budget.amount_nano for budget in write.budgets}
        taken: dict[Fund, int] = {}
        for lease in write.leases:
            taken = with_more(taken, of_windows(lease.windows, amount_of[lease.budget_id]))
            taken = with_more(taken, of_money(None, lease.set_aside))
        if any(amounts.get(fund, 0) < nano for fund, nano in taken.items()):
            raise GatewayError("conflict", "The money for this lease was spent meanwhile; ask again.")
        transaction.tell(Allotted(account_id, without(amounts, taken), expiries))
        _lower(transaction, replica, [(account_id, taken)])
    _OF_BUDGETS[MakeBudgets](transaction, write)
    for account_id in {budget.account_id for budget in write.budgets}:
        transaction.announce(BudgetsMoved(account_id))


def _return_leases(transaction: Transaction, write: ReturnLeases) -> int:
    """Those of which no other replica is allotted anything; the others once it was asked."""
    replica, lease_ids = transaction.replica or 0, list(write.lease_ids)
    busy = {one for (one,) in transaction.all(_ON_LEASES, (replica, write.account_id, lease_ids))}
    kept = tuple(one for one in lease_ids if one not in busy)
    if kept and transaction.execute(_CLEAR_LEASES, (replica, write.account_id, list(kept))):
        amounts, expiries = _own_amounts(transaction, replica, [write.account_id])[write.account_id]
        transaction.tell(Allotted(write.account_id, amounts, expiries))
    returned_nano: int = _OF_BUDGETS[ReturnLeases](transaction, replace(write, lease_ids=kept))
    if kept:
        transaction.announce(BudgetsMoved(write.account_id))
    return returned_nano


def _moving(kind: type[Any]) -> Callable[[Transaction, Any], Any]:
    """The executor of a write of budgets, of which other replicas are told."""
    run = _OF_BUDGETS[kind]

    def moved(transaction: Transaction, write: Any) -> Any:
        outcome = run(transaction, write)
        transaction.announce(BudgetsMoved(write.account_id))
        return outcome

    return moved


_OF_BUDGETS = budgets.EXECUTORS.alone


# Reads


def _whole(rows: Rows, read: AllMoneyOf) -> AllMoney:
    allotted = defaultdict[int, dict[Fund, int]](dict)
    for _, replica, *fund, nano in rows.all(_ALLOTTED, ([read.account_id],)):
        allotted[replica][Fund(*fund)] = nano
    version = rows.first("SELECT version FROM budget_versions WHERE account_id = ?", (read.account_id,))
    return AllMoney(
        OF_ANY_ENGINE.reads[WalletOf](rows, WalletOf(read.account_id)),
        OF_ANY_ENGINE.reads[ReadBudgets](rows, ReadBudgets(read.account_id, read.now_ms)),
        0 if version is None else version[0],
        dict(allotted),
    )


def _all(rows: Rows, _: AllAllotted) -> dict[str, dict[int, Amounts]]:
    found = defaultdict[str, dict[int, dict[Fund, int]]](lambda: defaultdict(dict))
    for account_id, replica, *fund, nano in rows.all(
        "SELECT account_id, replica, kind, of_id, part, amount_nano FROM allotments"
    ):
        found[account_id][replica][Fund(*fund)] = nano
    return {account_id: dict(by_replica) for account_id, by_replica in found.items()}


CHECKS = {
    "replicas are allotted more than a wallet has, beside leases (account, grant or 0 for paid, allotted, free)": """
        SELECT a.account_id, a.part, SUM(a.amount_nano) AS allotted, MAX(has.nano) AS nano
        FROM allotments AS a JOIN (
            SELECT account_id, 0 AS part, paid_nano - COALESCE((SELECT SUM(left_nano) FROM pockets
                JOIN leases ON budget_id = lease_id WHERE leases.account_id = wallets.account_id AND grant_id = 0), 0)
                AS nano FROM wallets
            UNION ALL SELECT account_id, id, remaining_nano - COALESCE(
                (SELECT SUM(left_nano) FROM pockets WHERE grant_id = grants.id), 0) FROM grants
        ) AS has ON has.account_id = a.account_id AND has.part = a.part
        WHERE a.kind = 'wallet' AND (a.part <> 0 OR NOT EXISTS (
            SELECT 1 FROM ledger_rows JOIN names ON number = account_number WHERE name = a.account_id
                AND kind IN ('refund', 'dispute', 'adjustment') AND paid_nano < 0))
        GROUP BY a.account_id, a.part HAVING SUM(a.amount_nano) > MAX(has.nano)""",
    "replicas are allotted more of a lease than it has (lease, grant or 0 for paid, allotted, left)": """
        SELECT of_id, part, SUM(amount_nano) AS allotted, COALESCE(MAX(left_nano), 0) AS nano
        FROM allotments LEFT JOIN pockets ON lease_id = of_id AND grant_id = part
        WHERE kind = 'pocket' GROUP BY of_id, part HAVING SUM(amount_nano) > COALESCE(MAX(left_nano), 0)""",
    "replicas are allotted more of a budget than is left (budget, start of its window, allotted, left)": """
        SELECT of_id, part, SUM(allotments.amount_nano) AS allotted, MAX(budgets.amount_nano - COALESCE(spent_nano, 0))
            AS nano
        FROM allotments LEFT JOIN budgets ON id = of_id
        LEFT JOIN budget_windows ON budget_id = id AND starts_at_ms = part
        WHERE kind = 'window' GROUP BY of_id, part
        HAVING SUM(allotments.amount_nano) > MAX(budgets.amount_nano - COALESCE(spent_nano, 0))""",
}
"""What must hold beside what must on any engine, as queries that find nothing."""

EXECUTORS = Executors(
    alone={
        ReturnAllotted: _return,
        AskForMoney: _ask,
        TakeFromDead: _take,
        Move: _move,
        CatchUp: _catch_up,
        ExpireGrants: _expire,
        MakeBudgets: _make,
        ReturnLeases: _return_leases,
        EndBudget: _moving(EndBudget),
        SetZone: _moving(SetZone),
    },
    together={Draw: _draw},
    reads={AllMoneyOf: _whole, AllAllotted: _all},
)
