"""The rows of the table of operations that are the operator's: under /v1 alone, answered also during maintenance."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from http_api.admin.accounts import AccountChange, AccountObject, AccountPage, AccountsDoor, AccountsQuery, NewAccount
from http_api.admin.admins import AdminKeyList, AdminKeyObject, AdminsDoor
from http_api.admin.audit import Audit, AuditPageAnswer, AuditQuery
from http_api.admin.backends import BackendList, BackendsDoor
from http_api.admin.budgets import (
    AccountBudgetObject,
    AccountBudgetPage,
    BudgetsDoor,
    BudgetsQuery,
    EndedBudget,
    NewAccountBudget,
)
from http_api.admin.configuration import ConfigObject, Configuration, EntryList
from http_api.admin.keys import (
    AccountKeyChange,
    AccountKeyObject,
    AccountKeyPage,
    AccountKeysDoor,
    AccountKeysQuery,
    CreatedAccountKey,
    NewAccountKey,
    RevokedAccountKey,
)
from http_api.admin.money import EntryBody, EntryObject, GrantBody, MoneyDoor
from http_api.admin.of_account import OfAccount
from http_api.admin.reloads import ReloadObject, Reloads
from http_api.admin.service import IncidentBody, MaintenanceBody, ServiceDoor, ServiceObject
from http_api.admin.users import (
    AdministeredUser,
    AdministeredUserPage,
    CreatedUser,
    DeleteUserQuery,
    NewInvitation,
    NewUser,
    UserChange,
    UsersDoor,
    UsersQuery,
)
from http_api.auto_topups import AutoTopUpDoor, AutoTopUpObject
from http_api.exports import MEDIA_TYPES as EXPORTED
from http_api.keys import RevokeQuery, Rotation
from http_api.operations import OPENAI, Access, AnyOperation, Counts, Nothing, Operation
from http_api.people import DeletedUser, EndedSessions, OneTimeSecretObject
from http_api.query import Query
from http_api.webhooks import WebhookDoor
from mcp_gateway.core.errors import Code


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminEndpoints:
    """What the rows run."""

    configuration: Configuration
    backends: BackendsDoor
    audit: Audit
    reloads: Reloads
    service: ServiceDoor
    accounts: AccountsDoor
    keys: AccountKeysDoor
    users: UsersDoor
    admins: AdminsDoor
    budgets: BudgetsDoor
    money: MoneyDoor
    auto_topups: AutoTopUpDoor
    webhooks: WebhookDoor
    of_account: OfAccount


_NOT_FOUND: frozenset[Code] = frozenset({"not_found"})
_CHANGED: frozenset[Code] = frozenset({"not_found", "conflict", "invalid_value", "ledger_unavailable"})


def admin_operations(run: AdminEndpoints, own: Iterable[AnyOperation]) -> list[AnyOperation]:
    """`own` are what accounts ask about themselves, and administrators about each of them."""
    return [
        *_configuration(run.configuration),
        _backends(run.backends),
        _audit(run.audit),
        _reload(run.reloads),
        *_service(run.service),
        *_accounts(run.accounts),
        *_keys(run.keys),
        *_users(run.users),
        *_admins(run.admins),
        *run.of_account.rows([*_budgets(run.budgets), *_money(run.money), _switch_off(run.auto_topups), *own]),
    ]


def _configuration(configuration: Configuration) -> list[AnyOperation]:
    return [
        _row(
            method="GET",
            path="/admin/config",
            name="admin_config",
            summary="Tell the configuration in force, without its secrets.",
            answer=ConfigObject,
            handle=configuration.config,
        ),
        _row(
            method="GET",
            path="/admin/models",
            name="admin_models",
            summary="List the models of the configuration.",
            answer=EntryList,
            handle=configuration.models,
        ),
        _row(
            method="GET",
            path="/admin/prices",
            name="admin_prices",
            summary="List the prices of the configuration.",
            answer=EntryList,
            handle=configuration.prices,
        ),
        _row(
            method="GET",
            path="/admin/providers",
            name="admin_providers",
            summary="List the providers of the configuration.",
            answer=EntryList,
            handle=configuration.providers,
        ),
    ]


def _backends(backends: BackendsDoor) -> AnyOperation:
    return _row(
        method="GET",
        path="/admin/backends",
        name="admin_backends",
        summary="List the backends and providers with how each is, what it serves, and how much runs there.",
        answer=BackendList,
        handle=backends.list,
    )


def _audit(audit: Audit) -> AnyOperation:
    return _row(
        method="GET",
        path="/admin/audit",
        name="admin_audit",
        summary="List what was changed, by whom, when and from where, the newest first.",
        query=AuditQuery,
        answer=AuditPageAnswer,
        media_types=EXPORTED,
        handle=audit.list,
    )


_SET_ASIDE: frozenset[Code] = frozenset(
    {"insufficient_balance", "below_minimum_balance", "budget_exhausted", "balance_held"}
)
"""Of what a lease takes."""


def _budgets(budgets: BudgetsDoor) -> list[AnyOperation]:
    """Below an account's path."""
    return [
        _row(
            method="GET",
            path="/budgets",
            name="budgets",
            summary="List the open budgets of an account, its groups and its keys, the newest first.",
            query=BudgetsQuery,
            answer=AccountBudgetPage,
            handle=budgets.list,
        ),
        _row(
            method="POST",
            path="/budgets",
            name="create_budget",
            summary="Bound what an account, a group of its keys, or a key with those that it makes may spend.",
            body=NewAccountBudget,
            answer=AccountBudgetObject,
            handle=budgets.make,
            statuses=(201,),
            refuses=_CHANGED | _SET_ASIDE | {"idempotency_mismatch"},
        ),
        _row(
            method="DELETE",
            path="/budgets/{budget_id}",
            name="end_budget",
            summary="Let a budget bound nothing any more; what is left of a lease returns.",
            answer=EndedBudget,
            handle=budgets.end,
            refuses=frozenset({"ledger_unavailable"}),
        ),
    ]


def _money(money: MoneyDoor) -> list[AnyOperation]:
    """Below an account's path."""
    refuses: frozenset[Code] = frozenset({"conflict", "idempotency_mismatch", "invalid_value", "ledger_unavailable"})
    return [
        _row(
            method="POST",
            path="/credits",
            name="credit",
            summary="Add money that was paid elsewhere.",
            body=EntryBody,
            answer=EntryObject,
            handle=money.credit,
            statuses=(201, 200),
            refuses=refuses,
        ),
        _row(
            method="POST",
            path="/grants",
            name="grant",
            summary="Give credit that nobody paid for, and that may expire.",
            body=GrantBody,
            answer=EntryObject,
            handle=money.grant,
            statuses=(201, 200),
            refuses=refuses,
        ),
        _row(
            method="POST",
            path="/adjustments",
            name="adjust",
            summary="Correct what was paid, up or down, below nothing too.",
            body=EntryBody,
            answer=EntryObject,
            handle=money.adjust,
            statuses=(201, 200),
            refuses=refuses,
        ),
    ]


def _switch_off(auto_topups: AutoTopUpDoor) -> AnyOperation:
    """Below an account's path, too."""
    return _row(
        method="POST",
        path="/billing/auto-topup/off",
        name="switch_off_auto_topup",
        summary="Have the account topped up by itself no more, until it sets that anew.",
        answer=AutoTopUpObject,
        handle=auto_topups.switch_off,
        refuses=frozenset({"ledger_unavailable"}),
    )


def _reload(reloads: Reloads) -> AnyOperation:
    return _row(
        method="POST",
        path="/admin/reload",
        name="admin_reload",
        summary="Read the configuration again, and take over what a running gateway can.",
        answer=ReloadObject,
        handle=reloads.reload,
        refuses=frozenset({"invalid_value", "conflict", "ledger_unavailable"}),
    )


def _service(service: ServiceDoor) -> list[AnyOperation]:
    unavailable: frozenset[Code] = frozenset({"ledger_unavailable"})
    return [
        _row(
            method="GET",
            path="/admin/service",
            name="admin_service",
            summary="Tell of the whole service: maintenance, incident, draining, and how many answers are open.",
            answer=ServiceObject,
            handle=service.get,
        ),
        _row(
            method="PUT",
            path="/admin/maintenance",
            name="admin_switch_maintenance",
            summary="Refuse every new request with 503 `maintenance`, or take them again.",
            body=MaintenanceBody,
            answer=ServiceObject,
            handle=service.put_maintenance,
            refuses=unavailable,
        ),
        _row(
            method="PUT",
            path="/admin/incident",
            name="admin_tell_incident",
            summary="Tell an incident on the status page.",
            body=IncidentBody,
            answer=ServiceObject,
            handle=service.put_incident,
            refuses=unavailable,
        ),
        _row(
            method="DELETE",
            path="/admin/incident",
            name="admin_remove_incident",
            summary="Tell the incident no more.",
            answer=ServiceObject,
            handle=service.remove_incident,
            refuses=unavailable,
        ),
        _row(
            method="POST",
            path="/admin/drain",
            name="admin_drain",
            summary="Take no new requests, let those that run finish, and end the process, as at SIGTERM.",
            answer=ServiceObject,
            statuses=(202,),
            handle=service.drain,
        ),
    ]


def _accounts(accounts: AccountsDoor) -> list[AnyOperation]:
    return [
        _row(
            method="GET",
            path="/admin/accounts",
            name="admin_accounts",
            summary="List all accounts with their wallets, the newest first.",
            query=AccountsQuery,
            answer=AccountPage,
            handle=accounts.list,
        ),
        _row(
            method="POST",
            path="/admin/accounts",
            name="admin_create_account",
            summary="Make an account.",
            body=NewAccount,
            answer=AccountObject,
            handle=accounts.create,
            statuses=(201,),
            refuses=frozenset({"ledger_unavailable"}),
        ),
        _row(
            method="GET",
            path="/admin/accounts/{account_id}",
            name="admin_account",
            summary="Tell of one account, with its wallet.",
            answer=AccountObject,
            handle=accounts.get,
            refuses=_NOT_FOUND,
        ),
        _row(
            method="PATCH",
            path="/admin/accounts/{account_id}",
            name="admin_change_account",
            summary="Rename an account, switch it off or on, or change its limits, margin, zone and what it may ask.",
            body=AccountChange,
            answer=AccountObject,
            handle=accounts.change,
            refuses=_CHANGED,
        ),
    ]


_MADE: frozenset[Code] = _CHANGED | {"idempotency_mismatch", "requests_per_day", "requests_per_minute"}


def _keys(keys: AccountKeysDoor) -> list[AnyOperation]:
    return [
        _row(
            method="GET",
            path="/admin/keys",
            name="admin_keys",
            summary="List the keys of all accounts or of one, the newest first.",
            query=AccountKeysQuery,
            answer=AccountKeyPage,
            handle=keys.list,
            refuses=frozenset({"overloaded"}),
        ),
        _row(
            method="POST",
            path="/admin/keys",
            name="admin_create_key",
            summary="Make a key for an account, which is shown this once.",
            body=NewAccountKey,
            answer=CreatedAccountKey,
            handle=keys.create,
            statuses=(201,),
            refuses=_MADE | _SET_ASIDE,
        ),
        _row(
            method="GET",
            path="/admin/keys/{key_id}",
            name="admin_key",
            summary="Tell of one key.",
            answer=AccountKeyObject,
            handle=keys.get,
            refuses=_NOT_FOUND,
        ),
        _row(
            method="PATCH",
            path="/admin/keys/{key_id}",
            name="admin_change_key",
            summary="Change what a key may and what is said of it, or bound it by further budgets.",
            body=AccountKeyChange,
            answer=AccountKeyObject,
            handle=keys.change,
            refuses=_CHANGED | {"insufficient_permissions"},
        ),
        _row(
            method="POST",
            path="/admin/keys/{key_id}/rotate",
            name="admin_rotate_key",
            summary="Give a key a new secret, which is shown this once; the old one ends when that is asked for.",
            body=Rotation,
            answer=CreatedAccountKey,
            handle=keys.rotate,
            refuses=_MADE,
        ),
        _row(
            method="DELETE",
            path="/admin/keys/{key_id}",
            name="admin_revoke_key",
            summary="End a key for good, and those that it made where `with_made` says so.",
            query=RevokeQuery,
            answer=RevokedAccountKey,
            handle=keys.revoke,
            refuses=_NOT_FOUND | {"ledger_unavailable"},
        ),
    ]


def _users(users: UsersDoor) -> list[AnyOperation]:
    return [
        _row(
            method="GET",
            path="/admin/users",
            name="admin_users",
            summary="List all users, the newest first.",
            query=UsersQuery,
            answer=AdministeredUserPage,
            handle=users.list,
        ),
        _row(
            method="POST",
            path="/admin/users",
            name="admin_create_user",
            summary="Make a user, and where people have passwords a secret to choose one by, which is shown this once.",
            body=NewUser,
            answer=CreatedUser,
            handle=users.create,
            statuses=(201,),
            refuses=_CHANGED,
        ),
        _row(
            method="POST",
            path="/admin/invitations",
            name="admin_invite",
            summary="Make a secret by which somebody registers, once.",
            body=NewInvitation,
            answer=OneTimeSecretObject,
            handle=users.invite,
            statuses=(201,),
            refuses=_CHANGED | {"sign_in_elsewhere"},
        ),
        _row(
            method="GET",
            path="/admin/users/{user_id}",
            name="admin_user",
            summary="Tell of one user.",
            answer=AdministeredUser,
            handle=users.get,
            refuses=_NOT_FOUND,
        ),
        _row(
            method="PATCH",
            path="/admin/users/{user_id}",
            name="admin_change_user",
            summary="Change a user's role, let them sign in or not, or let them administer the gateway or not.",
            body=UserChange,
            answer=AdministeredUser,
            handle=users.change,
            refuses=_CHANGED,
        ),
        _row(
            method="POST",
            path="/admin/users/{user_id}/password",
            name="admin_let_choose_password",
            summary="Make a secret by which a user chooses a new password, once.",
            answer=OneTimeSecretObject,
            handle=users.let_choose_password,
            statuses=(201,),
            refuses=_CHANGED | {"sign_in_elsewhere"},
        ),
        _row(
            method="DELETE",
            path="/admin/users/{user_id}/sessions",
            name="admin_end_sessions",
            summary="Sign a user out everywhere; keys that they made go on.",
            answer=EndedSessions,
            handle=users.end_sessions,
            refuses=frozenset({"not_found", "ledger_unavailable"}),
        ),
        _row(
            method="DELETE",
            path="/admin/users/{user_id}",
            name="admin_delete_user",
            summary="Delete a user: sessions, keys and the e-mail address; the account's books stay.",
            query=DeleteUserQuery,
            answer=DeletedUser,
            handle=users.delete,
            refuses=_CHANGED,
        ),
    ]


def _admins(admins: AdminsDoor) -> list[AnyOperation]:
    return [
        _row(
            method="GET",
            path="/admin/admins",
            name="admin_admins",
            summary="List the keys of administrators.",
            answer=AdminKeyList,
            handle=admins.list,
        ),
        _row(
            method="DELETE",
            path="/admin/admins/{key_id}",
            name="admin_revoke_admin",
            summary="End an administrator's key for good.",
            answer=AdminKeyObject,
            handle=admins.revoke,
            refuses=_NOT_FOUND | {"ledger_unavailable"},
        ),
    ]


def _row(*, query: type[Query] = Query, body: type[Any] = Nothing, **row: Any) -> AnyOperation:
    """What all have in common. Nothing is counted: these are few, and must work when all else is too much."""
    return Operation(
        access=Access.ADMINISTRATOR,
        counts=Counts.NOTHING,
        query=query,
        body=body,
        prefixes=(OPENAI,),
        is_always_answered=True,
        **row,
    )
