"""The keys that callers of a running server have shown: valid ones, and why others were refused.

A key is read from the database when it is first shown, and again when it has changed; so memory holds the keys in use,
and what a change costs does not depend on how many keys there are. Of those only so many are held: where another is
shown, the one of a few goes that was used longest ago, unless something goes on for it. What is read again later is as
it was before, since nothing but the database says what a key is, and the limiter what it has used.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Set
from contextlib import suppress
from itertools import islice
from math import inf
from typing import TypeVar

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.identity.accounts import LIMITS_OF
from mcp_gateway.core.identity.key_ring import AccountLimits, KeyRing
from mcp_gateway.core.identity.keys import ACCESS_PREFIX, LIVE_PREFIX, TEST_PREFIX, Key, digest_of, refusal
from mcp_gateway.core.identity.settled import settled
from mcp_gateway.core.shared_reads import SharedReads

logger = logging.getLogger(__name__)

_WATCH_INTERVAL_S = 0.5
_TRUSTED_S = 60.0
"""For how long keys are as they were last read, where nothing can be read: somebody may have revoked them elsewhere."""
_MAX_REFUSED = 10_000
_MOST_KNOWN = 10_000
"""Secrets of keys, and as many accounts of people beside those of the keys."""
_LOOKED_AT = 8
"""Of which one goes."""
_SHAPE = re.compile(rf"(?:{LIVE_PREFIX}|{TEST_PREFIX}|{ACCESS_PREFIX})[A-Za-z0-9_-]{{43}}")
_UNKNOWN: Code = "invalid_api_key"
T = TypeVar("T")

OnChange = Callable[[Set[str]], Awaitable[None]]
"""Hears the ids of what has changed, whichever process changed it; it hears of them again where it raises."""
OnClose = Callable[[str, GatewayError], None]
"""Hears the id of a key that stops being valid, and the refusal that it gets from then on."""
LetGo = Callable[[Key], bool]
"""Forgets a key as one of its secrets had it; False where something goes on for that, and is to hear of its end."""
OnSecretEnd = Callable[[Key, GatewayError], None]
"""Hears a key as one of its secrets had it, which stops being valid; the key may go on by another."""


class KnownKeys:
    """The keys that were shown; keeps up with what changes them."""

    def __init__(self, keys: KeyRing, *, now_ms: Callable[[], int]) -> None:
        self._keys = keys
        self._now_ms = now_ms
        self._valid: dict[bytes, Key] = {}
        self._trusted: Mapping[bytes, Key] = self._valid
        """Those that need not be looked up: none once nothing could be read for too long."""
        self._digests: dict[str, set[bytes]] = {}
        """Of the valid keys' secrets, by the key's id."""
        self._made: dict[str, set[bytes]] = {}
        """The same of all keys that stand behind a maker, by its id."""
        self._of_account: dict[str, set[bytes]] = {}
        """The same of all keys of an account."""
        self._account_limits: dict[str, AccountLimits] = {}
        """Of the accounts whose keys are known, and of people's."""
        self._refused: dict[bytes, Code] = {}
        """The codes that the latest refused credentials got, the oldest first."""
        self._next_expiry_ms: float = inf
        self._last_change = 0
        self._stale_ids: set[str] = set()
        """Of keys and accounts that have changed and were not read again yet."""
        self._is_all_stale = False
        """Whether more has changed than could be read."""
        self._catching_up = asyncio.Lock()
        self._looking_up = SharedReads[Key | Code]()
        """By digest."""
        self._on_close: list[OnClose] = []
        self._on_secret_end: list[OnSecretEnd] = []
        self._on_right_changed: list[Callable[[str], None]] = []
        self._on_change: list[OnChange] = []
        self._let_go: LetGo = lambda _: True
        self._last_use: Callable[[str], int] = lambda _: 0
        self._woken = asyncio.Event()
        keys.on_change(lambda _: self.catch_up())
        keys.on_elsewhere(self._woken.set)

    def __len__(self) -> int:
        return len(self._valid)

    def recall(self, raw: str) -> Key | None:
        """A credential's key; None where it has to be looked up. Raises GatewayError (401, 403) for a refused one."""
        digest = digest_of(raw)
        key = self._trusted.get(digest)
        if key is None:
            if (code := self._refused.get(digest)) is not None:
                raise refusal(code)
        elif key.expires_at_ms is not None and (code := key.fault_at(self._now_ms())) is not None:
            self._close(digest, key, code)
            raise refusal(code)
        return key

    async def look_up(self, raw: str) -> Key:
        """The key of a credential that is not remembered, from now on. Raises GatewayError (401, 403, 503)."""
        if _SHAPE.fullmatch(raw) is None:
            raise refusal(_UNKNOWN)
        digest = digest_of(raw)
        found = await self._looking_up.of(digest, lambda: self._look_up(digest))
        if not isinstance(found, Key):
            raise refusal(found)
        if (code := self._refused.get(digest)) is not None:  # it was closed since, a turn of the loop ago
            raise refusal(code)
        return found

    def account_limits(self, account_id: str) -> AccountLimits:
        """Of an account that a valid key belongs to; another object whenever they may have changed."""
        return self._account_limits[account_id]

    def has_learned(self, account_id: str) -> bool:
        """Whether `account_limits` knows of an account."""
        return account_id in self._account_limits

    def on_close(self, listener: OnClose) -> None:
        """Call `listener` for each key that was shown and stops being valid while this process runs."""
        self._on_close.append(listener)

    def on_change(self, listener: OnChange) -> None:
        """Call `listener` with what has changed of keys, accounts, users and sessions, each time that this looks."""
        self._on_change.append(listener)

    def on_secret_end(self, listener: OnSecretEnd) -> None:
        """Call `listener` for each secret that was shown and stops being valid, before those that `on_close` names."""
        self._on_secret_end.append(listener)

    def on_right_changed(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the id of each key that was shown and is given another right, or loses one."""
        self._on_right_changed.append(listener)

    def on_let_go(self, let_go: LetGo) -> None:
        """Have `let_go` asked before a key goes that was not shown for long."""
        self._let_go = let_go

    def go_by(self, last_use: Callable[[str], int]) -> None:
        """Have those go first that were used longest ago: by key id, a number that grows with time."""
        self._last_use = last_use

    async def begin(self) -> None:
        """To be called once, before the first key is shown."""
        self._last_change = await self._keys.forget_changes()

    async def catch_up(self) -> None:
        """Look again at the keys that have changed, whichever process changed them. Raises DatabaseError."""
        async with self._catching_up:
            if (changes := await self._keys.changes_after(self._last_change)) is not None:
                self._last_change = changes.number
                if changes.ids is None:
                    self._is_all_stale = True
                else:
                    self._stale_ids |= changes.ids
                self._refused.clear()
            is_all_stale = self._is_all_stale
            stale_ids = _Everything(self._known_ids()) if is_all_stale else frozenset(self._stale_ids)
            for digest, key in self._touched_by(stale_ids):
                self._replace(digest, key, await self._keys.find(digest))
            for account_id in self._accounts_touched_by(stale_ids):
                limits = await self._keys.account_limits(account_id)
                if account_id in self._account_limits:
                    self._account_limits[account_id] = limits
            for listener in self._on_change if stale_ids else ():
                await listener(stale_ids)
            self._stale_ids -= stale_ids
            if is_all_stale:
                self._is_all_stale = False

    async def learn(self, account_id: str) -> None:
        """Have `account_limits` know of an account that there is, and whose keys need not have been shown.

        Raises GatewayError `ledger_unavailable`.
        """
        if not self.has_learned(account_id):
            self._account_limits[account_id] = await self._settled(lambda: self._keys.account_limits(account_id))
            self._make_room_for_accounts(account_id)

    def end_expired(self) -> None:
        """Close the keys whose time is over."""
        now_ms = self._now_ms()
        if now_ms < self._next_expiry_ms:
            return
        expiring = [(digest, key) for digest, key in self._valid.items() if key.expires_at_ms is not None]
        for digest, key in expiring:
            if (code := key.fault_at(now_ms)) is not None:
                self._close(digest, key, code)
        self._next_expiry_ms = min(
            (key.expires_at_ms or inf for digest, key in expiring if digest in self._valid), default=inf
        )

    async def watch(self) -> None:
        """Keep up with time and other processes, until cancelled.

        While nothing can be read, what is known stays for a while; then each key has to be looked up (503).
        """
        loop = asyncio.get_running_loop()
        read_at_s = loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_INTERVAL_S):
                    await self._woken.wait()
            self._woken.clear()
            self.end_expired()
            try:
                await self.catch_up()
            except DatabaseError as error:
                logger.error("changes of keys could not be read: %s", error)
                if loop.time() - read_at_s >= _TRUSTED_S:
                    self._trusted = {}
            else:
                read_at_s = loop.time()
                self._trusted = self._valid

    async def _settled(self, read: Callable[[], Awaitable[T]]) -> T:
        """What is read, as it stands. Raises GatewayError `ledger_unavailable`."""
        try:
            return await settled(read, lambda: self._last_change)
        except DatabaseError as error:
            raise _unreadable(error) from None

    async def _look_up(self, digest: bytes) -> Key | Code:
        """The key, remembered, or why it is refused, which is remembered, too."""
        key, account_limits = await self._settled(lambda: self._read(digest))
        code = _UNKNOWN if key is None else key.fault_at(self._now_ms())
        if key is None or account_limits is None or code is not None:
            self._refuse(digest, code or _UNKNOWN)
            return code or _UNKNOWN
        self._account_limits[key.account_id] = account_limits
        self._remember(digest, key)
        self._make_room(digest)
        return key

    async def _read(self, digest: bytes) -> tuple[Key | None, AccountLimits | None]:
        """A key, and its account's limits."""
        key = await self._keys.find(digest)
        return key, None if key is None else await self._limits_with(key)

    async def _limits_with(self, key: Key) -> AccountLimits:
        """Its account's, as they are known for a minted key: it raises none, and to read them is to read thousands."""
        known = self._account_limits.get(key.account_id) if key.is_minted else None
        return await self._keys.account_limits(key.account_id) if known is None else known

    def _known_ids(self) -> Iterator[str]:
        yield from self._digests
        for account_id in self._account_limits:
            yield LIMITS_OF + account_id

    def _accounts_touched_by(self, changed_ids: Set[str]) -> list[str]:
        account_ids = [changed_id.removeprefix(LIMITS_OF) for changed_id in changed_ids]
        return [account_id for account_id in account_ids if account_id in self._account_limits]

    def _touched_by(self, changed_ids: Set[str]) -> list[tuple[bytes, Key]]:
        """The valid keys that have changed, or whose account or a maker of whose has."""
        digests = set[bytes]().union(*(self._digests.get(key_id, ()) for key_id in changed_ids))
        digests.update(*(self._made.get(key_id, ()) for key_id in changed_ids))
        digests.update(*(self._of_account.get(account_id, ()) for account_id in changed_ids))
        return [(digest, self._valid[digest]) for digest in digests]

    def _replace(self, digest: bytes, before: Key, key: Key | None) -> None:
        """Remember a key as it stands now, or close it; one that was closed meanwhile stays so."""
        if digest not in self._valid:
            return
        code = (key or before).fault_at(self._now_ms())  # a secret that had ended is forgotten by the next rotation
        if key is None or code is not None:
            self._close(digest, before, code or _UNKNOWN)
            return
        self._remember(digest, key)
        if before.may_mint_over_mcp != key.may_mint_over_mcp:
            for listener in self._on_right_changed:
                listener(key.id)

    def _remember(self, digest: bytes, key: Key) -> None:
        self._valid[digest] = key
        for listed, name in self._lists_of(key):
            listed.setdefault(name, set()).add(digest)
        if key.expires_at_ms is not None:
            self._next_expiry_ms = min(self._next_expiry_ms, key.expires_at_ms)

    def _drop(self, digest: bytes, key: Key) -> None:
        """A key by this secret, as if it had not been shown; its account's limits with the last of its keys."""
        del self._valid[digest]
        for listed, name in self._lists_of(key):
            digests = listed[name]
            digests.discard(digest)
            if not digests:
                del listed[name]
        if key.account_id not in self._of_account:
            self._account_limits.pop(key.account_id, None)

    def _lists_of(self, key: Key) -> Iterator[tuple[dict[str, set[bytes]], str]]:
        """Where its secrets are listed, and by which name."""
        yield self._digests, key.id
        yield self._of_account, key.account_id
        for maker in key.makers:
            yield self._made, maker.key_id

    def _make_room(self, shown: bytes) -> None:
        """For a key that is shown now. A few that were looked at longest ago are, and stand behind all others then."""
        if len(self._valid) <= _MOST_KNOWN:
            return
        looked_at = [(digest, self._valid.pop(digest)) for digest in list(islice(self._valid, _LOOKED_AT))]
        self._valid.update(looked_at)
        for digest, key in sorted(looked_at, key=lambda one: self._last_use(one[1].id)):
            if len(self._valid) > _MOST_KNOWN and digest != shown and self._let_go(key):
                self._drop(digest, key)

    def _make_room_for_accounts(self, learned_id: str) -> None:
        """The same of accounts that no key is known of, which are learned again where a person comes back."""
        if len(self._account_limits) <= 2 * _MOST_KNOWN:
            return
        for account_id in list(islice(self._account_limits, _LOOKED_AT)):
            limits = self._account_limits.pop(account_id)
            if account_id in self._of_account or account_id == learned_id:
                self._account_limits[account_id] = limits

    def _close(self, digest: bytes, key: Key, code: Code) -> None:
        self._drop(digest, key)
        self._stale_ids.add(LIMITS_OF + key.account_id)
        self._refuse(digest, code)
        for hear_secret in self._on_secret_end:
            hear_secret(key, refusal(code))
        if key.id not in self._digests:
            for listener in self._on_close:
                listener(key.id, refusal(code))

    def _refuse(self, digest: bytes, code: Code) -> None:
        if len(self._refused) >= _MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[digest] = code


class _Everything(frozenset[str]):
    """The ids that are known here, and any that whoever hears of them may know."""

    def __contains__(self, _: object) -> bool:
        return True


def _unreadable(error: DatabaseError) -> GatewayError:
    logger.error("a key could not be read: %s", error)
    return GatewayError("ledger_unavailable", "The gateway cannot read its keys at the moment; try again shortly.")
