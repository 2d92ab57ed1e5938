"""API keys: the list, a new one, and one's own page, where it is changed, rotated and revoked."""

from collections.abc import Callable
from typing import Any

from http_api.console.addresses import older
from http_api.console.forms import Form
from http_api.console.serving import AskedPage, Console, SeeOther, Shown, again, asking
from http_api.key_objects import CreatedKey, KeyObject
from http_api.keys import KeyChange, Keys, KeysQuery, NewKey, RevokeQuery, Rotation
from http_api.operations import Answered, AnyOperation, Asked, Nothing
from http_api.query import Query
from mcp_gateway.core.caller import SCOPES, KeyScope
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.own_limits import LIMIT_NAMES
from mcp_gateway.core.ledger.budgets import BUDGET_WINDOWS
from mcp_gateway.core.optimization import MODES

KEYS_PATH = "/console/keys"
_SCOPE_LABELS: dict[KeyScope, str] = {
    "inference": "ask models, and see the balance",
    "read": "see usage, requests and the ledger",
    "billing": "pay into the wallet, and set the webhook",
    "manage": "make, change and revoke keys",
}
_WINDOW_LABELS = {"5h": "five hours", "day": "day", "week": "week", "month": "month", "total": "all its time"}
_CLEARED = ("model_pool", "optimize_mode", "networks", "note", "tags")
_FIELDS = (
    *NewKey.model_fields, "budgets.0.amount_usd", "budgets.0.window",
)  # fmt: skip
"""Of a form, below which what is wrong with them is told."""


class KeyQuery(Query):
    """Whether a change was just made."""

    changed: bool = False


class KeyPages:
    def __init__(self, keys: Keys, now_ms: Callable[[], int], *, base_url: str, first_model: Callable[[], str]) -> None:
        self._keys = keys
        self._now_ms = now_ms
        self._base_url = base_url
        self._first_model = first_model

    def rows(self, console: Console) -> list[AnyOperation]:
        one = f"{KEYS_PATH}/{{key_id}}"
        return [
            console.page(KEYS_PATH, self.list, query=KeysQuery),
            console.page(KEYS_PATH, self.create, method="POST", scope="manage"),
            console.page(f"{KEYS_PATH}/new", self.new, scope="manage"),
            console.page(one, self.show, query=KeyQuery),
            console.page(one, self.change, method="POST", scope="manage"),
            console.page(f"{one}/rotate", self.rotate, method="POST", scope="manage"),
            console.page(f"{one}/revoke", self.revoke, method="POST", scope="manage"),
        ]

    async def list(self, asked: Asked[KeysQuery, Form]) -> Shown:
        state = asked.query.state
        found = await self._keys.list(asking(asked, Nothing(), asked.query))
        values = {
            "keys": found.data,
            "older": older(found.next_cursor, {"state": state or ""}),
            "state": state or "",
            "now_s": self._now_ms() // 1000,
            "may_manage": asked.may("manage"),
        }
        return Shown("keys.html", values, part="table")

    async def new(self, _asked: AskedPage) -> Shown:
        return Shown("key_new.html", {**_new_values(Form()), "error": None})

    async def create(self, asked: AskedPage) -> Shown:
        form = asked.body if asked.body.get("budgets.0.amount_usd").strip() else asked.body.without("budgets.")
        try:
            made = await self._keys.create(asking(asked, form.as_body(NewKey)))
        except GatewayError as error:
            return again("key_new.html", _new_values(asked.body), error)
        return self._made("Your new key", made)

    async def show(self, asked: Asked[KeyQuery, Form]) -> Shown:
        key = await self._keys.get(asking(asked, Nothing()))
        return Shown("key.html", {**_values_of(key, Form(), asked), "error": None, "is_changed": asked.query.changed})

    async def change(self, asked: AskedPage) -> Shown | SeeOther:
        key = await self._keys.get(asking(asked, Nothing()))
        form = asked.body.changed_from(_shown_of(key))
        try:
            await self._keys.change(asking(asked, form.as_body(KeyChange, clears=_CLEARED)))
        except GatewayError as error:
            return again("key.html", {**_values_of(key, asked.body, asked), "is_changed": False}, error)
        return SeeOther(f"{KEYS_PATH}/{key.id}?changed=1")

    async def rotate(self, asked: AskedPage) -> Shown:
        return self._made(
            "The key's new secret", await self._keys.rotate(asking(asked, asked.body.as_body(Rotation))), asked
        )

    async def revoke(self, asked: AskedPage) -> SeeOther:
        query = RevokeQuery(with_made=bool(asked.body.get("with_made")))
        await self._keys.revoke(asking(asked, Nothing(), query))
        return SeeOther(KEYS_PATH)

    def _made(self, title: str, made: CreatedKey | Answered[CreatedKey], asked: AskedPage | None = None) -> Shown:
        """A secret is in this one answer; the same form once more is told that it was."""
        key_id = "" if asked is None else asked.path["key_id"]
        if isinstance(made, CreatedKey):
            key_id = made.id
        values = {
            "title": title,
            "raw": made.key if isinstance(made, CreatedKey) else None,
            "key_id": key_id,
            "base_url": self._base_url,
            "model": self._first_model(),
        }
        return Shown("key_made.html", values)


async def names_of_keys(keys: Keys, asked: AskedPage) -> dict[str, str]:
    """What people call them, by id: of the thousand that were made last."""
    found = await keys.list(asking(asked, Nothing(), KeysQuery(limit=1000)))
    return {key.id: key.name or f"{key.prefix}…" for key in found.data}


def _new_values(typed: Form) -> dict[str, Any]:
    return {
        "typed": typed,
        "is_new": True,
        "models_now": "",
        "windows": [(window, _WINDOW_LABELS[window]) for window in BUDGET_WINDOWS],
        "scopes": [(scope, _SCOPE_LABELS[scope]) for scope in SCOPES],
        **_choices(),
        **_fields_shown({}),
    }


def _values_of(key: KeyObject, typed: Form, asked: AskedPage) -> dict[str, Any]:
    return {
        "key": key,
        "typed": typed,
        "is_new": False,
        "may_manage": asked.may("manage"),
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
    limits = {name: getattr(key, name) for name in LIMIT_NAMES}
    return {
        "name": key.name,
        "model_pool": "\n".join(key.model_pool or ()),
        "optimize_mode": key.optimize_mode or "",
        "networks": "\n".join(key.networks or ()),
        "tags": "\n".join(key.tags),
        "note": key.note or "",
        **{name: "" if number is None else str(number) for name, number in limits.items()},
    }
