"""The account: who somebody is here, where they are signed in, how pages look; and its other users, for owners."""

from typing import Any

from http_api.attribution import AttributionBody, AttributionDoor
from http_api.console.forms import Form
from http_api.console.one_time_links import OneTimeLinks
from http_api.console.pages.sign_in import wrong
from http_api.console.serving import SIGN_IN_PATH, AskedPage, Console, SeeOther, Shown, again, asking
from http_api.console.templates import THEMES, theme_cookie
from http_api.operations import AnyOperation, Asked, Nothing
from http_api.people import InvitationBody, PasswordBody, PeopleDoor, ProfileBody
from http_api.query import Query
from mcp_gateway.core.caller import ROLES
from mcp_gateway.core.errors import GatewayError

ACCOUNT_PATH = "/console/account"
_FIELDS = ("current_password", "password", "email", "confirmation", "zone")


class OwnAccountQuery(Query):
    """Whether a change was just made."""

    saved: bool = False


class OwnAccountPages:
    """`base_url` begins the links that are given to others."""

    def __init__(
        self, people: PeopleDoor, attribution: AttributionDoor, *, base_url: str, takes_passwords: bool
    ) -> None:
        self._people = people
        self._attribution = attribution
        self._links = OneTimeLinks(base_url)
        self._takes_passwords = takes_passwords

    def rows(self, console: Console) -> list[AnyOperation]:
        sessions = f"{ACCOUNT_PATH}/sessions"
        rows = [
            console.page(ACCOUNT_PATH, self.show, query=OwnAccountQuery),
            console.page(f"{ACCOUNT_PATH}/theme", self.choose_theme, method="POST"),
            console.page(f"{ACCOUNT_PATH}/zone", self.choose_zone, method="POST"),
            console.page(f"{ACCOUNT_PATH}/attribution", self.set_attribution, method="POST", scope="billing"),
            console.page(f"{ACCOUNT_PATH}/delete", self.delete, method="POST"),
            console.page(f"{sessions}/end-others", self.end_others, method="POST"),
            console.page(f"{sessions}/{{session_id}}/end", self.end_session, method="POST"),
        ]
        if not self._takes_passwords:
            return rows
        return [
            *rows,
            console.page(f"{ACCOUNT_PATH}/password", self.change_password, method="POST"),
            console.page(f"{ACCOUNT_PATH}/invitations", self.invite, method="POST"),
            console.page(f"{ACCOUNT_PATH}/users/{{user_id}}/password", self.let_choose_password, method="POST"),
        ]

    async def show(self, asked: Asked[OwnAccountQuery, Form]) -> Shown:
        values = await self._values(asked)
        return Shown("account.html", {**values, "error": None, "is_saved": asked.query.saved})

    async def choose_theme(self, asked: AskedPage) -> SeeOther:
        return SeeOther(ACCOUNT_PATH, (theme_cookie(asked.body.get("theme")),))

    async def choose_zone(self, asked: AskedPage) -> Shown | SeeOther:
        try:
            await self._people.change(asking(asked, asked.body.as_body(ProfileBody, clears=("zone",))))
        except GatewayError as error:
            return again("account.html", await self._values(asked), error)
        return _SAVED

    async def change_password(self, asked: AskedPage) -> Shown | SeeOther:
        form = Form((name, asked.body.get(name)) for name in ("current_password", "password"))
        try:
            await self._people.password(asking(asked, form.as_body(PasswordBody)))
        except GatewayError as error:
            return wrong("account.html", await self._values(asked), error)
        return _SAVED

    async def set_attribution(self, asked: AskedPage) -> SeeOther:
        await self._attribution.put(asking(asked, AttributionBody(enabled=asked.body.has("enabled", "true"))))
        return _SAVED

    async def end_session(self, asked: AskedPage) -> SeeOther:
        await self._people.end_session(asking(asked, Nothing()))
        return _SAVED

    async def end_others(self, asked: AskedPage) -> SeeOther:
        await self._people.end_others(asking(asked, Nothing()))
        return _SAVED

    async def invite(self, asked: AskedPage) -> Shown:
        try:
            told = await self._people.invite(asking(asked, asked.body.as_body(InvitationBody)))
        except GatewayError as error:
            return again("account.html", await self._values(asked), error)
        return self._links.register(told, ACCOUNT_PATH)

    async def let_choose_password(self, asked: AskedPage) -> Shown:
        told = await self._people.let_choose_password(asking(asked, Nothing()))
        return self._links.password(told, ACCOUNT_PATH)

    async def delete(self, asked: AskedPage) -> Shown | SeeOther:
        """Once they have typed who they are."""
        values = await self._values(asked)
        if asked.body.get("confirmation").strip() != values["name"]:
            message = f"Type {values['name']} to delete this user; nothing was deleted."
            return again("account.html", values, GatewayError("invalid_value", message, param="confirmation"))
        try:
            told = await self._people.delete(asking(asked, Nothing()))
        except GatewayError as error:
            return again("account.html", values, error)
        return SeeOther(SIGN_IN_PATH, told.headers)

    async def _values(self, asked: Asked[Any, Form]) -> dict[str, Any]:
        ask: Asked[Any, Nothing] = asking(asked, Nothing())
        me = await self._people.me(ask)
        return {
            "me": me,
            "name": me.email or me.id,
            "sessions": (await self._people.sessions(ask)).data,
            "users": (await self._people.colleagues(ask)).data if me.role == "owner" else None,
            "attribution": await self._attribution.get(ask) if asked.may("manage") else None,
            "may_attribute": asked.may("billing"),
            "takes_passwords": self._takes_passwords,
            "themes": [("", "as your system"), *((theme, theme) for theme in THEMES)],
            "roles": [(role, role) for role in ROLES],
            "is_saved": False,
            "typed": asked.body,
            "fields": _FIELDS,
        }


_SAVED = SeeOther(f"{ACCOUNT_PATH}?saved=1")
