"""The keys of administrators, for administrators: listed and revoked; the command line alone makes them."""

from typing import Any

from http_api.admin.admins import AdminsDoor
from http_api.console.forms import Form
from http_api.console.serving import AskedPage, Console, SeeOther, Shown, asking
from http_api.operations import Access, AnyOperation, Asked, Nothing
from http_api.query import Query

ADMIN_KEYS_PATH = "/console/admin/admins"


class AdminKeysQuery(Query):
    """Whether one was just revoked."""

    revoked: bool = False


class AdminKeyPages:
    def __init__(self, admins: AdminsDoor) -> None:
        self._admins = admins

    def rows(self, console: Console) -> list[AnyOperation]:
        row: dict[str, Any] = {"access": Access.ADMINISTRATOR, "is_always_answered": True}
        return [
            console.page(ADMIN_KEYS_PATH, self.list, query=AdminKeysQuery, **row),
            console.page(f"{ADMIN_KEYS_PATH}/{{key_id}}/revoke", self.revoke, method="POST", **row),
        ]

    async def list(self, asked: Asked[AdminKeysQuery, Form]) -> Shown:
        found = await self._admins.list(asking(asked, Nothing()))
        return Shown("admin_keys.html", {"keys": found.data[::-1], "is_revoked": asked.query.revoked})

    async def revoke(self, asked: AskedPage) -> SeeOther:
        await self._admins.revoke(asking(asked, Nothing()))
        return SeeOther(f"{ADMIN_KEYS_PATH}?revoked=1")
