"""GET, POST, PATCH and DELETE /keys: a caller's own account's keys; no key may do more than the one that made it."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from http_api.bodies import parsed_as, read_json_bytes
from http_api.holders import key_holder
from http_api.idempotency import idempotency_key_of, replayed
from http_api.paging import PageQuery, cursor_key, list_object
from http_api.query import Query, read_query, unix_ms
from http_api.responses import json_response
from mcp_gateway.core.caller import SCOPES, Allowance, Caller, KeyScope, lacking_scope
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Idempotency
from mcp_gateway.core.identity.authenticator import Authenticator
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import TEST_SCOPES, Key, State
from mcp_gateway.core.identity.own_limits import LIMIT_NAMES, OwnLimits
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.text import shown

_Limit = Annotated[int, Field(ge=1, le=2**53 - 1)]
"""Up to the largest number that every reader of JSON takes exactly (RFC 8259, 6); the database holds more."""


class KeysQuery(PageQuery):
    cursor: Annotated[str | None, cursor_key(re.compile(r"key_[0-9a-z]+"))] = None
    state: State | None = None


class KeyChange(BaseModel):
    """What PATCH takes; limits that are left out stay as they are."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=200)] | None = None
    requests_per_minute: _Limit | None = None
    requests_per_day: _Limit | None = None
    tokens_per_minute: _Limit | None = None
    in_flight: _Limit | None = None


class NewKey(KeyChange):
    """What POST takes; limits, scopes and the end are those of the key that asks, where they are left out."""

    test: bool | None = None
    scopes: Annotated[list[KeyScope], Field(min_length=1, max_length=len(SCOPES))] | None = None
    expires_at: int | str | None = None


class RevokeQuery(Query):
    """What DELETE takes."""

    with_made: bool = False


class Keys:
    def __init__(
        self,
        keys: KeyRing,
        authenticator: Authenticator,
        idempotency: Idempotency,
        limiter: Limiter,
        *,
        max_body_bytes: int,
        json_bounds: JsonBounds,
    ) -> None:
        self._keys = keys
        self._idempotency = idempotency
        self._authenticator = authenticator
        self._limiter = limiter
        self._max_body_bytes = max_body_bytes
        self._json_bounds = json_bounds

    async def list(self, request: Request) -> Response:
        caller = self._admit(request)
        asked = read_query(request, KeysQuery)
        rows = await self._keys.page(
            caller.account_id, before_id=asked.cursor, limit=asked.limit + 1, state=asked.state
        )
        return json_response(list_object(rows, asked.limit, lambda key: key.id, self._object))

    async def get(self, request: Request) -> Response:
        return json_response(self._object(await self._own_key(request, self._admit(request))))

    async def create(self, request: Request) -> Response:
        caller = self._admit(request)
        raw = await self._read(request)
        asked = parsed_as(raw, NewKey)
        own = await self._keys.get(caller.key_id or "")
        is_test = asked.test or False
        limits = _limits_of(asked)
        _check_lowered(caller.allowance, limits)
        scopes = _granted(own, asked.scopes, is_test=is_test)
        expires_at_ms = _ending(own, asked.expires_at)
        idempotency_key = idempotency_key_of(request)
        async with self._idempotency.attempt(caller.account_id, idempotency_key, "keys", raw) as attempt:
            if attempt.kept is not None:
                return replayed(attempt.kept)
            key, secret = await self._keys.create(
                caller.account_id,
                name=asked.name or "",
                is_test=is_test,
                limits=replace(own.limits, **limits),
                scopes=scopes,
                expires_at_ms=expires_at_ms,
                made_by=own.id,
                before=lambda connection, key: attempt.keep(connection, 201, self._object(key)),
            )
            return json_response({**self._object(key), "key": secret}, 201)

    async def change(self, request: Request) -> Response:
        caller = self._admit(request)
        key = await self._own_key(request, caller)
        asked = parsed_as(await self._read(request), KeyChange)
        limits = _limits_of(asked)

        def check(in_force: OwnLimits) -> None:
            _check_lowered(self._authenticator.allowance_of(in_force), limits)

        return json_response(self._object(await self._keys.change(key.id, name=asked.name, limits=limits, check=check)))

    async def revoke(self, request: Request) -> Response:
        key = await self._own_key(request, self._admit(request))
        if not read_query(request, RevokeQuery).with_made:
            return json_response(self._object(await self._keys.revoke(key.id)))
        key, made_count = await self._keys.revoke_with_made(key.id)
        return json_response({**self._object(key), "made_revoked": made_count})

    def _admit(self, request: Request) -> Caller:
        return key_holder(request, self._limiter)

    async def _own_key(self, request: Request, caller: Caller) -> Key:
        key_id = request.path_params["key_id"]
        key = await self._keys.get(key_id)
        if key.account_id != caller.account_id:
            raise GatewayError("not_found", f"There is no key '{shown(key_id)}'.")
        return key

    async def _read(self, request: Request) -> bytes:
        return await read_json_bytes(request.scope, request.receive, self._max_body_bytes, self._json_bounds)

    def _object(self, key: Key) -> dict[str, Any]:
        allowance = self._authenticator.allowance_of(key.limits)
        return {
            "object": "key",
            "id": key.id,
            "prefix": key.prefix,
            "name": key.name,
            "test": key.is_test,
            "created_at": key.created_at_ms // 1000,
            "revoked_at": _seconds(key.revoked_at_ms),
            "expires_at": _seconds(key.expires_at_ms),
            "made_by": key.made_by,
            "scopes": [scope for scope in SCOPES if scope in key.scopes],
            **{name: getattr(allowance, name) for name in LIMIT_NAMES},
        }


def _limits_of(asked: KeyChange) -> dict[str, int]:
    """The limits that are asked for, by name."""
    named = ((name, getattr(asked, name)) for name in LIMIT_NAMES)
    return {name: limit for name, limit in named if limit is not None}


def _check_lowered(allowance: Allowance, limits: Mapping[str, int]) -> None:
    """Raises GatewayError for a limit above the one in force."""
    for name, limit in limits.items():
        most = getattr(allowance, name)
        if most is not None and limit > most:
            message = f"`{name}` can only be lowered here, to at most {most}; the operator can raise it."
            raise GatewayError("insufficient_permissions", message, param=name)


def _granted(maker: Key, asked: Collection[KeyScope] | None, *, is_test: bool) -> Collection[KeyScope]:
    """The scopes of a new key. Raises GatewayError `insufficient_scope` for one that its maker does not have."""
    wanted = asked or (TEST_SCOPES if is_test else maker.scopes)
    for scope in wanted:
        if scope not in maker.scopes:
            raise lacking_scope(scope)
    return wanted


def _ending(maker: Key, asked: int | str | None) -> int | None:
    """When a new key expires. Raises GatewayError for what is no time, and for one after its maker's end."""
    if asked is None:
        return maker.expires_at_ms
    try:
        expires_at_ms = unix_ms(str(asked))
    except ValueError as fault:
        raise GatewayError("invalid_value", f"`expires_at` {fault}.", param="expires_at") from None
    if maker.expires_at_ms is not None and expires_at_ms > maker.expires_at_ms:
        message = f"`expires_at` must not be after {maker.expires_at_ms // 1000}, when the key that asks expires."
        raise GatewayError("insufficient_permissions", message, param="expires_at")
    return expires_at_ms


def _seconds(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms // 1000
