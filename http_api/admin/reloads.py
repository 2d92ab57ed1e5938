"""POST /admin/reload: the configuration read again, and what came of that."""

from collections.abc import Awaitable, Callable
from typing import Literal

from http_api.admin.actors import actor_of
from http_api.operations import Asked, Nothing, Told
from http_api.query import Query
from mcp_gateway.core.audit.log import Actor
from mcp_gateway.core.reloadable import Reloaded


class ReloadObject(Told):
    """The names of the settings that are others now, and of those that differ and wait for a restart."""

    object: Literal["reload"]
    changed: list[str]
    needs_restart: list[str]


class Reloads:
    def __init__(self, reload: Callable[[Actor], Awaitable[Reloaded]]) -> None:
        self._reload = reload

    async def reload(self, asked: Asked[Query, Nothing]) -> ReloadObject:
        told = await self._reload(actor_of(asked))
        return ReloadObject(object="reload", **told.as_object())
