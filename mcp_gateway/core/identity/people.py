"""People as values: who may sign in, to which account and as what; and the secrets that let somebody in once.

Knows neither passwords, only their hashes, nor sessions.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mcp_gateway.core.caller import Role
from mcp_gateway.core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from mcp_gateway.core.engine import Engine, Read, Scan, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Account
from mcp_gateway.core.identity.emails import canonical_email
from mcp_gateway.core.identity.keys import digest_of
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.text import shown
from mcp_gateway.core.zones import zone_of

Purpose = Literal["invitation", "password", "first_administrator"]
_PREFIXES: dict[Purpose, str] = {
    "invitation": "gw_invite_",
    "password": "gw_reset_",
    "first_administrator": "gw_first_",
}
_LIVES_MS: dict[Purpose, int] = {
    "invitation": 7 * DAY_MS,
    "password": HOUR_MS,
    "first_administrator": 15 * MINUTE_MS,
}


@dataclass(frozen=True, slots=True)
class Person:
    """A user as they may be shown: never the password's hash."""

    id: str
    email: str | None
    """None where the issuer that lets them in tells of none."""
    account_id: str
    role: Role
    is_administrator: bool
    is_active: bool
    has_password: bool
    created_at_ms: int
    has_issuer: bool = False
    """Whether they have come by an issuer."""
    zone: str | None = None
    """The time zone that they are told times in; None for UTC."""


class Credentials(NamedTuple):
    """What a sign-in is held against."""

    person: Person
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class NewPerson:
    """Somebody to be; `account` is made along, unless `secret_sha256` is of an invitation to another one."""

    id: str
    email: str | None
    password_hash: str | None
    account: Account | str
    """A new one, or the id of one that there is."""
    role: Role
    is_administrator: bool
    created_at_ms: int
    registered_from: str | None = None
    """The address, as limits count it, of whoever registered by themselves; a new account shares its limits."""
    secret_sha256: bytes | None = None
    """Of the secret that it is done by, which says more than all of the above and is used up."""
    only_first: bool = False
    """Whether it may happen only while there is no account."""


@dataclass(frozen=True, slots=True)
class CreatePerson(Write[Person]):
    """Raises GatewayError `conflict` where the e-mail is taken or the account is the guests', `not_found` for an
    unknown account, `invalid_value` for a secret that lets nobody in, `registration_closed` where it came too late to
    be the first.
    """

    new: NewPerson


@dataclass(frozen=True, slots=True)
class SetPassword(Write[None]):
    """Ends all sessions of the user but one, and the secrets that would set another."""

    user_id: str
    password_hash: str | None
    but_session_id: str | None = None


@dataclass(frozen=True, slots=True)
class SetPasswordBySecret(Write[None]):
    """The same by a secret, which is used up. Raises GatewayError `invalid_value` for one that is none, or no more."""

    secret_sha256: bytes
    password_hash: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class RenewHash(Write[None]):
    """Of the same password; nothing happens where it has changed meanwhile."""

    user_id: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class SetPersonActive(Write[None]):
    """Ends the sessions of whoever is switched off, and the secrets that they made for others.

    Raises GatewayError `conflict` as ChangePerson.
    """

    user_id: str
    is_active: bool
    even_last: bool = False


@dataclass(frozen=True, slots=True)
class ChangePerson(Write[None]):
    """None: as it was. Whoever owns, or runs the gateway, no longer loses the secrets that they made for others.

    Raises GatewayError `not_found`; `conflict` where nobody else owns the account, or runs the gateway, who may sign
    in, unless it is to be `even_last`.
    """

    user_id: str
    role: Role | None
    is_administrator: bool | None
    even_last: bool = False


@dataclass(frozen=True, slots=True)
class SetPersonZone(Write[None]):
    user_id: str
    zone: str | None


@dataclass(frozen=True, slots=True)
class DeletePerson(Write[bool]):
    """Sessions, secrets (those made for others, too) and the e-mail go, also as the account's name; the keys that the
    user made end, and those that these made.

    With the last user of an account that was made for its first one all its keys end, and its name, invitations and
    webhook go. Raises GatewayError `conflict` as ChangePerson; an account in which nobody is left needs no owner.

    Nobody is charged any more by the payment method that the user saved. True where an account was topped up by it.
    """

    user_id: str
    at_ms: int
    even_last: bool = False


@dataclass(frozen=True, slots=True)
class OneTimeSecret:
    """What is kept of one. Of an invitation, `email` None lets anybody take it, and `account_id` None has one made."""

    sha256: bytes
    purpose: Purpose
    expires_at_ms: int
    user_id: str | None = None
    email: str | None = None
    account_id: str | None = None
    role: Role = "owner"
    is_administrator: bool = False
    made_by: str | None = None
    """The user who made it for another; None for the operator."""


@dataclass(frozen=True, slots=True)
class KeepSecret(Write[bool]):
    """In place of those of the same purpose and user, or for the same e-mail into the same account by the same kind of
    maker; False, and nothing, for a first administrator where there are users.

    Raises GatewayError `expired_session` where its maker may not sign in any more, `conflict` for the guests' account.
    """

    secret: OneTimeSecret
    now_ms: int


@dataclass(frozen=True, slots=True)
class NoteMadeBy(Write[None]):
    """That a user has made a key."""

    key_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class PersonById(Read[Credentials | None]):
    user_id: str


@dataclass(frozen=True, slots=True)
class PersonByEmail(Read[Credentials | None]):
    email: str


@dataclass(frozen=True, slots=True)
class SecretEmail(Read[str | None]):
    """Of the user whose password a secret sets, or whom it invites; empty where it says none, None where it is none."""

    sha256: bytes
    now_ms: int


@dataclass(frozen=True, slots=True)
class AllPeople(Scan[list[Person]]):
    """The oldest first; of one account or of all."""

    account_id: str | None = None


@dataclass(frozen=True, slots=True)
class PeoplePage(Scan[Sequence[Person]]):
    """The newest first, from those before `before_id` on; of one account or address, where that is said."""

    before_id: str | None
    limit: int
    account_id: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class HasAccounts(Read[bool]):
    """Whether there is an account beside the guests'."""


class ToldSecret(NamedTuple):
    """A secret as it is told this once, and when it ends."""

    raw: str
    expires_at_ms: int


class People:
    """All users; a running server notices what another process changes, as with keys."""

    def __init__(
        self,
        store: Engine,
        *,
        new_id: Callable[[str], str],
        now_ms: Callable[[], int],
        only_issuer: str | None = None,
    ) -> None:
        """`only_issuer` is the name of the one by which alone people come in; None where they have passwords."""
        self._store = store
        self._new_id = new_id
        self._now_ms = now_ms
        self._only_issuer = only_issuer

    # Asking

    @property
    def have_passwords(self) -> bool:
        return self._only_issuer is None

    def check_have_passwords(self) -> None:
        """Raises GatewayError `sign_in_elsewhere`."""
        if self._only_issuer is not None:
            message = f"Nobody has a password here: people sign in by {self._only_issuer}."
            raise GatewayError("sign_in_elsewhere", message)

    async def credentials(self, email: str) -> Credentials | None:
        """Of the user with that e-mail, in its canonical form."""
        return await self._store.read(PersonByEmail(email))

    async def get(self, user_id: str) -> Person:
        """Raises GatewayError `not_found`."""
        return (await self.credentials_of(user_id)).person

    async def credentials_of(self, user_id: str) -> Credentials:
        """Raises GatewayError `not_found`."""
        found = await self._store.read(PersonById(user_id))
        if found is None:
            raise unknown_user(user_id)
        return found

    async def named(self, name: str) -> Person:
        """By e-mail or id. Raises GatewayError `not_found`."""
        found = await self._store.read(PersonByEmail(canonical_email(name)) if "@" in name else PersonById(name))
        if found is None:
            raise unknown_user(name)
        return found.person

    async def list(self, account_id: str | None = None) -> "list[Person]":
        """The oldest first; of one account or of all."""
        return await self._store.read(AllPeople(account_id))

    async def page(
        self, *, before_id: str | None, limit: int, account_id: str | None = None, email: str | None = None
    ) -> Sequence[Person]:
        """The newest first; see PeoplePage."""
        return await self._store.read(PeoplePage(before_id, limit, account_id, email))

    async def are_accounts_there(self) -> bool:
        """Beside the guests'."""
        return await self._store.read(HasAccounts())

    async def email_of_secret(self, raw: str) -> str | None:
        """Whom a secret is for; empty for anybody, None for one that lets nobody in."""
        return await self._store.read(SecretEmail(digest_of(raw), self._now_ms()))

    # Changing

    async def create(
        self,
        email: str,
        *,
        password_hash: str | None,
        account_id: str | None = None,
        role: Role = "owner",
        is_administrator: bool = False,
        registered_from: str | None = None,
        secret: str | None = None,
        only_first: bool = False,
    ) -> Person:
        """A user, with a new account that is called like the e-mail where no other is named.

        Raises as CreatePerson, for a password `sign_in_elsewhere`, and `invalid_value` for a new account without an
        owner.
        """
        if password_hash is not None:
            self.check_have_passwords()
        _check_owner(account_id, role)
        now_ms = self._now_ms()
        account = Account(self._new_id("acc"), email, now_ms, True, OwnLimits()) if account_id is None else account_id
        secret_sha256 = None if secret is None else digest_of(secret)
        new = NewPerson(
            self._new_id("usr"), email, password_hash, account, role, is_administrator, now_ms, registered_from,
            secret_sha256, only_first,
        )  # fmt: skip
        return await self._store.write(CreatePerson(new))

    async def set_password(self, user_id: str, password_hash: str, *, but_session_id: str | None = None) -> None:
        """Ends the user's other sessions. Raises GatewayError `sign_in_elsewhere`."""
        self.check_have_passwords()
        await self._store.write(SetPassword(user_id, password_hash, but_session_id))

    async def set_password_by_secret(self, raw: str, password_hash: str) -> None:
        """Ends all sessions of whose it is. Raises GatewayError `invalid_value`."""
        await self._store.write(SetPasswordBySecret(digest_of(raw), password_hash, self._now_ms()))

    async def renew_hash(self, user_id: str, before: str, after: str) -> None:
        """Keep the same password's hash by today's parameters."""
        await self._store.write(RenewHash(user_id, before, after))

    async def set_active(self, user_id: str, *, is_active: bool, even_last: bool = False) -> None:
        """Let a user sign in, or not any more. Raises GatewayError as SetPersonActive."""
        await self._store.write(SetPersonActive(user_id, is_active, even_last))

    async def change(
        self, user_id: str, *, role: Role | None, is_administrator: bool | None, even_last: bool = False
    ) -> Person:
        """Give a user another role in their account, or let them run the gateway, or not. Raises as ChangePerson."""
        await self._store.write(ChangePerson(user_id, role, is_administrator, even_last))
        return await self.get(user_id)

    async def set_zone(self, user_id: str, zone: str | None) -> Person:
        """Have a user told times in a zone. Raises GatewayError `invalid_value` for one that is not known here."""
        try:
            zone_of(zone or "UTC")
        except ValueError as fault:
            raise GatewayError("invalid_value", f"`zone`: {fault}.", param="zone") from None
        await self._store.write(SetPersonZone(user_id, zone))
        return await self.get(user_id)

    async def delete(self, user_id: str, *, even_last: bool = False) -> None:
        """See DeletePerson."""
        await self._store.write(DeletePerson(user_id, self._now_ms(), even_last))

    async def invite(
        self,
        email: str | None,
        *,
        account_id: str | None = None,
        role: Role = "owner",
        is_administrator: bool = False,
        made_by: str | None = None,
    ) -> ToldSecret:
        """A secret by which somebody registers once within a week, whatever the settings say of registration.

        Raises as KeepSecret, `sign_in_elsewhere`, and `invalid_value` for a new account without an owner.
        """
        self.check_have_passwords()
        _check_owner(account_id, role)
        told = await self._tell(
            "invitation", None, email, account_id, role, is_administrator=is_administrator, made_by=made_by
        )
        assert told is not None
        return told

    async def password_secret(self, user_id: str, *, made_by: str | None = None) -> ToldSecret:
        """A secret by which a user's password is set once within an hour, in place of any earlier one.

        Raises as KeepSecret, and `sign_in_elsewhere`.
        """
        self.check_have_passwords()
        told = await self._tell("password", user_id, made_by=made_by)
        assert told is not None
        return told

    async def first_administrator_secret(self) -> ToldSecret | None:
        """A secret by which the first user registers within 15 minutes, as an administrator.

        None once there is one, and where nobody registers.
        """
        if not self.have_passwords:
            return None
        return await self._tell("first_administrator", is_administrator=True)

    async def _tell(
        self,
        purpose: Purpose,
        user_id: str | None = None,
        email: str | None = None,
        account_id: str | None = None,
        role: Role = "owner",
        *,
        is_administrator: bool = False,
        made_by: str | None = None,
    ) -> ToldSecret | None:
        raw = _PREFIXES[purpose] + secrets.token_urlsafe(32)
        now_ms = self._now_ms()
        told = ToldSecret(raw, now_ms + _LIVES_MS[purpose])
        kept = OneTimeSecret(
            digest_of(raw), purpose, told.expires_at_ms, user_id, email, account_id, role, is_administrator, made_by
        )
        return told if await self._store.write(KeepSecret(kept, now_ms)) else None


def _check_owner(account_id: str | None, role: Role) -> None:
    """Whoever gets a new account owns it: nobody else could ever own it."""
    if account_id is None and role != "owner":
        message = f"A new account needs an owner: name the account in which this one is a {role}."
        raise GatewayError("invalid_value", message, param="role")


def unknown_user(name: str) -> GatewayError:
    return GatewayError("not_found", f"There is no user '{shown(name)}'.")


def guests_alone() -> GatewayError:
    """Of the guests' account: its owner would read what all of them ask for, and pay for nobody."""
    return GatewayError("conflict", "Guests are nobody's account; make another one for whoever is to sign in.")


def last_owner() -> GatewayError:
    message = "Nobody else who may sign in owns this account: `even_last` (`--even-last`) says that nobody is to."
    return GatewayError("conflict", message, param="even_last")


def last_administrator() -> GatewayError:
    message = "No other user who may sign in is an administrator: `even_last` (`--even-last`) says that none is to be."
    return GatewayError("conflict", message, param="even_last")


def may_let_nobody_in() -> GatewayError:
    """Of a user who has made a secret for another and owns no account, nor runs the gateway."""
    return GatewayError("insufficient_permissions", "Only an owner of the account may do this.")


def wrong_credentials() -> GatewayError:
    """Alike for no such user, a wrong password, and somebody who is switched off."""
    return GatewayError("invalid_credentials", "There is no user with this e-mail address and this password.")


def too_many_invitations(most: int) -> GatewayError:
    return GatewayError("conflict", f"{most} invitations to this account are open already; wait until one has ended.")


def email_taken() -> GatewayError:
    return GatewayError("conflict", "There is a user with this e-mail already: sign in, or ask for a new password.")


def useless_secret() -> GatewayError:
    """Of one that was never made, was used, or is too old, alike."""
    message = "This one-time secret is not known, was used already, or has expired; ask for another."
    return GatewayError("invalid_value", message, param="token")


def registration_closed() -> GatewayError:
    message = "Nobody registers here without an invitation; ask whoever runs the gateway, or the owner of an account."
    return GatewayError("registration_closed", message)
