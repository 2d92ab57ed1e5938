"""/admin/users and /admin/invitations: people, whichever account they are in, and the secrets that let them in once."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from http_api.admin.actors import Desks, desk_for
from http_api.operations import Absent, Answered, Asked, Nothing, Told
from http_api.paging import Page, PageQuery, cursor_key, page_of
from http_api.people import NOT_STORED, DeletedUser, EndedSessions, OneTimeSecretObject, told_once
from http_api.query import Query
from mcp_gateway.core.caller import Role, User
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.emails import canonical_email
from mcp_gateway.core.identity.people import People, Person

_Email = Annotated[str, Field(max_length=1000)]
_AccountId = Annotated[str, Field(max_length=100)]


class UsersQuery(PageQuery):
    """Filters hold together."""

    cursor: Annotated[str | None, cursor_key(re.compile(r"usr_[0-9a-z]+"))] = None
    account_id: str | None = None
    email: str | None = None


class NewUser(BaseModel):
    """What POST takes; without an `account_id` a new account is made."""

    model_config = ConfigDict(extra="forbid", strict=True)

    email: _Email
    account_id: _AccountId | None = None
    role: Role = "owner"
    administrator: bool = False


class NewInvitation(BaseModel):
    """Whom an invitation is for, anybody where it says no `email`, and into which account, where not into a new one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    email: _Email | None = None
    account_id: _AccountId | None = None
    role: Role = "owner"
    administrator: bool = False


class UserChange(BaseModel):
    """What PATCH takes; what is left out stays as it is, and `active` stands alone.

    `even_last` lets an account go without an owner who may sign in, or the gateway without such an administrator.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    active: bool | None = None
    role: Role | None = None
    administrator: bool | None = None
    even_last: bool = False


class DeleteUserQuery(Query):
    """What DELETE takes."""

    even_last: bool = False


class AdministeredUser(Told):
    """A person, as the operator sees them. Times in Unix seconds."""

    object: Literal["user"]
    id: str
    email: str | None
    account_id: str
    role: Role
    administrator: bool
    active: bool
    has_password: bool
    has_issuer: bool
    created_at: int


class CreatedUser(AdministeredUser):
    """The same with a secret by which they choose a password, which is shown this once; none where nobody has any."""

    token: str | Absent = None
    token_expires_at: int | Absent = None


class AdministeredUserPage(Page[AdministeredUser]):
    """Users, the newest first."""


class UsersDoor:
    def __init__(self, people: People, desks: Desks) -> None:
        self._people = people
        self._desks = desks

    async def list(self, asked: Asked[UsersQuery, Nothing]) -> AdministeredUserPage:
        query = asked.query
        email = None if query.email is None else canonical_email(query.email)
        found = await self._people.page(
            before_id=query.cursor, limit=query.limit + 1, account_id=query.account_id, email=email
        )
        return page_of(AdministeredUserPage, found, query.limit, lambda person: person.id, _object)

    async def get(self, asked: Asked[Query, Nothing]) -> AdministeredUser:
        return _object(await self._people.get(asked.path["user_id"]))

    async def create(self, asked: Asked[Query, NewUser]) -> Answered[CreatedUser]:
        people, body = desk_for(self._desks, asked).people, asked.body
        person = await people.create(
            canonical_email(body.email),
            password_hash=None,
            account_id=body.account_id,
            role=body.role,
            is_administrator=body.administrator,
        )
        secret: dict[str, Any] = {}
        if people.have_passwords:
            kept = await people.password_secret(person.id, made_by=_user_id(asked))
            secret = {"token": kept.raw, "token_expires_at": kept.expires_at_ms // 1000}
        told = CreatedUser(**_object(person).model_dump(), **secret)
        return Answered(told, headers=(NOT_STORED,))

    async def invite(self, asked: Asked[Query, NewInvitation]) -> Answered[OneTimeSecretObject]:
        body = asked.body
        secret = await desk_for(self._desks, asked).people.invite(
            None if body.email is None else canonical_email(body.email),
            account_id=body.account_id,
            role=body.role,
            is_administrator=body.administrator,
            made_by=_user_id(asked),
        )
        return told_once(secret)

    async def change(self, asked: Asked[Query, UserChange]) -> AdministeredUser:
        user_id, body, desk = asked.path["user_id"], asked.body, desk_for(self._desks, asked)
        await self._people.get(user_id)
        if body.active is not None:
            if body.role is not None or body.administrator is not None:
                raise GatewayError("invalid_value", "Send `active` by itself.", param="active")
            await desk.people.set_active(user_id, is_active=body.active, even_last=body.even_last)
        else:
            await desk.people.change(
                user_id, role=body.role, is_administrator=body.administrator, even_last=body.even_last
            )
        await desk.heard()
        return _object(await self._people.get(user_id))

    async def let_choose_password(self, asked: Asked[Query, Nothing]) -> Answered[OneTimeSecretObject]:
        people, user_id = desk_for(self._desks, asked).people, asked.path["user_id"]
        await self._people.get(user_id)
        return told_once(await people.password_secret(user_id, made_by=_user_id(asked)))

    async def end_sessions(self, asked: Asked[Query, Nothing]) -> EndedSessions:
        desk, user_id = desk_for(self._desks, asked), asked.path["user_id"]
        await self._people.get(user_id)
        ended = await desk.sessions.end_others(user_id, None)
        await desk.heard()
        return EndedSessions(ended=ended)

    async def delete(self, asked: Asked[DeleteUserQuery, Nothing]) -> DeletedUser:
        desk, user_id = desk_for(self._desks, asked), asked.path["user_id"]
        await self._people.get(user_id)
        await desk.people.delete(user_id, even_last=asked.query.even_last)
        await desk.heard()
        return DeletedUser(id=user_id, deleted=True)


def _user_id(asked: Asked[Any, Any]) -> str | None:
    """Of an administrator who is a user: what they make ends when they may administer no longer."""
    principal = asked.caller.principal
    return principal.user_id if isinstance(principal, User) else None


def _object(person: Person) -> AdministeredUser:
    return AdministeredUser(
        object="user",
        id=person.id,
        email=person.email,
        account_id=person.account_id,
        role=person.role,
        administrator=person.is_administrator,
        active=person.is_active,
        has_password=person.has_password,
        has_issuer=person.has_issuer,
        created_at=person.created_at_ms // 1000,
    )
