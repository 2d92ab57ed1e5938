"""Users, for administrators: whoever signs in to whichever account; and one's own page, where they are changed."""

from collections.abc import Awaitable, Callable
from typing import Any

from http_api.admin.users import (
    AdministeredUser,
    CreatedUser,
    DeleteUserQuery,
    NewInvitation,
    NewUser,
    UserChange,
    UsersDoor,
    UsersQuery,
)
from http_api.console.addresses import filters_in, older
from http_api.console.forms import Form
from http_api.console.one_time_links import OneTimeLinks
from http_api.console.serving import AskedPage, Console, SeeOther, Shown, again, asking
from http_api.operations import Access, Answered, AnyOperation, Asked, Nothing
from http_api.people import OneTimeSecretObject
from http_api.query import Query
from mcp_gateway.core.caller import ROLES
from mcp_gateway.core.errors import GatewayError

USERS_PATH = "/console/admin/users"
_FILTERS = ("account_id", "email")
_MADE_WITH = ("email", "account_id", "role", "administrator")
_INVITED_WITH = "invited."
"""Begins the names of the fields of the page's second form with the same ones."""


class UserQuery(Query):
    """Whether a change was just made, and how many sessions were ended."""

    changed: bool = False
    ended: int | None = None


class UserPages:
    def __init__(self, users: UsersDoor, *, base_url: str, takes_passwords: bool) -> None:
        self._users = users
        self._links = OneTimeLinks(base_url)
        self._takes_passwords = takes_passwords

    def rows(self, console: Console) -> list[AnyOperation]:
        one = f"{USERS_PATH}/{{user_id}}"
        row: dict[str, Any] = {"access": Access.ADMINISTRATOR, "is_always_answered": True}
        form = row | {"method": "POST"}
        by_password = [
            console.page(f"{USERS_PATH}/invitations", self.invite, **form),
            console.page(f"{one}/password", self.let_choose_password, **form),
        ]
        return [
            console.page(USERS_PATH, self.list, query=UsersQuery, **row),
            console.page(USERS_PATH, self.create, **form),
            *(by_password if self._takes_passwords else ()),
            console.page(one, self.show, query=UserQuery, **row),
            console.page(one, self.change, **form),
            console.page(f"{one}/end-sessions", self.end_sessions, **form),
            console.page(f"{one}/delete", self.delete, **form),
        ]

    async def list(self, asked: Asked[UsersQuery, Form]) -> Shown:
        return await self._listed(asked, asked.query, None)

    async def create(self, asked: AskedPage) -> Shown | SeeOther:
        try:
            told = await self._users.create(asking(asked, asked.body.as_body(NewUser)))
        except GatewayError as error:
            return await self._listed_again(asked, error)
        made = told.answer
        assert isinstance(made, CreatedUser)
        here = f"{USERS_PATH}/{made.id}"
        if made.token is None:
            return SeeOther(here)
        assert made.token_expires_at is not None
        secret = OneTimeSecretObject(token=made.token, expires_at=made.token_expires_at)
        return self._links.password(Answered(secret), here)

    async def invite(self, asked: AskedPage) -> Shown:
        typed = Form((name, asked.body.get(_INVITED_WITH + name)) for name in _MADE_WITH)
        try:
            told = await self._users.invite(asking(asked, typed.as_body(NewInvitation)))
        except GatewayError as error:
            error.param = None if error.param is None else _INVITED_WITH + error.param
            return await self._listed_again(asked, error)
        return self._links.register(told, USERS_PATH)

    async def show(self, asked: Asked[UserQuery, Form]) -> Shown:
        user = await self._users.get(asking(asked, Nothing()))
        values = self._values(user, Form())
        return Shown(
            "admin_user.html",
            values | {"error": None, "is_changed": asked.query.changed, "ended": asked.query.ended},
        )

    async def change(self, asked: AskedPage) -> Shown | SeeOther:
        async def change(user: AdministeredUser) -> SeeOther:
            body = asked.body.changed_from(_shown_of(user)).as_body(UserChange)
            await self._users.change(asking(asked, body))
            return SeeOther(f"{USERS_PATH}/{user.id}?changed=1")

        return await self._done(asked, change)

    async def end_sessions(self, asked: AskedPage) -> SeeOther:
        told = await self._users.end_sessions(asking(asked, Nothing()))
        return SeeOther(f"{USERS_PATH}/{asked.path['user_id']}?ended={told.ended}")

    async def let_choose_password(self, asked: AskedPage) -> Shown:
        told = await self._users.let_choose_password(asking(asked, Nothing()))
        return self._links.password(told, f"{USERS_PATH}/{asked.path['user_id']}")

    async def delete(self, asked: AskedPage) -> Shown | SeeOther:
        async def delete(_user: AdministeredUser) -> SeeOther:
            query = DeleteUserQuery(even_last=asked.body.has("even_last", "true"))
            await self._users.delete(asking(asked, Nothing(), query))
            return SeeOther(USERS_PATH)

        return await self._done(asked, delete)

    async def _done(self, asked: AskedPage, do: Callable[[AdministeredUser], Awaitable[SeeOther]]) -> Shown | SeeOther:
        user = await self._users.get(asking(asked, Nothing()))
        try:
            return await do(user)
        except GatewayError as error:
            return again("admin_user.html", self._values(user, asked.body), error)

    async def _listed_again(self, asked: AskedPage, error: GatewayError) -> Shown:
        shown = await self._listed(asked, UsersQuery(), error)
        return again(shown.template, shown.values, error)

    async def _listed(self, asked: AskedPage, query: UsersQuery, error: GatewayError | None) -> Shown:
        found, kept = None, filters_in(asked, _FILTERS)
        try:
            found = await self._users.list(asking(asked, Nothing(), query))
        except GatewayError as refusal:  # of what is no e-mail address
            error = refusal
        values = {
            "users": [] if found is None else found.data,
            "older": None if found is None else older(found.next_cursor, kept),
            "filter": {name: kept.get(name, "") for name in _FILTERS},
            "typed": asked.body,
            "error": error,
            "fields": [begin + name for begin in ("", _INVITED_WITH) for name in ("email", "account_id")],
            "takes_passwords": self._takes_passwords,
            **_choices(),
        }
        return Shown("admin_users.html", values, part="table")

    def _values(self, user: AdministeredUser, typed: Form) -> dict[str, Any]:
        return {
            "user": user,
            "name": user.email or user.id,
            "typed": typed,
            "now": _shown_of(user),
            "is_changed": False,
            "ended": None,
            "takes_passwords": self._takes_passwords,
            **_choices(),
        }


def _choices() -> dict[str, Any]:
    return {"roles": [(role, role) for role in ROLES], "switches": [("false", "no"), ("true", "yes")]}


def _shown_of(user: AdministeredUser) -> dict[str, str]:
    """What stands in the fields of a user's page."""
    return {"role": user.role, "administrator": str(user.administrator).lower()}
