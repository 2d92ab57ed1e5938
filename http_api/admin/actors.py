"""Which administrator asks, as the audit log has them, and what they work on."""

from collections.abc import Callable
from typing import Any

from http_api.idempotency import idempotency_key_of
from http_api.operations import Asked
from mcp_gateway.core.audit.log import Actor
from mcp_gateway.core.caller import Administrator, User
from mcp_gateway.core.gateway import OperatorDesk

Desks = Callable[[Actor], OperatorDesk]
"""Makes what one administrator works on: what is changed there is noted as theirs."""


def actor_of(asked: Asked[Any, Any]) -> Actor:
    """Of an operation that is for administrators."""
    context, principal = asked.context, asked.caller.principal
    if isinstance(principal, Administrator):
        return Actor("admin_key", principal.admin_key_id, context.address, context.request_id)
    assert isinstance(principal, User)
    return Actor("user", principal.user_id, context.address, context.request_id)


def own_idempotency_key(asked: Asked[Any, Any]) -> str | None:
    """An administrator's, among those of an account: with who they are before a space, so that it meets none of them,
    nor another administrator's.
    """
    key = idempotency_key_of(asked)
    return None if key is None else f"{actor_of(asked).id} {key}"


def desk_for(desks: Desks, asked: Asked[Any, Any]) -> OperatorDesk:
    """Of the same."""
    return desks(actor_of(asked))
