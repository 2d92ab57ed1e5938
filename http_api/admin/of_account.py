"""What accounts ask about themselves, asked by an administrator about one of them, which the path names."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from http_api.operations import OPENAI, Access, AnyOperation, Asked, Counts, Handle
from mcp_gateway.core.identity.accounts import Accounts

PREFIX = "/admin/accounts/{account_id}"


class OfAccount:
    """Makes rows of the operator's of those that accounts have."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def rows(self, own: Iterable[AnyOperation]) -> list[AnyOperation]:
        """The same for administrators, below the account's path."""
        return [
            replace(
                row,
                path=PREFIX + row.path,
                name=f"admin_{row.name}",
                access=Access.ADMINISTRATOR,
                scope=None,
                counts=Counts.NOTHING,
                handle=self.about_one(row.handle),
                refuses=row.refuses | {"not_found"},
                prefixes=(OPENAI,),
                is_always_answered=True,
            )
            for row in own
            if row.handle is not None
        ]

    def about_one(self, handle: Handle[Any, Any, Any]) -> Handle[Any, Any, Any]:
        """Have a handler told which account it is about. Raises GatewayError `not_found` for one that there is not."""

        async def about(asked: Asked[Any, Any]) -> Any:
            account = await self._accounts.get(asked.path["account_id"])
            return await handle(replace(asked, of_account=account.id))

        return about
