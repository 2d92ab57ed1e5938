"""What must be true of one account's money and its tree of budgets: an auditor that computes it from facts.

What is spent of a window is never counted up: it follows from what requests were charged and which leases there are.
Knows neither memory nor databases. Amounts in nano-USD; a test's zones have no summer time.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mcp_gateway.core.ledger.budgets import BudgetWindow

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ACCOUNT = "the account"
PAID = 0
"""In place of a grant's id, of paid money."""
FOREVER_MS = 10**15
LENGTHS_MS: dict[BudgetWindow, int] = {"5h": 5 * HOUR_MS, "day": DAY_MS, "week": 7 * DAY_MS}
_MONDAY_MS = 4 * DAY_MS
"""The first of all times."""

Window = tuple[str, int]
"""A budget, and when one of its windows started."""
Money = dict[int, int]
"""An amount by where it comes from, in the order in which it was taken."""
Refusal = tuple[str, str | None]
"""Its code, and the budget that it names."""


@dataclass(eq=False)
class Node:
    """A budget; a lease has an end."""

    id: str
    holder: str
    amount: int
    window: BudgetWindow
    ends_ms: int | None = None
    above: tuple[Window, ...] = ()
    """What a lease was set aside from."""
    pocket: str = ""
    """The lease whose money a lease spends."""
    left: Money = field(default_factory=dict)
    """Of a lease's own money."""
    covered: frozenset[str] = frozenset()
    """What a lease is spent of already."""
    is_open: bool = True
    is_returned: bool = False

    @property
    def is_out(self) -> bool:
        return self.ends_ms is not None and not self.is_returned

    def is_over(self, now_ms: int) -> bool:
        return self.ends_ms is not None and self.ends_ms <= now_ms


@dataclass(eq=False)
class Taken:
    """What a request holds, and then what it is charged."""

    parts: Money
    windows: frozenset[Window]
    pocket: str | None
    is_charged: bool = False
    """And so still held until that is committed."""

    @property
    def amount(self) -> int:
        return sum(self.parts.values())


class Auditor:
    """Of what is known to be committed, and of what requests hold."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.zone_ms = 0
        self.wallet: Counter[int] = Counter()
        """All that the account owns, with what is held of it and what is in pockets."""
        self.expiries: dict[int, int] = {}
        self.from_outside = 0
        self.is_refunded = False
        self.nodes: dict[str, Node] = {}
        """The first made first."""
        self.held: dict[str, Taken] = {}
        self.kept: dict[str, Taken] = {}
        """What each settled request was charged, unless that was given back."""
        self.direct: Counter[Window] = Counter()
        """What requests were charged, by the windows that they are of."""

    # Windows

    def start(self, node: Node) -> int:
        length_ms = LENGTHS_MS.get(node.window)
        if length_ms is None:
            return 0
        origin_ms = {"5h": 0, "day": -self.zone_ms, "week": _MONDAY_MS - self.zone_ms}[node.window]
        return self.now_ms - (self.now_ms - origin_ms) % length_ms

    def bounding(self, holders: frozenset[str]) -> list[Node]:
        """Those that bound what these spend; what a lease is of was spent of when it was made."""
        found = [node for node in self.nodes.values() if node.is_open and node.holder in holders | {ACCOUNT}]
        covered = frozenset[str]().union(*(node.covered for node in found if node.is_out))
        return [node for node in found if node.id not in covered]

    def windows(self, holders: frozenset[str]) -> tuple[Window, ...]:
        return tuple((node.id, self.start(node)) for node in self.bounding(holders))

    def pocket_of(self, windows: Iterable[Window]) -> str | None:
        leases = [self.nodes[one] for one, _ in windows if self.nodes[one].is_out]
        deepest = max(leases, key=lambda lease: (len(lease.covered), lease.id), default=None)
        return None if deepest is None else deepest.pocket

    def spent(self, window: Window) -> int:
        """By requests, and for leases: all of one that is out, and of one that has returned what was spent of it."""
        leases = [one for one in self.nodes.values() if window in one.above]
        return self.direct[window] + sum(self.spent((one.id, 0)) if one.is_returned else one.amount for one in leases)

    def held_of(self, window: Window, *, is_open: bool = False) -> int:
        """By all, or by those that still run."""
        return sum(taken.amount for taken in self._held(is_open=is_open) if window in taken.windows)

    def room(self, windows: Iterable[Window]) -> int:
        return min(map(self._room_of, windows), default=FOREVER_MS)

    def _room_of(self, window: Window) -> int:
        node = self.nodes[window[0]]
        is_closed = not node.is_open or node.is_over(self.now_ms)
        return 0 if is_closed else node.amount - self.spent(window) - self.held_of(window)

    # Money

    def _held(self, *, is_open: bool = False) -> Iterator[Taken]:
        return (taken for taken in self.held.values() if not (is_open and taken.is_charged))

    def free(self, pocket: str | None) -> Counter[int]:
        """Of the wallet or of a pocket, as far as the wallet has that, with what has expired."""
        free = Counter(self.wallet if pocket is None else self.nodes[pocket].left)
        for taken in self.held.values():
            if taken.pocket == pocket:
                free.subtract(taken.parts)
        if pocket is None:
            for node in self.nodes.values():
                free.subtract(node.left)
        else:
            all_held = sum(taken.parts.get(PAID, 0) for taken in self.held.values())
            free[PAID] = min(free[PAID], self.wallet[PAID] - all_held)
        return free

    def living(self, free: Counter[int], until_ms: int | None = None) -> Money:
        """Of grants that live until then, the first to expire first, and of paid money last."""
        until_ms = max(self.now_ms, until_ms or 0)
        order = sorted((expires_ms, grant) for grant, expires_ms in self.expiries.items() if expires_ms > until_ms)
        return {grant: free[grant] for _, grant in order if free[grant]} | {PAID: free[PAID]}

    def spendable(self, holders: frozenset[str]) -> int:
        """What these may spend of money and of all of their budgets."""
        windows = self.windows(holders)
        money = sum(self.living(self.free(self.pocket_of(windows))).values())
        return min(money, max(0, self.room(windows)))

    # Requests

    def place(self, name: str, least: int, most: int, holders: frozenset[str], until_ms: int | None = None) -> bool:
        """Have it held, if it can be."""
        windows = self.windows(holders)
        pocket, room = self.pocket_of(windows), self.room(windows)
        money = self.living(self.free(pocket), until_ms)
        if min(room, sum(money.values())) < least:
            return False
        self.held[name] = Taken(_first(money, min(room, most, sum(money.values()))), frozenset(windows), pocket)
        return True

    def resize(self, name: str, needed: int, most: int) -> bool:
        taken = self.held[name]
        held = taken.amount
        most = min(most, held + max(0, self.room(taken.windows)))
        if most < needed:
            return False
        if most <= held:
            taken.parts = _first(taken.parts, most)
            return True
        money = self.living(self.free(taken.pocket))
        if sum(money.values()) < max(0, needed - held):
            return needed <= held
        more = _first(money, max(0, min(most - held, sum(money.values()))))
        taken.parts = _both(taken.parts, more)
        return True

    def charge(self, name: str, cost: int, *, may_exceed: bool) -> int:
        taken = self.held[name]
        excess = cost - taken.amount
        more: Money = {}
        if may_exceed and excess > 0:
            money = self.living(self.free(taken.pocket))
            money[PAID] = max(0, money[PAID])
            more = _first(money, min(excess, max(0, self.room(taken.windows)), sum(money.values())))
        taken.parts = _both(_first(taken.parts, min(cost, taken.amount)), more)
        taken.is_charged = True
        return taken.amount

    def release(self, name: str) -> None:
        if name in self.held and not self.held[name].is_charged:
            del self.held[name]

    def commit(self, name: str) -> None:
        """What it is charged is written."""
        taken = self.held.pop(name, None)
        if taken is None:
            return
        assert taken.is_charged, "what still runs is not charged"
        self.wallet.subtract(taken.parts)
        self._change_left(taken.pocket, taken.parts, -1)
        self.direct.update(dict.fromkeys(taken.windows, taken.amount))
        self.kept[name] = taken

    def give_back(self, name: str) -> int:
        """What it was charged, once: to its lease, unless that has returned; granted money to the first to expire."""
        taken = self.kept.pop(name, None)
        if taken is None:
            return 0
        back = {PAID: taken.parts.get(PAID, 0)}
        if granted := taken.amount - back[PAID]:
            order = [(expires_ms <= self.now_ms, expires_ms, grant) for grant, expires_ms in self.expiries.items()]
            back[min(order)[-1]] = granted
        self.wallet.update(back)
        if taken.pocket is not None and self.nodes[taken.pocket].is_out:
            self._change_left(taken.pocket, back, 1)
        self.direct.subtract(dict.fromkeys(taken.windows, taken.amount))
        return taken.amount

    def _change_left(self, pocket: str | None, parts: Money, sign: int) -> None:
        if pocket is None:
            return
        left = self.nodes[pocket].left
        for source, part in parts.items():
            left[source] = left.get(source, 0) + sign * part
            assert left[source] >= 0, "more is spent of a lease than it has"

    def refusal(self, least: int, holders: frozenset[str], until_ms: int | None = None) -> Refusal:
        """Of what is final first; money before budgets, unless it is a lease's."""
        windows = self.windows(holders)
        pocket = self.pocket_of(windows)
        money = sum(self.living(self.free(pocket), until_ms).values())
        of_pocket = sum(taken.amount for taken in self._held(is_open=True) if taken.pocket == pocket)
        shorts: list[tuple[str | None, int, int]] = [
            (window[0], max(0, self._room_of(window)), self.held_of(window, is_open=True)) for window in windows
        ]
        shorts.insert(0 if pocket is None else len(shorts), (None, money, of_pocket))
        for budget, left, may_come in shorts:
            if left + may_come < least:
                return ("insufficient_balance" if budget is None else "budget_exhausted"), budget
        return "balance_held", next(budget for budget, left, _ in shorts if left < least)

    # Leases

    def make(self, node: Node) -> None:
        """What is held for a lease becomes what it has."""
        self.nodes[node.id] = node
        if node.ends_ms is None:
            return
        taken = self.held.pop(node.id)
        node.above = tuple(taken.windows)
        node.pocket = taken.pocket or node.id
        node.left = {} if taken.pocket else {source: part for source, part in taken.parts.items() if part}
        above = frozenset(one for one, _ in taken.windows)
        node.covered = above.union(*(self.nodes[one].covered for one in above if self.nodes[one].is_out))

    def end(self, budget: str) -> set[str]:
        """Where it is a lease, the time of those under it that still stand, which are told, is over."""
        self.nodes[budget].is_open = False
        over = {budget} if self.nodes[budget].ends_ms is not None else set()
        while more := {one.id for one in self._under(over)} - over:
            over |= more
        standing = {one.id: one for one in self.nodes.values() if one.id in over and one.is_open}
        for node in standing.values():
            node.ends_ms = min(node.ends_ms or 0, self.now_ms)
        return {*standing}

    def _under(self, leases: set[str]) -> list[Node]:
        return [one for one in self.nodes.values() if leases & {above for above, _ in one.above}]

    def returnable(self) -> set[str]:
        """Leases that are over or ended, of which and of those under which nothing is held."""
        out = [node for node in self.nodes.values() if node.is_out]
        over = {node.id for node in out if not node.is_open or node.is_over(self.now_ms)}
        over = {one for one in over if not self.held_of((one, 0))}
        while kept := {above for one in out if one.id not in over for above, _ in one.above} & over:
            over -= kept
        return over

    def take_in(self, lease: str) -> None:
        """What is left of it is its parents' again, and the wallet's."""
        assert lease in self.returnable(), "a lease returned too early, or twice"
        assert not any(one.is_out for one in self._under({lease})), "a lease returned before one under it"
        self.nodes[lease].is_returned = True
        self.nodes[lease].left = {}

    # A process that ends

    def forget(self) -> None:
        """What was known in memory alone."""
        self.held.clear()

    # What holds at all times

    def check(self) -> None:
        windows = {*self.direct} | {above for node in self.nodes.values() for above in node.above}
        windows |= {(node.id, self.start(node)) for node in self.nodes.values()}
        for window in windows:
            spent = self.spent(window)
            assert 0 <= spent <= spent + self.held_of(window) <= self.nodes[window[0]].amount, "a budget is over"
        assert sum(self.wallet.values()) == self.from_outside - sum(one.amount for one in self.kept.values())
        if not self.is_refunded:
            assert min(self.free(None).values(), default=0) >= 0, "what is free is below nothing"
            self._check_pockets()

    def _check_pockets(self) -> None:
        for pocket in self.nodes.values():
            of_it = [node for node in self.nodes.values() if node.is_out and node.pocket == pocket.id]
            may_spend = sum(node.amount - self.spent((node.id, 0)) for node in of_it)
            assert may_spend <= sum(pocket.left.values()), "a lease has less money than may be spent of it"
            assert min(self.free(pocket.id).values(), default=0) >= 0, "more is held of a lease than it has"


def _first(money: Money, amount: int) -> Money:
    """So much of these, in their order, and of paid money last, whatever there is."""
    parts: Money = {}
    for source, most in money.items():
        if source != PAID and (part := min(most, amount)):
            parts[source] = part
            amount -= part
    return parts | {PAID: amount}


def _both(one: Money, other: Money) -> Money:
    return one | {source: one.get(source, 0) + part for source, part in other.items()}
