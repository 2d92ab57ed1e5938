"""/admin/admins: the keys of administrators, listed and revoked; they are made on the command line alone."""

from typing import Literal

from http_api.admin.actors import Desks, desk_for
from http_api.operations import Asked, Nothing, Told
from http_api.query import Query
from mcp_gateway.core.identity.admin_keys import AdminKey
from mcp_gateway.core.identity.keys import State
from mcp_gateway.core.ids import now_ms


class AdminKeyObject(Told):
    """An administrator's key: never the key itself. Times in Unix seconds."""

    object: Literal["admin_key"]
    id: str
    prefix: str
    name: str
    state: State
    created_at: int
    expires_at: int | None
    revoked_at: int | None


class AdminKeyList(Told):
    """All that were ever made, the oldest first."""

    object: Literal["list"]
    data: list[AdminKeyObject]


class AdminsDoor:
    def __init__(self, desks: Desks) -> None:
        self._desks = desks

    async def list(self, asked: Asked[Query, Nothing]) -> AdminKeyList:
        found = await desk_for(self._desks, asked).admin_keys.list()
        return AdminKeyList(object="list", data=[_object(key) for key in found])

    async def revoke(self, asked: Asked[Query, Nothing]) -> AdminKeyObject:
        return _object(await desk_for(self._desks, asked).admin_keys.revoke(asked.path["key_id"]))


def _object(key: AdminKey) -> AdminKeyObject:
    return AdminKeyObject(
        object="admin_key",
        id=key.id,
        prefix=key.prefix,
        name=key.name,
        state=key.state_at(now_ms()),
        created_at=key.created_at_ms // 1000,
        expires_at=None if key.expires_at_ms is None else key.expires_at_ms // 1000,
        revoked_at=None if key.revoked_at_ms is None else key.revoked_at_ms // 1000,
    )
