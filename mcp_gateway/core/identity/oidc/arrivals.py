"""Who comes by the issuer: the user that they are here, who is found, linked or made."""

import logging
from collections.abc import Callable

from mcp_gateway.core.engine import DatabaseError, Engine
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Account
from mcp_gateway.core.identity.oidc.claims import told_of_user
from mcp_gateway.core.identity.oidc.identities import (
    Arrive,
    StandingOf,
    ToldOfUser,
    UserOfIdentity,
    UserStanding,
    nobody_known,
)
from mcp_gateway.core.identity.oidc.issuer import Claims
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.identity.people import NewPerson, Person
from mcp_gateway.core.oidc_settings import OidcSettings

logger = logging.getLogger(__name__)

Refusal = Callable[[], GatewayError] | None
"""Makes what is said to those who come for the first time; None where they may."""


class Arrivals:
    """Whoever makes the claims has verified them."""

    def __init__(
        self, store: Engine, settings: OidcSettings, *, new_id: Callable[[str], str], now_ms: Callable[[], int]
    ) -> None:
        self._store = store
        self._settings = settings
        self._new_id = new_id
        self._now_ms = now_ms

    async def person_of(self, claims: Claims, *, newcomers_refusal: Refusal = None) -> Person:
        """As they are from now on. Raises GatewayError `registration_closed`, `account_deactivated`, `expired_session`,
        `insufficient_permissions`, `invalid_api_key`, `ledger_unavailable`, and what `newcomers_refusal` makes.
        """
        told = told_of_user(claims, self._settings)
        try:
            known = await self._store.read(UserOfIdentity(told.identity, told.account_value))
        except DatabaseError as error:
            raise _unreadable(error) from None
        if known is not None:
            known.standing.check()
            if known.agrees_with(told):
                return known.standing.person
        elif newcomers_refusal is not None:
            raise newcomers_refusal()
        links = self._settings.link_by_email and told.email is not None
        if known is None and not (links or self._settings.creates_users):
            raise nobody_known()
        now_ms = self._now_ms()
        account = Account(self._new_id("acc"), _name_of(told), now_ms, True, OwnLimits())
        new = self._newcomer(told, account, now_ms) if self._settings.creates_users else None
        person = (await self._store.write(Arrive(told, new, account, links))).person
        also = ", and an administrator" if person.is_administrator else ""
        logger.info("the issuer lets in %s as %s of %s%s", person.id, person.role, person.account_id, also)
        return person

    async def standing_of(self, user_id: str) -> UserStanding | None:
        """None for a user who is deleted. Raises DatabaseError."""
        return await self._store.read(StandingOf(user_id))

    def _newcomer(self, told: ToldOfUser, account: Account, now_ms: int) -> NewPerson:
        return NewPerson(
            self._new_id("usr"), told.email, None, account, told.role or "owner", bool(told.is_administrator), now_ms
        )


def _name_of(told: ToldOfUser) -> str:
    """Of an account that is made for a user, or for all with the same value."""
    return told.account_value or told.email or told.identity.subject


def _unreadable(error: DatabaseError) -> GatewayError:
    logger.error("a user could not be read: %s", error)
    return GatewayError("ledger_unavailable", "The gateway cannot read its users at the moment; try again shortly.")
