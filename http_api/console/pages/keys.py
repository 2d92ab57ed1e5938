"""API keys: the list, a new one, and one's own page, where it is changed, rotated and revoked.

Those of the reader's account; and for administrators those of all, by the handlers that are theirs.
"""

from collections.abc import Callable
from typing import Any

import orjson

from http_api.admin.keys import (
    AccountKeyChange,
    AccountKeyObject,
    AccountKeysDoor,
    AccountKeysQuery,
    CreatedAccountKey,
    NewAccountKey,
)
from http_api.console.addresses import filters_in, older
from http_api.console.forms import Form
from http_api.console.serving import AskedPage, Console, SeeOther, Shown, again, asking
from http_api.key_objects import CreatedKey, KeyObject
from http_api.keys import KeyChange, Keys, KeysQuery, NewKey, RevokeQuery, Rotation
from http_api.operations import Access, Answered, AnyOperation, Asked, Nothing
from http_api.query import Query
from mcp_gateway.core.caller import SCOPES, KeyScope
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.key_ring import SHOWN_CHARACTERS
from mcp_gateway.core.identity.own_limits import LIMIT_NAMES
from mcp_gateway.core.ledger.budgets import BUDGET_WINDOWS
from mcp_gateway.core.optimization import MODES

KEYS_PATH = "/console/keys"
ALL_KEYS_PATH = "/console/admin/keys"
_SCOPE_LABELS: dict[KeyScope, str] = {
    "inference": "ask models, and see the balance",
    "read": "see usage, requests and the ledger",
    "billing": "pay into the wallet, and set the webhook",
    "manage": "make, change and revoke keys",
}
WINDOW_LABELS = {"5h": "five hours", "day": "day", "week": "week", "month": "month", "total": "all its time"}
_CLEARED = ("model_pool", "optimize_mode", "networks", "note", "tags")
_FILTERS = ("state", "account_id", "key_id", "prefix")
_FIELDS = (
    "account_id", "name", "models", "model_pool", *LIMIT_NAMES, "networks", "tags", "note",
    "budgets.0.amount_usd", "expires_at",
)  # fmt: skip
"""Of a form, below which what is wrong with them is told."""


class KeyQuery(Query):
    """Whether a change was just made."""

    changed: bool = False


class NewKeyQuery(Query):
    """For which account, where an administrator asks."""

    account_id: str = ""


class KeyPages:
    """The handlers say whose keys these are: an account's own, or those of all."""

    def __init__(
        self,
        keys: Keys | AccountKeysDoor,
        now_ms: Callable[[], int],
        *,
        base_url: str,
        first_model: Callable[[], str],
    ) -> None:
        self._is_own = isinstance(keys, Keys)
        self._path = KEYS_PATH if self._is_own else ALL_KEYS_PATH
        self._new: type[Any] = NewKey if self._is_own else NewAccountKey
        self._change: type[Any] = KeyChange if self._is_own else AccountKeyChange
        self._keys = keys
        self._now_ms = now_ms
        self._base_url = base_url
        self._first_model = first_model

    def rows(self, console: Console) -> list[AnyOperation]:
        one = f"{self._path}/{{key_id}}"
        of_all: dict[str, Any] = {"access": Access.ADMINISTRATOR, "is_always_answered": True}
        seen: dict[str, Any] = {} if self._is_own else of_all
        managed: dict[str, Any] = {"scope": "manage"} if self._is_own else of_all
        query = KeysQuery if self._is_own else AccountKeysQuery
        return [
            console.page(self._path, self.list, query=query, **seen),
            console.page(self._path, self.create, method="POST", **managed),
            console.page(f"{self._path}/new", self.new, query=NewKeyQuery, **managed),
            console.page(one, self.show, query=KeyQuery, **seen),
            console.page(one, self.change, method="POST", **managed),
            console.page(f"{one}/rotate", self.rotate, method="POST", **managed),
            console.page(f"{one}/revoke", self.revoke, method="POST", **managed),
        ]

    async def list(self, asked: Asked[Any, Form]) -> Shown:
        found = await self._keys.list(asking(asked, Nothing(), asked.query))
        kept = filters_in(asked, _FILTERS)
        values = {
            **self._whose(asked),
            "keys": found.data,
            "older": older(found.next_cursor, kept),
            "filter": {name: kept.get(name, "") for name in _FILTERS},
            "shown_characters": SHOWN_CHARACTERS,
            "now_s": self._now_ms() // 1000,
        }
        return Shown("keys.html", values, part="table")

    async def new(self, asked: Asked[NewKeyQuery, Form]) -> Shown:
        typed = Form([("account_id", asked.query.account_id)])
        return Shown("key_new.html", {**_new_values(typed), **self._whose(asked), "error": None})

    async def create(self, asked: AskedPage) -> Shown:
        form = asked.body if asked.body.get("budgets.0.amount_usd").strip() else asked.body.without("budgets.")
        try:
            made = await self._keys.create(asking(asked, form.as_body(self._new)))
        except GatewayError as error:
            return again("key_new.html", _new_values(asked.body) | self._whose(asked), error)
        return self._made("Your new key" if self._is_own else "The new key", made)

    async def show(self, asked: Asked[KeyQuery, Form]) -> Shown:
        key = await self._keys.get(asking(asked, Nothing()))
        values = _values_of(key, Form()) | self._whose(asked)
        return Shown("key.html", {**values, "error": None, "is_changed": asked.query.changed})

    async def change(self, asked: AskedPage) -> Shown | SeeOther:
        key = await self._keys.get(asking(asked, Nothing()))
        form = asked.body.changed_from(_shown_of(key))
        try:
            await self._keys.change(asking(asked, form.as_body(self._change, clears=_CLEARED)))
        except GatewayError as error:
            return again("key.html", _values_of(key, asked.body) | self._whose(asked) | {"is_changed": False}, error)
        return SeeOther(f"{self._path}/{key.id}?changed=1")

    async def rotate(self, asked: AskedPage) -> Shown:
        made = await self._keys.rotate(asking(asked, asked.body.as_body(Rotation)))
        return self._made("The key's new secret", made)

    async def revoke(self, asked: AskedPage) -> SeeOther:
        query = RevokeQuery(with_made=bool(asked.body.get("with_made")))
        key = await self._keys.revoke(asking(asked, Nothing(), query))
        return SeeOther(self._path if self._is_own else f"{self._path}/{key.id}?changed=1")

    def _whose(self, asked: Asked[Any, Form]) -> dict[str, Any]:
        return {"home": self._path, "is_own": self._is_own, "may_manage": not self._is_own or asked.may("manage")}

    def _made(self, title: str, made: CreatedKey | CreatedAccountKey | Answered[Any]) -> Shown:
        """A secret is in this one answer; the same form once more is told that it was."""
        if isinstance(made, Answered):
            key_id, raw = orjson.loads(made.answer)["id"], None
        else:
            key_id, raw = made.id, made.key
        values = {
            "title": title,
            "raw": raw,
            "key_id": key_id,
            "home": self._path,
            "is_own": self._is_own,
            "base_url": self._base_url,
            "model": self._first_model(),
        }
        return Shown("key_made.html", values)


def _new_values(typed: Form) -> dict[str, Any]:
    return {
        "typed": typed,
        "is_new": True,
        "models_now": "",
        "windows": [(window, WINDOW_LABELS[window]) for window in BUDGET_WINDOWS],
        "scopes": [(scope, _SCOPE_LABELS[scope]) for scope in SCOPES],
        **_choices(),
        **_fields_shown({}),
    }


def _values_of(key: KeyObject, typed: Form) -> dict[str, Any]:
    return {
        "key": key,
        "typed": typed,
        "is_new": False,
        **_choices(),
        **_fields_shown(_shown_of(key)),
    }


def _choices() -> dict[str, Any]:
    return {"fields": _FIELDS, "modes": [("", "what the gateway is set to"), *((mode, mode) for mode in MODES)]}


def _fields_shown(shown: dict[str, str]) -> dict[str, Any]:
    return {
        "pool_now": shown.get("model_pool", ""),
        "mode_now": shown.get("optimize_mode", ""),
        "networks_now": shown.get("networks", ""),
        "tags_now": shown.get("tags", ""),
        "note_now": shown.get("note", ""),
        "limits_now": {name: shown.get(name, "") for name in LIMIT_NAMES},
    }


def _shown_of(key: KeyObject) -> dict[str, str]:
    """What stands in the fields of a key's page."""
    set_in = key.limits if isinstance(key, AccountKeyObject) else key
    limits = {name: getattr(set_in, name) for name in LIMIT_NAMES}
    return {
        "name": key.name,
        "model_pool": "\n".join(key.model_pool or ()),
        "optimize_mode": key.optimize_mode or "",
        "networks": "\n".join(key.networks or ()),
        "tags": "\n".join(key.tags),
        "note": key.note or "",
        **{name: "" if number is None else str(number) for name, number in limits.items()},
    }
