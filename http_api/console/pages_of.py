"""The account that pages are about: the reader's own, or for administrators the one that the path names."""

from typing import Any, cast

from http_api.admin.of_account import OfAccount
from http_api.console.serving import Console, Show
from http_api.operations import Access, AnyOperation, Asked

OWN_HOME = "/console"
ACCOUNTS_PATH = "/console/admin/accounts"


class PagesOf:
    """The same pages have a row for each of the two; `of_account` is there for administrators'."""

    def __init__(self, of_account: OfAccount | None = None) -> None:
        self._of_account = of_account

    def page(self, console: Console, below: str, show: Show, *, scope: Any = None, **row: Any) -> AnyOperation:
        """A row; `scope` is what somebody needs of their role, where the account is their own."""
        if self._of_account is None:
            return console.page(f"{OWN_HOME}{below}", show, scope=scope, **row)
        return console.page(
            f"{ACCOUNTS_PATH}/{{account_id}}{below}",
            cast(Show, self._of_account.about_one(show)),
            access=Access.ADMINISTRATOR,
            is_always_answered=True,
            **row,
        )


def home_of(asked: Asked[Any, Any]) -> str:
    """Below which the pages are that are about the same account."""
    return OWN_HOME if asked.of_account is None else f"{ACCOUNTS_PATH}/{asked.of_account}"


def told_of(asked: Asked[Any, Any]) -> dict[str, Any]:
    """What their templates are told: where they are, and of which account where it is not the reader's."""
    return {"home": home_of(asked), "of_account": asked.of_account}
