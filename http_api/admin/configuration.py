"""GET /admin/config, /models, /prices and /providers: the configuration as it stands, without its secrets."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import JsonValue

from http_api.operations import Asked, Nothing, Told
from http_api.query import Query
from mcp_gateway.core.config import Settings
from mcp_gateway.core.masked_settings import masked


class ConfigObject(Told):
    """Every setting in force by its name; what is secret is masked."""

    object: Literal["config"]
    settings: dict[str, JsonValue]


class EntryList(Told):
    """Tables of the configuration that stand there several times, in their order."""

    object: Literal["list"]
    data: list[dict[str, JsonValue]]
    next_cursor: None


class Configuration:
    """Reads the settings in force whenever it is asked, since they may be read again."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings

    async def config(self, asked: Asked[Query, Nothing]) -> ConfigObject:
        return ConfigObject(object="config", settings=masked(self._settings()))

    async def models(self, asked: Asked[Query, Nothing]) -> EntryList:
        return _list(masked(self._settings())["models"])

    async def prices(self, asked: Asked[Query, Nothing]) -> EntryList:
        """Of each model, and of each of its candidates that has prices of its own."""
        return _list([_prices_of(model) for model in masked(self._settings())["models"]])

    async def providers(self, asked: Asked[Query, Nothing]) -> EntryList:
        return _list(masked(self._settings())["providers"])


def _prices_of(model: dict[str, Any]) -> dict[str, Any]:
    candidates = [one for one in model.get("candidates") or [] if one.get("pricing")]
    told = {name: model.get(name) for name in ("id", "free", "pricing")}
    return told | {"candidates": [{name: one.get(name) for name in ("provider", "pricing")} for one in candidates]}


def _list(entries: list[dict[str, Any]]) -> EntryList:
    return EntryList(object="list", data=entries, next_cursor=None)
