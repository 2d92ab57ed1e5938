"""What the log tells of each kind of change that the operator makes. No secret is told: no key and no digest."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from mcp_gateway.core.audit.log import Said
from mcp_gateway.core.engine import Write
from mcp_gateway.core.identity.accounts import (
    Account,
    AccountById,
    AttributeAccount,
    CreateAccount,
    LetAccountProxy,
    RenameAccount,
    SetAccountActive,
    SetAccountLimits,
    SetAccountMargin,
)
from mcp_gateway.core.identity.admin_keys import AdminKey, AdminKeyById, CreateAdminKey, RevokeAdminKey
from mcp_gateway.core.identity.key_ring import ChangeKey, CreateKey, EndedKeys, EndKeys, KeyById, RotateKey
from mcp_gateway.core.identity.keys import Key
from mcp_gateway.core.identity.people import (
    ChangePerson,
    CreatePerson,
    Credentials,
    DeletePerson,
    KeepSecret,
    PersonById,
    SetPassword,
    SetPersonActive,
)
from mcp_gateway.core.identity.sessions import EndSessions
from mcp_gateway.core.ledger.budgets import EndBudget, MakeBudgets, SetZone
from mcp_gateway.core.ledger.entries import Grant, Move, WalletOf, WalletState
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.payments.auto_topups import SwitchOffAutoTopUp
from mcp_gateway.core.routing.outcomes import ImportOutcomes
from mcp_gateway.core.service_notice import NoticeKept, ServiceNotice, SwitchMaintenance, TellIncident
from mcp_gateway.core.webhooks.outbox import (
    PutWebhook,
    RemoveWebhook,
    RotateSecret,
    SetLowBalance,
    WebhookOf,
    WebhookStanding,
)

_MOST_TOLD = 100
"""Of a list of ids."""


def said_of(write: Write[Any]) -> Said | None:
    """None for what is no change of the operator's, such as a note for a running server."""
    say = _CHANGES.get(type(write))
    return None if say is None else say(write)


def _of_account(action: str, account_id: str) -> Said:
    return Said(action, account_id, AccountById(account_id), _account)


def _switched(write: SetAccountActive) -> Said:
    return _of_account("account.activate" if write.is_active else "account.deactivate", write.account_id)


def _renamed(write: RenameAccount) -> Said:
    """Neither name: that of somebody who registered is their e-mail address."""
    return Said("account.rename", write.account_id, details=lambda is_done: {"name": "changed"} if is_done else None)


def _of_key(action: str, key_id: str) -> Said:
    return Said(action, key_id, KeyById(key_id), _key)


def _ended(write: EndKeys) -> Said:
    subject = write.key_ids[0]

    def details(ended: EndedKeys) -> dict[str, Any] | None:
        others = sorted(ended.ids - {subject})
        return {"also_ended": len(others), "of_them": others[:_MOST_TOLD]} if others else {}

    return Said("key.revoke", subject, KeyById(subject), _key, details)


def _of_admin_key(action: str, key_id: str) -> Said:
    return Said(action, key_id, AdminKeyById(key_id), _admin_key)


def _of_person(action: str, user_id: str) -> Said:
    return Said(action, user_id, PersonById(user_id), _person)


def _person_switched(write: SetPersonActive) -> Said:
    return _of_person("user.enable" if write.is_active else "user.disable", write.user_id)


def _password_set(write: SetPassword) -> Said:
    return Said("user.password", write.user_id, details=lambda _: {"password": "changed"})


def _person_deleted(write: DeletePerson) -> Said:
    def details(was_topped_up: bool) -> dict[str, Any]:
        return {"deleted": True} | ({"auto_topup": "off"} if was_topped_up else {})

    return Said("user.delete", write.user_id, PersonById(write.user_id), _person, details)


def _signed_out(write: EndSessions) -> Said:
    return Said("user.sign_out", write.user_id, details=lambda ended: {"sessions_ended": ended} if ended else None)


def _secret_made(write: KeepSecret) -> Said:
    """A link that invites somebody, or sets a password."""
    made = write.secret
    told = {"account": made.account_id, "role": made.role, "administrator": made.is_administrator}
    subject = made.user_id or made.account_id or "nobody yet"
    return Said(f"user.link.{made.purpose}", subject, details=lambda is_kept: told if is_kept else None)


def _money(write: Move | Grant) -> Said:
    """The wallet before and behind it, and what brought it about."""
    kind = "grant" if isinstance(write, Grant) else write.kind
    ends = {"expires_at": write.expires_at_ms // 1000} if isinstance(write, Grant) and write.expires_at_ms else {}
    told = {"amount_usd": format_usd(write.amount_nano), "reference": write.reference, "note": write.note} | ends
    return Said(
        f"money.{kind}", write.account_id, WalletOf(write.account_id), _wallet, lambda is_new: told if is_new else None
    )


def _budgets_made(write: MakeBudgets) -> Said:
    made = [
        {"id": one.id, "holder": one.holder, "amount_usd": format_usd(one.amount_nano), "window": one.window}
        for one in write.budgets
    ]
    return Said("budget.create", write.budgets[0].account_id, details=lambda _: {"budgets": made})


def _budget_ended(write: EndBudget) -> Said:
    told = {"account": write.account_id}
    return Said("budget.end", write.budget_id, details=lambda is_ended: told if is_ended else None)


def _zoned(write: SetZone) -> Said:
    told = {"zone": write.zone}
    return Said("account.zone", write.account_id, details=lambda is_new: told if is_new else None)


def _auto_topup_off(write: SwitchOffAutoTopUp) -> Said:
    told = {"enabled": False, "reason": write.reason}
    return Said("account.auto_topup", write.account_id, details=lambda is_off: told if is_off else None)


def _of_service(action: str) -> Said:
    return Said(action, "gateway", NoticeKept(), _notice)


def _imported(write: ImportOutcomes) -> Said:
    told = {"models": sorted({count.model_id for count in write.counts})[:_MOST_TOLD], "replaced": write.in_place}
    return Said("routing.import", "outcomes", details=lambda _: told)


def _of_webhook(action: str, account_id: str, done: str, otherwise: str | None) -> Said:
    """`done` where the change came to True, else `otherwise`; None where nothing came of it then."""

    def details(is_done: bool) -> dict[str, Any] | None:
        came_to = done if is_done else otherwise
        return None if came_to is None else {"webhook": came_to}

    return Said(action, account_id, WebhookOf(account_id, 0), _webhook, details)


def _marked(write: SetLowBalance) -> Said:
    return Said("account.low_balance", write.account_id, WebhookOf(write.account_id, 0), _mark)


_CHANGES: dict[type[Write[Any]], Callable[[Any], Said]] = {
    CreateAccount: lambda write: _of_account("account.create", write.account.id),
    RenameAccount: _renamed,
    SetAccountActive: _switched,
    SetAccountLimits: lambda write: _of_account("account.limits", write.account_id),
    SetAccountMargin: lambda write: _of_account("account.margin", write.account_id),
    LetAccountProxy: lambda write: _of_account("account.proxy", write.account_id),
    AttributeAccount: lambda write: _of_account("account.attribution", write.account_id),
    SetZone: _zoned,
    SwitchMaintenance: lambda _: _of_service("service.maintenance"),
    TellIncident: lambda _: _of_service("service.incident"),
    SwitchOffAutoTopUp: _auto_topup_off,
    CreateKey: lambda write: _of_key("key.create", write.key.id),
    ChangeKey: lambda write: _of_key("key.change", write.key_id),
    RotateKey: lambda write: _of_key("key.rotate", write.key_id),
    EndKeys: _ended,
    CreateAdminKey: lambda write: _of_admin_key("admin_key.create", write.key.id),
    RevokeAdminKey: lambda write: _of_admin_key("admin_key.revoke", write.key_id),
    CreatePerson: lambda write: _of_person("user.create", write.new.id),
    SetPassword: _password_set,
    SetPersonActive: _person_switched,
    ChangePerson: lambda write: _of_person("user.change", write.user_id),
    DeletePerson: _person_deleted,
    EndSessions: _signed_out,
    KeepSecret: _secret_made,
    Move: _money,
    Grant: _money,
    MakeBudgets: _budgets_made,
    EndBudget: _budget_ended,
    ImportOutcomes: _imported,
    PutWebhook: lambda write: _of_webhook("webhook.set", write.account_id, "new", "changed"),
    RotateSecret: lambda write: _of_webhook("webhook.rotate", write.account_id, "new secret", None),
    RemoveWebhook: lambda write: _of_webhook("webhook.delete", write.account_id, "deleted", None),
    SetLowBalance: _marked,
}


def _notice(notice: ServiceNotice) -> dict[str, Any]:
    return {"maintenance": notice.is_in_maintenance, "incident": notice.incident}


def _account(account: Account) -> dict[str, Any]:
    return {
        "name": account.name,
        "active": account.is_active,
        "margin_percent": account.margin / 100,
        "proxy": account.may_proxy,
        "attribution": account.is_attributed,
        "limits": account.limits.as_object(),
    }


def _key(key: Key) -> dict[str, Any]:
    return {
        "account": key.account_id,
        "prefix": key.prefix,
        "name": key.name,
        **({} if key.grant is None else {"client": key.grant.client_id}),
        "test": key.is_test,
        "revoked_at": _seconds(key.revoked_at_ms),
        "expires_at": _seconds(key.expires_at_ms),
        "old_expires_at": _seconds(key.replaced_until_ms),
        "scopes": sorted(key.scopes),
        "models": None if key.models is None else sorted(key.models),
        "group": key.group,
        "mint_over_mcp": key.may_mint_over_mcp,
        "mcp_servers": sorted(key.mcp_servers),
        "offer_mcp_tools": key.offers_mcp_tools,
        **key.routing.as_object(),
        **key.particulars_told(),
        "limits": key.limits.as_object(),
    }


def _admin_key(key: AdminKey) -> dict[str, Any]:
    ends = {"expires_at": _seconds(key.expires_at_ms), "revoked_at": _seconds(key.revoked_at_ms)}
    return {"prefix": key.prefix, "name": key.name, **ends}


def _person(found: Credentials) -> dict[str, Any]:
    """Without the e-mail: whoever is deleted leaves none, and no entry is ever changed."""
    person = found.person
    told = {"account": person.account_id, "role": person.role, "administrator": person.is_administrator}
    return told | {"active": person.is_active, "has_password": person.has_password}


def _webhook(standing: WebhookStanding) -> dict[str, Any]:
    """At which server alone: the rest of an address may be a secret of the account's."""
    return {} if standing.webhook is None else {"at": f"https://{urlsplit(standing.webhook.url).netloc}"}


def _mark(standing: WebhookStanding) -> dict[str, Any]:
    mark_nano = standing.low_balance_nano
    return {"low_balance_usd": None if mark_nano is None else format_usd(mark_nano)}


def _wallet(state: WalletState) -> dict[str, Any]:
    granted_nano = sum(grant.left_nano for grant in state.grants)
    return {"paid_usd": format_usd(state.paid_nano), "granted_usd": format_usd(granted_nano)}


def _seconds(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms // 1000
