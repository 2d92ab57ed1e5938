"""/auth: people who register, sign in and out, and what is theirs; and what owners do for users of their account.

Tries are counted before anything is looked up, so that a name that is known costs no other time than one that is not.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from http_api.middleware.cookies import Cookie
from http_api.operations import Absent, Answered, AnswerHeader, Asked, Nothing, Told
from http_api.query import Query
from mcp_gateway.core.caller import ROLE_SCOPES, SCOPES, KeyScope, Role
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.address import counted_as, site_of
from mcp_gateway.core.identity.emails import canonical_email
from mcp_gateway.core.identity.people import Person, ToldSecret
from mcp_gateway.core.identity.sessions import SignedInBy, UserSession
from mcp_gateway.core.identity.sign_in import SignedIn, SignIn, read_email
from mcp_gateway.core.limits.sign_ins import SignIns

_Email = Annotated[str, Field(max_length=1000)]
_Password = Annotated[str, Field(max_length=1000)]
"""Of which the rules say more; what is longer than any that may be chosen is still compared like one."""
_Secret = Annotated[str, Field(min_length=1, max_length=200)]
SESSION_COOKIE = AnswerHeader("Set-Cookie", "string", "The session of a browser, or that it has none any more.")
NOT_STORED = (b"cache-control", b"no-store")
"""Of an answer with a secret."""


class LoginBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    email: _Email
    password: _Password


class RegisterBody(LoginBody):
    """`token` is the secret of an invitation, or of the first administrator's."""

    token: _Secret | None = None


class PasswordBody(BaseModel):
    """The new `password`, with the one so far or with a secret that works once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    password: _Password
    current_password: _Password | None = None
    token: _Secret | None = None


class ProfileBody(BaseModel):
    """The time zone that pages tell times in, such as Europe/Berlin; null for UTC."""

    model_config = ConfigDict(extra="forbid", strict=True)

    zone: Annotated[str, Field(min_length=1, max_length=100)] | None


class UserObject(Told):
    """A person, as they see themselves."""

    object: Literal["user"]
    id: str
    email: str | None
    account_id: str
    role: Role
    administrator: bool
    scopes: list[KeyScope]
    created_at: int
    zone: str | None
    session_id: str | Absent = None
    signed_in_by: SignedInBy | Absent = None


class TokenObject(Told):
    """A token to send as `Authorization: Bearer`, and for how many seconds it is good."""

    token: str
    token_type: Literal["Bearer"]
    expires_in: int


class SignedInObject(TokenObject):
    user: UserObject
    session_id: str


class SessionObject(Told):
    """Where somebody is signed in. Times in Unix seconds."""

    object: Literal["session"]
    id: str
    current: bool
    agent: str
    network: str
    signed_in_by: SignedInBy
    created_at: int
    last_seen_at: int
    expires_at: int


class SessionList(Told):
    """All sessions that have not ended, the one used last first."""

    object: Literal["list"]
    data: list[SessionObject]


class EndedSessions(Told):
    """How many sessions were ended."""

    ended: int


class PasswordChanged(Told):
    changed: Literal[True]


class InvitationBody(BaseModel):
    """Whom an invitation is for, anybody where it says no `email`, and as what."""

    model_config = ConfigDict(extra="forbid", strict=True)

    email: _Email | None = None
    role: Role = "member"


class OneTimeSecretObject(Told):
    """A secret that works once, and is shown this once."""

    token: str
    expires_at: int


class UserList(Told):
    """All users of the account, the oldest first."""

    object: Literal["list"]
    data: list[UserObject]


class DeletedUser(Told):
    id: str
    deleted: Literal[True]


class PeopleDoor:
    """What a person may do about themselves, and an owner about the others of the account."""

    def __init__(self, sign_in: SignIn, sign_ins: SignIns, cookie: Cookie) -> None:
        self._sign_in = sign_in
        self._sign_ins = sign_ins
        self._cookie = cookie

    async def register(self, asked: Asked[Query, RegisterBody]) -> Answered[SignedInObject]:
        address = count_by_address(self._sign_ins, asked)
        email = canonical_email(asked.body.email)
        signed = await self._sign_in.register(
            email, asked.body.password, secret=asked.body.token, counted_as=address, **opened_from(asked)
        )
        self._sign_ins.succeed(email, address)
        return self._signed_in(signed)

    async def login(self, asked: Asked[Query, LoginBody]) -> Answered[SignedInObject]:
        address = count_by_address(self._sign_ins, asked)
        email = read_email(asked.body.email)
        name = email or asked.body.email  # what is no address is counted like an unknown one
        self._sign_ins.begin(name, address)
        signed = await self._sign_in.sign_in(email, asked.body.password, **opened_from(asked))
        self._sign_ins.succeed(name, address)
        return self._signed_in(signed)

    async def logout(self, asked: Asked[Query, Nothing]) -> Answered[EndedSessions]:
        await self._sign_in.sign_out(asked.caller.user)
        return Answered(EndedSessions(ended=1), headers=(self._cookie.cleared, NOT_STORED))

    async def refresh(self, asked: Asked[Query, Nothing]) -> Answered[TokenObject]:
        user = asked.caller.user
        if not user.session_id:
            raise GatewayError("insufficient_permissions", "This token is an issuer's, which gives further ones.")
        token = await self._sign_in.token_for(user)
        return Answered(TokenObject(**self._token_fields(token)), headers=(NOT_STORED,))

    async def me(self, asked: Asked[Query, Nothing]) -> UserObject:
        return await self._told_of(asked)

    async def change(self, asked: Asked[Query, ProfileBody]) -> UserObject:
        await self._sign_in.people.set_zone(asked.caller.user.user_id, asked.body.zone)
        return await self._told_of(asked)

    async def delete(self, asked: Asked[Query, Nothing]) -> Answered[DeletedUser]:
        user = asked.caller.user
        await self._sign_in.delete(user)
        told = DeletedUser(id=user.user_id, deleted=True)
        return Answered(told, headers=(self._cookie.cleared, NOT_STORED))

    async def password(self, asked: Asked[Query, PasswordBody]) -> PasswordChanged:
        body = asked.body
        if (body.token is None) == (body.current_password is None):
            message = "Send either `current_password`, signed in, or the `token` that was made for this."
            raise GatewayError("missing_parameter", message, param="current_password")
        if body.token is not None:
            count_by_address(self._sign_ins, asked)
            await self._sign_in.choose_password(body.token, body.password)
        else:
            await self._change_password(asked)
        return PasswordChanged(changed=True)

    async def sessions(self, asked: Asked[Query, Nothing]) -> SessionList:
        user = asked.caller.user
        found = await self._sign_in.sessions.of(user.user_id)
        return SessionList(object="list", data=[_session_object(one, user.session_id) for one in found])

    async def end_session(self, asked: Asked[Query, Nothing]) -> EndedSessions:
        await self._sign_in.end(asked.caller.user, asked.path["session_id"])
        return EndedSessions(ended=1)

    async def end_others(self, asked: Asked[Query, Nothing]) -> EndedSessions:
        return EndedSessions(ended=await self._sign_in.end_others(asked.caller.user))

    async def colleagues(self, asked: Asked[Query, Nothing]) -> UserList:
        found = await self._sign_in.colleagues(asked.caller.user, asked.caller.account_id)
        return UserList(object="list", data=[UserObject(**_fields_of(person)) for person in found])

    async def invite(self, asked: Asked[Query, InvitationBody]) -> Answered[OneTimeSecretObject]:
        count_by_address(self._sign_ins, asked)  # who is a user already is told as rarely as where they register
        email = None if asked.body.email is None else canonical_email(asked.body.email)
        caller = asked.caller
        return told_once(await self._sign_in.invite(caller.user, caller.account_id, email, asked.body.role))

    async def let_choose_password(self, asked: Asked[Query, Nothing]) -> Answered[OneTimeSecretObject]:
        caller, user_id = asked.caller, asked.path["user_id"]
        return told_once(await self._sign_in.let_choose_password(caller.user, caller.account_id, user_id))

    async def _told_of(self, asked: Asked[Query, Any]) -> UserObject:
        user = asked.caller.user
        person = await self._sign_in.people.get(user.user_id)
        session: dict[str, Any] = {"session_id": user.session_id} if user.session_id else {}
        signed_in_by = await self._sign_in.way_of(user)
        return UserObject(**_fields_of(person), **session, signed_in_by=signed_in_by)

    async def _change_password(self, asked: Asked[Query, PasswordBody]) -> None:
        user, address = asked.caller.user, counted_as(asked.context.address)
        self._sign_ins.begin(user.user_id, address)
        await self._sign_in.change_password(user, asked.body.current_password or "", asked.body.password)
        self._sign_ins.succeed(user.user_id, address)

    def _signed_in(self, signed: SignedIn) -> Answered[SignedInObject]:
        told = SignedInObject(
            **self._token_fields(signed.token),
            user=UserObject(**_fields_of(signed.person)),
            session_id=signed.session.id,
        )
        return Answered(told, headers=(self._cookie.of(signed.cookie), NOT_STORED))

    def _token_fields(self, token: str) -> dict[str, Any]:
        lifetime_s = self._sign_in.tokens.lifetime_ms // 1000
        return {"token": token, "token_type": "Bearer", "expires_in": lifetime_s}


def told_once(secret: ToldSecret) -> Answered[OneTimeSecretObject]:
    told = OneTimeSecretObject(token=secret.raw, expires_at=secret.expires_at_ms // 1000)
    return Answered(told, headers=(NOT_STORED,))


def count_by_address(sign_ins: SignIns, asked: Asked[Any, Any]) -> str:
    """The address that it is counted by. Raises GatewayError `too_many_sign_ins`."""
    address = counted_as(asked.context.address)
    sign_ins.count_address(address, site_of(address))
    return address


def opened_from(asked: Asked[Any, Any]) -> dict[str, str]:
    """What a session remembers of where it was opened."""
    agent = asked.context.sent.get(b"user-agent", b"").decode("latin-1")
    return {"agent": agent, "address": asked.context.address}


def _fields_of(person: Person) -> dict[str, Any]:
    return {
        "object": "user",
        "id": person.id,
        "email": person.email,
        "account_id": person.account_id,
        "role": person.role,
        "administrator": person.is_administrator,
        "scopes": [scope for scope in SCOPES if scope in ROLE_SCOPES[person.role]],
        "created_at": person.created_at_ms // 1000,
        "zone": person.zone,
    }


def _session_object(session: UserSession, current_id: str) -> SessionObject:
    return SessionObject(
        object="session",
        id=session.id,
        current=session.id == current_id,
        agent=session.agent,
        network=session.network,
        signed_in_by=session.signed_in_by,
        created_at=session.created_at_ms // 1000,
        last_seen_at=session.seen_at_ms // 1000,
        expires_at=session.expires_at_ms // 1000,
    )
