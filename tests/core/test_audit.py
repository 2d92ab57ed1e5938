"""The audit log: each change with its entry, in one transaction, and nothing else."""

from collections.abc import Awaitable, Callable

import pytest

from mcp_gateway.core.audit.auditing import Auditing
from mcp_gateway.core.audit.changes import _CHANGES
from mcp_gateway.core.audit.log import Actor, AuditEntry, AuditFilter, AuditLog
from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.admin_keys import AdminKeys
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import KeysPerAccount
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.budgets import Budget, EndBudget, MakeBudgets, SetZone
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.webhooks.webhooks import Webhooks
from tests.cases import each
from tests.clocks import MsClock
from tests.databases import changing

ALICE = Actor("shell", "alice", "workstation")


class Desk:
    """What Alice changes things with."""

    def __init__(self, store: Store, clock: MsClock) -> None:
        self.store = Auditing(store, ALICE)
        self.accounts = Accounts(self.store, new_id=new_id, now_ms=clock)
        most = KeysPerAccount(live=3, a_day=20)
        self.keys = KeyRing(self.store, new_id=new_id, now_ms=clock, most=most)
        self.admin_keys = AdminKeys(self.store, new_id=new_id, now_ms=clock)
        self.ledger = Ledger(self.store)
        self.log = AuditLog(self.store)

    async def entries(self) -> list[AuditEntry]:
        """The oldest first."""
        return [entry async for entry in self.log.all(AuditFilter())][::-1]


@pytest.fixture
def desk(store: Store, clock: MsClock) -> Desk:
    return Desk(store, clock)


async def test_a_change_is_noted_with_who_when_what_before_and_after(desk: Desk, clock: MsClock) -> None:
    account = await desk.accounts.create("ours")
    await desk.accounts.change(account.id, limits={"requests_per_minute": 7, "in_flight": None})
    made, changed = await desk.entries()
    assert (made.action, made.subject, made.before) == ("account.create", account.id, None)
    assert made.after is not None
    assert made.after["name"] == "ours"
    assert (changed.action, changed.actor, changed.at_ms) == ("account.limits", ALICE, clock.now_ms)
    default = dict.fromkeys(("requests_per_minute", "requests_per_day", "tokens_per_minute", "in_flight"), "default")
    assert changed.before == {"limits": default}
    assert changed.after == {"limits": default | {"requests_per_minute": 7, "in_flight": "none"}}


async def _unchanged(desk: Desk, account_id: str) -> None:
    await desk.accounts.change(account_id, is_active=True)
    await desk.accounts.change(account_id, margin=0)


async def _refused(desk: Desk, account_id: str) -> None:
    with pytest.raises(GatewayError):
        await desk.keys.create(account_id, group="no such group")
    with pytest.raises(GatewayError):
        await desk.accounts.change(GUEST_ACCOUNT_ID, margin=5)
    with pytest.raises(GatewayError):
        await desk.accounts.change("acc_unknown", is_active=False)


async def _repeated(desk: Desk, account_id: str) -> None:
    assert not await desk.ledger.credit(account_id, 5, "first")


async def _read(desk: Desk, account_id: str) -> None:
    await desk.accounts.list()
    await desk.ledger.balance(account_id)


@each("work", [_unchanged, _refused, _repeated, _read])
async def test_what_changes_nothing_leaves_no_entry(
    desk: Desk, account: str, work: Callable[[Desk, str], Awaitable[None]]
) -> None:
    await desk.ledger.credit(account, 5, "first")
    before = await desk.entries()
    await work(desk, account)
    assert await desk.entries() == before


async def test_money_is_noted_with_the_wallet_before_and_behind_it(desk: Desk, account: str) -> None:
    await desk.ledger.credit(account, 5_000_000_000, "wire-1", note="thanks")
    await desk.ledger.grant(account, 2_000_000_000, "gift")
    await desk.ledger.adjust(account, -1_000_000_000, "r-1")
    credit, grant, adjustment = await desk.entries()
    assert credit.before == {"paid_usd": "0.00"}
    assert credit.after == {"paid_usd": "5.00", "amount_usd": "5.00", "reference": "wire-1", "note": "thanks"}
    assert (grant.action, grant.before) == ("money.grant", {"granted_usd": "0.00"})
    assert (adjustment.action, adjustment.before, adjustment.subject) == (
        "money.adjustment", {"paid_usd": "5.00"}, account,
    )  # fmt: skip
    assert adjustment.after is not None
    assert (adjustment.after["paid_usd"], adjustment.after["amount_usd"]) == ("4.00", "-1.00")


async def test_no_key_stands_in_the_log(desk: Desk, account: str) -> None:
    made, raw = await desk.keys.create(account, name="ci")
    _, admin = await desk.admin_keys.create("alice")
    await desk.keys.change(made.id, name="cd")
    await desk.keys.revoke(made.id)
    entries = await desk.entries()
    assert [entry.action for entry in entries] == ["key.create", "admin_key.create", "key.change", "key.revoke"]
    assert raw[12:] not in str(entries)
    assert admin[13:] not in str(entries)
    assert (entries[2].before, entries[2].after) == ({"name": "ci"}, {"name": "cd"})


async def test_a_rotation_is_noted_with_when_the_old_secret_ends_and_without_either(
    desk: Desk, account: str, clock: MsClock
) -> None:
    key, old = await desk.keys.create(account)
    rotated, new = await desk.keys.rotate(key.id, 60_000)
    entries = await desk.entries()
    last = entries[-1]
    assert (last.action, last.subject) == ("key.rotate", key.id)
    assert last.before == {"prefix": key.prefix, "old_expires_at": None}
    assert last.after == {"prefix": rotated.prefix, "old_expires_at": clock.now_ms // 1000 + 60}
    assert not any(raw[12:] in str(entries) for raw in (old, new))


async def test_keys_that_end_with_another_are_counted(desk: Desk, account: str) -> None:
    maker, _ = await desk.keys.create(account)
    made, _ = await desk.keys.create(account, made_by=maker.id, has_budget=True)
    await desk.keys.revoke(maker.id)
    last = (await desk.entries())[-1]
    assert last.after is not None
    assert (last.subject, last.after["also_ended"], last.after["of_them"]) == (maker.id, 1, [made.id])


async def test_budgets_and_zones_are_noted(desk: Desk, account: str, clock: MsClock) -> None:
    budget = Budget("bud_1", account, account, 5_000_000_000, "day")
    await desk.store.write(MakeBudgets((budget,)))
    for is_new in (True, False):
        assert await desk.store.write(SetZone(account, "Europe/Berlin")) is is_new
    assert await desk.store.write(EndBudget(account, "bud_1", clock.now_ms))
    assert not await desk.store.write(EndBudget(account, "bud_1", clock.now_ms))
    noted = [(entry.action, entry.subject) for entry in await desk.entries()]
    assert noted == [("budget.create", account), ("account.zone", account), ("budget.end", "bud_1")]


async def test_who_changes_nothing_of_the_operator_s_is_not_noted(store: Store, clock: MsClock, desk: Desk) -> None:
    await Accounts(store, new_id=new_id, now_ms=clock).create("by the server itself")
    assert await desk.entries() == []


async def stays(desk: Desk, store: Store, statement: str) -> None:
    await desk.accounts.create("ours")
    before = await desk.entries()
    with pytest.raises(DatabaseError, match="append-only"):
        await store.write(changing(statement))
    assert await desk.entries() == before


@each("statement", ["UPDATE audit_log SET actor = 'bob'", "DELETE FROM audit_log"])
async def test_an_entry_can_be_neither_changed_nor_removed(desk: Desk, store: Store, statement: str) -> None:
    await stays(desk, store, statement)


@pytest.mark.usefixtures("of_sqlite")
@each("statement", ["REPLACE INTO audit_log SELECT * FROM audit_log", "UPDATE OR REPLACE audit_log SET id = id + 1"])
async def test_nor_replaced_by_itself_or_by_another(desk: Desk, store: Store, statement: str) -> None:
    await stays(desk, store, statement)


async def test_entries_are_found_by_what_they_say_page_by_page(desk: Desk, clock: MsClock) -> None:
    first = await desk.accounts.create("first")
    clock.now_ms += 1000
    await desk.accounts.create("second")
    await desk.accounts.change(first.id, is_active=False)
    whole = [entry.action for entry in await desk.log.page(AuditFilter(), before_id=None, limit=9)]
    assert whole == ["account.deactivate", "account.create", "account.create"]
    for wanted, count in (
        (AuditFilter(action="account.create"), 2),
        (AuditFilter(subject=first.id), 2),
        (AuditFilter(actor="alice"), 3),
        (AuditFilter(actor="bob"), 0),
        (AuditFilter(since_ms=clock.now_ms), 2),
        (AuditFilter(until_ms=clock.now_ms), 1),
    ):
        assert len(await desk.log.page(wanted, before_id=None, limit=9)) == count
    page = await desk.log.page(AuditFilter(), before_id=None, limit=2)
    assert len(await desk.log.page(AuditFilter(), before_id=page[-1].id, limit=2)) == 1


def test_what_the_desk_writes_is_told_of_or_is_no_change() -> None:
    """Whoever adds a write of the operator's is asked what the log tells of it."""
    assert {kind.__name__ for kind in _CHANGES} >= {"CreateAccount", "ChangeKey", "Move", "Grant", "MakeBudgets"}


async def test_a_webhook_is_noted_by_its_server_alone_and_without_its_secret(desk: Desk, account: str) -> None:
    webhooks = Webhooks(desk.store, now_ms=lambda: 5, ports={443})
    secret = await webhooks.put(account, "https://hooks.example.com/T0/secret-path")
    assert secret is not None
    await webhooks.put(account, "https://hooks.example.com/T0/another-path")
    rotated = await webhooks.rotate(account)
    for mark_nano in (5_000_000_000, 5_000_000_000, None):
        await webhooks.set_low_balance(account, mark_nano)
    await webhooks.remove(account)
    with pytest.raises(GatewayError):
        await webhooks.rotate(account)
    with pytest.raises(GatewayError):
        await webhooks.remove(account)
    entries = await desk.entries()
    at = {"at": "https://hooks.example.com"}
    assert [(entry.action, entry.before, entry.after) for entry in entries] == [
        ("webhook.set", None, at | {"webhook": "new"}),
        ("webhook.set", {}, {"webhook": "changed"}),
        ("webhook.rotate", {}, {"webhook": "new secret"}),
        ("account.low_balance", {"low_balance_usd": None}, {"low_balance_usd": "5.00"}),
        ("account.low_balance", {"low_balance_usd": "5.00"}, {"low_balance_usd": None}),
        ("webhook.delete", at, {"webhook": "deleted"}),
    ]
    assert not any(word in str(entries) for word in (secret, rotated, "path"))
