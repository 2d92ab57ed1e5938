"""Callers: what their keys and accounts may use, and what guests are counted by."""

from dataclasses import asdict
from weakref import ref

import pytest

from mcp_gateway.core.caller import GUEST, GUEST_ACCOUNT_ID, Allowance, Caller, KeyHolder, Principal, User
from mcp_gateway.core.config import GuestSettings, LimitSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity import known_keys as known_keys_module
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.admin_keys import AdminKeys
from mcp_gateway.core.identity.authenticator import Authenticator
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.known_keys import KnownKeys
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.optimization import NO_DEFAULTS, RoutingDefaults
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock

LISTINGS = 9
LIMITS = LimitSettings(
    requests_per_minute=60,
    requests_per_day=1000,
    tokens_per_minute=None,
    in_flight=8,
    listing_requests_per_minute=LISTINGS,
)


@pytest.fixture
def admin_keys(store: Store, clock: MsClock) -> AdminKeys:
    return AdminKeys(store, new_id=new_id, now_ms=clock)


@pytest.fixture
def authenticator(known: KnownKeys, admin_keys: AdminKeys) -> Authenticator:
    return Authenticator(known, GuestSettings(), LIMITS, admin_keys)


async def identified(authenticator: Authenticator, raw: str) -> Caller:
    return await authenticator.identify(raw)


async def test_a_key_counts_for_itself_and_for_its_account(
    authenticator: Authenticator, keys: KeyRing, account: str
) -> None:
    key, raw = await keys.create(account, limits=OwnLimits(in_flight=2))
    caller = await identified(authenticator, raw)
    assert [(quota.whose, quota.subject) for quota in caller.quotas] == [("key", key.id), ("account", account)]
    assert caller.allowance == Allowance(60, 1000, None, 2, LISTINGS)
    assert (caller.subject, caller.account_id, caller.key_id) == (key.id, account, key.id)
    assert await identified(authenticator, raw) is caller


@pytest.mark.parametrize(
    ("of_keys", "of_account", "together"),
    [
        ([OwnLimits()], OwnLimits(), (60, 1000, None, 8)),
        ([OwnLimits(5, 5, 5, 5)], OwnLimits(), (60, 1000, None, 8)),  # a key's default is the least
        ([OwnLimits(5, 5, 5, 5), OwnLimits(70, None, 9, 8)], OwnLimits(), (70, None, None, 8)),
        ([OwnLimits(None, None, None, None), OwnLimits(1, 1, 1, 1)], OwnLimits(), (None,) * 4),
        ([OwnLimits(70, 70, 70, 70)], OwnLimits(80, 7, None, 7), (80, 7, None, 7)),
        ([OwnLimits(None, None, None, None)], OwnLimits(1, 1, 1, 1), (1,) * 4),
        ([OwnLimits()], OwnLimits(tokens_per_minute=50), (60, 1000, 50, 8)),
    ],
)
async def test_an_account_may_use_what_the_highest_of_its_keys_may_unless_it_was_given_limits(
    authenticator: Authenticator,
    keys: KeyRing,
    accounts: Accounts,
    account: str,
    of_keys: list[OwnLimits],
    of_account: OwnLimits,
    together: tuple[int | None, int | None, int | None, int | None],
) -> None:
    await accounts.change(account, limits=asdict(of_account))
    for limits in of_keys:
        _, raw = await keys.create(account, limits=limits)
    quota = (await identified(authenticator, raw)).quotas[1]
    assert quota.allowance == Allowance(*together, LISTINGS)


async def test_keys_that_have_ended_and_those_of_others_lift_no_account(
    authenticator: Authenticator, keys: KeyRing, accounts: Accounts, account: str
) -> None:
    unlimited = OwnLimits(None, None, None, None)
    await keys.create((await accounts.create("Bob")).id, limits=unlimited)
    ended, _ = await keys.create(account, limits=unlimited)
    await keys.revoke(ended.id)
    _, raw = await keys.create(account)
    assert (await identified(authenticator, raw)).quotas[1].allowance.requests_per_minute == 60


async def test_what_an_account_may_use_follows_its_keys_and_its_own_limits(
    authenticator: Authenticator, known: KnownKeys, keys: KeyRing, accounts: Accounts, account: str
) -> None:
    _, raw = await keys.create(account)
    await identified(authenticator, raw)

    async def a_minute() -> int | None:
        await known.catch_up()
        return (await identified(authenticator, raw)).quotas[1].allowance.requests_per_minute

    other, _ = await keys.create(account, limits=OwnLimits(100))  # that nobody has shown
    assert await a_minute() == 100
    await keys.change(other.id, limits={"requests_per_minute": 200})
    assert await a_minute() == 200
    await keys.revoke(other.id)
    assert await a_minute() == 60
    await accounts.change(account, limits={"requests_per_minute": 7})
    assert await a_minute() == 7


async def test_a_key_that_has_expired_lifts_its_account_no_more(
    authenticator: Authenticator, known: KnownKeys, keys: KeyRing, account: str, clock: MsClock
) -> None:
    _, raw = await keys.create(account)
    await identified(authenticator, raw)
    unlimited = OwnLimits(None, None, None, None)
    _, ending = await keys.create(account, limits=unlimited, expires_at_ms=clock.now_ms + 1000)
    await identified(authenticator, ending)
    assert (await identified(authenticator, raw)).quotas[1].allowance.requests_per_minute is None
    clock.now_ms += 1000
    known.end_expired()
    await known.catch_up()
    assert (await identified(authenticator, raw)).quotas[1].allowance.requests_per_minute == 60


async def test_a_change_of_limits_reads_none_of_the_account_s_keys(
    authenticator: Authenticator, known: KnownKeys, keys: KeyRing, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, raw = await keys.create(account)
    await identified(authenticator, raw)
    monkeypatch.setattr(keys, "find", None)
    for _ in range(2):
        await keys.create(account)
    await known.catch_up()


# Keys that keys made


async def test_what_a_key_uses_counts_for_every_key_before_it(
    authenticator: Authenticator, keys: KeyRing, account: str
) -> None:
    first, _ = await keys.create(account, limits=OwnLimits(5, None, 500))
    second, _ = await keys.create(account, made_by=first.id, limits=OwnLimits(4))
    third, raw = await keys.create(account, made_by=second.id)
    caller = await identified(authenticator, raw)
    assert [(quota.whose, quota.subject) for quota in caller.quotas] == [
        ("key", third.id),
        ("account", account),
        ("maker", second.id),
        ("maker", first.id),
    ]
    assert [quota.allowance for quota in caller.quotas[2:]] == [
        Allowance(4, 1000, None, 8, LISTINGS),
        Allowance(5, None, 500, 8, LISTINGS),
    ]


async def test_a_maker_s_default_binds_what_it_made_unless_its_account_was_given_a_limit(
    authenticator: Authenticator, keys: KeyRing, accounts: Accounts, account: str
) -> None:
    await accounts.change(account, limits={"requests_per_minute": 600, "in_flight": None})
    maker, _ = await keys.create(account, limits=OwnLimits(in_flight=3))
    _, raw = await keys.create(account, made_by=maker.id)
    caller = await identified(authenticator, raw)
    assert caller.quotas[1].allowance == Allowance(600, 1000, None, None, LISTINGS)
    assert caller.quotas[2].allowance == Allowance(None, 1000, None, 3, LISTINGS)


async def test_a_maker_binds_what_it_made_when_it_is_changed_and_when_it_has_ended(
    authenticator: Authenticator, known: KnownKeys, keys: KeyRing, account: str
) -> None:
    maker, _ = await keys.create(account, limits=OwnLimits(5))
    made, raw = await keys.create(account, made_by=maker.id)
    await identified(authenticator, raw)
    await keys.change(maker.id, limits={"requests_per_minute": 3})
    assert (await identified(authenticator, raw)).quotas[2].allowance.requests_per_minute == 3
    await keys.revoke(maker.id)
    assert (await identified(authenticator, raw)).quotas[2].allowance.requests_per_minute == 3
    await keys.revoke(made.id)
    assert not known._made


# Guests


@pytest.mark.parametrize(
    ("address", "subjects"),
    [
        ("192.0.2.1", ["192.0.2.1"]),
        ("::ffff:192.0.2.1", ["192.0.2.1"]),
        ("::ffff:c000:201", ["192.0.2.1"]),
        ("2001:db8:1:2:3:4:5:6", ["2001:db8:1:2::/64", "2001:db8:1::/48"]),
        ("2001:DB8:1:2::", ["2001:db8:1:2::/64", "2001:db8:1::/48"]),
        ("2001:db8:1:ffff::1", ["2001:db8:1:ffff::/64", "2001:db8:1::/48"]),
        ("::1", ["::/64", "::/48"]),
        ("fe80::1%eth0", ["fe80::/64", "fe80::/48"]),
        ("2002:c000:201:5::1", ["192.0.2.1"]),  # 6to4
        ("2001:0:4136:e378:8000:63bf:3fff:fdfe", ["192.0.2.1"]),  # Teredo
        ("64:ff9b::c000:201", ["192.0.2.1"]),  # NAT64
        ("64:ff9b:1::c000:201", ["64:ff9b:1::/64", "64:ff9b:1::/48"]),  # a translator's own prefix tells nothing
        ("unknown", ["unknown"]),
    ],
)
def test_a_guest_counts_by_address_site_and_with_all_guests(
    authenticator: Authenticator, address: str, subjects: list[str]
) -> None:
    caller = authenticator.without_key(address)
    assert (caller.account_id, caller.key_id, caller.is_guest) == (GUEST_ACCOUNT_ID, None, True)
    assert [quota.whose for quota in caller.quotas] == [*("address", "site")[: len(subjects)], "guests"]
    assert [quota.subject for quota in caller.quotas] == [*(f"guest:{subject}" for subject in subjects), "guests"]


def test_what_guests_may_use_is_set(known: KnownKeys, admin_keys: AdminKeys) -> None:
    guests = GuestSettings(
        requests_per_minute=1,
        requests_per_minute_per_48=2,
        listing_requests_per_minute_per_48=3,
        in_flight=4,
        in_flight_per_address=5,
        in_flight_per_48=6,
    )
    caller = Authenticator(known, guests, LIMITS, admin_keys).without_key("2001:db8::1")
    assert caller is not None
    assert [quota.allowance for quota in caller.quotas] == [
        Allowance(1, None, None, 5, LISTINGS),
        Allowance(2, None, None, 6, 3),
        Allowance(None, None, None, 4, None),
    ]


@pytest.mark.parametrize(
    ("principal", "key_id", "is_guest"),
    [(GUEST, None, True), (KeyHolder("key_1"), "key_1", False), (User("usr_1"), None, False)],
)
def test_only_who_shows_nothing_is_a_guest(principal: Principal, key_id: str | None, is_guest: bool) -> None:
    caller = Caller("acc_1", principal, ())
    assert (caller.key_id, caller.is_guest) == (key_id, is_guest)


async def test_a_caller_has_what_its_key_says_of_the_choice_of_models(
    authenticator: Authenticator, known: KnownKeys, keys: KeyRing, account: str
) -> None:
    key, raw = await keys.create(account, routing=RoutingDefaults(("a", "b"), "cost"))
    _, other = await keys.create(account)
    assert (await identified(authenticator, raw)).routing == RoutingDefaults(("a", "b"), "cost")
    assert (await identified(authenticator, other)).routing == authenticator.guest("192.0.2.1").routing == NO_DEFAULTS
    await keys.change(key.id, routing={"model_pool": None})
    await known.catch_up()
    assert (await identified(authenticator, raw)).routing == RoutingDefaults(mode="cost")


async def test_a_key_is_not_forgotten_while_somebody_holds_its_caller(
    authenticator: Authenticator, known: KnownKeys, keys: KeyRing, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor while a session holds its validity alone, so that whatever goes on hears of its end."""
    monkeypatch.setattr(known_keys_module, "_MOST_KNOWN", 0)
    (held, raw), (_, one), (_, other) = [await keys.create(account) for _ in range(3)]
    caller = await identified(authenticator, raw)
    for another in (one, other):
        await identified(authenticator, another)
        assert known.recall(raw) == held
    again = await identified(authenticator, raw)
    assert again == caller
    assert again.validity is caller.validity
    validity = caller.validity
    del caller, again
    await identified(authenticator, one)
    await keys.revoke(held.id)
    assert validity.ended_by == "revoked_api_key"
    await identified(authenticator, other)
    assert [len(known), len(authenticator._callers), len(authenticator._validities)] == [1, 1, 1]


async def test_a_key_that_nothing_goes_on_for_is_read_again_when_it_is_shown_again(
    authenticator: Authenticator, known: KnownKeys, keys: KeyRing, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_keys_module, "_MOST_KNOWN", 0)
    (key, raw), (_, other) = [await keys.create(account) for _ in range(2)]
    before = ref((await identified(authenticator, raw)).validity)
    await identified(authenticator, other)
    assert before() is None
    assert authenticator.recall(raw) is None
    assert (await identified(authenticator, raw)).key_id == key.id
    await keys.revoke(key.id)
    with pytest.raises(GatewayError, match="revoked_api_key"):
        await identified(authenticator, raw)


async def test_what_a_key_has_used_counts_on_though_it_was_forgotten_meanwhile(
    authenticator: Authenticator, keys: KeyRing, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_keys_module, "_MOST_KNOWN", 0)
    limiter = Limiter(lambda: 1.9e9, guest_addresses_per_minute=1)
    (_, raw), (_, other) = [await keys.create(account, limits=OwnLimits(requests_per_minute=1)) for _ in range(2)]
    with limiter.admit(await identified(authenticator, raw)) as turn:
        turn.reserve_tokens(7)
    await identified(authenticator, other)
    assert authenticator.recall(raw) is None
    again = await identified(authenticator, raw)
    assert limiter.standing(again).minute_remaining == 0
    with pytest.raises(GatewayError, match="requests_per_minute"):
        limiter.admit(again)
