"""How people come in and go: by registering, by a password, by a secret that works once; and what ends with them.

Knows no HTTP and counts no tries, which whoever calls has done before.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from mcp_gateway.core.caller import ROLE_SCOPES, SCOPES, Role, User
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.access_tokens import AccessTokens
from mcp_gateway.core.identity.emails import canonical_email
from mcp_gateway.core.identity.passwords import Passwords, check_new_password
from mcp_gateway.core.identity.people import (
    Credentials,
    People,
    Person,
    ToldSecret,
    registration_closed,
    unknown_user,
    useless_secret,
    wrong_credentials,
)
from mcp_gateway.core.identity.sessions import SessionById, SignedInBy, UserSession, UserSessions, session_refusal

Registration = Literal["open", "invite", "closed"]


class SignedIn(NamedTuple):
    """A person in a new session: `cookie` is for a browser, `token` for a program."""

    person: Person
    session: UserSession
    cookie: str
    token: str


class SignIn:
    """The doors for people; `heard` has the server take up at once what this has changed."""

    def __init__(
        self,
        people: People,
        passwords: Passwords,
        sessions: UserSessions,
        tokens: AccessTokens,
        *,
        registration: Registration | None,
        heard: Callable[[], Awaitable[None]],
    ) -> None:
        self.people = people
        self.sessions = sessions
        self.tokens = tokens
        self._passwords = passwords
        self._registration = registration
        self._heard = heard

    async def sign_in(self, email: str, password: str, *, agent: str, address: str) -> SignedIn:
        """Raises GatewayError `invalid_credentials`, alike and after as long, for no such user and a wrong password."""
        self.people.check_have_passwords()
        known = await self._by_password(email, password)
        try:
            signed_in = await self.open_session(known.person, agent, address, password_hash=known.password_hash)
        except GatewayError as error:
            if error.code != "invalid_credentials":
                raise
            known = await self._by_password(email, password)  # another sign-in may have renewed the hash meanwhile
            signed_in = await self.open_session(known.person, agent, address, password_hash=known.password_hash)
        if known.password_hash is not None and self._passwords.is_outdated(known.password_hash):
            again = await self._passwords.hashed(password)
            await self.people.renew_hash(known.person.id, known.password_hash, again)
        return signed_in

    async def register(
        self, email: str, password: str, *, secret: str | None, agent: str, address: str, counted_as: str
    ) -> SignedIn:
        """A new user, who is signed in at once. Raises GatewayError as CreatePerson, and `registration_closed`."""
        self.people.check_have_passwords()
        is_first = await self._check_may_register(email, secret)
        check_new_password(password, email)
        person = await self.people.create(
            email,
            password_hash=await self._passwords.hashed(password),
            registered_from=counted_as,
            secret=secret,
            only_first=is_first,
        )
        return await self.open_session(person, agent, address)

    async def sign_out(self, user: User) -> None:
        await self.sessions.end(user.user_id, user.session_id)
        await self._heard()

    async def end(self, user: User, session_id: str) -> None:
        """Raises GatewayError `not_found`."""
        await self.sessions.end(user.user_id, session_id)
        await self._heard()

    async def end_others(self, user: User) -> int:
        """All of a user's sessions but the one that asks; returns how many they were."""
        count = await self.sessions.end_others(user.user_id, user.session_id)
        await self._heard()
        return count

    async def token_for(self, user: User) -> str:
        """A further token of the same session."""
        return await self.tokens.make(user.user_id, user.session_id, _scopes_of(user))

    async def change_password(self, user: User, current: str, new: str) -> None:
        """Ends the other sessions. Raises GatewayError `invalid_credentials`, `invalid_value`."""
        self.people.check_have_passwords()
        person, known_hash = await self.people.credentials_of(user.user_id)
        if not await self._passwords.is_right(current, known_hash):
            raise GatewayError("invalid_credentials", "This is not your password.", param="current_password")
        check_new_password(new, person.email or "")
        new_hash = await self._passwords.hashed(new)
        await self.people.set_password(user.user_id, new_hash, but_session_id=user.session_id)
        await self._heard()

    async def choose_password(self, secret: str, new: str) -> None:
        """By a secret that works once; ends all sessions. Raises GatewayError `invalid_value`."""
        self.people.check_have_passwords()
        email = await self.people.email_of_secret(secret)
        if email is None:
            raise useless_secret()
        check_new_password(new, email)
        await self.people.set_password_by_secret(secret, await self._passwords.hashed(new))
        await self._heard()

    async def colleagues(self, user: User, account_id: str) -> list[Person]:
        """All users of an owner's account. Raises GatewayError `insufficient_permissions`."""
        _check_owns(user)
        return await self.people.list(account_id)

    async def invite(self, user: User, account_id: str, email: str | None, role: Role) -> ToldSecret:
        """Into the account of an owner. Raises GatewayError `insufficient_permissions`, `registration_closed`."""
        _check_owns(user)
        self.people.check_have_passwords()
        if self._registration not in ("open", "invite"):
            raise registration_closed()
        return await self.people.invite(email, account_id=account_id, role=role, made_by=user.user_id)

    async def let_choose_password(self, user: User, account_id: str, user_id: str) -> ToldSecret:
        """A secret for a user of an owner's account, who has forgotten theirs.

        Raises GatewayError `insufficient_permissions`, also where it would let an owner become an administrator;
        or come as somebody who may go to another account; `not_found` for users of other accounts.
        """
        _check_owns(user)
        self.people.check_have_passwords()
        person = await self.people.get(user_id)
        if person.account_id != account_id:
            raise unknown_user(user_id)
        if person.is_administrator and not user.is_administrator:
            message = "This user runs the gateway, too: only its operator makes this secret."
            raise GatewayError("insufficient_permissions", message)
        if person.has_issuer:
            message = "This user signs in by the issuer: only the operator makes this secret."
            raise GatewayError("insufficient_permissions", message)
        return await self.people.password_secret(user_id, made_by=user.user_id)

    async def delete(self, user: User) -> None:
        """Sessions, keys and the e-mail address go; the account's books stay."""
        await self.people.delete(user.user_id, even_last=True)
        await self._heard()

    async def _by_password(self, email: str, password: str) -> Credentials:
        """Raises GatewayError `invalid_credentials`."""
        known = await self.people.credentials(email)
        is_right = await self._passwords.is_right(password, None if known is None else known.password_hash)
        if known is None or not is_right or not known.person.is_active:
            raise wrong_credentials()
        return known

    async def _check_may_register(self, email: str, secret: str | None) -> bool:
        """Whether only as the first account of all. Raises GatewayError `registration_closed`, `invalid_value`."""
        if secret is not None:
            if await self.people.email_of_secret(secret) not in ("", email):
                raise useless_secret()
            return False
        if self._registration is None:
            if await self.people.are_accounts_there():
                raise registration_closed()
            return True
        if self._registration != "open":
            raise registration_closed()
        return False

    async def way_of(self, user: User) -> SignedInBy:
        """How the session that asks began; who has none shows a token of an issuer. Raises GatewayError (401)."""
        if not user.session_id:
            return "issuer"
        session = await self.sessions.find(SessionById(user.session_id))
        if session is None:
            raise session_refusal("expired_session")  # it has ended since it was looked at
        return session.signed_in_by

    async def open_session(
        self,
        person: Person,
        agent: str,
        address: str,
        *,
        signed_in_by: SignedInBy = "password",
        password_hash: str | None = None,
    ) -> SignedIn:
        """For whoever has shown that they are this person; by a password, if it is still theirs."""
        session, cookie = await self.sessions.open(
            person.id,
            person.account_id,
            person.role,
            is_administrator=person.is_administrator,
            agent=agent,
            address=address,
            password_hash=password_hash,
            signed_in_by=signed_in_by,
        )
        user = User(person.id, session.id, person.role, person.is_administrator)
        return SignedIn(person, session, cookie, await self.token_for(user))


def _check_owns(user: User) -> None:
    if user.role != "owner":
        raise GatewayError("insufficient_permissions", "Only an owner of the account may do this.")


def _scopes_of(user: User) -> str:
    return " ".join(scope for scope in SCOPES if scope in ROLE_SCOPES[user.role])


def read_email(written: str) -> str:
    """As `canonical_email`, for a sign-in: what is no address is no user either, and told alike."""
    try:
        return canonical_email(written)
    except GatewayError:
        return ""
