"""The rows of the table of operations that are the operator's: under /v1 alone, answered also during maintenance."""

from dataclasses import dataclass
from typing import Any

from http_api.admin.accounts import AccountChange, AccountObject, AccountPage, AccountsDoor, AccountsQuery, NewAccount
from http_api.admin.audit import Audit, AuditPageAnswer, AuditQuery
from http_api.admin.configuration import ConfigObject, Configuration, EntryList
from http_api.admin.reloads import ReloadObject, Reloads
from http_api.operations import OPENAI, Access, AnyOperation, Counts, Nothing, Operation
from http_api.query import Query
from mcp_gateway.core.errors import Code


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminEndpoints:
    """What the rows run."""

    configuration: Configuration
    audit: Audit
    reloads: Reloads
    accounts: AccountsDoor


_NOT_FOUND: frozenset[Code] = frozenset({"not_found"})
_CHANGED: frozenset[Code] = frozenset({"not_found", "conflict", "invalid_value", "ledger_unavailable"})


def admin_operations(run: AdminEndpoints) -> list[AnyOperation]:
    return [
        *_configuration(run.configuration),
        _audit(run.audit),
        _reload(run.reloads),
        *_accounts(run.accounts),
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


def _audit(audit: Audit) -> AnyOperation:
    return _row(
        method="GET",
        path="/admin/audit",
        name="admin_audit",
        summary="List what was changed, by whom, when and from where, the newest first.",
        query=AuditQuery,
        answer=AuditPageAnswer,
        handle=audit.list,
    )


def _reload(reloads: Reloads) -> AnyOperation:
    return _row(
        method="POST",
        path="/admin/reload",
        name="admin_reload",
        summary="Read the configuration again, and take over what a running gateway can.",
        answer=ReloadObject,
        handle=reloads.reload,
        refuses=frozenset({"invalid_value"}),
    )


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
            summary="Switch an account off or on, or change its limits, margin and zone and whether it may ask /proxy.",
            body=AccountChange,
            answer=AccountObject,
            handle=accounts.change,
            refuses=_CHANGED,
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
