"""Where people are signed in: sessions as values, and the ones that a running server knows.

A browser shows its session's cookie, a program a token that names it; either is looked up once and remembered until it
expires, or until the session, its user or its account has changed, whichever process changed it.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Literal, NamedTuple

from mcp_gateway.core.caller import ROLE_SCOPES, KeyScope, Role, User
from mcp_gateway.core.clock import MINUTE_MS
from mcp_gateway.core.engine import DatabaseError, Engine, Read, Write
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.identity.access_tokens import AccessTokens
from mcp_gateway.core.identity.keys import digest_of
from mcp_gateway.core.identity.settled import settled
from mcp_gateway.core.networks import address_of
from mcp_gateway.core.text import shown

logger = logging.getLogger(__name__)

COOKIE_PREFIX = "gws_"
_ID = re.compile("ses_[0-9a-z]{1,60}")
_COOKIE_CHARS = len(COOKIE_PREFIX) + 43
_COOKIE_KNOWN_MS = 5 * MINUTE_MS
"""A cookie is looked up anew after so long, which notes that its session is used."""
_SEEN_EVERY_MS = MINUTE_MS
_MOST_KNOWN = 10_000
_WATCH_INTERVAL_S = 5.0
_MOST_AGENT_CHARS = 200

SignedInBy = Literal["password", "issuer"]
"""How a session was begun; a secret that works once counts as the password that it sets."""


@dataclass(frozen=True, slots=True)
class UserSession:
    """A user's session, with what a caller is made of."""

    id: str
    user_id: str
    account_id: str
    role: Role
    is_administrator: bool
    created_at_ms: int
    seen_at_ms: int
    expires_at_ms: int
    agent: str
    network: str
    signed_in_by: SignedInBy = "password"
    is_account_active: bool = True

    @property
    def user(self) -> User:
        return User(self.user_id, self.id, self.role, self.is_administrator)

    @property
    def scopes(self) -> frozenset[KeyScope]:
        return ROLE_SCOPES[self.role]

    @property
    def scopes_to_ask_for(self) -> frozenset[KeyScope]:
        """None: it has all that its role has."""
        return frozenset()

    def fault_at(self, now_ms: int, idle_ms: int) -> Code | None:
        """The code that it is refused with; None for a good one."""
        if self.end_ms(idle_ms) <= now_ms:
            return "expired_session"
        return None if self.is_account_active else "account_deactivated"

    def end_ms(self, idle_ms: int) -> int:
        """When it ends unless it is used until then."""
        return min(self.expires_at_ms, self.seen_at_ms + idle_ms)

    def is_touched_by(self, changed_ids: Set[str]) -> bool:
        return self.id in changed_ids or self.user_id in changed_ids or self.account_id in changed_ids


@dataclass(frozen=True, slots=True)
class OpenSession(Write[None]):
    """Of one user as many as `most`: the one that was used the longest ago goes first.

    `password_hash` is what a password was compared with, and still has to be the user's; None where none was shown.
    """

    session: UserSession
    cookie_sha256: bytes
    most: int
    password_hash: str | None = None


@dataclass(frozen=True, slots=True)
class EndSession(Write[bool]):
    """False where the user has none of that id."""

    user_id: str
    session_id: str


@dataclass(frozen=True, slots=True)
class EndSessions(Write[int]):
    """All of a user but one; returns how many."""

    user_id: str
    but_session_id: str | None


@dataclass(frozen=True, slots=True)
class NoteSeen(Write[None]):
    session_id: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class SessionById(Read[UserSession | None]):
    session_id: str


@dataclass(frozen=True, slots=True)
class SessionByCookie(Read[UserSession | None]):
    cookie_sha256: bytes


@dataclass(frozen=True, slots=True)
class SessionsOf(Read[list[UserSession]]):
    """The one used last first."""

    user_id: str


class OpenedSession(NamedTuple):
    """A new session, and the value of its cookie, which is not kept."""

    session: UserSession
    cookie: str


class SessionLifetimes(NamedTuple):
    idle_ms: int
    longest_ms: int
    most_per_user: int


class UserSessions:
    """All sessions, in the database."""

    def __init__(
        self,
        store: Engine,
        *,
        new_id: Callable[[str], str],
        now_ms: Callable[[], int],
        lifetimes: SessionLifetimes,
    ) -> None:
        self._store = store
        self._new_id = new_id
        self._now_ms = now_ms
        self.lifetimes = lifetimes

    async def open(
        self,
        user_id: str,
        account_id: str,
        role: Role,
        *,
        is_administrator: bool,
        agent: str,
        address: str,
        signed_in_by: SignedInBy,
        password_hash: str | None = None,
    ) -> OpenedSession:
        """A session of its own for each sign-in, so that nobody can choose another's."""
        now_ms = self._now_ms()
        cookie = COOKIE_PREFIX + secrets.token_urlsafe(32)
        session = UserSession(
            self._new_id("ses"), user_id, account_id, role, is_administrator, now_ms, now_ms,
            now_ms + self.lifetimes.longest_ms, shown(agent, _MOST_AGENT_CHARS), network_of(address), signed_in_by,
        )  # fmt: skip
        await self._store.write(OpenSession(session, digest_of(cookie), self.lifetimes.most_per_user, password_hash))
        return OpenedSession(session, cookie)

    async def of(self, user_id: str) -> list[UserSession]:
        """Those that have not ended, the one used last first."""
        now_ms = self._now_ms()
        found = await self._store.read(SessionsOf(user_id))
        return [one for one in found if one.end_ms(self.lifetimes.idle_ms) > now_ms]

    async def end(self, user_id: str, session_id: str) -> None:
        """Raises GatewayError `not_found` where the user has no such session."""
        if _ID.fullmatch(session_id) is None or not await self._store.write(EndSession(user_id, session_id)):
            raise GatewayError("not_found", f"You have no session '{shown(session_id)}'.")

    async def end_others(self, user_id: str, but_session_id: str | None) -> int:
        """All of a user but one; returns how many they were."""
        return await self._store.write(EndSessions(user_id, but_session_id))

    async def find(self, read: SessionById | SessionByCookie) -> UserSession | None:
        """Whether it is good or not."""
        return await self._store.read(read)

    def note_seen(self, session: UserSession) -> None:
        """That it is used, once a minute at most; lost in an outage, which ends it earlier."""
        now_ms = self._now_ms()
        if now_ms - session.seen_at_ms >= _SEEN_EVERY_MS:
            written = self._store.write(NoteSeen(session.id, now_ms), is_durable=False)
            written.add_done_callback(lambda done: done.cancelled() or done.exception())


def network_of(address: str) -> str:
    """As a person may recognise it, and no more: its /24, of IPv6 its /48."""
    parsed = address_of(address)
    if parsed is None:
        return address
    return str(ip_network(f"{parsed}/{24 if parsed.version == 4 else 48}", strict=False))  # noqa: PLR2004 - IPv4


class _Known(NamedTuple):
    session: UserSession
    until_ms: int


OnClose = Callable[[str, GatewayError], None]
"""Hears the id of a session that has ended, and the refusal that it gets from then on."""


class KnownSessions:
    """The sessions whose cookies or tokens were shown."""

    def __init__(self, sessions: UserSessions, tokens: AccessTokens, *, now_ms: Callable[[], int]) -> None:
        self._sessions = sessions
        self._tokens = tokens
        self._now_ms = now_ms
        self._known: dict[bytes, _Known] = {}
        """By what was shown, the oldest first."""
        self._shown: dict[str, UserSession] = {}
        """By id, for as long as they last: something may run for one of which nothing more is shown."""
        self._changes = 0
        self._on_close: list[OnClose] = []

    def __len__(self) -> int:
        return len(self._known)

    def on_close(self, listener: OnClose) -> None:
        """Call `listener` for each session that was shown and has ended."""
        self._on_close.append(listener)

    def recall(self, shown_text: str) -> UserSession | None:
        """The session of a token or cookie that is known; None where it has to be looked up."""
        digest = digest_of(shown_text)
        known = self._known.get(digest)
        if known is None:
            return None
        if known.until_ms <= self._now_ms():
            del self._known[digest]
            return None
        return known.session

    async def look_up_token(self, token: str) -> UserSession:
        """Raises GatewayError (401, 403, 503)."""
        claims = await self._tokens.read(token)
        session = await self._good(SessionById(claims.session_id))
        if session.user_id != claims.user_id:
            raise session_refusal("expired_session")
        return self._remember(token, session, claims.expires_at_ms)

    async def look_up_cookie(self, cookie: str) -> UserSession:
        """Raises GatewayError (401, 403, 503)."""
        if len(cookie) != _COOKIE_CHARS or not cookie.startswith(COOKIE_PREFIX):
            raise session_refusal("expired_session")
        session = await self._good(SessionByCookie(digest_of(cookie)))
        return self._remember(cookie, session, self._now_ms() + _COOKIE_KNOWN_MS)

    async def catch_up(self, changed_ids: Set[str]) -> None:
        """Look again at the sessions that have changed, or whose users or accounts have."""
        self._changes += 1
        touched: dict[str, list[bytes]] = {one.id: [] for one in self._shown.values() if one.is_touched_by(changed_ids)}
        for digest, known in self._known.items():
            if known.session.is_touched_by(changed_ids):
                touched.setdefault(known.session.id, []).append(digest)
        for session_id, digests in touched.items():
            session = await self._sessions.find(SessionById(session_id))
            self._replace(session_id, digests, session)

    async def end_expired(self) -> None:
        """End those whose time is over; of one that was used meanwhile it begins anew. Raises DatabaseError."""
        now_ms, idle_ms = self._now_ms(), self._sessions.lifetimes.idle_ms
        for session_id in [one.id for one in self._shown.values() if one.end_ms(idle_ms) <= now_ms]:
            self._replace(session_id, (), await self._sessions.find(SessionById(session_id)))

    async def watch(self) -> None:
        """Keep up with time, until cancelled."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            try:
                await self.end_expired()
            except DatabaseError as error:
                logger.error("sessions could not be read: %s", error)

    def _replace(self, session_id: str, digests: Sequence[bytes], session: UserSession | None) -> None:
        code = self._fault_of(session)
        if session is None or code is not None:
            self._shown.pop(session_id, None)
            for digest in digests:
                self._known.pop(digest, None)
            for listener in self._on_close:
                listener(session_id, session_refusal(code or "expired_session"))
            return
        self._shown[session_id] = session
        for digest in digests:
            if (known := self._known.get(digest)) is not None:
                self._known[digest] = known._replace(session=session)

    async def _good(self, read: SessionById | SessionByCookie) -> UserSession:
        """Raises GatewayError (401, 403, 503)."""
        try:
            session = await settled(lambda: self._sessions.find(read), lambda: self._changes)
        except DatabaseError as error:
            logger.error("a session could not be read: %s", error)
            message = "The gateway cannot read who is signed in at the moment; try again shortly."
            raise GatewayError("ledger_unavailable", message) from None
        code = self._fault_of(session)
        if session is None or code is not None:
            raise session_refusal(code or "expired_session")
        self._sessions.note_seen(session)
        return session

    def _fault_of(self, session: UserSession | None) -> Code | None:
        if session is None:
            return "expired_session"
        return session.fault_at(self._now_ms(), self._sessions.lifetimes.idle_ms)

    def _remember(self, shown_text: str, session: UserSession, until_ms: int) -> UserSession:
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        if self._shown.pop(session.id, None) is None and len(self._shown) >= _MOST_KNOWN:
            del self._shown[next(iter(self._shown))]
        self._shown[session.id] = session
        ends_at_ms = max(session.end_ms(self._sessions.lifetimes.idle_ms), self._now_ms() + 1)
        self._known[digest_of(shown_text)] = _Known(session, min(until_ms, ends_at_ms))
        return session


_REFUSALS: dict[Code, str] = {
    "expired_session": "This session has ended; sign in again.",
    "account_deactivated": "The account of this session is switched off.",
}


def session_refusal(code: Code) -> GatewayError:
    """What is told to whoever shows a session that is not good, or no longer."""
    return GatewayError(code, _REFUSALS[code])
