"""GET, POST, PATCH and DELETE /keys: a caller's own account's keys; limits can only be lowered here."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from http_api.bodies import parsed_as, read_json_bytes
from http_api.idempotency import idempotency_key_of, replayed
from http_api.paging import PageQuery, cursor_key, list_object
from http_api.query import read_query
from http_api.responses import json_response
from mcp_gateway.core.caller import Allowance, Caller
from mcp_gateway.core.context import CONTEXT
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Idempotency
from mcp_gateway.core.identity.authenticator import Authenticator
from mcp_gateway.core.identity.keys import LIMIT_NAMES, Key, KeyLimits, KeyRing, State
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
    """What POST takes; limits that are left out are those of the key that asks."""

    test: bool | None = None


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
        is_test = caller.is_test if asked.test is None else asked.test
        if caller.is_test and not is_test:
            raise GatewayError("insufficient_permissions", "A test key can make only test keys.", param="test")
        own = await self._keys.get(caller.key_id or "")
        limits = _lowered(own.limits, caller.allowance, asked)
        idempotency_key = idempotency_key_of(request)
        async with self._idempotency.attempt(caller.account_id, idempotency_key, "keys", raw) as attempt:
            if attempt.kept is not None:
                return replayed(attempt.kept)
            key, secret = await self._keys.create(
                caller.account_id,
                name=asked.name or "",
                is_test=is_test,
                limits=limits,
                before=lambda connection, key: attempt.keep(connection, 201, self._object(key)),
            )
            return json_response({**self._object(key), "key": secret}, 201)

    async def change(self, request: Request) -> Response:
        caller = self._admit(request)
        key = await self._own_key(request, caller)
        asked = parsed_as(await self._read(request), KeyChange)
        limits = _lowered(key.limits, self._authenticator.allowance_of(key.limits), asked)
        return json_response(self._object(await self._keys.change(key.id, name=asked.name, limits=limits)))

    async def revoke(self, request: Request) -> Response:
        key = await self._own_key(request, self._admit(request))
        return json_response(self._object(await self._keys.revoke(key.id)))

    def _admit(self, request: Request) -> Caller:
        caller: Caller = request.scope[CONTEXT].caller
        if caller.is_guest:
            raise GatewayError("missing_credentials", "Send an API key; guests have no keys.")
        self._limiter.count_listing(caller)
        return caller

    async def _own_key(self, request: Request, caller: Caller) -> Key:
        key_id = request.path_params["key_id"]
        key = await self._keys.get(key_id)
        if key.account_id != caller.account_id:
            raise GatewayError("not_found", f"There is no key '{shown(key_id)}'.")
        if caller.is_test and not key.is_test and request.method != "GET":
            raise GatewayError("insufficient_permissions", "A test key can change only test keys.")
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
            "revoked_at": None if key.revoked_at_ms is None else key.revoked_at_ms // 1000,
            **{name: getattr(allowance, name) for name in LIMIT_NAMES},
        }


def _lowered(limits: KeyLimits, allowance: Allowance, asked: KeyChange) -> KeyLimits:
    """`limits` with what is asked for put in. Raises GatewayError for a limit above the one in force."""
    values = {name: getattr(limits, name) for name in LIMIT_NAMES}
    for name in LIMIT_NAMES:
        new, most = getattr(asked, name), getattr(allowance, name)
        if new is None:
            continue
        if most is not None and new > most:
            message = f"`{name}` can only be lowered here, to at most {most}; the operator can raise it."
            raise GatewayError("insufficient_permissions", message, param=name)
        values[name] = new
    return KeyLimits(**values)
