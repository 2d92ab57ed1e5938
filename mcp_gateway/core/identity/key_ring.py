"""All API keys, in the database: made, shown once, kept as SHA-256 alone. Holds none in memory."""

import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID, Allowance, KeyScope
from mcp_gateway.core.engine import Engine, Read, Report, Scan, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import IdentitiesChanged
from mcp_gateway.core.identity.keys import (
    LIVE_PREFIX,
    TEST_PREFIX,
    TEST_SCOPES,
    Key,
    KeysPerAccount,
    State,
    check_may_mint_over_mcp,
    digest_of,
    later,
    scopes_by_default,
    unknown_account,
)
from mcp_gateway.core.identity.own_limits import Limit, OwnLimits
from mcp_gateway.core.identity.particulars import (
    NO_PARTICULARS,
    Particulars,
    ParticularsChange,
    check_networks,
    in_line,
)
from mcp_gateway.core.optimization import NO_DEFAULTS, RoutingChange, RoutingDefaults
from mcp_gateway.core.text import check_one_line, shown

SHOWN_CHARACTERS = len(LIVE_PREFIX) + 4
"""Of a key, by which people tell it from others."""
_MOST_ENDED_AT_ONCE = 1000
_CHANGES_KEPT = 100_000
"""When a server starts: another one reads them twice a second, unless it cannot."""
"""In one transaction, which takes some 20 ms for so many."""


class AccountLimits(NamedTuple):
    """An account's own limits, and the highest that any of its live keys sets (DEFAULT: none of them sets one).

    `margin` is what it pays above the prices of the settings, in hundredths of a percent; `may_proxy` whether it may
    ask providers by their own paths, `is_attributed` whether its requests are attributed to users and tags. `origin` is
    the address that it was registered from, while it has neither paid nor been granted credit.
    """

    own: OwnLimits
    highest: OwnLimits
    margin: int = 0
    may_proxy: bool = False
    origin: str | None = None
    is_attributed: bool = False


class Changes(NamedTuple):
    """The ids of keys and accounts that have changed, and the number of the last change."""

    number: int
    ids: frozenset[str] | None
    """None where there may be more than are kept."""


@dataclass(frozen=True, slots=True)
class CreateKey(Write[Key]):
    """Raises GatewayError as KeyRing.create. `keep` is written ahead of the key, in its transaction."""

    key: Key
    digest: bytes
    most: KeysPerAccount
    keep: Write[None] | None = None
    group: str | None = None
    """The name of the account's group that it belongs to."""
    has_budget: bool = False
    """One that a key makes is minted then."""
    behind: tuple[Write[None], ...] = ()
    """Written behind the key, in its transaction."""


@dataclass(frozen=True, slots=True)
class ChangeKey(Write[None]):
    """Of a key that there is. Raises GatewayError as KeyRing.change."""

    key_id: str
    name: str | None
    limits: Mapping[str, Limit]
    defaults: Allowance | None
    """What a key has where it sets no limit; with it, limits can only be lowered."""
    group: str | None
    """The name of the account's group that it belongs to from now on; empty for none."""
    may_mint_over_mcp: bool | None = None
    """None: as it was. A key loses it with what it made."""
    mcp_servers: frozenset[str] | None = None
    """None: as they were. What a key loses, what it made loses, too."""
    offers_mcp_tools: bool | None = None
    routing: RoutingChange = field(default_factory=RoutingChange)
    particulars: ParticularsChange = field(default_factory=ParticularsChange)


@dataclass(frozen=True, slots=True)
class RotateKey(Write[None]):
    """Give a key another secret; the one that it has, and those before, end no later than told, and all but two now.

    `keep` is written in the same transaction. Raises GatewayError as KeyRing.rotate.
    """

    key_id: str
    digest: bytes
    prefix: str
    at_ms: int
    old_ends_at_ms: int
    most: KeysPerAccount
    keep: Write[None] | None = None


class EndedKeys(NamedTuple):
    """The ids of those that ended now, and whether all have that were to."""

    ids: frozenset[str]
    is_all: bool


@dataclass(frozen=True, slots=True)
class EndKeys(Write[EndedKeys]):
    """Those that have not ended yet, and what these have minted; so many at most, each after what it has minted."""

    key_ids: tuple[str, ...]
    at_ms: int
    most: int


@dataclass(frozen=True, slots=True)
class ForgetChanges(Write[int]):
    """Of keys and accounts, all but so many of the last ones; returns the number of the last."""

    kept: int


@dataclass(frozen=True, slots=True)
class KeyByDigest(Read[Key | None]):
    digest: bytes


@dataclass(frozen=True, slots=True)
class KeyById(Read[Key | None]):
    key_id: str


@dataclass(frozen=True, slots=True)
class MakersAmong(Scan[list[tuple[str, str]]]):
    key_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccountLimitsOf(Read[AccountLimits | None]):
    account_id: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class AllKeys(Scan[list[Key]]):
    """Of one account or of all, the oldest first."""

    account_id: str | None


@dataclass(frozen=True, slots=True)
class KeysPage(Report[Sequence[Key]]):
    """The newest first."""

    account_id: str
    before_id: str | None
    limit: int
    state: State | None
    now_ms: int
    within: str | None = None
    """A key that is listed with what it has made, and with what that made, and no others."""


@dataclass(frozen=True, slots=True)
class KeyNames(Report[dict[str, str]]):
    """What each is called, or how it begins where it has no name, by id; of so many that were made last."""

    account_id: str
    most: int
    within: str | None = None
    """As in KeysPage."""


@dataclass(frozen=True, slots=True)
class AnyKeysPage(Scan[Sequence[Key]]):
    """The newest first, of one account or of all, for the operator; the one with an id, those that begin so, or all."""

    account_id: str | None
    before_id: str | None
    limit: int
    state: State | None
    now_ms: int
    key_id: str | None = None
    beginning: str | None = None


@dataclass(frozen=True, slots=True)
class ChangesAfter(Read[Changes | None]):
    number: int


@dataclass(frozen=True, slots=True)
class LiveKeysMade(Scan[list[str]]):
    """By a key, or by one that it made: it may have made very many that have ended long ago."""

    key_id: str
    now_ms: int


class MintedKeys(NamedTuple):
    """The newest of so many keys."""

    newest: Sequence[Key]
    number: int


@dataclass(frozen=True, slots=True)
class LiveMintedBy(Read[MintedKeys]):
    """Reads the live keys of the account, of which there are so many at most, and none that ended long ago."""

    account_id: str
    key_id: str
    now_ms: int
    most: int


class KeyRing:
    """All keys."""

    def __init__(
        self, store: Engine, *, new_id: Callable[[str], str], now_ms: Callable[[], int], most: KeysPerAccount
    ) -> None:
        self._store = store
        self._new_id = new_id
        self._now_ms = now_ms
        self._most = most
        self._on_change: list[Callable[[Key], Awaitable[None]]] = []

    def written_by(self, store: Engine) -> "KeyRing":
        """The same keys, whose changes go through another engine; those who listen hear of them, too."""
        other = KeyRing(store, new_id=self._new_id, now_ms=self._now_ms, most=self._most)
        other._on_change = self._on_change
        return other

    # Asking

    async def find(self, digest: bytes) -> Key | None:
        """The key with that digest, whether it is valid or not."""
        return await self._store.read(KeyByDigest(digest))

    async def get(self, key_id: str) -> Key:
        """Raises GatewayError `not_found`."""
        key = await self._store.read(KeyById(key_id))
        if key is None:
            raise GatewayError("not_found", f"There is no key '{shown(key_id)}'.")
        return key

    async def minted(self, key_id: str, *, by: str | None) -> Key | None:
        """The key with that id, live or not, if this one has minted it itself."""
        key = await self._store.read(KeyById(key_id))
        return key if key is not None and key.is_minted and key.made_by == by else None

    async def newest_minted(self, account_id: str, key_id: str, most: int) -> MintedKeys:
        """The live keys that a key has minted itself, the newest of them whole."""
        return await self._store.read(LiveMintedBy(account_id, key_id, self._now_ms(), most))

    async def makers_among(self, key_ids: Iterable[str]) -> Sequence[tuple[str, str]]:
        """Each of these keys that a key made, with that one and with each that stands before it."""
        return await self._store.read(MakersAmong(tuple(key_ids)))

    async def account_limits(self, account_id: str) -> AccountLimits:
        """Raises GatewayError `not_found`."""
        limits = await self._store.read(AccountLimitsOf(account_id, self._now_ms()))
        if limits is None:
            raise unknown_account(account_id)
        return limits

    async def list(self, account_id: str | None = None) -> "list[Key]":
        """The keys of one account, or all of them, the oldest first; revoked ones too."""
        return await self._store.read(AllKeys(account_id))

    async def page(
        self,
        account_id: str,
        *,
        before_id: str | None,
        limit: int,
        state: State | None = None,
        within: str | None = None,
    ) -> Sequence[Key]:
        """An account's keys, the newest first, of one state or of all, from those before `before_id` on.

        Of those `within` a key it is that one and what it has made, and what that made.
        """
        return await self._store.read(KeysPage(account_id, before_id, limit, state, self._now_ms(), within))

    async def names(self, account_id: str, *, most: int, within: str | None = None) -> dict[str, str]:
        """What an account's keys are called, by id, the newest first; see KeyNames."""
        return await self._store.read(KeyNames(account_id, most, within))

    async def any_page(
        self,
        account_id: str | None,
        *,
        before_id: str | None,
        limit: int,
        state: State | None = None,
        key_id: str | None = None,
        beginning: str | None = None,
    ) -> Sequence[Key]:
        """As `page`, for the operator; of all accounts where none is named."""
        return await self._store.read(
            AnyKeysPage(account_id, before_id, limit, state, self._now_ms(), key_id, beginning)
        )

    async def changes_after(self, number: int) -> Changes | None:
        """Changes of keys and accounts, by whichever process; None where there are none."""
        changes = await self._store.read(ChangesAfter(number))
        if changes is not None and changes.number - number > _CHANGES_KEPT:
            return changes._replace(ids=None)
        return changes

    # Changing

    def allow(self, most: KeysPerAccount) -> None:
        """Have accounts have, and make, so many keys from now on."""
        self._most = most

    def on_change(self, listener: Callable[[Key], Awaitable[None]]) -> None:
        """Call `listener` with each key that this process has changed, as it was, before whoever asked is told."""
        self._on_change.append(listener)

    def on_elsewhere(self, hear: Callable[[], None]) -> None:
        """Have `hear` called once another server has noted a change, or may have done so unheard."""
        self._store.listen(IdentitiesChanged, lambda _: hear())
        self._store.on_unheard(hear)

    async def forget_changes(self) -> int:
        """The number of the last change, since a server that starts has read nothing that could have changed before;
        of those that other servers may not have read yet enough are kept.
        """
        return await self._store.write(ForgetChanges(_CHANGES_KEPT))

    async def create(
        self,
        account_id: str,
        *,
        name: str = "",
        is_test: bool = False,
        limits: OwnLimits | None = None,
        scopes: Collection[KeyScope] | None = None,
        expires_at_ms: int | None = None,
        made_by: str | None = None,
        group: str | None = None,
        models: Collection[str] | None = None,
        has_budget: bool = False,
        may_mint_over_mcp: bool = False,
        mcp_servers: Collection[str] = (),
        offers_mcp_tools: bool = False,
        routing: RoutingDefaults = NO_DEFAULTS,
        particulars: Particulars = NO_PARTICULARS,
        key_id: str | None = None,
        keep: Callable[[Key], Write[None] | None] | None = None,
        and_then: Callable[[Key], Sequence[Write[None]]] | None = None,
    ) -> tuple[Key, str]:
        """A new key and its raw text, which is not kept and cannot be shown again.

        It has all scopes where none are named, a test key `inference` alone, and all `models` where none are: names
        without a space. The write that `keep` makes of the new key goes into the same transaction, ahead of it, and
        those of `and_then` behind it. Raises GatewayError: `not_found` for an unknown account or `group`, `conflict`
        for the guests' and where it has as many keys as it may, `requests_per_day` where it has made so many today,
        `invalid_value` for a name that is no line of text, scopes that a test key cannot have, a time that is past or
        the right to mint over MCP without the scope `manage`, 401 and 403 where `made_by` is not valid now.
        """
        check_one_line(name, "name")
        check_one_line(particulars.note or "", "note")
        if account_id == GUEST_ACCOUNT_ID:
            raise GatewayError("conflict", "Guests are served without keys; make an account for whoever needs one.")
        raw = _new_secret(is_test=is_test)
        now_ms = self._now_ms()
        given = _scopes_of(scopes, is_test=is_test)
        if may_mint_over_mcp:
            check_may_mint_over_mcp(given)
        key = Key(
            key_id or self._new_id("key"), account_id, raw[:SHOWN_CHARACTERS], name, is_test, now_ms, None,
            limits or OwnLimits(), given, later(expires_at_ms, now_ms), made_by,
            models=None if models is None else frozenset(models), may_mint_over_mcp=may_mint_over_mcp,
            mcp_servers=frozenset(mcp_servers), offers_mcp_tools=offers_mcp_tools, routing=routing,
            particulars=particulars,
        )  # fmt: skip
        kept = None if keep is None else keep(key)
        behind = () if and_then is None else tuple(and_then(key))
        return await self._store.write(CreateKey(key, digest_of(raw), self._most, kept, group, has_budget, behind)), raw

    async def change(
        self,
        key_id: str,
        *,
        name: str | None = None,
        limits: Mapping[str, Limit] | None = None,
        lowered_from: Allowance | None = None,
        group: str | None = None,
        may_mint_over_mcp: bool | None = None,
        mcp_servers: Collection[str] | None = None,
        offers_mcp_tools: bool | None = None,
        routing: RoutingChange | None = None,
        particulars: ParticularsChange | None = None,
    ) -> Key:
        """Rename a key, or set those of its limits that are given; others stay as they are by then, whoever set them.

        `group` is the name of one of its account's groups, which it belongs to instead of another; empty for none.
        With `lowered_from`, what a key has by default, limits can only be lowered. Raises GatewayError `not_found`,
        `invalid_value`, `insufficient_permissions`.
        """
        check_one_line(name or "", "name")
        particulars = particulars or {}
        check_one_line(particulars.get("note") or "", "note")
        key = await self.get(key_id)
        if (networks := particulars.get("networks")) is not None:
            makers = in_line(None, [maker.networks for maker in key.makers])
            check_networks(networks, makers, "A key that made this one")
        if may_mint_over_mcp:
            check_may_mint_over_mcp(key.scopes)
        servers = None if mcp_servers is None else frozenset(mcp_servers)
        await self._store.write(
            ChangeKey(
                key_id, name, limits or {}, lowered_from, group, may_mint_over_mcp, servers, offers_mcp_tools,
                routing or {}, particulars,
            )
        )  # fmt: skip
        return await self._told(key)

    async def rotate(
        self, key_id: str, keep_old_ms: int, keep: Callable[[Key], Write[None] | None] | None = None
    ) -> tuple[Key, str]:
        """A key with a new secret, and that; whichever it had before end after `keep_old_ms`, or as they would have.

        Of those the two latest stay of use; others end now. All else of it stays: its budgets, limits, makers and what
        it made. The write that `keep` makes of the key as it will be goes into the same transaction. Raises
        GatewayError `not_found`, `conflict` for one that has ended,
        `requests_per_day` (for minted ones, `_minute`) where its account has made and rotated so many keys.
        """
        key = await self.get(key_id)
        raw, now_ms = _new_secret(is_test=key.is_test), self._now_ms()
        prefix, old_ends_at_ms = raw[:SHOWN_CHARACTERS], now_ms + keep_old_ms
        kept = None if keep is None else keep(replace(key, prefix=prefix, replaced_until_ms=old_ends_at_ms))
        await self._store.write(RotateKey(key_id, digest_of(raw), prefix, now_ms, old_ends_at_ms, self._most, kept))
        return await self._told(key), raw

    async def revoke(self, key_id: str) -> Key:
        """Make a key useless for good, with what it minted; one that has ended stays as it is. Raises `not_found`."""
        key = await self.get(key_id)
        await self._end([key_id])
        return await self._told(key)

    async def revoke_with_made(self, key_id: str) -> tuple[Key, int]:
        """As `revoke`, and so each key that it made, or that one of those made; returns how many these were."""
        key = await self.get(key_id)
        count = len(await self._end([key_id]) - {key_id})
        while made := await self._store.read(LiveKeysMade(key_id, self._now_ms())):  # by one just revoked, perhaps
            count += len(await self._end(made))
        return await self._told(key), count

    async def _end(self, key_ids: Sequence[str]) -> frozenset[str]:
        """The ids of all that ended. Of thousands so many at a time, since others wait; who minted them ends last."""
        write = EndKeys(tuple(key_ids), self._now_ms(), _MOST_ENDED_AT_ONCE)
        ended = await self._store.write(write)
        ids = ended.ids
        while not ended.is_all:
            ended = await self._store.write(write)
            ids |= ended.ids
        return ids

    async def _told(self, key: Key) -> Key:
        """A key as it is after its change, once those that listen have heard of it."""
        for listener in self._on_change:
            await listener(key)
        return await self.get(key.id)


def _new_secret(*, is_test: bool) -> str:
    return (TEST_PREFIX if is_test else LIVE_PREFIX) + secrets.token_urlsafe(32)


def _scopes_of(asked: Collection[KeyScope] | None, *, is_test: bool) -> frozenset[KeyScope]:
    """A new key's scopes. Raises GatewayError `invalid_value` for those that a test key cannot have."""
    if is_test and asked is not None and set(asked) != TEST_SCOPES:
        raise GatewayError("invalid_value", "A test key has the scope `inference` alone.", param="scopes")
    return scopes_by_default(is_test=is_test) if asked is None else frozenset(asked)
