"""Who users are to an issuer, as values: found by that, taken for somebody who is known, or made at first sight."""

from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from mcp_gateway.core.caller import Role
from mcp_gateway.core.engine import Read, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Account
from mcp_gateway.core.identity.people import NewPerson, Person


class Identity(NamedTuple):
    """Who somebody is to an issuer; nobody else ever is."""

    issuer: str
    subject: str

    @property
    def digest(self) -> bytes:
        return sha256(f"{self.issuer}\n{self.subject}".encode()).digest()


class ToldOfUser(NamedTuple):
    """What an issuer says of a user; None, and no account's value, where it is not asked for that."""

    identity: Identity
    issued_at_ms: int
    email: str | None
    """Which it has verified."""
    account_value: str | None
    role: Role | None
    is_administrator: bool | None


class UserStanding(NamedTuple):
    """A user, and whether the account is switched on."""

    person: Person
    is_account_active: bool

    def check(self) -> None:
        """Raises GatewayError `account_deactivated`."""
        if not self.person.is_active:
            raise GatewayError("account_deactivated", "This user is switched off.")
        if not self.is_account_active:
            raise GatewayError("account_deactivated", "The account of this user is switched off.")


class KnownIdentity(NamedTuple):
    """A user who has come by the issuer before; `was_made` where they were not known until then."""

    standing: UserStanding
    was_made: bool
    obeyed_at_ms: int
    """When the token was issued by which somebody became what they are: an older one changes nothing."""
    claimed_account_id: str | None
    """The account of those whom it tells with the same value, where there is one."""

    def agrees_with(self, told: ToldOfUser) -> bool:
        """Whether there is nothing to change."""
        if told.issued_at_ms < self.obeyed_at_ms:
            return True
        person = self.standing.person
        moves = self.was_made and told.account_value is not None and self.claimed_account_id != person.account_id
        return (
            not moves and told.role in (None, person.role) and told.is_administrator in (None, person.is_administrator)
        )


@dataclass(frozen=True, slots=True)
class UserOfIdentity(Read[KnownIdentity | None]):
    identity: Identity
    account_value: str | None


@dataclass(frozen=True, slots=True)
class StandingOf(Read[UserStanding | None]):
    user_id: str


@dataclass(frozen=True, slots=True)
class Arrive(Write[UserStanding]):
    """Find, link or make a user, and let them be what they are told to be.

    `account` is the one to make, where a new one is needed. Raises GatewayError `registration_closed`, or
    `expired_session` for a user who was deleted since; `account_deactivated`.
    """

    told: ToldOfUser
    new: NewPerson | None
    """Whoever is made where nobody is known; None where nobody is to be."""
    account: Account
    links_by_email: bool


@dataclass(frozen=True, slots=True)
class ForgetIdentities(Write[None]):
    """Of a user who is deleted."""

    user_id: str
    at_ms: int


def nobody_known() -> GatewayError:
    message = "Nobody is known here by this sign-in; ask whoever runs the gateway to let you in."
    return GatewayError("registration_closed", message)


def email_of_another() -> GatewayError:
    message = "There is a user with this e-mail address who signs in otherwise; ask whoever runs the gateway."
    return GatewayError("registration_closed", message)


def deleted_since() -> GatewayError:
    return GatewayError("expired_session", "The user of this token was deleted; sign in again.")
