"""Sign in, sign out, register, and choose a password by a secret that works once."""

from collections.abc import Callable
from typing import Any

from http_api.console.forms import Form
from http_api.console.serving import SIGN_IN_PATH, AskedPage, Console, SeeOther, Shown, again, asking
from http_api.operations import Access, Answered, AnyOperation, Asked, Nothing
from http_api.people import LoginBody, PasswordBody, PeopleDoor, RegisterBody
from http_api.query import Query
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.sign_in import Registration
from mcp_gateway.core.web_address import local_path

HOME = "/console/keys"


class NextQuery(Query):
    """Where to go on."""

    next: str = HOME


class TokenQuery(Query):
    """The secret of a link, for the form's field."""

    token: str = ""


class RegisterQuery(NextQuery, TokenQuery):
    """Where to go on, and the secret of an invitation."""


class SignInPages:
    """`registration` tells who may register, and `issuer_path` where people sign in by an issuer, if they do."""

    def __init__(
        self,
        people: PeopleDoor,
        registration: Callable[[], Registration | None],
        *,
        takes_passwords: bool,
        issuer_path: str | None,
        issuer_name: str,
    ) -> None:
        self._people = people
        self._registration = registration
        self._takes_passwords = takes_passwords
        self._issuer_path = issuer_path
        self._issuer_name = issuer_name

    def rows(self, console: Console) -> list[AnyOperation]:
        rows = [
            console.page("/console/", self.home, access=Access.OPEN),
            console.page("/console", self.home, access=Access.OPEN),
            console.page(SIGN_IN_PATH, self.show, access=Access.OPEN, query=NextQuery),
            console.page("/console/sign-out", self.leave, method="POST"),
        ]
        if not self._takes_passwords:
            return rows
        return [
            *rows,
            console.page(SIGN_IN_PATH, self.submit, method="POST", access=Access.OPEN),
            console.page("/console/register", self.show_register, access=Access.OPEN, query=RegisterQuery),
            console.page("/console/register", self.register, method="POST", access=Access.OPEN, is_regional=True),
            console.page("/console/password", self.show_password, access=Access.OPEN, query=TokenQuery),
            console.page("/console/password", self.choose_password, method="POST", access=Access.OPEN),
        ]

    async def home(self, _asked: AskedPage) -> SeeOther:
        return SeeOther(HOME)

    async def show(self, asked: Asked[NextQuery, Form]) -> Shown:
        return Shown("sign_in.html", {**self._values(asked.query.next, Form()), "error": None})

    async def submit(self, asked: AskedPage) -> Shown | SeeOther:
        going_on = asked.body.get("next", HOME)
        try:
            signed = await self._people.login(asking(asked, asked.body.as_body(LoginBody)))
        except GatewayError as error:
            return wrong("sign_in.html", self._values(going_on, asked.body), error)
        return SeeOther(local_path(going_on, HOME), signed.headers)

    async def leave(self, asked: AskedPage) -> SeeOther:
        answer: Answered[Any] = await self._people.logout(asking(asked, Nothing()))
        return SeeOther(SIGN_IN_PATH, answer.headers)

    async def show_register(self, asked: Asked[RegisterQuery, Form]) -> Shown:
        values = self._values(asked.query.next, Form([("token", asked.query.token)]))
        return Shown("register.html", {**values, "error": None})

    async def register(self, asked: AskedPage) -> Shown | SeeOther:
        going_on = asked.body.get("next", HOME)
        try:
            signed = await self._people.register(asking(asked, asked.body.as_body(RegisterBody)))
        except GatewayError as error:
            return wrong("register.html", self._values(going_on, asked.body), error)
        return SeeOther(local_path(going_on, HOME), signed.headers)

    async def show_password(self, asked: Asked[TokenQuery, Form]) -> Shown:
        form = Form([("token", asked.query.token)])
        return Shown("password.html", {"typed": form, "error": None, "is_done": False})

    async def choose_password(self, asked: AskedPage) -> Shown:
        try:
            await self._people.password(asking(asked, asked.body.as_body(PasswordBody)))
        except GatewayError as error:
            return wrong("password.html", {"typed": asked.body, "is_done": False}, error)
        return Shown("password.html", {"typed": Form(), "error": None, "is_done": True})

    def _values(self, going_on: str, typed: Form) -> dict[str, Any]:
        return {
            "next": going_on,
            "typed": typed,
            "takes_registrations": self._registration() == "open",
            "takes_passwords": self._takes_passwords,
            "issuer_path": self._issuer_path,
            "issuer_name": self._issuer_name,
        }


def wrong(template: str, values: dict[str, Any], error: GatewayError) -> Shown:
    """A credential that is wrong is told in the form, where it is typed again."""
    if error.code == "invalid_credentials":
        return Shown(template, {**values, "error": error}, status=error.status)
    return again(template, values, error)
