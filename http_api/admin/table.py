"""The rows of the table of operations that are the operator's: under /v1 alone, answered also during maintenance."""

from dataclasses import dataclass
from typing import Any

from http_api.admin.audit import Audit, AuditPageAnswer, AuditQuery
from http_api.admin.configuration import ConfigObject, Configuration, EntryList
from http_api.admin.reloads import ReloadObject, Reloads
from http_api.operations import OPENAI, Access, AnyOperation, Counts, Nothing, Operation
from http_api.query import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminEndpoints:
    """What the rows run."""

    configuration: Configuration
    audit: Audit
    reloads: Reloads


def admin_operations(run: AdminEndpoints) -> list[AnyOperation]:
    return [*_configuration(run.configuration), _audit(run.audit), _reload(run.reloads)]


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
