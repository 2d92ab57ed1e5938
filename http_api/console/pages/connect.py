"""Connect: what to paste where, for the reader's gateway, key and model; and whether the first request has arrived."""

import re
from typing import Any

from http_api.console.connect_blocks import BLOCKS
from http_api.console.forms import Form
from http_api.console.pages.models import chatting_models
from http_api.console.serving import AskedPage, Console, Shown, asking
from http_api.key_objects import KeyObject
from http_api.keys import Keys, KeysQuery
from http_api.models import Models
from http_api.operations import AnyOperation, Asked, Nothing
from http_api.query import AnyQuery

CONNECT_PATH = "/console/connect"
_GROUPS = (
    ("tools", "As tools, over MCP"),
    ("programs", "Models for your programs"),
    ("agents", "Models for coding agents"),
)
_NO_KEY = "gw_live_..."
_PLAIN = re.compile(r"[\w./:@+~-]+", re.ASCII)
"""Ids of models that mean themselves in every block."""


class ConnectQuery(AnyQuery):
    """The key and model that the blocks name; a client whose block is open."""

    key: str | None = None
    model: str | None = None
    client: str | None = None


class ConnectPages:
    def __init__(self, keys: Keys, models: Models, *, base_url: str) -> None:
        self._keys = keys
        self._models = models
        self._base_url = base_url

    def rows(self, console: Console) -> list[AnyOperation]:
        return [
            console.page(CONNECT_PATH, self.show, query=ConnectQuery),
            console.page(f"{CONNECT_PATH}/{{key_id}}", self.arrived),
        ]

    async def show(self, asked: Asked[ConnectQuery, Form]) -> Shown:
        live = (await self._keys.list(asking(asked, Nothing(), KeysQuery(state="live")))).data
        keys = [key for key in live if key.grant is None]  # a program that was let in needs nothing pasted
        key = _chosen(keys, asked.query.key)
        models = self._plain_models(asked) if asked.may("inference") else []
        model = asked.query.model if asked.query.model in models else next(iter(models), "auto")
        shown_key = _NO_KEY if key is None else f"{key.prefix}..."
        blocks = [block.filled(self._base_url, shown_key, model) for block in BLOCKS]
        values: dict[str, Any] = {
            "keys": keys,
            "key": key,
            "models": models,
            "model": model,
            "shown_key": shown_key,
            "groups": [(label, [block for block in blocks if block.group == group]) for group, label in _GROUPS],
            "client": asked.query.client,
            "may_manage": asked.may("manage"),
        }
        return Shown("connect.html", values, part="blocks")

    def _plain_models(self, asked: Asked[ConnectQuery, Form]) -> list[str]:
        return [model.id for model in chatting_models(self._models, asked) if _PLAIN.fullmatch(model.id)]

    async def arrived(self, asked: AskedPage) -> Shown:
        key = await self._keys.get(asking(asked, Nothing()))
        return Shown("connect_arrived.html", {"key": key}, part="arrived")


def _chosen(keys: list[KeyObject], key_id: str | None) -> KeyObject | None:
    """The one that was named, or else one to test with, or else the newest."""
    named = (key for key in keys if key.id == key_id)
    to_test = (key for key in keys if key.test)
    return next(named, None) or next(to_test, None) or next(iter(keys), None)
